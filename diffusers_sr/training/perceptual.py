"""LPIPS, from the package of its authors, which brings torchvision: needed by those trainers alone that use it."""

from __future__ import annotations

from torch import nn


class MissingPackageError(ImportError):
    """A package, or its weights, that an option needs is missing."""


def load_lpips() -> nn.Module:
    """Load LPIPS (Zhang et al. 2018) on VGG, which maps two images [B, 3, H, W] in [-1, 1] to distances [B, 1, 1, 1].

    Raises:
        MissingPackageError: if the package, torchvision or VGG's weights, which torchvision downloads, are missing.
    """
    try:
        from lpips import LPIPS

        network: nn.Module = LPIPS(net="vgg", verbose=False)
    except Exception as error:  # a torchvision that does not fit torch raises a RuntimeError, a lost network others
        raise MissingPackageError(
            "--lpips_weight needs LPIPS with the weights of VGG: pip install 'diffusers-sr[lpips]', with the "
            "torchvision that belongs to your torch, and be online the first time; --lpips_weight 0 trains without it "
            f"({type(error).__name__}: {error})."
        ) from error
    return network.requires_grad_(False).eval()
