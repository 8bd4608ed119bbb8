"""Recipes: YAML files with values of options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NULL = "tag:yaml.org,2002:null"


def read_recipe(path: str, actions: Mapping[str, argparse.Action]) -> dict[str, Any]:
    """Read a recipe.

    Texts are taken as they are written, as on the command line: YAML would read `no` as false, and 1e-4 as text.

    Args:
        path: the file.
        actions: the command line's options by name.

    Raises:
        ValueError: if there is no such file, it is not a YAML file of options and their values, it has an option
            twice or one that does not exist, or gives one value where a list belongs.
    """
    import yaml

    try:
        # Bytes: YAML has its own rules for encodings.
        loader = yaml.SafeLoader(Path(path).read_bytes())
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            found = "empty" if root is None else f"a YAML {root.id}"
            raise ValueError(f"it is {found}, but has to hold lines such as 'seed: 1'.")
        names = [_text(node) for node, _ in root.value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice} are there twice: leave one of each out.")
        if unknown := [name for name in names if name not in actions]:
            raise ValueError(f"unknown options {unknown} in the recipe; allowed are {sorted(actions)}.")
        return {name: _value(loader, actions[name], node) for name, (_, node) in zip(names, root.value, strict=True)}
    except OSError as error:
        raise ValueError(f"The recipe {path!r} cannot be read ({error.strerror}): give a YAML file.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"The recipe {path!r} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"The recipe {path!r} is nested too deeply: give options and their values.") from error
    except ValueError as error:
        raise ValueError(f"The recipe {path!r}: {error}") from error


def _value(loader: Any, action: argparse.Action, node: Any) -> Any:
    value = loader.construct_object(node, deep=True)
    # Options that are one value or several have no list as their default.
    if action.nargs == "+" and (isinstance(value, list) or isinstance(action.default, list)):
        if not isinstance(value, list):
            raise ValueError(f"{action.dest} is {value!r} in the recipe, but has to be a list: [{value}].")
        return [_text(each) for each in node.value] if action.type is str else value
    return _text(node) if action.type is str and node.id == "scalar" and node.tag != _NULL else value


def _text(node: Any) -> str:
    """Give a scalar as it is written; what is not a scalar is no name and no text, and shown as its kind."""
    return node.value if node.id == "scalar" else f"<{node.id}>"
