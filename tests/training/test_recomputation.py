"""Gradient checkpointing of stages that train with an adapter: equal gradients from activations made again."""

from collections.abc import Callable

import pytest
import torch

from diffusers_sr.attention.adapter import AttentionAdapter
from tests.training.stages import STAGES, Stage, build

WITH_ADAPTER = [name for name in STAGES if name.split("_")[0] in ("seesr", "coser", "scedit", "cassr", "xpsr")]

ONE_STEP = ["pisa_pixel", "pisa", "one_step", "osediff"]


def gradients(stage: Stage, between: Callable[[], None] = lambda: None) -> dict[str, torch.Tensor]:
    stage.module.train()
    stage.module.zero_grad(set_to_none=True)
    loss = sum(stage.module(stage.batch()).values())
    between()
    loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in stage.module.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("name", WITH_ADAPTER)
def test_gradient_checkpointing_gives_equal_gradients(name: str) -> None:
    stage = build(name)
    denoiser = stage.denoiser
    adapters = [model for model in denoiser.children() if isinstance(model, AttentionAdapter)]
    assert adapters
    made: list[int] = []
    denoiser.unet.up_blocks[-1].resnets[0].register_forward_pre_hook(lambda *_: made.append(1))

    def nothing_is_left() -> None:
        # Whatever conditions the recomputation, it is not what happens to be left in the adapter.
        assert not any(adapter.is_conditioned for adapter in adapters)

    plain = gradients(stage, nothing_is_left)
    once = len(made)
    made.clear()
    denoiser.enable_gradient_checkpointing()
    recomputed = gradients(stage, nothing_is_left)
    assert len(made) > once
    assert plain.keys() == recomputed.keys()
    for each, gradient in plain.items():
        torch.testing.assert_close(recomputed[each], gradient, rtol=1e-5, atol=1e-7, msg=each)
    nothing_is_left()
    # The conditioning is needed: the adapter's own gradients come from it.
    assert any(gradient.any() for each, gradient in plain.items() if ".adapter." in each or ".activation." in each)


@pytest.mark.parametrize("name", ONE_STEP)
def test_one_step_models_recompute_their_autoencoder_too(name: str) -> None:
    stage = build(name)
    made: list[str] = []
    for part, module in (
        ("unet", stage.denoiser.unet.up_blocks[-1]),
        ("vae", stage.denoiser.vae.decoder.up_blocks[-1]),
    ):
        module.resnets[0].register_forward_pre_hook(lambda *_, part=part: made.append(part))
    plain = gradients(stage)
    once = made.copy()
    made.clear()
    stage.denoiser.enable_gradient_checkpointing()
    recomputed = gradients(stage)
    assert sorted(made) == sorted(2 * once) == ["unet", "unet", "vae", "vae"]
    assert plain.keys() == recomputed.keys()
    for each, gradient in plain.items():
        torch.testing.assert_close(recomputed[each], gradient, rtol=1e-5, atol=1e-7, msg=each)


def test_a_recomputation_has_the_conditioning_of_its_first_computation() -> None:
    """Two forwards with different conditioning before one backward."""
    stage = build("seesr")
    batch = stage.batch()
    flipped = {**batch, "degraded": batch["degraded"].flip(0)}

    def both() -> dict[str, torch.Tensor]:
        stage.module.zero_grad(set_to_none=True)
        (stage.module(batch)["mse"] + 2 * stage.module(flipped)["mse"]).backward()
        return {n: p.grad.clone() for n, p in stage.module.named_parameters() if p.grad is not None}

    plain = both()
    stage.denoiser.enable_gradient_checkpointing()
    stage.module.train()
    for each, gradient in both().items():
        torch.testing.assert_close(gradient, plain[each], rtol=1e-5, atol=1e-7, msg=each)
