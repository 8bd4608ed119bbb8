"""CoSeR's one-hot attention on weights in the official layout.

`x` `[B, N, C]`, `context` `[B, M, D]` and `grad_w`, with the `heads` of a `config.json`, give the projected `q`, `k`
and `v`, the score `sim_max` and the index `sim_argmax` `[B, heads, N]` of the key each query takes, `out`, and the
gradients of `sum(out * grad_w)`: `grad_x`, `grad_context` and `grad.<official name>`. The scores of all keys, `sim`
`[B, heads, N, M]`, are computed here from `q` and `k`: the project never has them.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention

from diffusers_sr.coser.one_hot import best_keys, one_hot_attention
from diffusers_sr.coser.processor import OneHotReferenceAttnProcessor
from tests.parity.arrays import Tensors

INPUTS = ("x", "context", "grad_w")


def one_hot_outputs(state: Tensors, given: Tensors, config: dict[str, Any]) -> Tensors:
    heads, context_dim = config["heads"], state["to_k.weight"].shape[1]
    inner_dim, query_dim = state["to_q.weight"].shape
    processor = OneHotReferenceAttnProcessor("scaled")
    attn = Attention(query_dim, context_dim, heads=heads, dim_head=inner_dim // heads, processor=processor)
    attn.load_state_dict(state, assign=True)
    x, context = given["x"], given["context"]

    projected = {"q": attn.to_q(x), "k": attn.to_k(context), "v": attn.to_v(context)}
    query, key = (projected[name].unflatten(-1, (heads, -1)) for name in ("q", "k"))
    score = one_hot_attention(query, key, torch.ones_like(key), "scaled")[..., 0]
    with torch.enable_grad():
        parameters = {name: parameter.requires_grad_() for name, parameter in attn.named_parameters()}
        leaves = {"grad_x": x.requires_grad_(), "grad_context": context.requires_grad_()}
        leaves |= {f"grad.{name}": parameter for name, parameter in parameters.items()}
        out = attn(x, encoder_hidden_states=context)
        gradients = torch.autograd.grad((out * given["grad_w"]).sum(), list(leaves.values()))
    return {
        **projected,
        "sim": torch.einsum("bnhd,bmhd->bhnm", query, key) * query.shape[-1] ** -0.5,
        "sim_max": score.transpose(1, 2),
        "sim_argmax": best_keys(query, key).transpose(1, 2),
        "out": out.detach(),
        **dict(zip(leaves, gradients, strict=True)),
    }
