"""Folders of pipelines that try to run code of their own: each writes a file if it succeeds.

`HOSTILE` maps names to functions that change the folder of a sound SeeSR pipeline. They are given the folder, a folder
outside it for what they hide, and the line of code that writes the file.
"""

from __future__ import annotations

import json
import os
import pickle
import py_compile
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ADAPTER = "diffusers_sr.seesr.adapter"
STUB = f"adapter/{ADAPTER}.py"
CLASS = "from diffusers_sr.seesr.adapter import SeeSRAdapter\n"

Build = Callable[[Path, Path, str], Any]
HOSTILE: dict[str, Build] = {}


def hostile(build: Build) -> Build:
    HOSTILE[build.__name__] = build
    return build


def rewrite_index(folder: Path, **entries: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def move_out(path: Path, outside: Path) -> Path:
    """Put a link in the place of a folder, and the folder where it leads to."""
    shutil.move(path, outside / path.name)
    path.symlink_to(outside / path.name)
    return outside / path.name


def add(path: Path, code: str) -> None:
    """Put code before what is in a file."""
    path.write_text(code + (path.read_text() if path.exists() else ""))


@hostile
def changed_pipeline(folder: Path, outside: Path, code: str) -> None:
    add(folder / "pipeline.py", code)
    # Its class is another: this package's own would not be taken from the file.
    rewrite_index(folder, _class_name=["pipeline", "SeeSRPipeline", ""])


@hostile
def changed_stub(folder: Path, outside: Path, code: str) -> None:
    add(folder / STUB, code)


@hostile
def code_behind_the_stub(folder: Path, outside: Path, code: str) -> None:
    (folder / STUB).write_text(CLASS + code)


@hostile
def relative_import(folder: Path, outside: Path, code: str) -> None:
    (folder / STUB).write_text(CLASS + "from .more import *\n")
    add(folder / "adapter" / "more.py", code)


@hostile
def linked_component(folder: Path, outside: Path, code: str) -> None:
    add(move_out(folder / "adapter", outside) / f"{ADAPTER}.py", code)


@hostile
def linked_component_of_diffusers(folder: Path, outside: Path, code: str) -> None:
    add(move_out(folder / "unet", outside) / "diffusers.py", code + "from diffusers import UNet2DConditionModel\n")


@hostile
def linked_component_of_transformers(folder: Path, outside: Path, code: str) -> None:
    add(
        move_out(folder / "text_encoder", outside) / "transformers.py",
        code + "from transformers import CLIPTextModel\n",
    )


@hostile
def linked_component_of_another_package(folder: Path, outside: Path, code: str) -> None:
    rewrite_index(folder, scheduler=["code", "DDPMScheduler"])
    add(move_out(folder / "scheduler", outside) / "code.py", code + "from diffusers import DDPMScheduler\n")


@hostile
def chain_of_links(folder: Path, outside: Path, code: str) -> None:
    add(move_out(folder / "adapter", outside) / f"{ADAPTER}.py", code)
    (folder / "adapter").rename(folder / "link")
    (folder / "adapter").symlink_to("link")


@hostile
def relative_link(folder: Path, outside: Path, code: str) -> None:
    add(move_out(folder / "adapter", outside) / f"{ADAPTER}.py", code)
    (folder / "adapter").unlink()
    (folder / "adapter").symlink_to(os.path.relpath(outside / "adapter", folder))


@hostile
def linked_file(folder: Path, outside: Path, code: str) -> None:
    add(folder / STUB, code)
    shutil.move(folder / STUB, outside / "stub")
    (folder / STUB).symlink_to(outside / "stub")


@hostile
def pair_in_a_string(folder: Path, outside: Path, code: str) -> None:
    """A text of two letters is a module and a class to diffusers."""
    rewrite_index(folder, adapter="mC")
    add(move_out(folder / "adapter", outside) / "m.py", code + CLASS + "C = SeeSRAdapter\n")


@hostile
def unlisted_component(folder: Path, outside: Path, code: str) -> None:
    add(folder / STUB, code)
    (folder / "adapter").chmod(0o311)


@hostile
def unlisted_component_of_diffusers(folder: Path, outside: Path, code: str) -> None:
    add(folder / "vae" / "diffusers.py", code + "from diffusers import AutoencoderKL\n")
    (folder / "vae").chmod(0o311)


@hostile
def unlisted_folder(folder: Path, outside: Path, code: str) -> None:
    add(folder / STUB, code)
    for path in (folder / "adapter", folder):
        path.chmod(0o311)


@hostile
def unlisted_folder_of_a_link(folder: Path, outside: Path, code: str) -> None:
    (folder / "other").mkdir()
    add(move_out(folder / "adapter", folder / "other") / f"{ADAPTER}.py", code)
    (folder / "other").chmod(0o311)


@hostile
def unreadable_stub(folder: Path, outside: Path, code: str) -> None:
    add(folder / STUB, code)
    (folder / STUB).chmod(0o200)


@hostile
def code_without_a_pipeline_of_that_name(folder: Path, outside: Path, code: str) -> None:
    add(folder / "None.py", code + "from diffusers_sr.seesr.pipeline import SeeSRPipeline\n")


@hostile
def class_in_another_file(folder: Path, outside: Path, code: str) -> None:
    add(folder / "other.py", code + "from diffusers_sr.seesr.pipeline import SeeSRPipeline\n")
    rewrite_index(folder, _class_name=["other", "SeeSRPipeline"])


@hostile
def class_outside(folder: Path, outside: Path, code: str) -> None:
    add(outside / "other.py", code + "from diffusers_sr.seesr.pipeline import SeeSRPipeline\n")
    rewrite_index(folder, _class_name=[f"../{outside.name}/other", "SeeSRPipeline"])


@hostile
def component_outside(folder: Path, outside: Path, code: str) -> None:
    add(outside / "other.py", code + CLASS)
    rewrite_index(folder, adapter=[f"../../{outside.name}/other", "SeeSRAdapter"])


@hostile
def absolute_component(folder: Path, outside: Path, code: str) -> None:
    add(outside / "other.py", code + CLASS)
    rewrite_index(folder, adapter=[str(outside / "other"), "SeeSRAdapter"])


@hostile
def name_that_goes_up(folder: Path, outside: Path, code: str) -> None:
    (folder / "..code.py").write_text(code + CLASS)
    rewrite_index(folder, adapter=["/..code", "SeeSRAdapter"])


@hostile
def code_in_a_class_name(folder: Path, outside: Path, code: str) -> None:
    name = f"SeeSRAdapter\n{code}"
    rewrite_index(folder, adapter=[ADAPTER, name])
    (folder / STUB).write_text(f"from {ADAPTER} import {name}\n")


@hostile
def another_component(folder: Path, outside: Path, code: str) -> None:
    (folder / "extra").mkdir()
    add(folder / "extra" / "diffusers_sr.extra.py", code)
    rewrite_index(folder, extra=["diffusers_sr.extra", "Extra"])


@hostile
def component_with_a_path_for_a_name(folder: Path, outside: Path, code: str) -> None:
    add(outside / f"{ADAPTER}.py", code + CLASS)
    rewrite_index(folder, **{f"../{outside.name}": [ADAPTER, "SeeSRAdapter"]})


@hostile
def byte_code(folder: Path, outside: Path, code: str) -> None:
    add(outside / "code.py", code)
    py_compile.compile(str(outside / "code.py"), cfile=str(folder / "pipeline.pyc"))


@hostile
def cached_byte_code(folder: Path, outside: Path, code: str) -> None:
    add(outside / "code.py", code)
    (folder / "adapter" / "__pycache__").mkdir()
    cached = folder / "adapter" / "__pycache__" / f"{ADAPTER}.cpython-311.pyc"
    py_compile.compile(str(outside / "code.py"), cfile=str(cached))


@hostile
def site_customization(folder: Path, outside: Path, code: str) -> None:
    add(folder / "sitecustomize.py", code)


@hostile
def package_of_the_same_name(folder: Path, outside: Path, code: str) -> None:
    (folder / "adapter" / "diffusers_sr" / "seesr").mkdir(parents=True)
    for path in ("__init__.py", "seesr/__init__.py", "seesr/adapter.py"):
        add(folder / "adapter" / "diffusers_sr" / path, code)


@hostile
def other_case(folder: Path, outside: Path, code: str) -> None:
    add(folder / "adapter" / f"{ADAPTER.upper()}.PY", code)


@hostile
def automatic_class(folder: Path, outside: Path, code: str) -> None:
    add(folder / "unet" / "code.py", code + "from diffusers import UNet2DConditionModel\n")
    config = json.loads((folder / "unet" / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "code.UNet2DConditionModel"}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    rewrite_index(folder, unet=["diffusers", "AutoModel"])


@hostile
def custom_pipeline(folder: Path, outside: Path, code: str) -> None:
    add(folder / "custom.py", code)
    rewrite_index(folder, custom_pipeline="custom", trust_remote_code=True)


@hostile
def pipeline_in_a_component(folder: Path, outside: Path, code: str) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "vae" / "model_index.json").write_text(json.dumps(index))
    add(folder / "vae" / "pipeline.py", code)
    rewrite_index(folder, vae=["diffusers", "DiffusionPipeline"])


@hostile
def pipe(folder: Path, outside: Path, code: str) -> None:
    """It is not read: reading it would wait for ever."""
    (folder / STUB).unlink()
    os.mkfifo(folder / STUB)


@hostile
def loop(folder: Path, outside: Path, code: str) -> None:
    shutil.rmtree(folder / "adapter")
    (folder / "adapter").symlink_to("adapter")


@hostile
def folder_with_the_name_of_a_file(folder: Path, outside: Path, code: str) -> None:
    (folder / STUB).unlink()
    (folder / STUB).mkdir()
    add(folder / STUB / "__init__.py", code)


class Code:
    """It runs when it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return exec, (self.code,)


@hostile
def pickled_weights(folder: Path, outside: Path, code: str) -> None:
    (folder / "adapter" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"weight": Code(code)}, folder / "adapter" / "diffusion_pytorch_model.bin")


@hostile
def bare_pickle(folder: Path, outside: Path, code: str) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Code(code)))
