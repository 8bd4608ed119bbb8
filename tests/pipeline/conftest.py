"""A pipeline of each method, of tiny components."""

import pytest

from tests.pipeline.tiny import PIPELINES, build


@pytest.fixture(params=PIPELINES)
def method(request):
    return request.param


@pytest.fixture
def pipeline(method):
    return build(method)
