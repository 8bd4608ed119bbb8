"""Components of a saved pipeline that are not stored with it, but named: those of a base on the Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn
from transformers import PreTrainedModel

from .files import AGAIN, ModelFolderError, read_json
from .loading import component_class, load_pretrained

_NAMES = ("pretrained_model_name_or_path", "subfolder", "library", "class_name")

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)

# What diffusers gives a model of its own to load, and transformers knows too.
_SHARED_OPTIONS = ("device_map", "max_memory", "offload_folder", "use_safetensors", "low_cpu_mem_usage", "variant")


class BaseComponent(ModelMixin, ConfigMixin):
    """The name of a component that a pipeline shares with its base; loading it gives the component itself.

    Args:
        pretrained_model_name_or_path: the base, a Hub id.
        subfolder: the component's folder there.
        library: the package of its class, diffusers or transformers.
        class_name: its class.
    """

    @register_to_config
    def __init__(self, pretrained_model_name_or_path: str, subfolder: str, library: str, class_name: str) -> None:
        super().__init__()

    @classmethod
    def of(cls, component: Any, base: str, name: str) -> BaseComponent:
        """Name the component that a base has under `name`."""
        kind = type(component)
        return cls(base, name, kind.__module__.partition(".")[0], kind.__name__)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write the name; there are no weights."""
        self.save_config(save_directory)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any) -> Any:
        """Load the component that a folder names.

        Args:
            pretrained_model_name_or_path: the folder.
            options: those that diffusers gives one of its own models.

        Raises:
            ModelFolderError: if the folder does not name a model or tokenizer of diffusers or transformers on the Hub.
            OSError: if the base cannot be loaded.
        """
        path = Path(pretrained_model_name_or_path, cls.config_name)
        config = read_json(path)
        named: list[Any] = [config.get(name) for name in _NAMES]
        base, subfolder, library, class_name = named
        words = (subfolder, library, class_name)
        if not (_matches(_HUB_ID, base) and all(_matches(_WORD, word) for word in words)):
            raise ModelFolderError(f"{path} does not name a component of a base on the Hub, but {named}: {AGAIN}.")
        kind = component_class(library, class_name, subfolder, path)
        try:
            return load_pretrained(kind, base, subfolder, **_options_for(kind, options))
        except ModelFolderError:
            raise
        except OSError as error:
            raise OSError(f"The {subfolder} of this model is that of its base {base!r}: {error}") from error


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _options_for(kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Choose and rename the options that the class takes."""
    if issubclass(kind, ModelMixin):
        return options
    if not issubclass(kind, nn.Module):
        return {}
    assert issubclass(kind, PreTrainedModel)
    shared = {name: options[name] for name in _SHARED_OPTIONS if options.get(name) is not None}
    return {"dtype": options.get("torch_dtype"), **shared}
