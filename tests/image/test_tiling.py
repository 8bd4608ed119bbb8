import pytest
import torch

from diffusers_sr.image.tiling import crop_tiles, gaussian_weights, tile_groups, tile_starts, tile_windows, tiled_map


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
        (97, 96, (96, 96)),
        (64, 200, (64, 64)),  # the official code's squares of the shorter side
        (6, 2000, (6, 8)),  # a strip narrower than twice the overlap
        (4, 3000, (4, 8)),
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
    windows = tile_windows(*size, tile=12, overlap=3)
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


def test_one_window_gets_the_image_itself():
    image = torch.rand(1, 3, 8, 8)
    assert tiled_map(lambda tiles, index: tiles, image, tile_windows(8, 8, 8, 2)) is image


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
