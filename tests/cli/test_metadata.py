"""A photo keeps what came with it: EXIF data, profile, transparency, grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.image.reader import read_photo
from diffusers_sr.image.writer import write_photo
from tests.cli.photos import COPYRIGHT, EXIF, GPS, MAKE, ORIENTATION, SRGB, exif, files, opened_exif, pixels
from tests.components import tiny_image


def test_exif_orientation_profile_and_data_are_kept(run):
    for name in ("photo.jpg", "photo.png", "photo.webp"):
        tiny_image(16, 12).save(name, exif=exif().tobytes(), icc_profile=SRGB)
        assert run(name, "-o", f"big_{name}") == 0
        with Image.open(f"big_{name}") as image:
            assert image.size == (24, 32)
            assert image.info["icc_profile"] == SRGB
            data = image.getexif()
            assert ORIENTATION not in data
            assert (data[MAKE], data[COPYRIGHT]) == ("Maker", "me")
            assert data.get_ifd(EXIF) == {0x9003: "2020:02:20 20:20:20", 0xA002: 24, 0xA003: 32}
            assert data.get_ifd(GPS) == {1: "N"}


def test_image_is_turned_before_it_is_enlarged(run):
    upright = Image.new("RGB", (12, 16), (220, 30, 30))
    upright.paste((30, 30, 220), (0, 8, 12, 16))
    data = Image.Exif()
    data[ORIENTATION] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save("photo.png", exif=data)
    assert np.array_equal(np.asarray(read_photo(Path("photo.png")).image), np.asarray(upright))


def test_transparency_is_kept(run):
    image = tiny_image(16, 12)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save("photo.png")
    assert run("photo.png", "-o", "big.png") == 0
    expected = np.asarray(image.getchannel("A").resize((32, 24), Image.Resampling.BICUBIC))
    assert np.array_equal(pixels("big.png")[..., 3], expected)


def test_transparency_is_not_lost_in_a_jpeg(run, capsys):
    image = tiny_image()
    image.putalpha(100)
    image.save("photo.png")
    assert run("photo.png", "-o", "big.jpg") == 1
    assert "photo.png: JPEG cannot hold its transparency: choose .png" in capsys.readouterr().err
    image.putalpha(255)
    image.save("photo.png")
    assert run("photo.png", "-o", "big.jpg") == 0


def test_stickers_that_look_alike_give_results_that_look_alike(run):
    y, x = np.mgrid[:24, :24]
    alpha = np.clip((8 - np.hypot(x - 12, y - 12)) * 128, 0, 255).astype(np.uint8)
    for name, hidden in (("black.png", (0, 0, 0)), ("yellow.png", (255, 220, 60))):
        colours = np.full((24, 24, 3), (255, 220, 60), np.uint8)
        colours[alpha == 0] = hidden
        Image.fromarray(np.dstack([colours, alpha])).save(name)
    assert run("black.png", "yellow.png", "-o", "out") == 0
    black, yellow = (pixels(f"out/{name}").astype(int) for name in ("black.png", "yellow.png"))
    assert np.array_equal(black[..., 3], yellow[..., 3])
    assert np.abs(black - yellow)[..., :3].max() <= 8


def test_transparent_palette_colour_is_kept(run):
    image = tiny_image().quantize(8)
    image.save("photo.gif", transparency=3)
    assert run("photo.gif", "-o", "out") == 0
    with Image.open("out/photo.png") as result:
        assert result.mode == "RGBA"
        assert result.getchannel("A").getextrema() == (0, 255)


def test_grey_stays_grey(run):
    grey = tiny_image().convert("L")
    grey.save("grey.png")
    grey.convert("RGB").save("grey_rgb.jpg")
    grey.convert("LA").save("grey_alpha.png")
    assert run("grey.png", "grey_rgb.jpg", "grey_alpha.png", "-o", "out") == 0
    with Image.open("out/grey.png") as image:
        assert image.mode == "L"
    with Image.open("out/grey_alpha.png") as image:
        assert image.mode == "LA"
    colours = pixels("out/grey_rgb.jpg")
    assert (colours == colours[..., :1]).all()


def test_sixteen_bits_are_read_and_said(run, capsys):
    ramp = np.linspace(0, 65535, 16 * 16).reshape(16, 16).round().astype(np.uint16)
    Image.fromarray(ramp).save("deep.png")
    Image.fromarray(ramp).save("deep.tif")
    expected = np.round(ramp / 257)
    for name in ("deep.png", "deep.tif"):
        photo = read_photo(Path(name))
        assert np.array_equal(np.asarray(photo.image)[..., 1], expected)
        assert photo.mode == "L"
    header = b"P6\n2 1\n65535\n"
    Path("deep.ppm").write_bytes(header + np.array([0, 32896, 65535] * 2, ">u2").tobytes())
    photo = read_photo(Path("deep.ppm"))
    assert photo.image.getpixel((1, 0)) == (0, 128, 255)
    assert photo.notes == []
    for name, said in (("big.png", "which the result keeps"), ("big.jpg", "of which JPEG keeps 8")):
        assert run("deep.png", "-o", name) == 0
        assert f"deep.png: has 16 bits per channel, {said}\n" in capsys.readouterr().err
    with Image.open("big.png") as image:
        assert image.mode == "I;16"


def test_eight_bits_are_not_called_sixteen(tmp_path):
    for name in ("a.png", "a.jpg", "a.bmp", "a.tif", "a.webp", "a.ppm", "a.gif"):
        tiny_image().save(tmp_path / name)
        assert read_photo(tmp_path / name).notes == []


def test_metadata_that_is_not_kept_is_said_in_one_line(run, capsys):
    texts = PngInfo()
    texts.add_text("Author", "somebody")
    texts.add_text("Comment", "of the owner")
    tiny_image().save("photo.png", pnginfo=texts)
    assert run("photo.png", "-o", "big.webp") == 0
    said = "photo.png: its texts (Author, Comment): not kept, because WEBP cannot hold that\n"
    assert capsys.readouterr().err.startswith(said)
    assert run("photo.png", "-o", "big.png") == 0
    assert "not kept" not in capsys.readouterr().err
    with Image.open("big.png") as image:
        assert (image.info["Author"], image.info["Comment"]) == ("somebody", "of the owner")


def test_files_of_cameras_are_found_by_any_suffix(run):
    Path("camera").mkdir()
    for name, options in (
        ("a.mpo", {"format": "MPO", "save_all": True, "append_images": [tiny_image()]}),
        ("b.JPE", {"format": "JPEG"}),
        ("c.apng", {"format": "PNG"}),
        ("d.j2k", {}),
    ):
        tiny_image().save(f"camera/{name}", **options)
    assert run("camera", "-o", "out") == 0
    assert files("out") == ["a.png", "b.JPE", "c.png", "d.png"]


def test_unknown_range_is_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 1 << 20, np.int32)).save(tmp_path / "integer.tif")
    for name in ("float.tif", "integer.tif"):
        with pytest.raises(ImageFileError, match="range is unknown"):
            read_photo(tmp_path / name)


def test_tiff_keeps_what_describes_the_photo_alone(tmp_path):
    tiny_image(16, 12).save(tmp_path / "photo.jpg", exif=exif().tobytes())
    photo = read_photo(tmp_path / "photo.jpg")
    write_photo(tmp_path / "one.tif", photo.image, photo)
    photo = read_photo(tmp_path / "one.tif")
    write_photo(tmp_path / "two.tif", photo.image.resize((48, 64)), photo)
    write_photo(tmp_path / "two.jpg", photo.image.resize((48, 64)), photo)
    for name in ("two.tif", "two.jpg"):
        photo = read_photo(tmp_path / name)
        assert photo.image.size == (48, 64)
        assert photo.metadata.exif is not None
        read = opened_exif(photo.metadata.exif)
        assert dict(read.get_ifd(EXIF)) == {0x9003: "2020:02:20 20:20:20", 0xA002: 48, 0xA003: 64}
        assert read[MAKE] == "Maker"
        assert read.get_ifd(GPS) == {1: "N"}
    assert 256 not in read  # the size of the TIFF it came through


def test_damaged_exif_does_not_cost_the_image(tmp_path):
    tiny_image().save(tmp_path / "photo.png", exif=b"Exif\0\0no TIFF header")
    photo = read_photo(tmp_path / "photo.png")
    assert photo.metadata.exif is None
    assert photo.notes == ["has damaged EXIF data, which is not kept"]


def test_further_frames_are_spoken_of(tmp_path):
    tiny_image().save(tmp_path / "a.gif", save_all=True, append_images=[tiny_image(seed=1), tiny_image(seed=2)])
    assert read_photo(tmp_path / "a.gif").notes == ["has 3 frames; only the first is taken"]


def test_cmyk_becomes_srgb(tmp_path):
    tiny_image().convert("CMYK").save(tmp_path / "photo.jpg", quality=100)
    photo = read_photo(tmp_path / "photo.jpg")
    assert (photo.image.mode, photo.mode, photo.is_grey) == ("RGB", "RGB", False)
    difference = np.asarray(photo.image).astype(int) - np.asarray(tiny_image())
    assert np.abs(difference).mean() < 16
