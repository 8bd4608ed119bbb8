"""Pipelines of tiny components, and what a call of them gives."""

import functools

import torch

from diffusers_sr.hub import METHODS, pipeline_class
from tests.components import components, inputs

PIPELINES = {method: pipeline_class(method) for method in METHODS}


def build(method, **overrides):
    pipeline = PIPELINES[method](**{**components(method), **overrides})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@functools.cache
def built(method):
    """A pipeline for tests that leave it as it is: for all of them the same."""
    return build(method)


def run(pipeline, method="seesr", seed=0, **overrides):
    """The images of a call as `[results, H, W, 3]`, or the latents, in float32."""
    generator = torch.Generator().manual_seed(seed)
    arguments = {**inputs(method), "output_type": "np", "generator": generator, **overrides}
    return torch.as_tensor(pipeline(**arguments).images)


def difference(first, second):
    return (first - second).abs().max().item()
