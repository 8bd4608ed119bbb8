from __future__ import annotations

import pytest
import torch
from skimage import data


@pytest.fixture(scope="session")
def photo() -> torch.Tensor:
    """[3, 128, 144] in [0, 1]."""
    return torch.from_numpy(data.astronaut()[60:188, 150:294].copy()).permute(2, 0, 1).float() / 255
