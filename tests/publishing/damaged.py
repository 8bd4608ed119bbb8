"""Ways to damage a saved pipeline's folder: downloads that broke off, wrong edits, other tools, other users.

Each is a function that changes the folder of a sound SeeSR pipeline, and goes with the path that an error has to name.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Damage = Callable[[Path], Any]

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
UNET = f"unet/{WEIGHTS}"
TEXT_ENCODER = "text_encoder/model.safetensors"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
NOT_UTF8 = b'{"_class_name": "\xff\xfe"}'


def put(path: Path, content: bytes | str) -> None:
    """Replace a file, which may be a hard link to that of the sound folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def changed(path: str, **entries: Any) -> Damage:
    """Change entries of a JSON file."""

    def damage(folder: Path) -> None:
        put(folder / path, json.dumps(json.loads((folder / path).read_text()) | entries))

    return damage


def without(path: str, name: str) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        del content[name]
        put(folder / path, json.dumps(content))

    return damage


def replaced(path: str, content: bytes | str) -> Damage:
    return lambda folder: put(folder / path, content)


def cut(path: str, length: int) -> Damage:
    return lambda folder: put(folder / path, (folder / path).read_bytes()[:length])


def removed(path: str) -> Damage:
    def damage(folder: Path) -> None:
        shutil.rmtree(folder / path) if path.endswith("/") else (folder / path).unlink()

    return damage


def locked(path: str) -> Damage:
    def damage(folder: Path) -> None:
        if (folder / path).is_file():  # not the sound folder's own file
            put(folder / path, (folder / path).read_bytes())
        (folder / path).chmod(0)

    return damage


