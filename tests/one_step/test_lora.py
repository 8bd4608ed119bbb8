"""LoRA sets as a component: on the UNet, off it, and in files."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from diffusers_sr.one_step.lora import LoraSets
from tests.components import TEXT_DIM, components, tiny_unet
from tests.one_step.official_files import adapted, by_hand, lora


@pytest.fixture(params=[True, False], ids=["linear", "convolutions"])
def unet(request) -> UNet2DConditionModel:
    """UNets whose transformers are entered as in Stable Diffusion 2 and 1."""
    torch.manual_seed(0)
    return tiny_unet(use_linear_projection=request.param).eval()


def two_sets(unet: UNet2DConditionModel) -> LoraSets:
    """Sets of ranks 4 and 2 with alpha 8, the second without `conv_in`."""
    names = adapted(unet)
    return LoraSets.from_state_dicts(
        {"pixel": (lora(unet, names, 4), 8), "semantic": (lora(unet, [n for n in names if n != "conv_in"], 2), 8)}
    )


@torch.no_grad()
def output(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    text = torch.randn(1, 5, TEXT_DIM, generator=generator)
    prediction: torch.Tensor = unet(latents, 1, encoder_hidden_states=text).sample
    return prediction


@torch.no_grad()
def merged(unet: UNet2DConditionModel, sets: LoraSets, scales: dict[str, float]) -> UNet2DConditionModel:
    unet = copy.deepcopy(unet)
    for name, scale in scales.items():
        weights = sets.lora_state_dict(name)
        for module in sets.modules_of(name):
            layer = unet.get_submodule(module)
            down, up = (weights[f"{module}.lora_{matrix}.weight"] for matrix in "AB")
            layer.weight.copy_(by_hand(layer, down, up, scale))
    return unet


def test_attached_sets_change_weights_by_alpha_over_rank(unet):
    sets = two_sets(unet)
    expected = output(merged(unet, sets, {"pixel": 8 / 4, "semantic": 8 / 2}))
    wrong = output(merged(unet, sets, {"pixel": 1, "semantic": 1}))
    stock = output(unet)
    sets.attach(unet)
    torch.testing.assert_close(output(unet), expected, atol=1e-4, rtol=1e-4)
    assert (output(unet) - wrong).abs().max() > 0.1
    assert (output(unet) - stock).abs().max() > 0.1


def test_attaching_twice_is_attaching_once_and_draws_nothing(unet):
    sets = two_sets(unet)
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sets.attach(unet)
    once = output(unet)
    sets.attach(unet)
    assert torch.equal(output(unet), once)
    assert torch.equal(torch.get_rng_state(), state)
    assert sets.is_attached(unet)


def test_detached_unet_is_stock(unet):
    stock, keys, layers = output(unet), list(unet.state_dict()), repr(unet)
    sets = two_sets(unet)
    sets.attach(unet)
    assert list(unet.state_dict()) != keys
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sets.detach(unet)
    sets.detach(unet)
    assert torch.equal(output(unet), stock)
    assert list(unet.state_dict()) == keys
    assert repr(unet) == layers
    assert not sets.is_attached(unet)


def test_active_sets(unet):
    sets = two_sets(unet)
    expected = output(merged(unet, sets, {"pixel": 2}))
    sets.attach(unet)
    both = output(unet)
    sets.activate(unet, ["pixel"])
    torch.testing.assert_close(output(unet), expected, atol=1e-4, rtol=1e-4)
    sets.attach(unet)
    assert torch.equal(output(unet), both)


def test_a_lora_of_the_user_stays_as_it_is(unet):
    own = LoraSets.from_state_dicts({"own": (lora(unet, ["conv_out", "conv_in"], 3), 3)}).attach(unet)
    unet.set_adapters(["own"], [0.5])
    alone = output(unet)
    sets = two_sets(unet).attach(unet)
    together = output(unet)
    assert (together - alone).abs().max() > 0.1
    sets.activate(unet, [])
    assert torch.equal(output(unet), alone)
    sets.attach(unet)
    assert torch.equal(output(unet), together)
    sets.detach(unet)
    assert torch.equal(output(unet), alone)
    assert unet.active_adapters() == ["own"]
    unet.set_adapter([])
    inactive = output(unet)
    sets.attach(unet)
    sets.detach(unet)
    assert torch.equal(output(unet), inactive)
    assert list(unet.peft_config) == ["own"]
    own.detach(unet)
    assert not [key for key in unet.state_dict() if "base_layer" in key]


def test_a_lora_loaded_later_does_not_replace_the_sets(unet):
    sets = two_sets(unet).attach(unet)
    both = output(unet)
    own = LoraSets.from_state_dicts({"own": (lora(unet, ["conv_out"], 3), 3)})
    unet.load_lora_adapter(
        own.lora_state_dict("own"), prefix=None, adapter_name="own", metadata=own.lora_metadata("own")
    )
    unet.set_adapter("own")
    sets.attach(unet)
    together = output(unet)
    sets.activate(unet, [])
    assert (together - output(unet)).abs().max() > 0.1
    unet.delete_adapters("own")
    sets.attach(unet)
    torch.testing.assert_close(output(unet), both, atol=1e-5, rtol=1e-5)


def test_a_lora_of_other_layers_loaded_later_leaves_the_sets_active(unet):
    sets = LoraSets.from_state_dicts({"default": (lora(unet, ["conv_in", "conv_out"], 4), 8)}).attach(unet)
    own = LoraSets.from_state_dicts({"own": (lora(unet, ["conv_out", "mid_block.resnets.0.conv1"], 3), 3)})
    unet.load_lora_adapter(
        own.lora_state_dict("own"), prefix=None, adapter_name="own", metadata=own.lora_metadata("own")
    )
    sets.attach(unet)
    for module in (unet.conv_in, unet.conv_out, unet.mid_block.resnets[0].conv1):
        assert {*module.active_adapters} == {"default", "own"}
    sets.activate(unet, [])
    for module in (unet.conv_in, unet.conv_out, unet.mid_block.resnets[0].conv1):
        assert module.active_adapters == ["own"]


def test_taken_names_are_refused(unet):
    LoraSets.from_state_dicts({"pixel": (lora(unet, ["conv_out"], 3), 3)}).attach(unet)
    with pytest.raises(ValueError, match=r"has LoRAs named \['pixel'\].*another `adapter_name`"):
        two_sets(unet).attach(unet)


def test_fused_sets_are_not_detached(unet):
    sets = two_sets(unet).attach(unet)
    unfused = output(unet)
    unet.fuse_lora()
    torch.testing.assert_close(output(unet), unfused, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"\['pixel', 'semantic'\] are fused.*unfuse_lora"):
        sets.detach(unet)
    unet.unfuse_lora()
    sets.detach(unet)


def test_another_unet_is_refused(unet):
    sets = two_sets(unet)
    other = tiny_unet(block_out_channels=(8, 24), use_linear_projection=unet.config.use_linear_projection)
    with pytest.raises(ValueError, match="do not belong to this UNet") as error:
        sets.attach(other)
    assert "pixel: mid_block.resnets.0.conv1 [4, 16, 16, 3, 3], but the UNet's is [24, 24, 3, 3]" in str(error.value)
    assert not hasattr(other, "peft_config")


def test_saved_and_loaded(unet, tmp_path):
    sets = two_sets(unet)
    expected = output(
        copy.deepcopy(sets).attach(copy.deepcopy(unet)) and merged(unet, sets, {"pixel": 2, "semantic": 4})
    )
    sets.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded = LoraSets.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == sets.state_dict().keys()
    assert "semantic.mid_block.resnets.0.conv1.lora_A.weight" in loaded.state_dict()
    loaded.attach(unet)
    torch.testing.assert_close(output(unet), expected, atol=1e-4, rtol=1e-4)


def test_ranks_may_differ_from_layer_to_layer(unet):
    names = adapted(unet)
    weights = lora(unet, names, 4) | lora(unet, ["conv_in", "mid_block.resnets.0.conv2"], 2)
    sets = LoraSets.from_state_dicts({"default": (weights, 6)})
    with torch.no_grad():
        expected = copy.deepcopy(unet)
        for name in names:
            down, up = (weights[f"{name}.lora_{matrix}.weight"] for matrix in "AB")
            layer: Any = expected.get_submodule(name)
            layer.weight.copy_(by_hand(layer, down, up, 6 / len(down)))
    torch.testing.assert_close(output(sets.attach(unet) and unet), output(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("is_pair", [False, True])
def test_stock_diffusers_reads_the_files_with_their_alpha(unet, is_pair, tmp_path):
    sets = two_sets(unet)
    if not is_pair:
        sets = LoraSets.from_state_dicts({"default": (sets.lora_state_dict("pixel"), 8)})
    expected = output(merged(unet, sets, {"pixel": 2, "semantic": 4} if is_pair else {"default": 2}))
    files = sets.save_lora(tmp_path)
    names = ["pixel.safetensors", "semantic.safetensors"] if is_pair else ["pytorch_lora_weights.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name for file in files] == names
    parts = components("seesr")
    stock = StableDiffusionPipeline(
        **{name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")},
        unet=unet,
        safety_checker=None,
        feature_extractor=None,
    )
    for name, file in zip(sets.names, files, strict=True):
        stock.load_lora_weights(tmp_path, weight_name=file.name, adapter_name=name)
    stock.set_adapters(sets.names)
    torch.testing.assert_close(output(stock.unet), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_in.lora_A.weight": None}, r"these have none: \['conv_in.lora_B.weight'\]"),
        ({"conv_in.alpha": torch.tensor(8.0)}, r"these have none: \['conv_in.alpha'\]"),
        ({"conv_in.lora_B.weight": torch.zeros(8, 3, 1, 1)}, r"conv_in.*lora_A \[4, 4, 3, 3\].*lora_B \[8, 3, 1, 1\]"),
    ],
)
def test_weights_that_do_not_belong_together(change, message):
    weights = {**lora(tiny_unet(), ["conv_in", "conv_out"], 4), **change}
    with pytest.raises(ValueError, match=message):
        LoraSets.from_state_dicts({"default": ({key: t for key, t in weights.items() if t is not None}, 8)})


def test_a_set_without_weights():
    with pytest.raises(ValueError, match="'default' has no weights"):
        LoraSets.from_state_dicts({"default": ({}, 8)})
