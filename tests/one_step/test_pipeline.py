"""The one-step pipeline: one pass, or two for PiSA-SR's dials."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import logging

from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.one_step.scheduler import OneStepScheduler
from tests.components import scheduler, tiny_image, tiny_unet
from tests.one_step.components import lora_set, pisa, with_text_encoder
from tests.seesr.components import tiny_tagger


@pytest.fixture
def pipeline() -> OneStepPipeline:
    return pisa()


def run(pipeline: OneStepPipeline, **changes: Any) -> np.ndarray:
    arguments = {
        "image": tiny_image(),
        "process_size": 16,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "np",
    }
    return pipeline(**arguments | changes).images


def difference(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(result - expected).max())


def count_passes(pipeline: OneStepPipeline) -> list[list[str]]:
    """Keep the adapters that are active in each pass of the UNet."""
    passes: list[list[str]] = []
    pipeline.unet.register_forward_pre_hook(lambda unet, *_: passes.append(sorted(unet.active_adapters())))
    return passes


def test_every_input_makes_a_difference(pipeline: OneStepPipeline) -> None:
    expected = run(pipeline)
    assert expected.shape == (1, 64, 64, 3)
    assert difference(run(pipeline), expected) == 0
    for changes in (
        {"image": tiny_image(seed=1)},
        {"generator": torch.Generator().manual_seed(1)},
        {"prompt_embeds": torch.zeros(1, 77, 32)},
        {"pixel_scale": 0.5},
        {"semantic_scale": 0.5},
        {"color_fix": None},
    ):
        assert difference(run(pipeline, **changes), expected) > 1e-3, changes
    for changes in ({"stored_prompt": None}, {"lora": None}):
        embeds = pipeline.stored_prompt.embedding if "stored_prompt" in changes else None
        other = run(pisa(**changes), prompt_embeds=embeds)
        assert (difference(other, expected) > 1e-3) == ("lora" in changes)


def test_the_result_is_the_formula_on_one_pass(pipeline: OneStepPipeline) -> None:
    """By hand, in the order of the official code: `z - e`, of one pass at timestep 1 with both LoRA sets."""
    latents = run(pipeline, output_type="latent")
    image = torch.from_numpy(np.array(tiny_image())).permute(2, 0, 1)[None] / 255
    enlarged = torch.nn.functional.interpolate(image, (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    generator = torch.Generator().manual_seed(0)
    torch.randn(1, 4, 8, 8, generator=generator)  # the noise, which this model does not use
    with torch.no_grad():
        z = pipeline.vae.encode(2 * enlarged - 1).latent_dist.sample(generator) * 0.18215
        prediction = pipeline.unet(z, 1, pipeline.stored_prompt.embedding).sample
    torch.testing.assert_close(latents, z - prediction, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dials", "passes"),
    [
        ((1.0, 1.0), [["pixel", "semantic"]]),
        ((0.5, 0.5), [["pixel", "semantic"]]),
        ((1.2, 0.0), [["pixel"]]),
        ((0.5, 1.0), [["pixel", "semantic"], ["pixel"]]),
    ],
)
def test_no_more_passes_than_the_dials_need(
    pipeline: OneStepPipeline, dials: tuple[float, float], passes: list[list[str]]
) -> None:
    counted = count_passes(pipeline)
    run(pipeline, pixel_scale=dials[0], semantic_scale=dials[1])
    assert counted == passes
    assert sorted(pipeline.unet.active_adapters()) == ["pixel", "semantic"]


def test_fidelity_turns_the_semantic_dial(pipeline: OneStepPipeline) -> None:
    passes = count_passes(pipeline)
    assert difference(run(pipeline, fidelity=0.5), run(pipeline)) == 0
    assert passes == [["pixel", "semantic"]] * 2
    passes.clear()
    faithful = run(pipeline, fidelity=1.0)
    assert passes == [["pixel"]]
    assert difference(faithful, run(pipeline, semantic_scale=0.0)) == 0
    assert difference(run(pipeline, fidelity=0.0), run(pipeline, semantic_scale=1.5)) == 0
    assert difference(run(pipeline, fidelity=0.0, semantic_scale=0.0), faithful) == 0
    with pytest.raises(ValueError, match=r"semantic_scale=0\.0 \(fidelity=1\.0\) weigh the LoRA sets"):
        run(pisa(lora=None), fidelity=1.0)
    assert np.isfinite(run(pisa(lora=None), fidelity=0.5)).all()


def test_a_model_that_was_trained_whole_has_one_dial() -> None:
    """Half of its prediction is subtracted at a fidelity of 1, and 1.25 times it at 0."""
    whole = pisa(lora=None, call_defaults={"semantic_scale": None})

    def latents(**dial: float) -> torch.Tensor:
        return torch.as_tensor(run(whole, output_type="latent", **dial))

    at_1, at_half = latents(), latents(pixel_scale=0.5)
    assert torch.equal(latents(fidelity=0.5), at_1) and torch.equal(latents(fidelity=1.0), at_half)
    residual = 2 * (at_half - at_1)
    assert residual.abs().max() > 0.01
    torch.testing.assert_close(latents(fidelity=0.0), at_1 - 0.25 * residual, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"but the model has \[\]: leave these arguments out"):
        run(whole, semantic_scale=0.5)


def test_dials_weigh_predictions(pipeline: OneStepPipeline) -> None:
    """0.5 · e_pixel + 2 · (e_both - e_pixel), of latents in which the result is `z - e`."""

    def latents(pixel_scale: float, semantic_scale: float) -> torch.Tensor:
        dials = {"pixel_scale": pixel_scale, "semantic_scale": semantic_scale}
        return torch.as_tensor(run(pipeline, output_type="latent", **dials))

    z, without_pixel, without_both = latents(0, 0), latents(1, 0), latents(1, 1)
    pixel, both = z - without_pixel, z - without_both
    torch.testing.assert_close(latents(0.5, 2.0), z - (0.5 * pixel + 2 * (both - pixel)), atol=1e-4, rtol=1e-4)


def test_fused_is_unfused(pipeline: OneStepPipeline) -> None:
    expected = run(pipeline)
    pipeline.fuse_lora()
    assert difference(run(pipeline), expected) < 1e-5
    with pytest.raises(ValueError, match=r"pixel_scale=1.0 and semantic_scale=0.5 need .* call unfuse_lora\(\)"):
        run(pipeline, semantic_scale=0.5)
    pipeline.unfuse_lora()
    assert difference(run(pipeline), expected) < 1e-5
    assert difference(run(pipeline, semantic_scale=0.5), expected) > 1e-3


def test_a_lora_of_the_users_own(pipeline: OneStepPipeline, tmp_path) -> None:
    expected = run(pipeline)
    own = {f"unet.{key}": tensor for key, tensor in lora_set(tiny_unet(), 3).items()}
    pipeline.load_lora_weights(own, adapter_name="style")
    pipeline.set_adapters(["pixel", "semantic", "style"])
    styled = run(pipeline)
    assert difference(styled, expected) > 1e-3
    passes = count_passes(pipeline)
    run(pipeline, semantic_scale=0)
    assert passes == [["pixel", "style"]]
    pipeline.unload_lora_weights()
    assert difference(run(pipeline), expected) < 1e-6


def test_saved_and_loaded(pipeline: OneStepPipeline, tmp_path) -> None:
    expected = run(pipeline)
    pipeline.save_pretrained(tmp_path)
    # Saving takes the sets off and puts them back, in whatever order they are then added up.
    assert difference(run(pipeline), expected) < 1e-6
    keys = set(pipeline.unet.state_dict())
    loaded = OneStepPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert difference(run(loaded), expected) < 1e-5
    assert set(loaded.unet.state_dict()) == keys
    stock = type(pipeline.unet).from_pretrained(tmp_path, subfolder="unet")
    assert not any("lora" in key for key in stock.state_dict())
    assert loaded.text_encoder is None and loaded.tokenizer is None


def test_prompts(pipeline: OneStepPipeline) -> None:
    with pytest.raises(ValueError, match="no text encoder or no tokenizer"):
        run(pipeline, prompt="a cat")
    texts = with_text_encoder()
    assert difference(run(texts), run(pipeline)) == 0
    assert difference(run(texts, prompt="a cat"), run(texts)) > 1e-4


def test_tags_precede_the_prompt() -> None:
    tagged = with_text_encoder(stored_prompt=None, tagger=tiny_tagger())
    assert tagged.write_prompt("sharp", tags="a cat, grass") == ["a cat, grass, sharp,"]
    assert tagged.write_prompt(None, tags=["a cat, grass, tree"]) == ["a cat, grass, tree, ,"]
    assert difference(run(tagged, tags="cat"), run(tagged)) > 1e-4


def test_other_models() -> None:
    """OSEDiff's and GDPO-SR's formulas: only the second needs noise."""
    for timestep, noise_timestep in ((999, None), (100, 250)):
        scheduler = OneStepScheduler(timestep=timestep, noise_timestep=noise_timestep, prediction="x0")
        pipeline = pisa(scheduler=scheduler)
        noise = torch.randn(1, 4, 8, 8)
        zeros, drawn = run(pipeline, latents=torch.zeros(1, 4, 8, 8)), run(pipeline, latents=noise)
        assert (difference(zeros, drawn) > 1e-4) == (noise_timestep is not None)


def test_tiles_and_sizes(pipeline: OneStepPipeline) -> None:
    whole = run(pipeline, image=tiny_image(21, 13), upscale=4)
    assert whole.shape == (1, 52, 84, 3)
    tiled = run(pipeline, image=tiny_image(21, 13), upscale=4, tile_size=48, tile_overlap=16)
    assert tiled.shape == whole.shape
    assert difference(tiled, whole) > 1e-4
    one = run(pipeline, image=[tiny_image(seed=0), tiny_image(seed=1)], generator=torch.Generator().manual_seed(0))
    assert one.shape == (2, 64, 64, 3)


def test_its_arguments(pipeline: OneStepPipeline) -> None:
    names = inspect.signature(OneStepPipeline.__call__).parameters
    assert {"pixel_scale", "semantic_scale", "tags"} < set(names)
    assert not {"negative_prompt", "guidance_scale", "num_inference_steps", "start_point"} & set(names)
    with pytest.raises(TypeError, match="no argument 'guidance_scale'"):
        run(pipeline, guidance_scale=2.0)
    without = pisa(lora=None)
    with pytest.raises(ValueError, match="weigh the LoRA sets 'pixel' and 'semantic', but the model has"):
        run(without, semantic_scale=0.5)
    with pytest.raises(ValueError, match="weigh the LoRA sets 'pixel' and 'semantic', but the model has"):
        run(without, pixel_scale=0.5, semantic_scale=0.5)


def test_prompts_can_be_encoded_without_a_negative_one() -> None:
    """The default of other methods, which are guided, is in their pipelines' configuration."""
    texts = with_text_encoder()
    positive, negative = texts.encode_prompt("a cat")
    assert negative is not None and torch.equal(
        negative, texts.encode_prompt("", do_classifier_free_guidance=False)[0]
    )
    assert difference(run(texts, prompt_embeds=positive), run(texts, prompt="a cat")) == 0


def test_another_scheduler_is_refused(pipeline: OneStepPipeline) -> None:
    pipeline.scheduler = scheduler()
    with pytest.raises(ValueError, match="is of DDPMScheduler, expected OneStepScheduler"):
        run(pipeline)


def test_a_thin_photo_is_enlarged_once(caplog) -> None:
    """The tagger sees the enlarged photo, too, and the warning of its size is said once."""
    tagged = with_text_encoder(stored_prompt=None, tagger=tiny_tagger())
    sizes = []
    tagged.enlarge = lambda image, size: sizes.append(size) or type(tagged).enlarge(tagged, image, size)  # type: ignore[method-assign, func-returns-value]
    logging.enable_propagation()
    run(tagged, image=tiny_image(4, 68), process_size=32, upscale=1)
    logging.disable_propagation()
    assert len(sizes) == 1
    assert caplog.text.count("more than 16 times as long as it is wide") == 1
