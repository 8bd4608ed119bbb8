from __future__ import annotations

import pytest

from tests.attention.models import Models


@pytest.fixture
def models() -> Models:
    return Models()
