"""Run convolutional blocks on feature maps of any size, a band of rows at a time, as if on the whole map.

Two things make tiles of an autoencoder differ from the whole: a convolution does not see beyond the tile, and a group
norm takes mean and variance of the tile. Here each band is read with as many more rows on both sides as its
convolutions reach, and the group norms get the statistics of the whole map, found in a pass of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.overrides import TorchFunctionMode

from .large_maps import new_map

STORE = torch.device("cpu")
"""Where whole feature maps are kept: only bands go to the device of the models."""


class Statistics(NamedTuple):
    """Mean and biased variance of each group of one group norm, `[B, groups]` in float64 on the CPU."""

    mean: torch.Tensor
    variance: torch.Tensor


class _Band(NamedTuple):
    """The rows `first` up to `last` of a map, read with those from `top` up to `bottom`."""

    first: int
    last: int
    top: int
    bottom: int

    def core(self, rows: torch.Tensor) -> torch.Tensor:
        """Cut off what was read on both sides; `rows` may have another number of rows to each that was read."""
        read = self.bottom - self.top
        start, stop = (rows.shape[-2] * (row - self.top) // read for row in (self.first, self.last))
        return rows[..., start:stop, :]


class Bands:
    """A way to run blocks on feature maps `[B, C, H, W]` in bounded memory, with the result of the whole map.

    Maps are kept in main memory, or in temporary files if it is short. On `device` there is one band at a time.

    Args:
        values: how many values (channels times pixels) a band may have; a band has at least as many rows as the
            convolutions reach, whatever that comes to.
        device: where the blocks compute.
    """

    def __init__(self, values: int, device: torch.device) -> None:
        self.values = values
        self.device = device

    def run(self, blocks: Sequence[nn.Module], *maps: torch.Tensor, overwrite: bool = False) -> torch.Tensor:
        """Run blocks one after the other.

        Each pass but the last ends at a group norm whose statistics are not known yet; what precedes it is computed
        again in the next, as keeping it would take the memory that this saves.

        Args:
            blocks: their convolutions have odd kernels and a stride of 1, or, in the last block, of 2; every group
                norm runs once, in the order of `modules()`.
            maps: the input, whose channels are concatenated.
            overwrite: whether the result may take the place of the first map, if it has its shape.

        Returns:
            The result, in main memory.
        """
        known: list[Statistics] = []
        norms = [module for block in blocks for module in block.modules() if isinstance(module, nn.GroupNorm)]
        bands = self._split(blocks, maps[0])
        for norm in norms:
            known.append(self._statistics(blocks, maps, bands, known, norm.num_groups))
        result: torch.Tensor | None = None
        written = 0
        finished: torch.Tensor | None = None
        for band in bands:
            rows = band.core(_run(blocks, self._read(maps, band), known))
            if result is None:
                height = rows.shape[-2] * maps[0].shape[-2] // (band.last - band.first)
                shape = (*rows.shape[:2], height, rows.shape[-1])
                fits = shape == maps[0].shape and rows.dtype == maps[0].dtype and maps[0].device == STORE
                result = maps[0] if overwrite and fits else new_map(shape, rows.dtype)
            # A band is written when the next one, which reads some of its rows, has been computed.
            if finished is not None:
                written = _write(result, finished, written)
            finished = rows
        assert result is not None and finished is not None
        _write(result, finished, written)
        return result

    def attend(self, attention: Attention, states: torch.Tensor) -> torch.Tensor:
        """Run self-attention over all pixels of a map, a band of queries at a time.

        Keys and values of the whole map are on the device, and no matrix of scores is with a fused kernel. Whatever
        backend is set for other attention, this uses torch's own: few others take one head of 512 channels.
        """
        tokens = states.to(self.device).flatten(2)
        normed = attention.group_norm(tokens).transpose(1, 2)
        key, value = (_heads(project(normed), attention) for project in (attention.to_k, attention.to_v))
        results = []
        for part in normed.split(max(1, self.values // normed.shape[-1]), dim=1):
            query = _heads(attention.to_q(part), attention)
            attended = dispatch_attention_fn(query, key, value, backend=AttentionBackendName.NATIVE)
            for layer in attention.to_out:
                attended = layer(attended.flatten(2) if attended.ndim == 4 else attended)
            results.append(attended.to(STORE))
        result = torch.cat(results, dim=1).transpose(1, 2).unflatten(2, states.shape[-2:])
        if attention.residual_connection:
            result = result + states.to(STORE)
        return result / attention.rescale_output_factor

    def _split(self, blocks: Sequence[nn.Module], states: torch.Tensor) -> list[_Band]:
        convolutions = [each for block in blocks for each in block.modules() if isinstance(each, nn.Conv2d)]
        # Even numbers, so that a stride of 2 sees the same pairs of rows in a band.
        reach = _even(sum(conv.kernel_size[0] // 2 for conv in convolutions))
        channels = max(max(conv.in_channels, conv.out_channels) for conv in convolutions)
        height, width = states.shape[-2:]
        rows = max(reach, 2, _even(self.values // (channels * width) - 1))
        return [
            _Band(first, min(first + rows, height), max(first - reach, 0), min(first + rows + reach, height))
            for first in range(0, height, rows)
        ]

    def _read(self, maps: Sequence[torch.Tensor], band: _Band) -> torch.Tensor:
        parts = [each[..., band.top : band.bottom, :].to(self.device) for each in maps]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _statistics(
        self,
        blocks: Sequence[nn.Module],
        maps: Sequence[torch.Tensor],
        bands: Sequence[_Band],
        known: Sequence[Statistics],
        groups: int,
    ) -> Statistics:
        """Find the statistics of the next group norm (Chan et al. 1983 for the union of the bands)."""
        count, mean, squares = 0, torch.zeros(()), torch.zeros(())
        for band in bands:
            try:
                _run(blocks, self._read(maps, band), known)
            except _NotKnown as reached:
                values = band.core(reached.states)
            else:
                raise AssertionError("a group norm did not run")
            values = values.unflatten(1, (groups, -1)).flatten(2)
            values = values.to(torch.promote_types(values.dtype, torch.float32))
            variance_here, mean_here = (each.cpu().double() for each in torch.var_mean(values, dim=-1, correction=0))
            here = values.shape[-1]
            difference = mean_here - mean
            squares = squares + variance_here * here + difference**2 * (count * here / (count + here))
            mean = mean + difference * (here / (count + here))
            count += here
        return Statistics(mean, squares / count)


class _NotKnown(Exception):
    """No error: it ends a pass that was made to come here."""

    def __init__(self, states: torch.Tensor) -> None:
        self.states = states


class _KnownStatistics(TorchFunctionMode):
    """A mode in which group norms take given statistics, one after the other, instead of those of their input.

    The modules run as they are, with whatever hooks bring their weights and whatever adapters are on them.

    Raises:
        _NotKnown: by the first group norm for which there are none.
    """

    def __init__(self, known: Sequence[Statistics]) -> None:
        super().__init__()
        self.known: Iterator[Statistics] = iter(known)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> torch.Tensor:
        if function is F.group_norm:
            return self._normalise(*args, **(kwargs or {}))
        result: torch.Tensor = function(*args, **(kwargs or {}))
        return result

    def _normalise(
        self,
        states: torch.Tensor,
        num_groups: int,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        statistics = next(self.known, None)
        if statistics is None:
            raise _NotKnown(states)
        dtype = torch.promote_types(states.dtype, torch.float32)
        channels = states.shape[1]
        deviation = torch.rsqrt(statistics.variance + eps)
        scale, shift = (
            each.repeat_interleave(channels // num_groups, dim=1)[..., None, None].to(states.device, dtype)
            for each in (deviation, -statistics.mean * deviation)
        )
        if weight is not None:
            scale, shift = scale * weight[:, None, None].to(dtype), shift * weight[:, None, None].to(dtype)
        if bias is not None:
            shift = shift + bias[:, None, None].to(dtype)
        return torch.addcmul(shift, states.to(dtype), scale).to(states.dtype)


def _run(blocks: Sequence[nn.Module], states: torch.Tensor, known: Sequence[Statistics]) -> torch.Tensor:
    # A block that was compiled alone would not see the mode.
    with torch.compiler.set_stance("force_eager"), _KnownStatistics(known):
        for block in blocks:
            states = block(states, None) if isinstance(block, ResnetBlock2D) else block(states)
    return states


def _write(result: torch.Tensor, rows: torch.Tensor, start: int) -> int:
    stop = start + rows.shape[-2]
    result[..., start:stop, :] = rows
    return stop


def _heads(projected: torch.Tensor, attention: Attention) -> torch.Tensor:
    return projected.unflatten(-1, (attention.heads, -1))


def _even(number: int) -> int:
    return number + number % 2
