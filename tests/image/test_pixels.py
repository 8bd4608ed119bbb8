import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_sr.image.pixels import (
    ImageInput,
    output_size,
    pad_to_multiple,
    read_images,
    resize,
    resize_as_torch,
    working_size,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
EXPECTED = torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS[None],
        PIXELS[::-1][::-1],
        PIXELS / 255,
        (PIXELS / 255).astype(np.float32),
        PIXELS.astype(np.uint16) * 257,
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        EXPECTED,
        EXPECTED[0].double(),
        [PIXELS],
        (Image.fromarray(PIXELS),),
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'dtype', '')}-{getattr(image, 'shape', '')}",
)
def test_every_kind_is_read_alike(image):
    tensor = read_images(image)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, EXPECTED)


def test_lists_and_batches_become_one_batch():
    images: list[ImageInput] = [
        Image.fromarray(PIXELS),
        PIXELS / 255,
        EXPECTED,
        EXPECTED[0],
        np.stack([PIXELS, PIXELS]),
    ]
    torch.testing.assert_close(read_images(images), EXPECTED.expand(6, -1, -1, -1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV"])
def test_pil_modes_become_rgb(mode):
    image = Image.fromarray(PIXELS).convert(mode)
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(read_images(image), expected)


@pytest.mark.parametrize("grey", [PIXELS[..., 0], PIXELS[..., :1], torch.from_numpy(PIXELS[..., 0])[None]], ids=str)
def test_grey_becomes_three_equal_channels(grey):
    torch.testing.assert_close(read_images(grey), EXPECTED[:, :1].expand(-1, 3, -1, -1))


def test_16_bit_and_float_grey_keep_their_range():
    grey = PIXELS[..., 0].astype(np.uint16) * 257
    expected = EXPECTED[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(read_images(Image.fromarray(grey)), expected)
    torch.testing.assert_close(read_images(Image.fromarray(grey.astype(np.int32))), expected)
    torch.testing.assert_close(read_images(Image.fromarray((grey / 65535).astype(np.float32))), expected)


def test_what_is_transparent_is_put_on_white_and_said(caplog):
    image = Image.fromarray(PIXELS).convert("RGBA")
    torch.testing.assert_close(read_images(image), EXPECTED)
    read_images(Image.fromarray(PIXELS).convert("LA"))
    assert not caplog.text  # nothing of these is transparent
    image.putpixel((2, 1), (10, 20, 30, 0))
    image.putpixel((3, 1), (0, 0, 0, 51))
    tensor = read_images(image)
    assert tensor[0, :, 1, 2].tolist() == [1, 1, 1]
    torch.testing.assert_close(tensor[0, :, 1, 3], torch.full((3,), 0.8), atol=1 / 255, rtol=0)
    palette = Image.fromarray(PIXELS[..., 0], "P")
    palette.info["transparency"] = int(PIXELS[0, 0, 0])
    assert read_images(palette)[0, :, 0, 0].tolist() == [1, 1, 1]
    assert caplog.text.count("transparent in parts") == 2


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ([], ValueError, "empty list"),
        ([PIXELS, PIXELS[:4]], ValueError, "7×4, 7×5"),
        (np.zeros((5, 7, 4)), ValueError, "4 channels"),
        (np.zeros((5, 7, 2)), ValueError, "2 channels"),
        (torch.zeros(5, 7, 3), ValueError, "5 channels"),
        (np.zeros((0, 7, 3)), ValueError, "7×0 pixels is empty"),
        (np.zeros((2, 2, 5, 7, 3)), ValueError, "5 axes"),
        (np.zeros(3), ValueError, "1 axes"),
        (np.full((5, 7, 3), np.nan), ValueError, "NaN"),
        (torch.full((3, 5, 7), torch.inf), ValueError, "NaN or infinite"),
        (np.full((5, 7, 3), 255.0), ValueError, "from 255 to 255.*divide"),
        (-torch.ones(3, 5, 7), ValueError, "from -1 to -1"),
        (np.zeros((5, 7, 3), dtype=np.int64), TypeError, "torch.int64"),
        ("photo.png", ValueError, "there is no such file"),
        (["photo.png"], ValueError, "there is no such file"),
        (b"photo.png", TypeError, "is a bytes, expected a path"),
        (Image.new("RGBA", (0, 5)), ValueError, "0×5 pixels is empty"),
    ],
)
def test_what_cannot_be_read_is_said(image, error, message):
    with pytest.raises(error, match=message):
        read_images(image)


def test_rounding_is_clipped():
    assert read_images(torch.full((3, 2, 2), 1.0004)).max() == 1


def test_an_image_is_not_changed_by_reading_it():
    image = EXPECTED.clone()
    read_images(image).add(1)
    assert torch.equal(image, EXPECTED)


@pytest.mark.parametrize(
    ("size", "upscale", "expected"),
    [((64, 96), 4, (256, 384)), ((57, 33), 4, (228, 132)), ((57, 33), 2.5, (142, 82)), ((10, 10), 0.31, (3, 3))],
)
def test_output_size(size, upscale, expected):
    height, width = size
    assert output_size(height, width, upscale) == expected


def test_output_without_pixels():
    with pytest.raises(ValueError, match=r"upscale=0.1.*30×3 pixels"):
        output_size(3, 30, 0.1)


def test_working_size_has_at_least_the_process_size():
    assert working_size(100, 200, 4, 512) == (512, 1024)
    assert working_size(200, 300, 4, 512) == (800, 1200)
    assert working_size(3, 5, 2.5, 0) == (8, 12)


@pytest.mark.parametrize(
    ("size", "upscale", "process_size", "expected", "is_said"),
    [
        ((64, 1024), 4, 512, (512, 8192), False),  # 16 times as long
        ((1024, 64), 4, 512, (8192, 512), False),
        ((1, 1000), 4, 64, (8, 8095), True),  # the root of 16 * 64 * 64 / 1000 is 8.0954
        ((1000, 1), 4, 64, (8095, 8), True),
        ((1, 20000), 4, 64, (4, 80000), True),  # the result has more: its size
        ((1, 20000), 100, 64, (100, 2000000), False),
        ((1, 1), 4, 512, (512, 512), False),
    ],
)
def test_working_size_of_thin_images_is_bounded(caplog, size, upscale, process_size, expected, is_said):
    height, width = size
    assert working_size(height, width, upscale, process_size) == expected
    assert ("more than 16 times as long as it is wide" in caplog.text) == is_said


@pytest.mark.parametrize("size", [(15, 21), (2, 3), (5, 9)])
def test_resize_is_pillows_bicubic(size):
    pixels = 64 + PIXELS // 2  # no overshoot, which Pillow clips between its two passes
    expected = read_images(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))
    torch.testing.assert_close(resize(read_images(pixels), size), expected, atol=1.5 / 255, rtol=0)
    assert resize(EXPECTED, (5, 7)) is EXPECTED


