"""The command `diffusers-sr`; `main` is its entry point.

The commands import torch and the models only when they run: `--help` and wrong arguments need neither.
"""

from .main import main

__all__ = ["main"]
