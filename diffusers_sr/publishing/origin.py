"""Where converted weights come from and what their terms of use are: in the folder, in its card, and said at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .model_card import CardDetails, render_model_card
from .paper import Paper
from .shareable import shareable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of converted weights. A pipeline keeps it in its configuration, as `origin`.

    Args:
        paper: the one to credit.
        license: licence of the weights, by the Hub's identifiers, such as "apache-2.0"; "other" and "unknown" too.
        terms: what is known of their terms of use, in words.
        is_restricted: whether they forbid what a free licence allows.
        base: folder or Hub id of the Stable Diffusion that the weights belong to; None if it is not known.
        base_license: its licence, by the Hub's identifiers.
    """

    paper: Paper
    license: str
    terms: str
    is_restricted: bool = False
    base: str | None = None
    base_license: str | None = None

    def as_config(self) -> dict[str, Any]:
        """Give what a pipeline keeps of it. A folder of the base's is given by its name."""
        return {
            **trained_here(self.paper, self.base),
            "base_license": self.base_license,
            "license": self.license,
            "terms": self.terms,
        }

    def say(self) -> None:
        """Log the licence, as a warning if it is restricted."""
        logger.log(
            logging.WARNING if self.is_restricted else logging.INFO,
            "Licence of the weights of %s: %s (%s).",
            self.paper.name,
            self.license,
            self.terms,
        )


def trained_here(paper: Paper, base: str | None) -> dict[str, Any]:
    """Give what a pipeline keeps of the origin of weights that need no terms of their own: their user trained them.

    Args:
        paper: the one to credit.
        base: folder or Hub id of the Stable Diffusion that the weights belong to; None if it is not known.
    """
    return {"paper": [paper.name, paper.arxiv], "base_model": None if base is None else shareable(base)}


def card_details_of(origin: Mapping[str, Any] | None) -> CardDetails:
    """Give the details of a model card from what a pipeline keeps of an origin."""
    details = dict(origin or {})
    paper = details.pop("paper", None)
    return CardDetails(paper=None if paper is None else Paper(*paper), **details)


def write_card(folder: Path, name: str, pipeline: Any) -> None:
    """Write the model card of a saved pipeline into its folder.

    Args:
        name: what the card calls the model.
    """
    card = render_model_card(name, type(pipeline), pipeline.card_details)
    (folder / "README.md").write_text(str(card), encoding="utf-8")
