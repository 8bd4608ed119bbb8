"""ST-LPIPS, the shift-tolerant perceptual distance (Ghildyal & Liu 2022, arXiv 2207.13686), on AlexNet.

The weights are those of the authors' package `stlpips_pytorch`, which holds them in a file. Nothing else of it is
used: its code would need torchvision.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .measures import check_images

# The mean and deviation of photos in [-1, 1], by which LPIPS (Zhang et al. 2018) standardises them.
_MEAN, _DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# The convolutions of AlexNet: channels before and after, side of the kernel, padding.
_LAYERS = ((3, 64, 11, 2), (64, 192, 5, 2), (192, 384, 3, 1), (384, 256, 3, 1), (256, 256, 3, 1))
# Their names in the weights file.
_NAMES = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
_SMALLEST = 21  # pixels of a side: less does not survive three reductions


class STLPIPS(nn.Module):
    """The distance of the features of a shift-tolerant AlexNet, after each of its convolutions.

    It is AlexNet without strides: where AlexNet leaves pixels out, this one blurs by [1, 2, 1] / 4, two pixels further
    than the image reaches on each side, before every second pixel is taken. Features have unit length at each
    position; their squared differences are weighed by channel, averaged over the positions, and summed over the
    convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel, padding=padding) for before, after, kernel, padding in _LAYERS
        )
        self.channel_weights = nn.ParameterList(torch.zeros(after) for _, after, _, _ in _LAYERS)

    def features(self, image: Tensor) -> list[Tensor]:
        """Compute the features of images in [0, 1] after each convolution, with unit length at each position."""
        mean, deviation = (torch.tensor(each).to(image)[:, None, None] for each in (_MEAN, _DEVIATION))
        hidden = (2 * image - 1 - mean) / deviation
        features = []
        for number, convolution in enumerate(self.convolutions):
            if number in (1, 2):
                hidden = _halved(F.max_pool2d(hidden, 3, stride=1))
            hidden = convolution(hidden)
            hidden = F.relu(_halved(hidden) if number == 0 else hidden)
            features.append(hidden / (torch.linalg.vector_norm(hidden, dim=1, keepdim=True) + 1e-10))
        return features

    def forward(self, reference: Tensor, result: Tensor) -> Tensor:
        """Compute the distance, 0 if the two are equal; lower is better.

        Args:
            reference: float [batch, 3, height, width] RGB in [0, 1].
            result: the same shape.

        Returns:
            One value for each image, [batch].

        Raises:
            ValueError: if the two differ in shape, or a side has less than 21 pixels.
        """
        check_images(reference, result, _SMALLEST)
        distance = reference.new_zeros(len(reference))
        for ours, theirs, weights in zip(
            self.features(reference), self.features(result), self.channel_weights, strict=True
        ):
            difference = (ours - theirs).square().mean((2, 3))
            distance = distance + difference @ weights
        return distance


def load_stlpips() -> STLPIPS:
    """Load ST-LPIPS with the weights of the installed package `stlpips_pytorch`, frozen.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    package = find_spec("stlpips_pytorch")  # found, not imported: it would import torchvision
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "ST-LPIPS needs the weights in stlpips_pytorch: pip install stlpips_pytorch (nothing else comes with it)."
        )
    file = Path(package.origin).parent / "weights" / "vST0.0" / "alex_shift_tolerant.pth"
    stored = torch.load(file, map_location="cpu", weights_only=True)
    network = STLPIPS()
    state = {}
    for number, name in enumerate(_NAMES):
        for part in ("weight", "bias"):
            state[f"convolutions.{number}.{part}"] = stored[f"net.{name}.{part}"]
        state[f"channel_weights.{number}"] = stored[f"lin{number}.model.1.weight"].flatten()
    network.load_state_dict(state)
    return network.requires_grad_(False).eval()


def _halved(planes: Tensor) -> Tensor:
    channels = planes.shape[1]
    kernel = torch.tensor([1.0, 2.0, 1.0]).to(planes) / 4
    kernel = torch.outer(kernel, kernel).expand(channels, 1, 3, 3)
    return F.conv2d(F.pad(planes, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=channels)
