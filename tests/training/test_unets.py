"""New UNets: what they take, and that one which predicts nothing changes nothing."""

import pytest
import torch

from diffusers_sr.training.unets import new_unet, predict_nothing
from tests.components import components


@pytest.mark.parametrize("has_attention", [True, False])
def test_attention_is_in_the_last_level_or_nowhere(has_attention: bool) -> None:
    torch.manual_seed(0)
    vae = components("seesr")["vae"]
    unet = new_unet(vae, 32, (16, 32), 1, 16, 8, has_attention).eval()
    assert unet.config.in_channels == unet.config.out_channels == vae.config.latent_channels == 4
    names = {name.split(".transformer_blocks")[0] for name in unet.attn_processors}
    expected = {
        "down_blocks.1.attentions.0",
        "mid_block.attentions.0",
        *(f"up_blocks.0.attentions.{n}" for n in (0, 1)),
    }
    assert names == (expected if has_attention else set())
    latents, prompts = torch.randn(1, 4, 8, 8), torch.randn(2, 1, 3, 8)
    with torch.no_grad():
        first, second = (unet(latents, 1, prompt).sample for prompt in prompts)
        assert first.abs().max() > 0.01
        assert torch.equal(first, second) != has_attention
        assert not predict_nothing(unet)(latents, 1, prompts[0]).sample.any()
