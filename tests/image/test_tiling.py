import pytest
import torch

from diffusers_sr.image.tiling import (
    Window,
    crop_tiles,
    gaussian_weights,
    tile_groups,
    tile_starts,
    tile_windows,
    tiled_map,
)


def test_a_window_crops_in_its_own_units():
    image = torch.arange(96).view(1, 8, 12)
    assert Window(1, 2, 1, 3).crop(image).tolist() == [[[14, 15, 16]]]
    # rows 2 and 3, columns 4 to 9
    assert Window(1, 2, 1, 3).crop(image, 2).tolist() == [[[*range(28, 34)], [*range(40, 46)]]]


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "starts"),
    [
        (40, 16, 4, [0, 12, 24]),
        (41, 16, 4, [0, 12, 24, 25]),
        (24, 16, 4, [0, 8]),
        (16, 16, 4, [0]),
        (16, 16, 16, [0]),
        (20, 8, 0, [0, 8, 12]),
    ],
)
def test_tile_starts(length, tile, overlap, starts):
    assert tile_starts(length, tile, overlap) == starts


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [
        (96, 96, (96, 96)),  # as many pixels as a tile: not tiled
        (40, 200, (40, 200)),
        (48, 192, (48, 192)),  # 96 · 96 pixels in another shape
        (97, 96, (96, 96)),
        (64, 200, (64, 64)),  # the official code's squares of the shorter side
        (6, 2000, (6, 8)),  # a strip narrower than twice the overlap
        (4, 3000, (4, 8)),
        (2000, 6, (8, 6)),
    ],
)
def test_tile_windows(height, width, side):
    windows = tile_windows(height, width, tile=96, overlap=4)
    covered = torch.zeros(height, width)
    for window in windows:
        assert (window.height, window.width) == side
        window.crop(covered)[:] += 1
    assert covered.min() >= 1
    assert len(windows) <= height * width  # it ends, and takes no tile twice
    assert len(set(windows)) == len(windows)


def test_gaussian_weights_have_their_centre_where_the_official_code_has_it():
    weights = gaussian_weights(16, 16)
    assert weights.argmax(dim=0).unique().tolist() == [8]
    torch.testing.assert_close(weights, weights.flip(1))
    # variance 0.01 in units of a tile, so 0.2 from the centre is two deviations; 5 / pi at the very centre
    torch.testing.assert_close(gaussian_weights(10, 11)[5, 5].item(), 50 / torch.pi)
    ratio = gaussian_weights(10, 11)[7, 5] / gaussian_weights(10, 11)[5, 5]
    torch.testing.assert_close(ratio.item(), 0.1353352832)


@pytest.mark.parametrize("group_size", [1, 2, 100])
@pytest.mark.parametrize("scales", [(1, 1), (2, 1), (1, 3)])
def test_blended_tiles_of_the_identity_are_the_image(group_size, scales):
    input_scale, output_scale = scales
    image = torch.rand(2, 3, 20 * input_scale, 33 * input_scale)
    windows = tile_windows(20, 33, tile=12, overlap=5)
    assert len(windows) > 4

    def function(tiles, index):
        assert len(tiles) == 2 * len(tile_groups(windows, group_size)[index])
        tiles = tiles[..., ::input_scale, ::input_scale]
        return tiles.repeat_interleave(output_scale, 2).repeat_interleave(output_scale, 3)

    expected = image[..., ::input_scale, ::input_scale].repeat_interleave(output_scale, 2)
    expected = expected.repeat_interleave(output_scale, 3)
    blended = tiled_map(function, image, windows, group_size, input_scale, output_scale)
    torch.testing.assert_close(blended, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(20, 33), (64, 64), (13, 100)])
def test_weights_are_a_partition_of_unity(size):
    height, width = size
    windows = tile_windows(height, width, tile=12, overlap=3)
    ones = tiled_map(lambda tiles, _: torch.ones_like(tiles), torch.rand(1, 1, *size), windows)
    torch.testing.assert_close(ones, torch.ones_like(ones), atol=1e-6, rtol=0)


