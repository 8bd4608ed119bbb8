"""The components are left as they were, and can be saved, exchanged and left out."""

import copy

import pytest
import torch

from tests.components import tiny_image, tiny_unet
from tests.pipeline.tiny import PIPELINES, build, difference, run


def test_a_call_leaves_the_components_as_they_were(pipeline, method):
    def state():
        return {
            name: (
                dict(getattr(component, "config", {})) if name != "text_encoder" else None,
                {key: value.clone() for key, value in component.state_dict().items()},
                component.training,
                [type(module) for module in component.modules()],
            )
            for name, component in pipeline.components.items()
            if isinstance(component, torch.nn.Module)
        }

    def processors():
        return [
            *pipeline.unet.attn_processors.items(),
            *pipeline.controlnet.attn_processors.items(),
            *pipeline.vae.attn_processors.items(),
        ]

    before, before_processors = state(), processors()
    run(pipeline, method)
    assert processors() == before_processors
    after = state()
    for name, (config, weights, *rest) in before.items():
        assert after[name][0] == config
        assert after[name][2:] == tuple(rest)
        assert weights.keys() == after[name][1].keys()
        assert all(torch.equal(weights[key], after[name][1][key]) for key in weights)


def test_after_a_call_the_unet_is_the_stock_unet(pipeline, method):
    call = (torch.randn(1, 4, 8, 8), 500, torch.randn(1, 77, 32))
    with torch.no_grad():
        before = pipeline.unet(*call).sample
        run(pipeline, method)
        assert pipeline.adapter.is_attached(pipeline.unet)
        assert torch.equal(pipeline.unet(*call).sample, before)

        def fail(pipeline, step, timestep, tensors):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(pipeline, method, callback_on_step_end=fail)
        assert torch.equal(pipeline.unet(*call).sample, before)


def test_another_unet_assigned_later(pipeline, method):
    first = run(pipeline, method)
    torch.manual_seed(5)
    other = tiny_unet().eval()
    old, pipeline.unet = pipeline.unet, other
    second = run(pipeline, method)
    assert difference(first, second) > 1e-3
    assert torch.equal(run(build(method, unet=copy.deepcopy(other)), method), second)
    pipeline.unet = old
    assert torch.equal(run(pipeline, method), first)


def test_two_pipelines_share_one_unet(pipeline, method):
    other = build(method, unet=pipeline.unet, vae=pipeline.vae)
    with torch.no_grad():
        for parameter in other.adapter.parameters():
            parameter.mul_(1.3)
    expected = run(pipeline, method), run(build(method, adapter=copy.deepcopy(other.adapter)), method)
    assert difference(*expected) > 1e-4
    for _ in range(2):
        assert torch.equal(run(pipeline, method), expected[0])
        assert difference(run(other, method), expected[1]) < 1e-5  # whose UNet is another, of equal weights


def test_save_and_load(pipeline, method, tmp_path):
    result = run(pipeline, method)
    pipeline.save_pretrained(tmp_path)
    loaded = PIPELINES[method].from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert difference(run(loaded, method), result) < 1e-5  # weights of a file lie elsewhere in memory


def test_defaults_are_saved_and_can_be_replaced_or_changed(method, tmp_path):
    own = {"num_inference_steps": 3, "process_size": 16, "guidance_scale": 1.0, "negative_prompt": "blur"}
    saved = build(method, call_defaults=own)
    official = build(method).config.call_defaults
    saved.save_pretrained(tmp_path)
    load = PIPELINES[method].from_pretrained

    loaded = load(tmp_path)
    assert loaded.config.call_defaults == {**official, **own}
    loaded.set_progress_bar_config(disable=True)
    assert loaded(tiny_image(), output_type="np").images.shape == (1, 64, 64, 3)
    assert (loaded.num_timesteps, loaded.guidance_scale) == (3, 1.0)

    # All of them are replaced: what is not named is the method's own again.
    assert load(tmp_path, call_defaults={"guidance_scale": 2.0}).config.call_defaults == {
        **official,
        "guidance_scale": 2.0,
    }
    loaded.register_to_config(call_defaults={**loaded.config.call_defaults, "guidance_scale": 2.0})
    loaded.save_pretrained(tmp_path / "changed")
    assert load(tmp_path / "changed").config.call_defaults == {**official, **own, "guidance_scale": 2.0}


def test_components_added_to_a_stock_pipeline(pipeline, method, tmp_path):
    """A Stable Diffusion folder, and what the method adds to it, as with any ControlNet."""
    from diffusers import StableDiffusionPipeline

    result = run(pipeline, method)
    stock = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    parts = {name: part for name, part in pipeline.components.items() if name not in stock}
    StableDiffusionPipeline(
        **{name: pipeline.components[name] for name in stock},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path)
    loaded = PIPELINES[method].from_pretrained(tmp_path, **parts)
    loaded.set_progress_bar_config(disable=True)
    assert difference(run(loaded, method), result) < 1e-5  # weights of a file lie elsewhere in memory


def test_without_text_encoder(pipeline, method):
    embeds = pipeline.encode_prompt("a photo", "blur")
    bare = build(method, text_encoder=None, tokenizer=None)
    given = {"prompt": None, "negative_prompt": None}
    expected = run(pipeline, method, **given, prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1])
    image = run(bare, method, **given, prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1])
    assert torch.equal(image, expected)
    for missing in ({}, {"prompt_embeds": embeds[0]}):
        with pytest.raises(ValueError, match=r"no text encoder.*negative_prompt_embeds"):
            run(bare, method, **given, **missing)


def test_text_that_is_not_read_is_said(pipeline, caplog):
    from diffusers.utils import logging

    logging.enable_propagation()
    pipeline.encode_prompt("x" * 100)
    logging.disable_propagation()
    assert "reads 77 tokens" in caplog.text
