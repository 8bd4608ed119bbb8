"""New UNets: what they take, and that one which predicts nothing changes nothing."""

import pytest
import torch

from diffusers_sr.training.unets import begin_as, new_unet, predict_nothing, predict_times
from tests.components import components


@pytest.mark.parametrize("attention_levels", [2, 1, 0])
def test_attention_is_in_the_last_levels_or_nowhere(attention_levels: int) -> None:
    torch.manual_seed(0)
    vae = components("seesr")["vae"]
    unet = new_unet(vae, 32, (16, 32, 32), 1, 16, 8, attention_levels).eval()
    assert unet.config.in_channels == unet.config.out_channels == vae.config.latent_channels == 4
    names = {name.split(".transformer_blocks")[0] for name in unet.attn_processors}
    last = {"down_blocks.2.attentions.0", "mid_block.attentions.0", *(f"up_blocks.0.attentions.{n}" for n in (0, 1))}
    second = {"down_blocks.1.attentions.0", *(f"up_blocks.1.attentions.{n}" for n in (0, 1))}
    assert names == {2: last | second, 1: last, 0: set()}[attention_levels]
    latents, prompts = torch.randn(1, 4, 8, 8), torch.randn(2, 1, 3, 8)
    with torch.no_grad():
        first, second = (unet(latents, 1, prompt).sample for prompt in prompts)
        assert first.abs().max() > 0.01
        assert torch.equal(first, second) == (attention_levels == 0)
        torch.testing.assert_close(predict_times(unet, 3)(latents, 1, prompts[0]).sample, 3 * first)
        assert not predict_nothing(unet)(latents, 1, prompts[0]).sample.any()


def test_a_unet_with_attention_begins_as_one_without() -> None:
    torch.manual_seed(0)
    vae = components("seesr")["vae"]
    without, other, deeper = (
        new_unet(vae, 32, (16, 32), layers, 16, 8, levels).eval() for layers, levels in ((1, 0), (1, 1), (2, 1))
    )
    latents, prompt = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 8)
    with torch.no_grad():
        expected = without(latents, 1, prompt).sample
        assert not torch.equal(other(latents, 1, prompt).sample, expected)
        torch.testing.assert_close(begin_as(other, without)(latents, 1, prompt).sample, expected)
    with pytest.raises(ValueError, match=r"1 layers and 4 latent channels cannot begin as one of \(16, 32\), 2 and 4"):
        begin_as(other, deeper)
