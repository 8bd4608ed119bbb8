from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from diffusers_sr import CoSeRPipeline, load_pipeline
from diffusers_sr.cli.main import main
from diffusers_sr.coser.adapter import CoSeRAdapter
from diffusers_sr.coser.cfw import ControllableFeatureWrapping
from diffusers_sr.coser.clip import load_clip
from diffusers_sr.coser.cognition import Q_FORMER, CognitiveEncoder
from diffusers_sr.coser.controlnet import LatentControlNetModel
from diffusers_sr.coser.convert import BASE_MIRROR, SCHEDULE, convert, load_networks, new_scheduler
from diffusers_sr.coser.convert_cognition import official_key
from diffusers_sr.coser.convert_networks import (
    ADAPTER_NAMES,
    controlnet_config_of,
    networks_from_official,
    unet_config_of,
)
from tests.components import TEXT_DIM, components, inputs, randomise, tiny_image

UNET, CONTROLNET = "model.diffusion_model.", "structcond_stage_model."
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "projection_dim": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
Tensors = dict[str, torch.Tensor]

# Stable Diffusion's names, ours to the official ones.
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OTHERS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "controlnet_cond_embedding": "hint_zero_conv",
    "controlnet_mid_block": "middle_block_out.0",
}


def ldm_key(key: str, model: nn.Module) -> str:
    """The official name of a weight of a stock UNet or ControlNet with two residual blocks to a level."""
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|\w+samplers)\.(\d+)\.(.+)", key):
        direction, block, part, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if part == "downsamplers":
            return f"input_blocks.{3 * block + 3}.0.{rest.replace('conv', 'op')}"
        if part == "upsamplers":
            column = 2 if hasattr(model.up_blocks[block], "attentions") else 1
            return f"output_blocks.{3 * block + 2}.{column}.{rest}"
        row = f"input_blocks.{3 * block + layer + 1}" if direction == "down" else f"output_blocks.{3 * block + layer}"
        key = f"{row}.{int(part == 'attentions')}.{rest}"
    key = re.sub(r"^controlnet_down_blocks\.(\d+)", r"zero_convs.\1.0", key)
    for name, official in OTHERS.items():
        if key.startswith(f"{name}."):
            key = official + key.removeprefix(name)
    if "transformer_blocks" not in key:
        for name, official in RESNET.items():
            key = re.sub(rf"^((?:input|output|middle)_blocks?\.[\d.]+)\.{name}\.", rf"\1.{official}.", key)
    return key


def official_adapter(adapter: CoSeRAdapter) -> Tensors:
    """What the official UNet has beside Stable Diffusion's, with the weights it never uses."""
    names = {own: official for official, own in ADAPTER_NAMES.items()}
    weights = {}
    for site, attention in adapter.unet.items():
        match = re.fullmatch(r"up_blocks__(\d+)__attentions__(\d+)__transformer_blocks__0", site)
        block = "middle_block.1" if match is None else f"output_blocks.{3 * int(match[1]) + int(match[2])}.1"
        for key, tensor in attention.state_dict().items():
            name, _, rest = key.partition(".")
            if key in ("out_lr.weight", "out_reference.weight"):
                tensor = tensor[:, :, None, None]
            weights[f"{block}.{names[name]}.{rest}"] = tensor
        channels = attention.norm_lr.num_channels
        for name, shape in (("proj_in_cref_lna", (channels, channels)), ("transformer_blocks.0.norm5_lna", ())):
            weights[f"{block}.{name}.weight"] = torch.zeros(shape or channels)
            weights[f"{block}.{name}.bias"] = torch.zeros(channels)
    return weights


def official_networks(
    unet: UNet2DConditionModel, controlnet: LatentControlNetModel, adapter: CoSeRAdapter
) -> tuple[Tensors, Tensors]:
    """UNet and ControlNet in the official layout, without the prefixes."""
    unet_weights, controlnet_weights = (
        {ldm_key(key, model): tensor for key, tensor in model.state_dict().items()} for model in (unet, controlnet)
    )
    return {**unet_weights, **official_adapter(adapter)}, controlnet_weights


def official_qformer(encoder: CognitiveEncoder) -> Tensors:
    """SRResNet and Q-Former, with BERT's text half and the frozen CLIP."""
    weights = {official_key(key): tensor for key, tensor in encoder.state_dict().items() if "clip." not in key}
    weights["global_adapter.Qformer.embeddings.word_embeddings.weight"] = torch.zeros(9, TEXT_DIM)
    weights["global_adapter.Qformer.encoder.layer.0.output.dense.weight"] = torch.zeros(3)
    weights["cond_stage_model.model.visual.proj"] = torch.zeros(16, 12)
    return weights


