"""`SeeSRPipeline` itself, with AddSR's scheduler, does in its loop what AddSR's official pipeline did.

In the vectors the tagger returns a recorded representation whatever it sees, the noise is recorded, and the VAE's
posterior is its mean: so it is here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import nn

from diffusers_sr.seesr.convert import load_adapter
from diffusers_sr.seesr.four_steps import FourStepOutput, FourStepScheduler
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from diffusers_sr.seesr.tagger import Tagger, TaggerOutput

DATA = Path(__file__).parent / "data"
VECTORS = os.environ.get("ONE_STEP_PARITY_VECTORS")


class MeanPipeline(SeeSRPipeline):
    """The pipeline, with the mean of the posterior."""

    def draw_latents(self, posterior: Any, generator: Any = None) -> torch.Tensor:
        mean: torch.Tensor = posterior.mean
        return mean


def recorded_tagger(vectors: dict[str, torch.Tensor], seen: list[torch.Tensor]) -> Tagger:
    """A tagger with the official input, whose calls return the representations of the vectors in turn."""
    tagger = Tagger(
        tags=["cat"],
        thresholds=[0.5],
        embed_dim=8,
        depths=(1, 1),
        num_heads=(1, 1),
        representation_dim=vectors["representation.0"].shape[-1],
        head_hidden_size=8,
        head_num_heads=1,
        head_intermediate_size=8,
        head_num_layers=1,
    ).eval()

    def recorded(module: nn.Module, args: tuple[torch.Tensor], output: TaggerOutput) -> TaggerOutput:
        seen.append(args[0])
        return TaggerOutput(logits=output.logits, representation=vectors[f"representation.{len(seen) - 1}"])

    tagger.register_forward_hook(recorded)
    return tagger


def recorded_scheduler(vectors: dict[str, torch.Tensor], results: list[FourStepOutput]) -> FourStepScheduler:
    """The scheduler, with the noise of the vectors."""

    class Recorded(FourStepScheduler):
        def step(self, *args: Any, **options: Any) -> Any:
            result = super().step(*args, **{**options, "noise": vectors.get(f"renoise.{len(results)}")})
            results.append(FourStepOutput(result[0], result[1]))
            return result

    return Recorded()


@pytest.mark.skipif(
    VECTORS is None, reason="too large for the repository: name their folder in ONE_STEP_PARITY_VECTORS"
)
def test_the_pipeline_is_the_official_one() -> None:
    folder = Path(str(VECTORS))
    vectors = load_file(folder / "addsr" / "A" / "case_psr0.4.safetensors")
    unet, controlnet, adapter = load_adapter(DATA / "seesr" / "A" / "unet", DATA / "seesr" / "A" / "controlnet")
    vae = AutoencoderKL.from_pretrained(folder / "base_A" / "vae")
    seen: list[torch.Tensor] = []
    results: list[FourStepOutput] = []
    conditions: list[torch.Tensor] = []
    controlnet.controlnet_cond_embedding.conv_in.register_forward_pre_hook(
        lambda module, args: conditions.append(args[0])
    )
    pipeline = MeanPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        controlnet=controlnet,
        adapter=adapter,
        scheduler=recorded_scheduler(vectors, results),
        tagger=recorded_tagger(vectors, seen),
    )
    pipeline.set_progress_bar_config(disable=True)
    noises: list[torch.Tensor] = []

    def keep(pipeline: SeeSRPipeline, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        noises.append(tensors["noise_pred"])
        return {}

    image = pipeline(
        vectors["image"],
        upscale=1,
        process_size=0,
        num_inference_steps=4,
        guidance_scale=1.0,
        prompt_embeds=vectors["prompt_embeds"],
        latents=vectors["initial_noise"],
        color_fix=None,
        output_type="pt",
        callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=["noise_pred"],
    ).images
    computed = {"final": image}
    computed |= {f"noise_pred.{step}": noise for step, noise in enumerate(noises)}
    computed |= {f"denoised.{step}": result.pred_original_sample for step, result in enumerate(results)}
    computed |= {f"latents.{step + 1}": result.prev_sample for step, result in enumerate(results[:-1])}
    computed |= {f"condition.{step}": condition for step, condition in enumerate(conditions) if step > 0}
    computed |= {
        f"tagger_input_48.{step}": F.avg_pool2d(pixels.half().float(), 8)
        for step, pixels in enumerate(seen)
        if step > 0
    }
    inputs = ("image", "prompt_embeds", "initial_noise", "latents.0", "renoise.", "representation.")
    expected = {name: tensor for name, tensor in vectors.items() if not name.startswith(inputs)}
    assert computed.keys() == expected.keys()
    for name, tensor in expected.items():
        difference = (computed[name] - tensor).abs().max()
        assert difference <= 5e-5 * max(1, float(tensor.abs().max())), name
