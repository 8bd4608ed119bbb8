"""Training with torch.compile: the same losses, gradients and names of weights."""

from __future__ import annotations

import torch

from diffusers_sr.training.compilation import compile_transformers
from tests.training.stages import build


def test_compiled_blocks_give_the_same_gradients_and_names() -> None:
    stage = build("seesr")
    stage.denoiser.enable_gradient_checkpointing()
    module, batch = stage.module.train(), stage.batch()
    names = [*module.state_dict()]
    trained = [each for each in module.parameters() if each.requires_grad]

    def losses_and_gradients() -> list[torch.Tensor]:
        (loss,) = module(dict(batch)).values()
        return [loss, *torch.autograd.grad(loss, trained)]

    expected = losses_and_gradients()
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compile_transformers(module, backend=count)
    for one, other in zip(losses_and_gradients(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert graphs
    assert [*module.state_dict()] == names