def test_pad_to_multiple_repeats_the_border():
    padded = pad_to_multiple(EXPECTED, 8)
    assert padded.shape == (1, 3, 8, 8)
    assert torch.equal(padded[..., :5, :7], EXPECTED)
    assert torch.equal(padded[..., 7, :7], EXPECTED[..., 4, :])
    assert torch.equal(pad_to_multiple(padded, 8), padded)
    assert pad_to_multiple(EXPECTED[..., :1, :1], 8).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("enlarge", "weights"),
    [
        # The cubic convolution at distances 1.75, 1.25, 0.75 and 0.25, for a = -0.5 and a = -0.75.
        (resize, (-0.0234375, -0.0703125, 0.2265625, 0.8671875)),
        (resize_as_torch, (-0.03515625, -0.10546875, 0.26171875, 0.87890625)),
    ],
)
def test_bicubic_filters(enlarge, weights):
    image = torch.full((1, 3, 4, 8), 0.5)
    image[..., 4] += 0.25
    row = (enlarge(image, (8, 16))[0, 0, 0] - 0.5) / 0.25
    expected = [0.0] * 5 + [*weights, *reversed(weights)] + [0.0] * 3
    torch.testing.assert_close(row, torch.tensor(expected), atol=1e-6, rtol=0)


def test_the_filters_are_clipped():
    image = torch.zeros(1, 3, 4, 8)
    image[..., 4:] = 1
    for enlarge in (resize, resize_as_torch):
        result = enlarge(image, (8, 16))
        assert (result.min().item(), result.max().item()) == (0, 1)
