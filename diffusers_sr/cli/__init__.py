"""The command `diffusers-sr`; `main` is its entry point.

The commands import torch and the models when they run: `--help` and wrong arguments are answered without.
"""

from .main import main

__all__ = ["main"]
