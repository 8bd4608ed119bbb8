"""The script as it is called: from any folder, with one line for what is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.components import TEXT_DIM, scheduler, tiny_unet, tiny_vae
from tests.one_step import official_files

SCRIPT = Path(__file__).with_name("forward.py")


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], cwd=folder, capture_output=True, text=True)


def test_relative_paths_and_settings_beside_the_inputs(tmp_path: Path) -> None:
    unet, vae = tiny_unet(), tiny_vae()
    for name, model in {"unet": unet, "vae": vae, "scheduler": scheduler()}.items():
        model.save_pretrained(tmp_path / "weights" / "base" / name)
    torch.save(official_files.pisa(unet), tmp_path / "weights" / "pisa_sr.pkl")
    (tmp_path / "weights" / "cases.json").write_text("not these settings")
    (tmp_path / "given").mkdir()
    dials = {"lambda_pix": 0.5, "lambda_sem": 1}
    cases = {"mine": {"default": False, "process_size": 64, **dials}, "plain": {"process_size": 512}}
    (tmp_path / "given" / "cases.json").write_text(json.dumps({"cases": cases}))
    given = {"lr": torch.zeros(16, 20, 3, dtype=torch.uint8), "prompt_embeds": torch.randn(1, 77, TEXT_DIM)}
    save_file(given, tmp_path / "given" / "case_mine.safetensors")
    arguments = ("pisa", "weights", "given/case_mine.safetensors", "outputs.safetensors", "--dtype", "float64")
    done = call(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    outputs = load_file(tmp_path / "outputs.safetensors")
    assert outputs["latents"].shape == (1, 4, 8, 10)
    assert {tensor.dtype for tensor in outputs.values()} == {torch.float64, torch.uint8}


def test_what_is_not_there(tmp_path: Path) -> None:
    done = call(tmp_path, "pisa", "weights", "nowhere/case_plain.safetensors", "outputs.safetensors")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("forward.py: ")
    assert "nowhere/case_plain.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
