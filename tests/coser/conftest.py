from __future__ import annotations

import pytest
import torch

from diffusers_sr.coser.cognition import CognitiveEncoder
from tests.coser.cognitive_encoders import Q_FORMER, VISION


@pytest.fixture
def encoder() -> CognitiveEncoder:
    """Every parameter random, and large enough for every layer to matter."""
    torch.manual_seed(0)
    encoder = CognitiveEncoder(
        num_queries=5, srresnet_channels=4, srresnet_blocks=2, vision_config=VISION, qformer_config=Q_FORMER
    )
    for name, parameter in encoder.named_parameters():
        torch.nn.init.normal_(parameter, std=0.15 if name.startswith("srresnet") else 0.3)
    return encoder.eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 10, 13, generator=torch.Generator().manual_seed(1))
