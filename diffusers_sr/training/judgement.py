"""Losses of a picture that compare it with photographs otherwise than pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..evaluation.haarpsi import haarpsi
from ..evaluation.stlpips import load_stlpips


class PatchDiscriminator(nn.Module):
    """A scorer of overlapping patches: high for photographs, low for generated ones (PatchGAN, Isola et al. 2017).

    Args:
        channels: channels of the levels; all except the first halve the size.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        levels: list[nn.Module] = [nn.Conv2d(3, channels[0], 3, padding=1)]
        for previous, width in pairwise(channels):
            levels.append(
                nn.Sequential(
                    nn.Conv2d(previous, width, 4, stride=2, padding=1, bias=False), nn.GroupNorm(width // 16, width)
                )
            )
        self.levels = nn.ModuleList(levels)
        self.score = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Compute scores [B, 1, h, w] of `image` [B, 3, H, W] in [0, 1], and the features of every level."""
        features = []
        hidden = image * 2 - 1
        for level in self.levels:
            hidden = functional.leaky_relu(level(hidden), 0.2)
            features.append(hidden)
        return self.score(hidden), features


class Judgement(nn.Module):
    """What a discriminator that is trained beside a model says of its picture.

    The model minimises the mean absolute error of the discriminator's features (Wang et al. 2018) and its score, the
    discriminator its hinge loss. One sum serves both sides: the model's part sees the discriminator with its weights
    frozen, the discriminator's part sees the picture without its gradient.

    Args:
        feature_weight, adversarial_weight: weights of the model's two losses.
    """

    def __init__(self, feature_weight: float, adversarial_weight: float) -> None:
        super().__init__()
        self.discriminator = PatchDiscriminator()
        self.feature_weight = feature_weight
        self.adversarial_weight = adversarial_weight

    def forward(self, picture: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the weighted losses by name of a picture and a photograph [B, 3, H, W] in [0, 1]."""
        made, _ = self.discriminator(picture.detach())
        real, real_features = self.discriminator(target)
        target_features = [feature.detach() for feature in real_features]
        self.discriminator.requires_grad_(False)
        score, features = self.discriminator(picture)
        self.discriminator.requires_grad_(True)
        distances = torch.stack([functional.l1_loss(*pair) for pair in zip(features, target_features, strict=True)])
        return {
            "feature": self.feature_weight * distances.sum(),
            "adversarial": -self.adversarial_weight * score.float().mean(),
            "discriminator": functional.relu(1 - real).float().mean() + functional.relu(1 + made).float().mean(),
        }


class ShiftTolerantDistance(nn.Module):
    """Shift-tolerant LPIPS (Ghildyal and Liu 2022) as a loss.

    Args:
        weight: of the loss.
        most_samples: pictures of a batch that are compared, the first ones: the network may cost more than the model
            that is trained.

    Raises:
        ModuleNotFoundError: if the package with its weights is not installed.
    """

    def __init__(self, weight: float, most_samples: int | None = None) -> None:
        super().__init__()
        self.network = load_stlpips()
        self.weight = weight
        self.most_samples = most_samples

    def train(self, mode: bool = True) -> ShiftTolerantDistance:
        """Set the mode, but leave the network, which is frozen, in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, picture: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the weighted loss by name of a picture and a photograph [B, 3, H, W] in [0, 1]."""
        first = slice(self.most_samples)
        return {"stlpips": self.weight * self.network(target[first], picture[first]).float().mean()}


class WaveletSimilarity(nn.Module):
    """How far the HaarPSI of a picture is from 1 (Reisenhofer et al. 2018), as a loss.

    Args:
        weight: of the loss.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, picture: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the weighted loss by name of a picture and a photograph [B, 3, H, W] in [0, 1]."""
        with torch.autocast(picture.device.type, enabled=False):
            similarity = haarpsi(target.float(), picture.float().clamp(0, 1))
        return {"haarpsi": self.weight * (1 - similarity.mean())}


class LatentGrid(nn.Module):
    """The part of a picture's error that repeats with the pitch of the latents, as a loss.

    A decoder draws such a weave in flat areas if nothing else in the loss sees it: it is far below the error of the
    details around it, and what compares features may even like it. The error is averaged, for each place in a square
    of a latent, over squares of neighbouring latents; what these averages have in common is a colour, and no weave.

    Args:
        weight: of the loss.
        pitch: pixels per latent.
        side: latents of a square that is averaged over.
    """

    def __init__(self, weight: float, pitch: int, side: int = 6) -> None:
        super().__init__()
        self.weight = weight
        self.pitch = pitch
        self.side = side

    def forward(self, picture: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the weighted loss by name of a picture and a photograph [B, 3, H, W] in [0, 1]."""
        places = functional.pixel_unshuffle(picture - target, self.pitch).unflatten(1, (3, -1))
        pattern = functional.avg_pool3d(places, (1, self.side, self.side), stride=(1, self.side // 2, self.side // 2))
        return {"grid": self.weight * (pattern - pattern.mean(2, keepdim=True)).abs().mean()}


class Overshoot(nn.Module):
    """How far a picture leaves the range of its target's neighbouring pixels, as a loss: outlines along edges.

    Args:
        weight: of the loss.
        side: pixels, an odd number, of the square around a pixel that is its neighbourhood.
    """

    def __init__(self, weight: float, side: int = 9) -> None:
        super().__init__()
        self.weight = weight
        self.side = side

    def forward(self, picture: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the weighted loss by name of a picture and a photograph [B, 3, H, W] in [0, 1]."""
        highest, negative_lowest = (
            functional.max_pool2d(each, self.side, stride=1, padding=self.side // 2) for each in (target, -target)
        )
        beyond = functional.relu(picture - highest) + functional.relu(-picture - negative_lowest)
        return {"overshoot": self.weight * beyond.mean()}
