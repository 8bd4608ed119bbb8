"""The arguments of a call of SeeSR's pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..sampling.call import Call, argument
from ..sampling.checks import check_texts

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class SeeSRCall(Call):
    """The arguments of every method, and those that replace what the tagger says about the image."""

    tags: str | list[str] | None = argument(
        "tags instead of the tagger's, comma-separated: one text for all images or one for each.", per_image=True
    )
    representation: torch.Tensor | None = argument(
        "representation instead of the tagger's, `[1 or images, tokens, representation_dim]`.", per_image=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_texts("tags", self.tags)
