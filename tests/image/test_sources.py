"""Images of a call by path and by URL, and the colour profiles that go with them."""

from __future__ import annotations

import functools
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from diffusers_sr.image.pixels import keep_profiles, read_images, read_with_profiles
from tests.image.files import PHOTO, png

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
INKS = bytes(16) + b"CMYK"


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of the files in the test's folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_a_path_and_a_url_are_read_as_the_photo_is(tmp_path: Path, server: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    PHOTO.save(tmp_path / "photo.png", exif=exif)
    expected = tensor(np.rot90(np.asarray(PHOTO), -1)) / 255
    for source in (tmp_path / "photo.png", str(tmp_path / "photo.png"), f"{server}/photo.png"):
        assert torch.equal(read_images(source), expected)
    assert read_images([tmp_path / "photo.png", np.rot90(np.asarray(PHOTO), -1)]).shape == (2, 3, 16, 12)


def test_a_path_to_16_bits_is_read_whole(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (12, 16, 4), dtype=np.uint16)
    png(tmp_path / "rgb.png", pixels=values[..., :3].astype(">u2").tobytes(), depth=16, kind=2)
    png(tmp_path / "rgba.png", pixels=values.astype(">u2").tobytes(), depth=16, kind=6)
    png(tmp_path / "grey.png", pixels=values[..., 0].astype(">u2").tobytes(), depth=16, kind=0)
    colours, alpha = values[..., :3] / 65535, values[..., 3:] / 65535
    torch.testing.assert_close(read_images(tmp_path / "rgb.png"), tensor(colours).float())
    on_white = tensor(colours * alpha + 1 - alpha).float()
    torch.testing.assert_close(read_images(tmp_path / "rgba.png"), on_white)
    grey = tensor(colours[..., :1]).float().expand(-1, 3, -1, -1)
    torch.testing.assert_close(read_images(tmp_path / "grey.png"), grey)


def test_what_is_not_taken_of_a_file_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = PHOTO.convert("RGBA")
    image.putpixel((0, 0), (10, 20, 30, 0))
    image.save(tmp_path / "photo.png")
    PHOTO.save(tmp_path / "photo.gif", save_all=True, append_images=[PHOTO.rotate(90)])
    assert read_images(tmp_path / "photo.png")[0, :, 0, 0].tolist() == [1, 1, 1]
    assert "photo.png' is transparent in parts: it is put on white" in caplog.text
    read_images(tmp_path / "photo.gif")
    assert "photo.gif' has 2 frames; only the first is taken." in caplog.text


def test_what_cannot_be_read_is_named(tmp_path: Path, server: str) -> None:
    (tmp_path / "text.png").write_text("no image")
    for source, reason in (
        ("photo.png", "there is no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "text.png", "is not an image"),
        (f"{server}/missing.png", "404"),
        ("ftp://example.org/photo.png", "there is no such file"),
    ):
        with pytest.raises(ValueError, match="cannot be read") as error:
            read_images(source)
        assert type(error.value) is ValueError
        assert repr(str(source)) in str(error.value) and reason in str(error.value)


def test_results_keep_the_profile_of_their_image(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "photo.png", icc_profile=SRGB)
    with Image.open(tmp_path / "photo.png") as image:
        profiles = read_with_profiles([image, PHOTO, tmp_path / "photo.png", np.asarray(PHOTO)])[1]
    assert profiles == [SRGB, None, SRGB, None]
    results = [PHOTO.copy() for _ in range(8)]
    assert keep_profiles(results, profiles, 2) is results
    assert [result.info.get("icc_profile") for result in results] == [SRGB, SRGB, None, None] * 2
    file = io.BytesIO()
    results[0].save(file, "PNG")
    assert Image.open(file).info["icc_profile"] == SRGB
    array = np.zeros((8, 4, 4, 3))
    assert keep_profiles(array, profiles, 2) is array


def test_a_profile_of_inks_is_not_that_of_rgb(tmp_path: Path) -> None:
    image = PHOTO.copy()
    image.info["icc_profile"] = INKS
    assert read_with_profiles(image)[1] == [None]
