"""The code files of a pipeline repository: stubs that only import from this package.

diffusers takes a component of another package from a Hub repository only if there is a file `<component>/<module>.py`
next to its weights, and a pipeline class from a file `pipeline.py` if `model_index.json` names that file. A repository
with such files asks for `trust_remote_code=True`. What this package itself would have written needs no trust, since
its effect is known.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..pretrained.files import read_json
from ..pretrained.loading import INDEX_FILE
from .folder_code import holds_only
from .own_classes import own_class_pair

PIPELINE_FILE = "pipeline.py"
PACKAGE = __name__.partition(".")[0]

# Repositories hold this text. If it ever changes, the earlier text has to stay known to `trusted_index`, or their
# users are asked for trust.
_PIPELINE_STUB = '''"""What diffusers loads as `custom_pipeline`: the class itself is in the package diffusers-sr."""

# diffusers gives every local folder the same module, and finds two pipelines if the last one's class is still there.
for _name in [name for name in globals() if name.endswith("Pipeline")]:
    del globals()[_name]

try:
    from {module} import {name}
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{{error}}. This pipeline needs diffusers-sr: `pip install diffusers-sr`.") from error

__all__ = ["{name}"]
'''


def pipeline_stub(pipeline_class: type) -> str:
    """Render `pipeline.py` for a pipeline class of this package."""
    return _PIPELINE_STUB.format(module=pipeline_class.__module__, name=pipeline_class.__name__)


def component_stub(module: str, name: str) -> str:
    """Render `<component>/<module>.py` for the component class `name` of `module`."""
    return f"from {module} import {name}\n"


def index_class_name(pipeline_class: type) -> list[str]:
    """Name the stub too, so that diffusers finds a class of this package: the file without its suffix, and the class.

    It is the value of `_class_name` in `model_index.json`.
    """
    return [PIPELINE_FILE.removesuffix(".py"), pipeline_class.__name__]


def write_stubs(folder: Path, pipeline_class: type) -> None:
    """Write the stubs of this package's classes into the folder of a saved pipeline, and name them in its index.

    Classes of other packages have no stubs, and load as they do without them: from a folder, once they are imported.
    """
    index = read_json(folder / INDEX_FILE)
    # `from_pipe` records the components of the pipeline it started from, which the folder does not hold.
    index = {key: value for key, value in index.items() if not (key.startswith("_") and key in _components(index))}
    stubs = _stubs(index, pipeline_class)
    for path, text in stubs.items():
        (folder / path).write_bytes(text.encode())
    if PIPELINE_FILE in stubs:
        index["_class_name"] = index_class_name(pipeline_class)
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def trusted_index(folder: Path, pipeline_class: type) -> dict[str, Any] | None:
    """Read the index of a folder whose code is all, byte for byte, what `write_stubs` would write; None for another.

    The index must not lead to other code either: diffusers joins the names in it to paths. With what is returned,
    diffusers takes this package's classes from the package itself and runs no file of the folder, whatever becomes of
    the files after they were looked at.
    """
    index = read_json(folder / INDEX_FILE)
    if not _holds_only_stubs(folder, index, pipeline_class):
        return None
    pairs = {key: own_class_pair(*pair) for key, pair in _components(index).items() if _is_own(pair[0])}
    return {**index, **pairs, "_class_name": pipeline_class.__name__}


def _holds_only_stubs(folder: Path, index: dict[str, Any], pipeline_class: type) -> bool:
    if not _names_no_other_code(index, pipeline_class):
        return False
    stubs = _stubs(index, pipeline_class)
    # diffusers unpacks a string of two letters, too, and looks for `<custom_pipeline>.py` even if none is asked for.
    pairs = {key: value for key, value in index.items() if isinstance(value, (list, str)) and len(value) == 2}
    opened = {PIPELINE_FILE, "None.py", *(f"{key}/{value[0]}.py" for key, value in pairs.items())}
    return holds_only(folder, opened, {path: text.encode() for path, text in stubs.items()})


def _names_no_other_code(index: dict[str, Any], pipeline_class: type) -> bool:
    """Whether all names that diffusers joins to paths are names, and none is private in this package."""
    class_name = index.get("_class_name")  # a string in folders of earlier versions
    if not isinstance(class_name, str) and class_name != index_class_name(pipeline_class):
        return False
    pairs = _components(index)
    names = [*pairs, *(name for pair in pairs.values() for name in pair if name is not None)]
    if not all(_is_dotted_name(name) for name in names) or any("." in component for component in pairs):
        return False
    own = [module for module, _ in pairs.values() if _is_own(module)]
    return not any(part.startswith("_") for module in own for part in module.split("."))


def _stubs(index: dict[str, Any], pipeline_class: type) -> dict[str, str]:
    """Map the paths of the stubs that belong in the folder to their texts."""
    stubs = {PIPELINE_FILE: pipeline_stub(pipeline_class)} if _is_own(pipeline_class.__module__) else {}
    for component, (module, name) in _components(index).items():
        if _is_own(module):
            stubs[f"{component}/{module}.py"] = component_stub(module, name)
    return stubs


def _components(index: dict[str, Any]) -> dict[str, Any]:
    """Read module and class name of each component, both None for one that is left out."""
    pairs = {key: value for key, value in index.items() if isinstance(value, list) and len(value) == 2}
    pairs.pop("_class_name", None)
    return pairs


def _is_dotted_name(name: Any) -> bool:
    return isinstance(name, str) and name.isascii() and all(part.isidentifier() for part in name.split("."))


def _is_own(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == PACKAGE
