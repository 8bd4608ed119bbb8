"""Names of a captioner and of the layouts of prompts, without torch: the help of the command line says them."""

from __future__ import annotations

from typing import Literal, get_args

PRACTICAL_MODEL = "HuggingFaceTB/SmolVLM-500M-Instruct"
"""Half a billion parameters, so that it runs on a CPU too; its processor, that of Idefics3, needs no torchvision."""

Layout = Literal["cache", "official"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
"""How `caption_folder` keeps prompts."""
