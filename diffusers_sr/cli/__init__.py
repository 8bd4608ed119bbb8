"""The command `diffusers-sr`; `main` is its entry point."""

from .main import main

__all__ = ["main"]
