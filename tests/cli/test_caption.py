"""`diffusers-sr caption`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Idefics3ForConditionalGeneration

from diffusers_sr.cli.main import main
from diffusers_sr.xpsr import captioner
from diffusers_sr.xpsr.prompts import read_prompts
from tests.cli.photos import files
from tests.components import tiny_image


def test_captioner_that_cannot_be_had(run, xpsr, capsys):
    for name in ("a.png", "b.png"):
        tiny_image().save(name)
    assert run("a.png", "b.png", "-o", "out", "--model", xpsr, "--captioner", "no/model") == 1
    error = capsys.readouterr().err
    assert error.count("diffusers-sr: No captioner could be loaded from 'no/model'") == 1
    assert main(["caption", ".", "-o", "prompts", "--captioner", "no/model", "--device", "cpu"]) == 1
    assert "No captioner could be loaded from 'no/model'" in capsys.readouterr().err
    assert files() == ["a.png", "b.png"]


@pytest.mark.parametrize("layout", ["cache", "official"])
def test_a_folder_is_described_once(run, xpsr, language_model, capsys, monkeypatch, layout):
    Path("in").mkdir()
    for name in ("a.png", "b.jpg"):
        tiny_image(seed=ord(name[0])).save(f"in/{name}")
    command = ["caption", "in", "-o", "prompts", "--device", "cpu", "--layout", layout, "--batch-size", "1"]
    assert main([*command, "--captioner", language_model]) == 0
    assert "Images described: 2, described before: 0" in capsys.readouterr().out
    prompts = read_prompts("prompts", [Path("in/a.png"), Path("in/b.jpg")])
    assert len(set(prompts)) == 2
    tiny_image(seed=3).save("in/c.png")
    Path("in/broken.png").write_text("no image")
    assert main([*command, "--captioner", language_model]) == 1
    captured = capsys.readouterr()
    assert "Images described: 1, described before: 2" in captured.out
    assert "in/broken.png: is not an image that can be read" in captured.err
    Path("in/broken.png").unlink()
    # With nothing to describe no model is loaded.
    monkeypatch.setattr(captioner.Captioner, "from_pretrained", None)
    assert main([*command, "--captioner", language_model]) == 0
    assert "Images described: 0, described before: 3" in capsys.readouterr().out
    assert run("in", "-o", "out", "--model", xpsr, "--prompts", "prompts") == 0
    assert files("out") == ["a.png", "b.jpg", "c.png"]


@pytest.mark.parametrize("size", [2, 5])
def test_the_batch_size_of_caption_is_the_models(run, language_model, monkeypatch, size):
    asked = []

    def generate(self, input_ids, **inputs):
        asked.append(len(input_ids))
        raise torch.OutOfMemoryError("CUDA")

    monkeypatch.setattr(Idefics3ForConditionalGeneration, "generate", generate)
    for seed in range(5):
        tiny_image(seed=seed).save(f"{seed}.png")
    command = ["caption", ".", "-o", "prompts", "--device", "cpu", "--captioner", language_model]
    assert main([*command, "--batch-size", str(size)]) == 1
    assert asked == [size]
    assert not Path("prompts").exists()


def test_too_little_memory_for_a_captioner(run, language_model, monkeypatch, capsys):
    def generate(self, **inputs):
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(Idefics3ForConditionalGeneration, "generate", generate)
    tiny_image().save("photo.png")
    assert main(["caption", ".", "-o", "prompts", "--device", "cpu", "--captioner", language_model]) == 1
    assert "diffusers-sr: there is not enough memory: try a smaller --batch-size" in capsys.readouterr().err


def test_a_folder_is_measured(run, capsys):
    Path("in").mkdir()
    tiny_image().save("in/red_fox.png")
    for names in ([], ["--names"]):
        assert main(["caption", "in", "-o", "prompts", "--captioner", "measured", "--device", "cpu", *names]) == 0
        assert "Images described: 1" in capsys.readouterr().out
        (prompts,) = read_prompts("prompts", [Path("in/red_fox.png")])
        assert prompts.high_level == ("red fox" if names else "")
        assert "resolution" in prompts.low_level


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("in", "-o", "out", "--names"), 2, "--names: not allowed with a --captioner other than measured"),
        (("in",), 2, "-o/--output"),
        (("in", "-o", "out", "--layout", "xml"), 2, "--layout"),
        (("in", "-o", "out", "--device", "abacus"), 2, "--device: abacus is not available"),
        (("in", "-o", "out"), 1, "There is no image in in"),
        (("nowhere", "-o", "out", "--captioner", "measured"), 1, "nowhere"),
    ],
)
def test_a_folder_that_cannot_be_described(run, capsys, arguments, status, message):
    Path("in").mkdir()
    try:
        assert main(["caption", *arguments]) == status
    except SystemExit as exit:
        assert exit.code == status
    assert message in capsys.readouterr().err
    assert files() == []
