"""DAPE's LoRA on the tagger: what it trains, and how it is merged and saved."""

from __future__ import annotations

import pytest
import torch

from diffusers_sr.seesr.tagger import Tagger, dape_lora_config, merge_lora
from tests.seesr.taggers import assert_same, outputs


def add_trained_lora(tagger: Tagger) -> None:
    tagger.add_adapter(dape_lora_config(tagger))
    for name, parameter in tagger.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)


def test_lora_trains_what_the_official_code_trains(tagger):
    tagger.add_adapter(dape_lora_config(tagger))
    trained = {name for name, parameter in tagger.named_parameters() if parameter.requires_grad}
    adapted = {name.split(".lora_")[0].split(".", 1)[1] for name in trained}
    blocks = [f"encoder.layers.{stage}.blocks.{block}.attention" for stage in range(2) for block in range(2)]
    assert adapted == {
        *(f"{block}.{projection}" for block in blocks for projection in ("q_proj", "v_proj")),
        *(f"layers.{layer}.{projection}" for layer in range(2) for projection in ("query", "key")),
    }
    assert len(trained) == 2 * len(adapted)
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)


def test_new_lora_changes_nothing_a_trained_one_does(tagger, pixel_values):
    plain = outputs(tagger, pixel_values)
    tagger.add_adapter(dape_lora_config(tagger))
    assert torch.equal(outputs(tagger, pixel_values), plain)
    for name, parameter in tagger.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    assert not torch.allclose(outputs(tagger, pixel_values), plain, atol=1e-3)


def test_lora_step_leaves_the_plain_weights(tagger, pixel_values):
    add_trained_lora(tagger)
    before = {name: parameter.clone() for name, parameter in tagger.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in tagger.parameters() if p.requires_grad], lr=1e-2)
    tagger.train()
    tagger.enable_gradient_checkpointing()
    output = tagger(pixel_values)
    (output.logits.square().mean() + output.representation.square().mean()).backward()
    optimizer.step()
    for name, parameter in tagger.named_parameters():
        assert torch.equal(parameter, before[name]) == ("lora_" not in name), name


def test_merged_lora_is_the_same_function_in_plain_weights(tagger, pixel_values, tmp_path):
    keys = set(tagger.state_dict())
    attention = tagger.swin.encoder.layers[0].blocks[1].attention
    query, key = attention.q_proj.weight.clone(), attention.k_proj.weight.clone()
    add_trained_lora(tagger)
    adapted = outputs(tagger, pixel_values)
    lora_a, lora_b = attention.q_proj.lora_A["default"].weight, attention.q_proj.lora_B["default"].weight

    assert merge_lora(tagger) is tagger
    assert set(tagger.state_dict()) == keys
    torch.testing.assert_close(outputs(tagger, pixel_values), adapted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(attention.q_proj.weight, query + lora_b @ lora_a / 8)
    assert torch.equal(attention.k_proj.weight, key)

    tagger.save_pretrained(tmp_path)
    assert_same(Tagger.from_pretrained(tmp_path), tagger, pixel_values)


def test_merged_tagger_can_be_adapted_again(tagger, pixel_values):
    add_trained_lora(tagger)
    merge_lora(tagger)
    add_trained_lora(tagger)
    adapted = outputs(tagger, pixel_values)
    torch.testing.assert_close(outputs(merge_lora(tagger), pixel_values), adapted, atol=1e-5, rtol=1e-4)


def test_tagger_with_lora_is_not_saved(tagger, tmp_path):
    add_trained_lora(tagger)
    with pytest.raises(ValueError, match="merge_lora"):
        tagger.save_pretrained(tmp_path)
    assert not any(tmp_path.iterdir())


def test_lora_alone_can_be_saved_and_loaded(tagger, pixel_values, tmp_path):
    tagger.save_pretrained(tmp_path / "tagger")
    add_trained_lora(tagger)
    tagger.save_lora_adapter(tmp_path / "lora")
    loaded = Tagger.from_pretrained(tmp_path / "tagger")
    loaded.load_lora_adapter(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors", prefix=None)
    torch.testing.assert_close(outputs(loaded, pixel_values), outputs(tagger, pixel_values))
