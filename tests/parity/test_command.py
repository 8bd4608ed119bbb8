"""The script as it is called: from any folder, with one line for what is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import programs
from tests.components import TEXT_DIM, scheduler, tiny_unet, tiny_vae
from tests.one_step import official_files
from tests.parity.forward import main

SCRIPT = Path(__file__).with_name("forward.py")


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
    done = subprocess.run([sys.executable, SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs = load_file(tmp_path / "outputs.safetensors")
    assert outputs["latents"].shape == (1, 4, 8, 10)
    assert {tensor.dtype for tensor in outputs.values()} == {torch.float64, torch.uint8}


def test_what_is_not_there() -> None:
    done = programs.run(SCRIPT, "pisa", "weights", "nowhere/case_plain.safetensors", "outputs.safetensors")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("forward.py: ")
    assert "nowhere/case_plain.safetensors" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["image", "representation.2", "initial_noise", "renoise.1"])
def test_inputs_of_addsr_that_are_missing(name: str, tmp_path: Path) -> None:
    """Without its noise a step would draw some."""
    networks = Path(__file__).parent / "data" / "seesr" / "A"
    for part in ("unet", "controlnet"):
        (tmp_path / part).symlink_to(networks / part)
    tiny_vae().save_pretrained(tmp_path / "vae")
    draws = {f"renoise.{step}": torch.randn(1, 4, 8, 8) for step in range(3)}
    seen = {f"representation.{step}": torch.randn(1, 13, 24) for step in range(4)}
    given = {"image": torch.rand(1, 3, 64, 64), "prompt_embeds": torch.randn(1, 9, 32), **seen, **draws}
    given["initial_noise"] = torch.randn(1, 4, 8, 8)
    del given[name]
    save_file(given, tmp_path / "case_plain.safetensors")
    (tmp_path / "cases.json").write_text("{}")
    arguments = ["addsr", str(tmp_path), str(tmp_path / "case_plain.safetensors"), str(tmp_path / "outputs")]
    with pytest.raises(ValueError, match=f"INPUTS lack '{name}'"):
        main(arguments)
