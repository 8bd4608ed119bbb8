"""Gradient checkpointing of hosts whose attention is conditioned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch.utils.checkpoint import checkpoint

from .adapter import AttentionAdapter


def recomputed_with_conditioning(*adapters: AttentionAdapter) -> Callable[..., Any]:
    """Make the function that `enable_gradient_checkpointing` of a host, or of an adapter, takes.

    The backward pass recomputes activations long after the `with` block of the conditioning has been left. Each
    recomputation is conditioned as the first computation was, so that one `with` block serves sampling and training.
    """

    def recomputed(module: Callable[..., Any], *inputs: Any) -> Any:
        prepared = [adapter._conditioning for adapter in adapters]

        def run(*inputs: Any) -> Any:
            with ExitStack() as stack:
                for adapter, its in zip(adapters, prepared, strict=True):
                    stack.enter_context(adapter.conditioned(its))
                return module(*inputs)

        return checkpoint(run, *inputs, use_reentrant=False)

    return recomputed
