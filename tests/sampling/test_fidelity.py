"""The dial from detailed to faithful: the values that it gives, worked out by hand."""

from typing import Any

import pytest

from diffusers_sr.hub import METHODS, pipeline_class
from diffusers_sr.sampling.fidelity import between
from diffusers_sr.sampling.signature import read_call

# The official defaults are in the middle of each row.
FIDELITIES = (0, 0.25, 0.5, 0.75, 1)
VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    "seesr": {
        "guidance_scale": (7.75, 6.625, 5.5, 3.25, 1),
        "controlnet_conditioning_scale": (0.8, 0.9, 1, 1, 1),
        "start_point": ("noise", "lr", "lr", "lr", "lr"),
        "strength": (1, 1, 1, 0.8, 0.6),
    },
    "coser": {"guidance_scale": (4, 3.5, 3, 2, 1), "strength": (1, 1, 1, 1, 1)},
    "cassr": {
        "guidance_scale": (7.75, 6.625, 5.5, 3.25, 1),
        "controlnet_conditioning_scale": (0.8, 0.9, 1, 1, 1),
        "start_point": ("noise", "lr", "lr", "lr", "lr"),
        "strength": (1, 1, 1, 0.8, 0.6),
        "reference_conditioning_scale": (1, 1, 1, 0.75, 0.5),
    },
    "xpsr": {
        "guidance_scale": (6.25, 5.375, 4.5, 2.75, 1),
        "controlnet_conditioning_scale": (0.8, 0.9, 1, 1, 1),
        "start_point": ("noise", "lr", "lr", "lr", "lr"),
        "added_noise_level": (800, 800, 800, 600, 400),
    },
    "pasd": {
        "guidance_scale": (13, 11, 9, 5, 1),
        "controlnet_conditioning_scale": (0.8, 0.9, 1, 1, 1),
        "start_point": ("noise", "lr", "lr", "lr", "lr"),
        "added_noise_level": (900, 900, 900, 675, 450),
    },
    "one_step": {"semantic_scale": (1.5, 1.25, 1, 0.5, 0), "pixel_scale": (1, 1, 1, 1, 1)},
}


def read(method, **arguments):
    kind = pipeline_class(method)
    return read_call(kind.call_class, (), arguments, kind._call_defaults, kind.__name__)


def test_every_method_has_the_dial():
    assert set(VALUES) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_values_of_a_fidelity(method):
    for name, values in VALUES[method].items():
        for fidelity, value in zip(FIDELITIES, values, strict=True):
            found = getattr(read(method, fidelity=fidelity), name)
            assert type(found) in (str, int, float)
            assert found == (value if isinstance(value, str) else pytest.approx(value))


@pytest.mark.parametrize("method", METHODS)
def test_the_middle_is_the_model_itself(method):
    with_dial, without = (vars(read(method, **dial)) for dial in ({"fidelity": 0.5}, {}))
    assert with_dial | {"fidelity": None} == without


def test_the_decoder_of_coser():
    weights = [read("coser", fidelity=fidelity).default_cfw_weight(0.5) for fidelity in FIDELITIES]
    assert weights == [0, 0.25, 0.5, 0.75, 1]
    assert read("coser").default_cfw_weight(0.7) == 0.7


@pytest.mark.parametrize("method", METHODS)
def test_arguments_that_are_given_win(method):
    given = {name: values[2] for name, values in VALUES[method].items() if name in type(read(method)).__annotations__}
    given |= {} if method == "one_step" else {"guidance_scale": 2.5}
    for fidelity in FIDELITIES:
        call = read(method, fidelity=fidelity, **given)
        assert {name: getattr(call, name) for name in given} == given


def test_a_start_that_is_given_decides_about_the_noise():
    from_noise = read("seesr", fidelity=1, start_point="noise")
    assert (from_noise.start_point, from_noise.strength) == ("noise", 1)
    part_way = read("seesr", fidelity=0, strength=0.5)
    assert (part_way.start_point, part_way.strength) == ("lr", 0.5)


def test_a_model_of_one_step_has_only_its_controlnet():
    calls = [read("seesr", fidelity=fidelity, num_inference_steps=1) for fidelity in FIDELITIES]
    assert [call.controlnet_conditioning_scale for call in calls] == pytest.approx([1.4, 1.2, 1, 0.9, 0.8])
    assert {(call.guidance_scale, call.start_point, call.strength) for call in calls} == {(5.5, "lr", 1.0)}


def test_a_model_without_guidance_gets_none():
    assert read("seesr", fidelity=0, guidance_scale=1).guidance_scale == 1
    defaults = pipeline_class("seesr")._call_defaults | {"guidance_scale": 1.0}
    call = read_call(pipeline_class("seesr").call_class, (), {"fidelity": 0}, defaults, "SeeSRPipeline")
    assert call.guidance_scale == 1


def test_the_default_is_exact():
    assert between(0.5, 0.1, 0.3, 0.7) == 0.3
    assert between(0, 0.1, 0.3, 0.7) == pytest.approx(0.1)
    assert between(0.9, 0.1, 0.3, 0.8) == pytest.approx(0.7)


@pytest.mark.parametrize("fidelity", [-0.1, 1.1, "high", float("nan"), True + 1])
def test_what_is_not_a_fidelity(fidelity):
    with pytest.raises(ValueError, match=r"fidelity=.*, expected a number from 0 to 1"):
        read("seesr", fidelity=fidelity)
