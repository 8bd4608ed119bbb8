"""The names by which diffusers finds this package's component classes without running a file of the pipeline's folder.

For a class of any other package diffusers runs `<component>/<module>.py`, if it is there, and otherwise looks in the
modules that are imported already. This module is one, and it imports the class from the module in its name.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from diffusers import ModelMixin, SchedulerMixin

__all__ = [
    "ModelMixin",
    "SchedulerMixin",
    "own_class_pair",
]  # diffusers reads off the base classes here how a class is loaded


def own_class_pair(module: str, name: str) -> list[str]:
    """Name a class of this package for `model_index.json`: this module, and the name of the class in it."""
    return [__name__, f"{module}:{name}"]


def __getattr__(name: str) -> Any:
    module, _, class_name = name.partition(":")
    if class_name:
        try:
            return getattr(import_module(module), class_name)
        except ModuleNotFoundError as error:
            # diffusers then says that there is no such class. What a module itself cannot import is another matter.
            if not (error.name and f"{module}.".startswith(f"{error.name}.")):
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
