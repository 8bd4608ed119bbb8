"""Loading what was saved: one kind of error for whatever the libraries raise on damaged files."""

from __future__ import annotations

import inspect
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .components import check_complete, check_files, names_base, try_to_load
from .files import AGAIN, ModelFolderError, check_folder, read_json

INDEX_FILE = "model_index.json"
PACKAGE = __name__.partition(".")[0]
_LIBRARIES = ("diffusers", "transformers")


def load_pretrained(kind: Any, source: str | os.PathLike[str], subfolder: str | None = None, **options: Any) -> Any:
    """Load a pipeline, model, tokenizer or scheduler, as `kind.from_pretrained` does.

    Args:
        kind: its class.
        source: a folder or a Hub id.
        subfolder: the folder in it.
        options: further arguments of `from_pretrained`; among them components of a pipeline.

    Raises:
        ModelFolderError: if the folder is damaged, or lacks something.
        OSError: if there is no such folder or repository.
    """
    folder = Path(source, subfolder or "")
    if os.path.isdir(source):
        check_folder(folder)
    where = {} if subfolder is None else {"subfolder": subfolder}
    with explained(kind, folder, options):
        loaded = kind.from_pretrained(source, **where, **options)
    check_loaded(loaded, folder, options)
    return loaded


@contextmanager
def explained(kind: Any, folder: Path, given: Container[str] = ()) -> Iterator[None]:
    """Say which file of a folder is damaged if loading it fails within the `with` block.

    An error that is not the folder's stays as it is.

    Args:
        kind: the class that is loaded.
        folder: where it is loaded from; nothing is looked at if there is no such folder.
        given: names of a pipeline's components that are not loaded from the folder.

    Raises:
        ModelFolderError: if a file is damaged; it is chained to the error of the library.
    """
    try:
        yield
    except ModelFolderError:
        raise
    except Exception as error:  # the libraries have no fixed set of errors for damaged files
        if os.path.lexists(folder):
            try:
                _look_for_damage(kind, folder, given)
            except ModelFolderError as found:
                raise found from error
        raise


def check_loaded(loaded: Any, folder: Path, given: Container[str] = ()) -> None:
    """Raise ModelFolderError if a folder lacks a part of what was loaded from it. See `explained`."""
    if not folder.is_dir():  # a Hub id
        return
    if isinstance(loaded, DiffusionPipeline):
        for name, component in loaded.components.items():
            if component is not None and name not in given:
                check_folder(folder / name)  # diffusers would look in the pipeline's own folder instead
                if not names_base(folder / name):
                    check_complete(component, folder / name)
    else:
        check_complete(loaded, folder)


def read_pipeline_index(folder: Path) -> dict[str, Any]:
    """Read `model_index.json`, whose lists name a component's library and class, both null for one that is left out.

    Raises:
        ModelFolderError: if there is no such file, it cannot be read, or holds something else.
    """
    check_folder(folder)
    path = folder / INDEX_FILE
    index = read_json(path)
    class_name = index.get("_class_name")
    # A list is that of the file that holds the class, and the class.
    names = class_name if isinstance(class_name, list) and class_name else [class_name]
    if not names[0] or not all(isinstance(name, str) for name in names):
        raise ModelFolderError(
            f"{path} names no class of a pipeline under '_class_name', but {class_name!r}: {AGAIN}."
        )
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        kinds = {type(each) for each in value}
        if len(value) != 2 or kinds not in ({str}, {type(None)}):
            raise ModelFolderError(
                f"{path} has {value!r:.60} as {name!r}, expected the component's library and class, such as "
                f'["diffusers", "AutoencoderKL"]: {AGAIN}.'
            )
    return index


def _look_for_damage(kind: Any, folder: Path, given: Container[str]) -> None:
    """Raise ModelFolderError at the first damaged file; go from what is cheap to look at to what is not."""
    if not issubclass(kind, DiffusionPipeline):
        check_files(folder)
        try_to_load(kind, folder)
        return
    index = read_pipeline_index(folder)
    path = folder / INDEX_FILE
    pairs: dict[str, list[str]] = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        pair = index.get(name)
        if name in given or name == "self" or parameter.default is not parameter.empty:
            continue
        if isinstance(pair, list) and pair != [None, None]:
            pairs[name] = pair
        elif name not in kind._optional_components:
            raise ModelFolderError(f"{path} names no {name}: give it as an argument, {name}=..., or {AGAIN}.")
    for name in pairs:
        check_files(folder / name)
    for name, (library, class_name) in pairs.items():
        kind = component_class(library, class_name, name, path)
        if not names_base(folder / name):
            try_to_load(kind, folder / name)


def component_class(library: str, name: str, component: str, path: Path) -> Any:
    """Find a component's class where that runs no code but the package's and the libraries' own.

    Args:
        library, name: its module and its name, as model_index.json has them.
        component: the component's name, for errors.
        path: the file that names the class, for errors.

    Raises:
        ModelFolderError: if there is no such class, or it is not that of a component.
    """
    kind: Any = None
    if library in _LIBRARIES:
        kind = getattr(import_module(library), name, None)
    elif library.partition(".")[0] == PACKAGE and not any(part.startswith("_") for part in library.split(".")):
        try:
            kind = getattr(import_module(library), name, None)
        except (ImportError, ValueError):  # ValueError: no name of a module at all
            kind = None
        if kind is None:
            raise ModelFolderError(f"{path}: {PACKAGE} has no class `{library}:{name}`, as {component!r}: {AGAIN}.")
    bases = (ModelMixin, SchedulerMixin, PreTrainedModel, PreTrainedTokenizerBase)
    if not (isinstance(kind, type) and issubclass(kind, bases)):
        raise ModelFolderError(
            f"{path} has the class {name} of {library} as {component!r}, which is not a model, tokenizer or scheduler "
            f"of {', '.join(_LIBRARIES)} or {PACKAGE}: {AGAIN}."
        )
    return kind
