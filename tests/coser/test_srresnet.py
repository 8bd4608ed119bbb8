"""The SRResNet in front of CoSeR's CLIP."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffusers_sr.coser import srresnet
from diffusers_sr.coser.srresnet import SRResNet


def test_new_srresnet_is_nearly_the_bilinear_enlargement():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 6, 9)
    bilinear = F.interpolate(image, scale_factor=4, mode="bilinear")
    with torch.no_grad():
        enlarged = SRResNet(8, 2)(image)
    assert 0 < (enlarged - bilinear).abs().max() < 1e-2


@pytest.mark.parametrize("size", [(20, 20), (41, 7), (23, 39)])
def test_tiles_of_the_enlarged_image_are_those_of_the_whole(encoder, size, monkeypatch):
    """Pixels of a tile depend on others up to the whole margin away."""
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    network = encoder.srresnet.double()
    with torch.no_grad():
        whole = network(image)
        sizes = []
        network.conv_first.register_forward_pre_hook(lambda _, arguments: sizes.append(arguments[0].shape[-2:]))
        monkeypatch.setattr(srresnet, "TILE", 8)
        torch.testing.assert_close(network(image), whole, atol=1e-12, rtol=0)
    assert len(sizes) == -(-size[0] // 8) * -(-size[1] // 8)
    assert max(max(tile) for tile in sizes) <= 8 + 2 * 7
