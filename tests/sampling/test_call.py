"""A call is one frozen, typed value: what a pipeline takes can be seen, and is checked before it costs anything."""

import dataclasses
import inspect
import pydoc
import subprocess
import sys

import pytest
import torch

from diffusers_sr.image.color import COLOR_FIXES
from diffusers_sr.sampling import call as calls
from tests.components import inputs, own_arguments, tiny_image
from tests.pipeline.tiny import PIPELINES, build, run


def model_calls(pipeline):
    """A list that grows with every forward of a model of the pipeline."""
    called = []
    for name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            component.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    return called


@pytest.mark.parametrize("method", PIPELINES)
def test_signature_and_help_show_every_argument(method):
    call = PIPELINES[method].__call__
    parameters = inspect.signature(call).parameters
    own = [name for name, each in parameters.items() if each.kind is inspect.Parameter.KEYWORD_ONLY]
    assert own == own_arguments(method)
    assert list(parameters)[:5] == ["self", "image", "prompt", "negative_prompt", "upscale"]
    assert parameters["image"].default is inspect.Parameter.empty
    assert (parameters["upscale"].annotation, parameters["upscale"].default) == ("float", 4.0)
    assert (parameters["tile_size"].annotation, parameters["tile_size"].default) == (
        "int | Literal['auto'] | None",
        None,
    )
    text = pydoc.plain(pydoc.render_doc(call))
    for name in list(parameters)[1:]:
        assert f"\n        {name}: " in text, name


def test_the_value_is_frozen_and_complete():
    pipeline = build("coser")
    call = pipeline.check_inputs(tiny_image(), upscale=2, num_references=2)
    assert (call.upscale, call.num_references, call.num_inference_steps, call.guidance_scale) == (2, 2, 50, 3.0)
    assert call.negative_prompt.startswith("worst quality, ")
    assert call.color_fix is None
    assert pipeline.check_inputs(negative_prompt_embeds=torch.zeros(1, 77, 32)).negative_prompt is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        call.upscale = 3


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("coser", {"cfw_weight": 2}, "cfw_weight=2, expected a number from 0 to 1"),
        ("coser", {"cfw_weight": -0.1}, "cfw_weight=-0.1, expected"),
        ("coser", {"num_references": True}, "num_references=True, expected a whole number"),
        ("xpsr", {"guide_low_level": "no"}, "guide_low_level='no', expected True or False"),
        ("xpsr", {"added_noise_level": 1000}, "from 0 to 999"),
        ("seesr", {"tags": 5}, "tags=5, expected a text"),
        ("seesr", {"tags": ["a", "b"]}, "2 of `tags` for 1 images"),
        ("seesr", {"tile_size": 60}, "tile_size=60, expected a multiple of 8"),
        ("seesr", {"generator": [torch.Generator()] * 2}, "2 generators for 1 results"),
        ("seesr", {"latents": torch.zeros(1, 4, 8, 9)}, r"\[1, 4, 8, 9\], expected \[1, 4, 8, 8\]"),
        ("cassr", {"activation": "esrgan"}, "activation='esrgan'"),
        ("pasd", {"captioner": "llava"}, "captioner='llava'"),
    ],
)
def test_what_is_wrong_is_said_before_any_model_runs(method, arguments, message):
    pipeline = build(method)
    called = model_calls(pipeline)
    run(pipeline, method)
    assert called
    called.clear()
    with pytest.raises(ValueError, match=message):
        run(pipeline, method, **arguments)
    assert called == []


@pytest.mark.parametrize("method", PIPELINES)
@pytest.mark.parametrize("name", ["noise", "size", "sampling", "sharpness", "low_resolution", "call"])
def test_an_unknown_argument_names_those_that_there_are(method, name):
    pipeline = build(method)
    with pytest.raises(TypeError) as raised:
        pipeline(**inputs(method), **{name: 1})
    message = str(raised.value)
    kind = type(pipeline).__name__
    assert message.startswith(f"{kind} has no argument '{name}': ")
    assert "It takes image, prompt, negative_prompt, " in message
    assert message.endswith(", ".join(own_arguments(method)) + ".")


def test_a_slip_is_set_right():
    with pytest.raises(TypeError, match=r"no argument 'cfw_wieght': did you mean 'cfw_weight'\?"):
        build("coser")(tiny_image(), cfw_wieght=0.5)
    with pytest.raises(TypeError, match="PASDPipeline has no argument 'low_level_prompt'"):
        build("pasd")(tiny_image(), low_level_prompt="noisy")
    with pytest.raises(TypeError, match="called without `image`"):
        build("seesr")()
    with pytest.raises(TypeError, match="multiple values for argument 'image'"):
        build("seesr")(tiny_image(), image=tiny_image())


def test_arguments_may_be_given_by_position():
    pipeline = build("seesr")
    by_name = {name: value for name, value in inputs("seesr").items() if name not in ("image", "prompt")}
    first = pipeline(tiny_image(), "a dog", **by_name).images
    generator = torch.Generator().manual_seed(0)
    second = pipeline(image=tiny_image(), prompt="a dog", **{**by_name, "generator": generator}).images
    assert (first == second).all()


def test_colour_fixes_are_those_there_are():
    assert set(calls.COLOR_FIXES) == {*COLOR_FIXES, None}


def test_what_calls_take_is_known_without_torch():
    """The command line reads it for its help."""
    code = "import sys; import diffusers_sr.{0}.call; assert not {{'torch', 'numpy', 'PIL'}} & sys.modules.keys()"
    for package in ("seesr", "coser", "cassr", "xpsr"):
        done = subprocess.run([sys.executable, "-c", code.format(package)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