def test_the_blend_goes_from_one_tile_to_the_next_without_a_step():
    windows = tile_windows(32, 60, tile=32, overlap=4)
    assert [window.left for window in windows] == [0, 28]
    blended = tiled_map(lambda tiles, index: torch.full_like(tiles, index), torch.zeros(1, 1, 32, 60), windows)
    row = blended[0, 0, 0]
    assert row[:28].max() == 0
    assert row[32:].min() == 1
    assert (row.diff() >= 0).all()
    assert row.diff().max() < 0.6


@pytest.mark.parametrize("axis", ["columns", "rows"])
def test_tiles_are_blended_by_their_gaussians(axis):
    """A tile of 0 and one of 1, both 10 × 10, overlap by four: the blend is 1 / (1 + w0 / w1).

    The deviation is 0.1 of a tile, one pixel. The centre lies at 4.5 along a row of the tile, so the distances are
    1.5, 2.5, 3.5, 4.5 to that of the first and 4.5, 3.5, 2.5, 1.5 to that of the second:
    w0 / w1 = exp((4.5² - 1.5²) / 2) = exp(9), then exp(3), exp(-3) and exp(-9). Along a column it lies at 5, and
    1, 2, 3, 4 against 5, 4, 3, 2 make exp(12), exp(6), 1 and exp(-6).
    """
    height, width = (10, 16) if axis == "columns" else (16, 10)
    blended = tiled_map(
        lambda tiles, index: torch.full_like(tiles, index),
        torch.zeros(1, 1, height, width),
        tile_windows(height, width, tile=10, overlap=4),
    )[0, 0]
    if axis == "columns":
        line, inner = blended[3], [0.000123395, 0.0474258732, 0.9525741268, 0.999876605]
    else:
        line, inner = blended[:, 3], [0.0000061442, 0.0024726232, 0.5, 0.9975273768]
    expected = torch.tensor([*[0.0] * 6, *inner, *[1.0] * 6])
    torch.testing.assert_close(line, expected, atol=1e-7, rtol=1e-5)


def test_one_window_gets_the_image_itself_as_the_first_group():
    image = torch.rand(1, 3, 8, 8)
    called_with = []

    def work(*call):
        called_with.append(call)
        return call[0]

    result = tiled_map(work, image, tile_windows(8, 8, 8, 2))
    assert result is image
    assert [(tiles is image, index) for tiles, index in called_with] == [(True, 0)]


def test_a_result_of_other_channels_than_the_image():
    image = torch.rand(2, 3, 20, 33)
    means = tiled_map(lambda tiles, _: tiles.mean(1, keepdim=True), image, tile_windows(20, 33, 12, 5))
    torch.testing.assert_close(means, image.mean(1, keepdim=True), atol=1e-6, rtol=0)


def test_groups_hold_at_most_their_size():
    windows = tile_windows(8, 40, tile=8, overlap=0)
    assert [[window.left for window in group] for group in tile_groups(windows, 2)] == [[0, 8], [16, 24], [32]]


def test_the_image_is_the_fastest_index_of_a_batch_of_tiles():
    image = torch.rand(2, 1, 4, 8)
    windows = tile_windows(4, 8, 4, 0)
    torch.testing.assert_close(crop_tiles(image, windows)[1], image[1, :, :, :4], atol=0, rtol=0)
    torch.testing.assert_close(crop_tiles(image, windows)[2], image[0, :, :, 4:], atol=0, rtol=0)


def test_half_precision_is_blended_in_single_precision():
    image = torch.rand(1, 3, 64, 64).half()
    blended = tiled_map(lambda tiles, _: tiles, image, tile_windows(64, 64, 16, 4))
    assert blended.dtype == torch.float16
    torch.testing.assert_close(blended, image)