def official_cfw(cfw: ControllableFeatureWrapping) -> Tensors:
    """StableSR's autoencoder: the fusion layers, and something of the rest."""
    names = {"resnet_in": "encode_enc_1", "rrdbs": "encode_enc_2", "resnet_out": "encode_enc_3"}
    weights = {"encoder.conv_in.weight": torch.zeros(8, 3, 3, 3), "loss.logvar": torch.zeros(())}
    for key, tensor in cfw.state_dict().items():
        _, level, part, rest = key.split(".", 3)
        rest = rest.replace("conv_shortcut", "conv_out")
        weights[f"decoder.fusion_layer_{level}.{names[part]}.{rest}"] = tensor
    return weights


def random_weights(module: Any) -> Any:
    """Give every parameter values of its own, so that none can be taken for another of its shape."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.1)
    return module.eval()


def tiny_networks() -> tuple[UNet2DConditionModel, LatentControlNetModel, CoSeRAdapter]:
    """As the official ones, whose heads have 64 channels and whose norms 32 groups, with two levels."""
    config = {
        "block_out_channels": (64, 128),
        "layers_per_block": 2,
        "attention_head_dim": (1, 2),
        "cross_attention_dim": TEXT_DIM,
        "use_linear_projection": True,
    }
    unet = UNet2DConditionModel(
        **config,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        sample_size=64,
    )
    down_block_types = ("CrossAttnDownBlock2D", "DownBlock2D")
    controlnet = LatentControlNetModel(**config, down_block_types=down_block_types, conditioning_channels=4)
    adapter = CoSeRAdapter.from_hosts(unet, controlnet, similarity="scaled")
    return random_weights(unet), random_weights(controlnet), random_weights(adapter)


@pytest.fixture(scope="module")
def original() -> dict[str, Any]:
    """The components of the pipeline that the official files are made of."""
    torch.manual_seed(0)
    unet, controlnet, adapter = tiny_networks()
    vae = randomise(
        AutoencoderKL(
            block_out_channels=(32, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
        )
    )
    qformer = {**Q_FORMER, "hidden_size": TEXT_DIM, "intermediate_size": 24, "num_hidden_layers": 2}
    encoder = CognitiveEncoder(3, srresnet_channels=8, srresnet_blocks=2, vision_config=VISION, qformer_config=qformer)
    return {
        **{name: components("coser")[name] for name in ("text_encoder", "tokenizer")},
        "unet": unet,
        "controlnet": controlnet,
        "adapter": adapter,
        "vae": vae.eval(),
        "scheduler": new_scheduler(),
        "cognitive_encoder": random_weights(encoder),
        "cfw": random_weights(ControllableFeatureWrapping.from_vae(vae)),
    }


@pytest.fixture(scope="module")
def official(original, tmp_path_factory) -> Path:
    """Folder with everything official: coser.ckpt, qformer.ckpt, cfw.ckpt, and clip/ and base/ as on the Hub."""
    folder = tmp_path_factory.mktemp("official")
    unet, controlnet = official_networks(original["unet"], original["controlnet"], original["adapter"])
    checkpoint = {
        **{UNET + key: tensor for key, tensor in unet.items()},
        **{CONTROLNET + key: tensor for key, tensor in controlnet.items()},
        **{name: torch.zeros(1000) for name in SCHEDULE},
        # Copies of what is frozen, by which nobody should notice that they are wrong.
        **{key: torch.zeros_like(tensor) for key, tensor in official_qformer(original["cognitive_encoder"]).items()},
        "first_stage_model.encoder.conv_in.weight": torch.zeros(8, 3, 3, 3),
        "model_ema.decay": torch.zeros(()),
    }
    progress = {"epoch": 3, "global_step": 20000, "optimizer_states": [{"state": {0: {"step": 1}}}], "callbacks": {}}
    torch.save({"state_dict": checkpoint, **progress}, folder / "coser.ckpt")
    torch.save({"state_dict": official_qformer(original["cognitive_encoder"]), **progress}, folder / "qformer.ckpt")
    torch.save({"state_dict": official_cfw(original["cfw"]), **progress}, folder / "cfw.ckpt")
    save_clip(original["cognitive_encoder"].clip, folder / "clip")
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        original[name].save_pretrained(folder / "base" / name)
    return folder


def save_clip(vision: CLIPVisionModelWithProjection, folder: Path) -> None:
    """A whole CLIP as LAION's repositories hold it: the vision model's configuration lacks the projection."""
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=VISION["projection_dim"])
    clip = CLIPModel(config)
    assert not clip.load_state_dict(vision.state_dict(), strict=False).unexpected_keys
    clip.save_pretrained(folder)
    stored = json.loads((folder / "config.json").read_text())
    del stored["vision_config"]["projection_dim"]
    (folder / "config.json").write_text(json.dumps(stored))


def convert_all(official: Path, output: Path, **changes: Any) -> None:
    arguments = {
        "checkpoint": official / "coser.ckpt",
        "qformer": official / "qformer.ckpt",
        "cfw": official / "cfw.ckpt",
        "base": str(official / "base"),
        "clip": str(official / "clip"),
        **changes,
    }
    convert(output=output, **arguments)


def changed(path: Path, folder: Path, changes: dict[str, torch.Tensor | None]) -> Path:
    """A copy of a checkpoint, with some tensors set or taken away."""
    weights = {**torch.load(path)["state_dict"], **changes}
    target = folder / path.name
    torch.save({"state_dict": {key: tensor for key, tensor in weights.items() if tensor is not None}}, target)
    return target


def without_stock_unet(path: Path, folder: Path) -> Path:
    """The checkpoint as it may be too: with what was trained alone."""
    stock = [key for key in torch.load(path)["state_dict"] if key.startswith(UNET) and "_lna" not in key]
    return changed(path, folder, dict.fromkeys(stock))


def assert_equal_weights(model: nn.Module, expected: nn.Module) -> None:
    weights, expected_weights = model.state_dict(), expected.state_dict()
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[key], expected_weights[key]) for key in weights)


def test_converted_pipeline_is_the_original_one(official, original, tmp_path):
    files = shutil.copytree(official, tmp_path / "official")
    convert_all(files, tmp_path / "output")
    shutil.rmtree(files)  # the weights were mapped from them
    pipeline = load_pipeline(str(tmp_path / "output"))
    assert type(pipeline) is CoSeRPipeline
    for name in ("unet", "controlnet", "adapter", "vae", "text_encoder", "cognitive_encoder", "cfw"):
        assert_equal_weights(getattr(pipeline, name), original[name])
    assert pipeline.adapter.config.similarity == "scaled"
    assert pipeline.cognitive_encoder.config.vision_config == VISION
    for name, value in new_scheduler().config.items():
        assert name.startswith("_") or pipeline.scheduler.config[name] == value, name
    call = {**inputs("coser"), "cfw_weight": 0.5}
    images = pipeline(**call).images
    expected = CoSeRPipeline(**original)(**{**call, "generator": torch.Generator("cpu").manual_seed(0)}).images
    torch.testing.assert_close(torch.tensor(images), torch.tensor(expected), atol=1e-3, rtol=0)


def test_without_base_and_cfw_the_rest_has_to_be_passed(official, original, tmp_path):
    convert_all(official, tmp_path / "output", base=None, cfw=None)
    index = json.loads((tmp_path / "output" / "model_index.json").read_text())
    missing = ("vae", "text_encoder", "tokenizer")
    assert all(index[name] == [None, None] for name in (*missing, "cfw"))
    pipeline = CoSeRPipeline.from_pretrained(tmp_path / "output", **{name: original[name] for name in missing})
    assert_equal_weights(pipeline.unet, original["unet"])
    assert pipeline.cfw is None
    assert pipeline.scheduler.config.timestep_spacing == "linspace"


def test_scheduler_is_the_official_codes():
    scheduler = new_scheduler()
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == 999
    assert scheduler.timesteps[-1] == 0
    assert scheduler.alphas_cumprod[999].item() == pytest.approx(0.00466009850, rel=1e-5)


def test_checkpoint_without_stock_unet_takes_the_bases(official, original, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    checkpoint = without_stock_unet(official / "coser.ckpt", tmp_path)
    networks = load_networks(checkpoint, str(official / "base"))
    assert "The checkpoint has no stock UNet: that of" in caplog.text
    for name in ("unet", "controlnet", "adapter", "vae"):
        assert_equal_weights(networks[name], original[name])


def test_checkpoint_without_stock_unet_needs_a_base(official, tmp_path):
    checkpoint = without_stock_unet(official / "coser.ckpt", tmp_path)
    with pytest.raises(ValueError, match=rf"not the UNet itself: give the base .*--base {BASE_MIRROR}"):
        convert_all(official, tmp_path / "output", checkpoint=checkpoint, base=None)
    assert [path.name for path in tmp_path.iterdir()] == ["coser.ckpt"]


def test_equal_base_is_taken(official, caplog):
    caplog.set_level(logging.INFO)
    load_networks(official / "coser.ckpt", str(official / "base"))
    assert "The checkpoint's UNet is that of" in caplog.text


def test_other_base_keeps_the_checkpoint_and_says_so(official, original, tmp_path, caplog):
    checkpoint = changed(official / "coser.ckpt", tmp_path, {f"{UNET}out.2.bias": torch.ones(4)})
    unet = load_networks(checkpoint, str(official / "base"))["unet"]
    assert f"is kept: 1 of its {len(unet.state_dict())} tensors differ (conv_out.bias)" in caplog.text
    assert torch.equal(unet.conv_out.bias, torch.ones(4))


def test_weights_keep_their_dtype(official, tmp_path):
    half = {key: tensor.half() for key, tensor in torch.load(official / "coser.ckpt")["state_dict"].items()}
    networks = load_networks(changed(official / "coser.ckpt", tmp_path, half))
    for name in ("unet", "controlnet", "adapter"):
        assert {parameter.dtype for parameter in networks[name].parameters()} == {torch.float16}


@pytest.mark.parametrize("stock", [True, False])
def test_base_with_another_text_encoder(official, original, tmp_path, stock):
    shutil.copytree(official / "base", tmp_path / "base")
    config = type(original["text_encoder"].config)(**{**original["text_encoder"].config.to_dict(), "hidden_size": 64})
    type(original["text_encoder"])(config).save_pretrained(tmp_path / "base" / "text_encoder")
    checkpoint = official / "coser.ckpt" if stock else without_stock_unet(official / "coser.ckpt", tmp_path)
    with pytest.raises(ValueError, match="gives 64 channels, but the checkpoint's UNet expects 32"):
        load_networks(checkpoint, tmp_path / "base")


def test_base_that_cannot_be_had(official):
    with pytest.raises(OSError, match=f"'no/base' could not be loaded.*{BASE_MIRROR}"):
        load_networks(official / "coser.ckpt", "no/base")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "coser",
            {
                f"{UNET}input_blocks.1.0.in_layers.2.bias": None,
                f"{UNET}out.2.bias": None,
                f"{UNET}output_blocks.5.3.weight": torch.zeros(2),
                f"{UNET}input_blocks.0.0.weight": torch.zeros(64, 5, 3, 3),
            },
            r"UNet of .*coser.ckpt are not.*2 missing:.*conv_out.bias \[4\].*1 unexpected:\n  output_blocks.5.3.weight"
            r".*1 mis-shaped:\n  conv_in.weight is \[64, 5, 3, 3\], expected \[64, 4, 3, 3\]",
        ),
        ("coser", {f"{UNET}middle_block.1.proj_in.weight": None}, "missing:\n  middle_block.1.proj_in.weight"),
        ("coser", {f"{UNET}middle_block.1.norm_clr_lna.bias": None}, "attention of .*1 missing.*norm_lr.bias"),
        ("coser", {f"{UNET}middle_block.1.norm_clr_lna.bias": torch.zeros(3)}, r"norm_lr.bias is \[3\], expected"),
        ("coser", {f"{UNET}middle_block.1.new_lna.bias": torch.zeros(3)}, "1 unexpected:\n  middle_block.1.new_lna"),
        ("coser", {f"{UNET}input_blocks.1.1.norm_clr_lna.bias": torch.zeros(3)}, "1 unexpected:\n  input_blocks.1.1"),
        (
            "coser",
            {f"{CONTROLNET}zero_convs.5.0.bias": None},
            "ControlNet of .*1 missing:\n  controlnet_down_blocks.5",
        ),
        ("coser", {f"{CONTROLNET}hint_zero_conv.bias": None}, "1 missing:\n  controlnet_cond_embedding.bias"),
        ("coser", {f"{CONTROLNET}lna_kv.weight": torch.zeros(1)}, r"1 unexpected:\n  lna_kv.weight \[1\]"),
        ("coser", {"bridge.weight": torch.zeros(2)}, r"coser.ckpt is no official .*keys\n  bridge.weight \[2\]$"),
        ("qformer", {"bridge.weight": torch.zeros(2)}, r"qformer.ckpt is no official .*keys\n  bridge.weight \[2\]$"),
        (
            "qformer",
            {"pre_sr_model.body.1.conv2.bias": None},
            "qformer.ckpt are not.*1 missing:\n  pre_sr_model.body.1",
        ),
        (
            "qformer",
            {"pre_sr_model.conv_first.weight": None},
            "qformer.ckpt has not.*missing:\n  pre_sr_model.conv_fi",
        ),
        (
            "qformer",
            {"global_adapter.Qformer.pooler.bias": torch.zeros(2)},
            "1 unexpected:\n  global_adapter.Qformer.p",
        ),
        ("cfw", {"decoder.fusion_layer_1.encode_enc_2.1.rdb3.conv5.bias": None}, "fusion layers are not.*1 missing"),
        ("cfw", {"decoder.fusion_layer_0.encode_enc_1.conv1.bias": torch.zeros(3)}, "1 unexpected.*fusion_layer_0"),
    ],
)
def test_wrong_keys(official, tmp_path, file, changes, message):
    path = changed(official / f"{file}.ckpt", tmp_path, changes)
    name = {"coser": "checkpoint"}.get(file, file)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        convert_all(official, tmp_path / "output", base=None, **{name: path})
    assert [path.name for path in tmp_path.iterdir()] == [f"{file}.ckpt"]


@pytest.mark.parametrize(
    ("argument", "file", "message"),
    [
        ("checkpoint", "qformer.ckpt", r"is no CoSeR checkpoint: it has no keys model.diffusion_model.\*_lna"),
        ("checkpoint", "cfw.ckpt", "cfw.ckpt is no official CoSeR file"),
        ("qformer", "cfw.ckpt", "cfw.ckpt is no official CoSeR file"),
        ("cfw", "qformer.ckpt", "has no fusion layers: give StableSR's autoencoder, vqgan_cfw_00011.ckpt"),
    ],
)
def test_files_in_the_wrong_place(official, tmp_path, argument, file, message):
    with pytest.raises(ValueError, match=message):
        convert_all(official, tmp_path / "output", **{argument: official / file})
    assert list(tmp_path.iterdir()) == []


def test_stock_checkpoint_is_none_of_cosers(official, tmp_path):
    weights = torch.load(official / "coser.ckpt")["state_dict"]
    stock = changed(official / "coser.ckpt", tmp_path, {key: None for key in weights if "_lna" in key})
    with pytest.raises(ValueError, match="is no CoSeR checkpoint"):
        load_networks(stock)


@pytest.mark.parametrize("argument", ["checkpoint", "qformer", "cfw"])
def test_damaged_and_missing_files(official, tmp_path, argument):
    source = official / {"checkpoint": "coser.ckpt"}.get(argument, f"{argument}.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(source.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"cut.ckpt could not be read"):
        convert_all(official, tmp_path / "output", **{argument: tmp_path / "cut.ckpt"})
    with pytest.raises(FileNotFoundError, match=r"no weights file .*nowhere.ckpt"):
        convert_all(official, tmp_path / "output", **{argument: tmp_path / "nowhere.ckpt"})
    assert [path.name for path in tmp_path.iterdir()] == ["cut.ckpt"]


def test_qformer_of_another_base(official, original, tmp_path):
    qformer = {**original["cognitive_encoder"].config.qformer_config, "hidden_size": 48}
    wide = CognitiveEncoder(3, srresnet_channels=8, srresnet_blocks=2, vision_config=VISION, qformer_config=qformer)
    torch.save({"state_dict": official_qformer(wide)}, tmp_path / "wide.ckpt")
    with pytest.raises(ValueError, match="embedding has 48 channels, but the checkpoint's UNet expects 32"):
        convert_all(official, tmp_path / "output", qformer=tmp_path / "wide.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["wide.ckpt"]


def test_clip_of_a_folder_of_its_own(original, tmp_path):
    clip = original["cognitive_encoder"].clip
    CLIPVisionModelWithProjection.save_pretrained(clip.half(), tmp_path)
    loaded = load_clip(tmp_path)
    clip.float()
    assert loaded.dtype == torch.float16
    assert loaded.config.projection_dim == 12
    assert torch.equal(loaded.visual_projection.weight, clip.visual_projection.weight.half())


def test_clip_that_is_none(official, tmp_path):
    for clip in ("no/clip", str(tmp_path), str(official / "base" / "unet"), str(official / "base")):
        with pytest.raises(
            OSError, match=f"could not be loaded from '{clip}': give a Hub id, such as 'laion/CLIP-ViT"
        ):
            load_clip(clip)
    CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks weights of CLIP's .*: visual_projection.weight"):
        load_clip(tmp_path)


def test_clip_of_another_size(official, tmp_path):
    CLIPVisionModelWithProjection(CLIPVisionConfig(**{**VISION, "projection_dim": 8})).save_pretrained(tmp_path / "c")
    with pytest.raises(ValueError, match="tokens of 12 channels, but this CLIP's have 8"):
        convert_all(official, tmp_path / "output", clip=tmp_path / "c")


def test_output_is_never_overwritten(official, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="choose another output"):
        convert_all(official, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_commands(official, tmp_path, capsys):
    """From the official files to an enlarged photograph."""
    arguments = [
        *("convert", "coser", "--checkpoint", str(official / "coser.ckpt")),
        *("--qformer", str(official / "qformer.ckpt"), "--cfw", str(official / "cfw.ckpt")),
        *("--base", str(official / "base"), "--clip", str(official / "clip"), "--output", str(tmp_path / "coser")),
    ]
    assert main(arguments) == 0
    assert f"Written to {tmp_path / 'coser'}" in capsys.readouterr().out
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    index = tmp_path / "coser" / "model_index.json"
    index.write_text(index.read_text().replace('"process_size": 512', '"process_size": 16'))
    tiny_image(8, 8).save(tmp_path / "photo.png")
    arguments = [
        *("upscale", str(tmp_path / "photo.png"), "-o", str(tmp_path / "big.png")),
        *("--method", "coser", "--model", str(tmp_path / "coser"), "--steps", "1", "--device", "cpu"),
    ]
    assert main(arguments) == 0
    with Image.open(tmp_path / "big.png") as image:
        assert image.size == (32, 32)


def test_every_key_of_the_released_size():
    """954 and 274 tensors are those of the official networks, which have no text transformer where only one has."""
    config = {
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    }
    encoder = ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config, sample_size=64)
        controlnet = LatentControlNetModel(**config, down_block_types=encoder, conditioning_channels=4)
        adapter = CoSeRAdapter.from_hosts(unet, controlnet, similarity="scaled")
        official_unet, official_controlnet = official_networks(unet, controlnet, adapter)
    assert (len(official_unet), len(official_controlnet)) == (954, 274)
    assert sum("_lna" in key for key in official_unet) == 268
    stock = {key: tensor for key, tensor in official_unet.items() if "_lna" not in key}
    unet_config, controlnet_config = unet_config_of(stock, "it"), controlnet_config_of(official_controlnet, "it")
    converted = networks_from_official(official_unet, official_controlnet, unet_config, controlnet_config, "it")
    for model, expected in zip(converted, (unet, controlnet, adapter), strict=True):
        shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
        assert shapes == {key: tensor.shape for key, tensor in expected.state_dict().items()}
        differing = {
            name: value
            for name, value in expected.config.items()
            if json.dumps(model.config[name]) != json.dumps(value) and not name.startswith("_")
        }
        assert differing == {}


def test_official_names():
    unet, controlnet, adapter = (model.to("meta") for model in tiny_networks())
    official_unet, official_controlnet = official_networks(unet, controlnet, adapter)
    for name in (
        "input_blocks.3.0.op.weight",
        "input_blocks.4.0.skip_connection.weight",
        "output_blocks.2.2.conv.bias",
        "output_blocks.2.1.dubconv_r_lna.weight",
        "output_blocks.5.1.transformer_blocks.0.attn4_ref_lna.to_out.0.bias",
        "output_blocks.5.1.transformer_blocks.0.ff.net.0.proj.weight",
        "middle_block.1.transformer_blocks.0.zero_conv_r_lna.weight",
        "middle_block.2.out_layers.3.bias",
        "time_embed.2.bias",
    ):
        assert name in official_unet, name
    assert official_unet["middle_block.1.transformer_blocks.0.zero_conv_lna.weight"].shape == (128, 128, 1, 1)
    for name in ("zero_convs.5.0.weight", "middle_block_out.0.bias", "hint_zero_conv.weight"):
        assert name in official_controlnet, name
    assert not any(key.startswith("input_blocks.4.1.") for key in official_controlnet)
