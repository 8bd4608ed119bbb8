"""The dial from detailed to faithful, in a call of each method."""

import torch

from tests.components import inputs, tiny_image
from tests.pipeline.tiny import build, difference

GIVEN = ("num_inference_steps", "guidance_scale", "process_size")


def test_the_dial_changes_the_result_unless_it_stands_in_the_middle(method):
    pipeline = build(method, call_defaults={"num_inference_steps": 3, "guidance_scale": 3.0, "process_size": 16})
    arguments = {name: value for name, value in inputs(method).items() if name not in GIVEN}

    def image(**dial):
        generator = torch.Generator().manual_seed(0)
        return torch.as_tensor(pipeline(**{**arguments, "generator": generator}, **dial).images)

    expected = image()
    assert torch.equal(image(fidelity=0.5), expected)
    detailed, faithful = image(fidelity=0.0), image(fidelity=1.0)
    for other in (detailed, faithful):
        assert difference(other, expected) > 1e-3
    assert difference(detailed, faithful) > 1e-3
    assert not pipeline.do_classifier_free_guidance, "none at a fidelity of 1"


def test_the_decoder_of_coser_follows_it():
    pipeline = build("coser", call_defaults={"guidance_scale": 1.0, "num_inference_steps": 1, "process_size": 16})

    def image(**arguments):
        generator = torch.Generator().manual_seed(0)
        return torch.as_tensor(pipeline(tiny_image(), generator=generator, output_type="np", **arguments).images)

    assert torch.equal(image(fidelity=0.8), image(cfw_weight=0.8))
    assert torch.equal(image(fidelity=0.8, cfw_weight=0.2), image(cfw_weight=0.2))
    assert difference(image(fidelity=0.8), image(cfw_weight=0.2)) > 1e-4