def weights(path: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    """Change the tensors of a file."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / path)
        tensors = change(tensors) or tensors
        (folder / path).unlink()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / path, {"format": "pt"})

    return damage


def first(tensors: dict[str, torch.Tensor]) -> str:
    return min(name for name in tensors if name.endswith("weight"))


def narrower(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors)] = tensors[first(tensors)][:1]


def sharded(index: Any) -> Damage:
    """Put the index of shards in the place of the UNet's weights."""

    def damage(folder: Path) -> None:
        (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors")
        put(folder / f"{UNET}.index.json", index if isinstance(index, (str, bytes)) else json.dumps(index))

    return damage


def linked(path: str, target: str) -> Damage:
    def damage(folder: Path) -> None:
        removed(path + "/" if (folder / path).is_dir() else path)(folder)
        (folder / path).symlink_to(target)

    return damage


def folder_instead(path: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / path).unlink()
        (folder / path).mkdir()

    return damage


def pipe_instead(path: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / path).unlink()
        os.mkfifo(folder / path)

    return damage


def pickled(path: str) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / path)
        (folder / path).unlink()
        torch.save(tensors, folder / path)

    return damage


def instead_of_weights(content: bytes) -> Damage:
    """Put a pickle in the place of the UNet's weights."""

    def damage(folder: Path) -> None:
        (folder / UNET).unlink()
        put(folder / "unet" / "diffusion_pytorch_model.bin", content)

    return damage


def header(text: bytes, length: int | None = None) -> bytes:
    """Make a safetensors file of a header alone."""
    return struct.pack("<Q", len(text) if length is None else length) + text


Damages = dict[str, tuple[Damage, str]]


def of_files() -> Damages:
    """List damages that can be seen without loading a model, each with the path that the error has to name."""
    made: Damages = {}
    configs = (INDEX, "unet/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json")
    weights = (UNET, TEXT_ENCODER, f"adapter/{WEIGHTS}")
    for file in configs:
        made[f"empty {file}"] = replaced(file, ""), file
        made[f"cut {file}"] = cut(file, 100), file
        made[f"list in {file}"] = replaced(file, "[]"), file
        made[f"null in {file}"] = replaced(file, "null"), file
        made[f"{file} is not UTF-8"] = replaced(file, NOT_UTF8), file
        made[f"{file} has a byte order mark"] = replaced(file, b"\xef\xbb\xbf{}"), file
        made[f"{file} is nested deeply"] = replaced(file, '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), file
    for file in weights:
        made[f"empty {file}"] = replaced(file, b""), file
        made[f"cut header of {file}"] = cut(file, 1000), file
        made[f"cut data of {file}"] = cut(file, 40_000), file
        made[f"{file} is noise"] = replaced(file, bytes(range(256)) * 10), file
        made[f"{file} is zeros"] = replaced(file, bytes(1000)), file
        made[f"{file} is a page"] = replaced(file, "<!DOCTYPE html><html>404</html>"), file
        made[f"{file} is a pickle"] = pickled(file), file
        made[f"huge header of {file}"] = replaced(file, header(b"{}", 1 << 60)), file
        made[f"list in the header of {file}"] = replaced(file, header(b"[]")), file
    for file in (*configs, *weights):
        made[f"{file} is a folder"] = folder_instead(file), file
        made[f"{file} is locked"] = locked(file), file
        made[f"{file} is a circle"] = linked(file, Path(file).name), file
        made[f"{file} is a pipe"] = pipe_instead(file), file
        made[f"{file} is a link to nothing"] = linked(file, "nowhere"), file
        made[f"{file} is from Git LFS"] = replaced(file, LFS), file
    for file in configs[:2]:
        made[f"no {file}"] = removed(file), file
    for part in ("unet", "text_encoder", "tokenizer", "scheduler", "adapter"):
        made[f"no {part}"] = removed(f"{part}/"), part
        made[f"{part} is a file"] = replaced(part, "x"), part
        made[f"{part} is a circle"] = linked(part, part), part
        made[f"{part} is locked"] = locked(f"{part}/"), part
    for name, index in (
        ("missing shard", {"metadata": {}, "weight_map": {"conv_in.weight": "2.safetensors"}}),
        ("shard outside", {"metadata": {}, "weight_map": {"conv_in.weight": f"../adapter/{WEIGHTS}"}}),
        ("shards without map", {}),
        ("shards in a list", {"weight_map": []}),
        ("shards that are numbers", {"weight_map": {"conv_in.weight": 3}}),
        ("index of shards cut", "{"),
        ("index of shards is a list", "[]"),
        ("empty map of shards", {"metadata": {}, "weight_map": {}}),
    ):
        made[name] = sharded(index), f"{UNET}.index.json"
    return made


def of_contents() -> Damages:
    """List damages of folders whose files are sound in themselves, each with the path that the error has to name."""
    made: Damages = {}
    value: Any
    for value in (None, 3, [], ["pipeline"], {}, "", "Nothing", "StableDiffusionPipeline", ["pipeline", 3]):
        made[f"class {value!r}"] = changed(INDEX, _class_name=value), INDEX
    for value in ("diffusers", 3, {}, [], ["diffusers"], ["diffusers", "A", "B"], [3, 4], ["diffusers", None]):
        made[f"unet {value!r}"] = changed(INDEX, unet=value), INDEX
    for value in (["diffusers", "Nothing"], ["nothing", "UNet2DConditionModel"], ["os", "system"], [None, None]):
        made[f"unet {value!r}"] = changed(INDEX, unet=value), INDEX
    for value in (3, "fast", [], ["num_inference_steps"], {"steps": 4}, {"num_inference_steps": "four"}):
        made[f"call_defaults {value!r}"] = changed(INDEX, call_defaults=value), INDEX
    made["call_defaults of size 0"] = changed(INDEX, call_defaults={"tile_size": 0}), INDEX
    made["call_defaults that are not numbers"] = changed(INDEX, call_defaults={"guidance_scale": float("nan")}), INDEX
    made["adapter of no class"] = changed(INDEX, adapter=["diffusers_sr.seesr.adapter", "Nothing"]), INDEX
    made["adapter of no module"] = changed(INDEX, adapter=["diffusers_sr.nothing", "SeeSRAdapter"]), INDEX
    made["no adapter in the index"] = without(INDEX, "adapter"), INDEX
    made["unet of another class"] = changed(INDEX, unet=["diffusers", "AutoencoderKL"]), "unet/config.json"
    for file in (UNET, TEXT_ENCODER):
        part = file.partition("/")[0]
        made[f"no {file}"] = removed(file), part
        made[f"no tensors in {file}"] = replaced(file, header(b"{}")), file
        made[f"other shapes in {file}"] = weights(file, narrower), f"{part}/config.json"
        made[f"missing key in {file}"] = weights(file, lambda t: {k: v for k, v in t.items() if k != first(t)}), file
        made[f"other keys in {file}"] = weights(file, lambda t: {f"model.x.{k}": v for k, v in t.items()}), file
        made[f"int8 in {file}"] = weights(file, lambda t: {k: (v * 9).to(torch.int8) for k, v in t.items()}), file
    pickle_file = "unet/diffusion_pytorch_model.bin"
    for name, content in (("damaged", b"x"), ("that runs code", pickle.dumps(print))):
        made[f"pickle {name}"] = instead_of_weights(content), pickle_file
    for part, name, value in (
        ("unet", "block_out_channels", [-8, 16]),
        ("unet", "cross_attention_dim", 10**12),
        ("unet", "norm_num_groups", 0),
        ("text_encoder", "hidden_size", "32"),
        ("text_encoder", "hidden_act", "nothing"),
        ("tagger", "tags", 3),
        ("adapter", "representation_dim", -1),
        ("vae", "scaling_factor", "much"),
    ):
        made[f"{name}={value!r} in {part}"] = changed(f"{part}/config.json", **{name: value}), f"{part}/config.json"
    config = "scheduler/scheduler_config.json"
    made[f"no {config}"] = removed(config), config
    for name, value in (("beta_schedule", "nothing"), ("beta_start", None), ("prediction_type", 3)):
        made[f"{name}={value!r} in the scheduler"] = changed(config, **{name: value}), config
    tokens, config = "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"
    made[f"no {tokens}"] = removed(tokens), "tokenizer"
    made[f"object in {tokens}"] = replaced(tokens, "{}"), "tokenizer"
    for vocabulary, merges in (({"a": 0}, ["x y"]), ({"a": "b"}, []), ({}, [])):
        model = {"type": "BPE", "vocab": vocabulary, "merges": merges}
        made[f"vocabulary {vocabulary} with merges {merges}"] = changed(tokens, model=model), "tokenizer"
    made[f"no {config}"] = removed(config), config
    for value in ("long", -1):
        made[f"length {value!r}"] = changed(config, model_max_length=value), config
    return made
