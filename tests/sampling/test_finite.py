"""The check of a stage, and computing in float32 with weights in half precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffusers_sr.sampling.finite import NotFiniteError, Stage, check_finite, in_dtype, is_finite
from diffusers_sr.sampling.in_float32 import in_float32

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
def test_one_value_is_found_wherever_it_is(dtype, value):
    for index in (0, 511, 1022):
        tensor = torch.linspace(-6e4, 6e4, 1023).to(dtype)
        nested = {"a": [torch.tensor([1]), (tensor.view(3, 11, 31), 1.5, None)], "b": torch.empty(0)}
        assert is_finite(nested)
        tensor[index] = value
        assert not is_finite(nested)


def test_the_largest_values_of_a_type_are_finite():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert is_finite(torch.full((9,), torch.finfo(dtype).max, dtype=dtype))
    assert is_finite([]) and is_finite(None)


def test_a_result_without_a_model():
    check_finite("the colour fix", torch.ones(2))
    with pytest.raises(NotFiniteError, match="The result of the colour fix is not finite: check the arguments"):
        check_finite("the colour fix", torch.tensor([NAN]))


def test_a_cast_leaves_what_is_not_floating_point():
    cast = in_dtype({"a": (torch.ones(1), torch.ones(1, dtype=torch.int64), "text", None)}, torch.bfloat16)
    assert [getattr(leaf, "dtype", leaf) for leaf in cast["a"]] == [torch.bfloat16, torch.int64, "text", None]


class Big(nn.Module):
    """Multiplies by 300 twice and divides by 90,000, with casts to its own type, as models of diffusers have them."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(1, 1, bias=False) for _ in range(3))
        for layer, value in ((self.first, 300), (self.second, 300), (self.third, 2**-14)):
            nn.init.constant_(layer.weight, value)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        dtype = self.first.weight.dtype
        x = self.second(self.first(x.to(dtype)).to(dtype=dtype)).type(dtype)
        x = F.layer_norm(self.third(x) + torch.zeros(1, dtype=dtype), (1,), bias=self.third.weight[0])
        return x + self.third(self.second(self.first.weight.T)) * torch.ones(1, dtype=dtype)


def test_half_precision_gives_way_to_float32_once_and_for_all(caplog):
    model = Big()
    expected = model(torch.ones(1, 1))
    model.half()
    stage = Stage("a stage", model)
    result = stage.run(lambda: model(torch.ones(1, 1)))
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)
    assert (model.calls, caplog.text.count("The result of a stage is not finite in half precision")) == (3, 1)
    assert torch.equal(stage.run(lambda: model(torch.ones(1, 1))), expected)
    assert (model.calls, caplog.text.count("a stage")) == (4, 1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert not model(torch.ones(1, 1)).isfinite().all()


def test_float32_is_not_computed_twice(caplog):
    model = Big()
    nn.init.constant_(model.first.weight, NAN)
    with pytest.raises(NotFiniteError, match=r"The result of a stage is not finite: check .* weights of Big"):
        Stage("a stage", None, model).run(lambda: model(torch.ones(1, 1)))
    assert model.calls == 1
    assert not caplog.text


def test_what_moves_weights_moves_them_as_they_are():
    layer = nn.Linear(2, 2).half()
    with in_float32():
        assert layer(torch.ones(1, 2)).dtype == torch.float32
        layer.to("meta").to_empty(device="cpu")
        assert layer.weight.data.dtype == torch.float16
        assert nn.Parameter(layer.weight.data.clone()).dtype == torch.float16
        layer.to(torch.bfloat16)
        assert layer.weight.detach().dtype == torch.bfloat16
        filled = torch.zeros(2, dtype=torch.int64).fill_(3)
    assert layer.weight.dtype == torch.bfloat16
    assert filled.tolist() == [3, 3]


def test_autocast_is_off_in_float32():
    layer = nn.Linear(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 2)).dtype == torch.bfloat16
        with in_float32(["cpu"]):
            assert layer(torch.ones(1, 2)).dtype == torch.float32
