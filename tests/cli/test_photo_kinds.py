"""What the command makes of wide colours and of 16 bits when the models change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusers_sr import SeeSRPipeline
from diffusers_sr.image.gamma import profile_of
from diffusers_sr.image.reader import read_photo
from tests.cli.photos import pixels
from tests.image.files import png, tiff

# x and y of white, red, green and blue, in hundred thousandths, and what values are raised to.
GAMUTS = {
    "Display P3": ((31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), 45455),
    "Adobe RGB": ((31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000), 45455),
    "ProPhoto": ((34567, 35850, 73470, 26530, 15960, 84040, 3660, 100), 55556),
}
ONCE = ("--upscale", "1", "--color-fix", "none")


@pytest.fixture
def unchanged(run, monkeypatch):
    """The command, with models that give back the photo; to the pixel, as it is larger than the least they take."""
    monkeypatch.setattr(SeeSRPipeline, "decode", lambda self, call, photo, latents: photo.padded.clone())
    return run


def profile(gamut: str) -> bytes:
    primaries, gamma = GAMUTS[gamut]
    made = profile_of(
        {b"cHRM": np.array(primaries, ">u4").tobytes(), b"gAMA": np.array([gamma], ">u4").tobytes()}, is_grey=False
    )
    assert made is not None
    return made


def test_colours_of_wide_gamuts_stay_what_they_are(unchanged):
    colours = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    colours[:4] = np.repeat(np.eye(4, 3, dtype=np.uint8)[:, None] * 255, 24, axis=1)  # the primaries, and black
    names = {f"{gamut}.{suffix}": profile(gamut) for gamut in GAMUTS for suffix in ("png", "tif")}
    for name, made in names.items():
        Image.fromarray(colours).save(name, icc_profile=made)
    assert unchanged(*names, "-o", "out", *ONCE) == 0
    for name, made in names.items():
        # The same values in the same profile: no difference of colour by any measure.
        assert np.array_equal(pixels(f"out/{name}"), colours)
        with Image.open(f"out/{name}") as image:
            assert image.info["icc_profile"] == made


def test_a_ramp_of_16_bits_keeps_its_levels(unchanged, capsys):
    ramp = np.arange(16384, dtype=np.uint16).reshape(128, 128) * 4 + 1
    colours = np.stack([ramp, ramp[::-1], ramp.T], -1)
    png(Path("grey.png"), [], ramp.astype(">u2").tobytes(), 16, 0, size=(128, 128))
    png(Path("colour.png"), [], colours.astype(">u2").tobytes(), 16, 2, size=(128, 128))
    tiff(Path("colour.tif"), colours.astype("<u2").tobytes(), 2, 3, size=(128, 128))
    arguments = ("--tile-size", "128", "--batch-size", "3", *ONCE)
    assert unchanged("grey.png", "colour.png", "colour.tif", "-o", "out", *arguments) == 0
    for name, expected in (("grey.png", ramp), ("colour.png", colours), ("colour.tif", colours)):
        deep = read_photo(Path("out", name)).deep
        assert deep is not None and np.array_equal(deep.colours, expected)
    said = capsys.readouterr().err
    assert said.count("has 16 bits per channel, which the result keeps") == 3


def test_a_batch_has_photos_of_as_many_bits(unchanged):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    for name in ("a.png", "b.png", "d.png"):
        Image.fromarray(colours).save(name)
    png(Path("c.png"), [], (colours.astype(np.uint16) * 257).astype(">u2").tobytes(), 16, 2, size=(24, 16))
    assert unchanged("a.png", "b.png", "c.png", "d.png", "-o", "out", "--batch-size", "4", *ONCE) == 0
    deep = read_photo(Path("out/c.png")).deep
    assert deep is not None and np.array_equal(deep.colours, colours.astype(np.uint16) * 257)
    for name in ("a.png", "b.png", "d.png"):
        assert np.array_equal(pixels(f"out/{name}"), colours)
