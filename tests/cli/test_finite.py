"""A picture whose values are not finite is reported and not written; the others are done."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_sr import SeeSRPipeline
from tests.cli.photos import files
from tests.components import tiny_image


@pytest.fixture
def bad_photo(monkeypatch):
    """Makes the VAE's decoder give NaN for the second of three photos."""
    decode = SeeSRPipeline.decode
    calls: list[None] = []

    def spoiled(self, call, photo, latents):
        calls.append(None)
        if len(calls) != 2:
            return decode(self, call, photo, latents)
        bias = self.vae.decoder.conv_out.bias
        before = bias.data.clone()
        bias.data.fill_(float("nan"))
        try:
            return decode(self, call, photo, latents)
        finally:
            bias.data.copy_(before)

    monkeypatch.setattr(SeeSRPipeline, "decode", spoiled)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_picture_that_is_not_finite_is_reported_and_the_others_are_written(run, bad_photo, capsys, dtype):
    Path("in").mkdir()
    for seed, name in enumerate("abc"):
        tiny_image(seed=seed).save(f"in/{name}.png")
    assert run("in", "-o", "out", "--dtype", dtype) == 1
    captured = capsys.readouterr()
    assert "in/b.png: The result of decoding is not finite" in captured.err
    assert "Traceback" not in captured.err
    assert "Images done: 2, " in captured.out
    assert files("out") == ["a.png", "c.png"]
    assert run("in", "-o", "out", "--dtype", dtype, "--skip-existing") == 0
    captured = capsys.readouterr()
    assert "Skipped, because they exist: 2" in captured.out
    assert "Images done: 1, " in captured.out
    assert files("out") == ["a.png", "b.png", "c.png"]
