"""Training with torch.compile: the same values and gradients, and the same names of weights."""

from __future__ import annotations

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from diffusers_sr.training.compilation import compile_transformers


def test_compiled_blocks_give_the_same_gradients_and_names() -> None:
    torch._dynamo.reset()  # what was compiled for other tests, with another compiler, might be taken
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), BasicTransformerBlock(8, 2, 4))
    names, tokens = [*network.state_dict()], torch.randn(1, 5, 8)
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def values_and_gradients() -> list[torch.Tensor]:
        values = network(tokens)
        return [values, *torch.autograd.grad(values.square().sum(), [*network.parameters()])]

    expected = values_and_gradients()
    compile_transformers(network, backend=count)
    for one, other in zip(values_and_gradients(), expected, strict=True):
        torch.testing.assert_close(one, other)
    assert len(graphs) == 1
    assert [*network.state_dict()] == names
