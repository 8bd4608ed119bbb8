"""Names of a captioner and of the layouts of prompts, without torch: the help of the command line quotes them."""

from __future__ import annotations

from typing import Literal, get_args

PRACTICAL_MODEL = "HuggingFaceTB/SmolVLM-500M-Instruct"
"""A model of half a billion parameters, which runs on a CPU too; its processor, Idefics3's, needs no torchvision."""

Layout = Literal["cache", "official"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
"""The ways in which `caption_folder` keeps prompts."""
