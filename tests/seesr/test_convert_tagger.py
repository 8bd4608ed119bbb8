"""The official weights of the tagger: RAM, DAPE and the lists of tags."""

from __future__ import annotations

import re

import pytest
import torch

from diffusers_sr.conversion.checkpoints import read_state_dict
from diffusers_sr.seesr.convert import convert
from diffusers_sr.seesr.convert_tagger import load_tagger
from diffusers_sr.seesr.tagging_head import TaggingHeadLayer
from tests.seesr.official_files import convert_all, official_dape, official_ram


def test_ram_is_mapped_key_by_key(official):
    ram = official_ram()
    tagger = load_tagger(official / "ram.pth", None, official / "tags")
    assert tagger.config.image_size == 16
    assert tagger.config.depths == [2, 4]
    assert tagger.config.num_heads == [2, 4]
    assert tagger.config.window_size == 2
    assert tagger.config.head_num_heads == 4
    block = tagger.swin.encoder.layers[1].blocks[2]
    prefix = "visual_encoder.layers.1.blocks.2."
    query, key, value = ram[f"{prefix}attn.qkv.weight"].split(16)
    assert torch.equal(block.attention.q_proj.weight, query)
    assert torch.equal(block.attention.k_proj.weight, key)
    assert torch.equal(block.attention.v_proj.weight, value)
    assert torch.equal(block.layernorm_before.bias, ram[f"{prefix}norm1.bias"])
    assert torch.equal(block.mlp.fc2.weight, ram[f"{prefix}mlp.fc2.weight"])
    layer = tagger.tagging_head.layers[1]
    assert isinstance(layer, TaggingHeadLayer)
    prefix = "tagging_head.encoder.layer.1."
    assert torch.equal(layer.attention_output.weight, ram[f"{prefix}crossattention.output.dense.weight"])
    assert torch.equal(layer.feed_forward_output.weight, ram[f"{prefix}output.dense.weight"])
    assert torch.equal(layer.feed_forward_norm.bias, ram[f"{prefix}output.LayerNorm.bias"])
    assert torch.equal(tagger.tagging_head.label_embed, ram["label_embed"])


def test_dape_is_merged_at_an_eighth(official):
    ram = official_ram()
    dape = official_dape(ram)
    tagger = load_tagger(official / "ram.pth", official / "DAPE.pth", official / "tags")
    name = "visual_encoder.layers.1.blocks.3.attn.qkv"
    query, key, value = ram[f"{name}.weight"].split(16)
    lora_a, lora_b = dape[f"{name}.lora_A"], dape[f"{name}.lora_B"]
    attention = tagger.swin.encoder.layers[1].blocks[3].attention
    torch.testing.assert_close(attention.q_proj.weight, query + lora_b[:16] @ lora_a[:8] / 8)
    torch.testing.assert_close(attention.v_proj.weight, value + lora_b[16:] @ lora_a[8:] / 8)
    assert torch.equal(attention.k_proj.weight, key)
    name = "tagging_head.encoder.layer.0.crossattention.self.key"
    expected = ram[f"{name}.weight"] + dape[f"{name}.lora_B"] @ dape[f"{name}.lora_A"] / 8
    layer = tagger.tagging_head.layers[0]
    assert isinstance(layer, TaggingHeadLayer)
    torch.testing.assert_close(layer.key.weight, expected)


@pytest.mark.parametrize(
    ("file", "key", "tensor", "message"),
    [
        ("ram.pth", "visual_encoder.layers.1.blocks.1.mlp.fc1.bias", None, "1 missing.*blocks.1.mlp.fc1.bias"),
        ("ram.pth", "image_proj.weight", None, "missing.*image_proj.weight"),
        ("ram.pth", "visual_encoder.head.weight", torch.zeros(2), "1 unexpected.*visual_encoder.head.weight"),
        ("ram.pth", "fc.weight", torch.zeros(1, 13), r"1 mis-shaped.*fc.weight is \[1, 13\], expected \[1, 12\]"),
        ("DAPE.pth", "visual_encoder.layers.0.blocks.1.attn.qkv.lora_A", None, "DAPE.*1 missing"),
        ("DAPE.pth", "visual_encoder.layers.0.blocks.2.attn.qkv.lora_A", torch.zeros(16, 8), "DAPE.*1 unexpected"),
        ("DAPE.pth", "tag_encoder.encoder.layer.0.attention.self.query.lora_B", torch.ones(12, 8), "captioning half"),
    ],
)
def test_wrong_keys_of_the_tagger(official, tmp_path, file, key, tensor, message):
    state_dict = read_state_dict(official / file)
    state_dict.pop(key, None)
    if tensor is not None:
        state_dict[key] = tensor
    (official / file).unlink()  # it is mapped into memory
    torch.save(state_dict, official / file)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        convert_all(official, tmp_path / "output")
    assert [path.name for path in tmp_path.iterdir()] == ["official"]


def test_tag_lists_have_to_match_the_weights(official):
    path = official / "tags" / "ram_tag_list.txt"
    path.write_text("abacus\nbridge\n")
    with pytest.raises(ValueError, match=r"know 3 tags, but ram_tag_list.txt has 2 and .* has 3 entries"):
        load_tagger(official / "ram.pth", None, official / "tags")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"ram_tag_list.txt"):
        load_tagger(official / "ram.pth", None, official / "tags")


def test_threshold_that_is_not_a_number(official):
    (official / "tags" / "ram_tag_list_threshold.txt").write_text("0.65\nmuch\n0.5\n")
    with pytest.raises(ValueError, match=r"'much' in .*ram_tag_list_threshold.txt is not a number"):
        load_tagger(official / "ram.pth", None, official / "tags")


@pytest.mark.parametrize("given", [{"ram": "r"}, {"ram_tags": "t"}, {"dape": "d"}])
def test_tagger_files_belong_together(official, tmp_path, given):
    with pytest.raises(ValueError, match="--ram"):
        convert(official / "unet", official / "controlnet", tmp_path / "output", **given)
