"""The paper that a pipeline class is credited to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """The paper of a method.

    Args:
        name: the method's name, as its authors write it.
        arxiv: the paper's number on arXiv, such as "2311.16518".
    """

    name: str
    arxiv: str
