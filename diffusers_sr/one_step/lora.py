"""`LoraSets`: the LoRA weights of a one-step model, a component of its own beside a stock UNet."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import init_empty_weights
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.torch_utils import unwrap_module
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .lora_layers import active_loras, lora_layers, loras_of, replace_module

A, B = ".lora_A.weight", ".lora_B.weight"

StateDict = Mapping[str, torch.Tensor]


class LoraSets(ModelMixin, ConfigMixin):
    """Named sets of LoRA weights for one UNet, each with its alpha.

    Attached to a UNet they are diffusers' own adapters of the sets' names, which `fuse_lora`, `set_adapters` and a
    user's LoRAs know how to deal with; detached they leave it stock. A set changes a module's weight by
    alpha / rank · B·A.

    Args:
        sets: by the sets' names, `{"alpha": …, "modules": {module: sizes}}`, where the sizes of a module's weights are
            `[rank, inputs, outputs]` for a linear layer and `[rank, inputs, outputs, height, width]`, with those of
            the kernel, for a convolution. `from_state_dicts` reads them off the weights.
    """

    @register_to_config
    def __init__(self, sets: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        for name, entry in sets.items():
            for module, sizes in entry["modules"].items():
                rank, inputs, outputs, *kernel = sizes
                ones = [1] * len(kernel)
                for suffix, shape in ((A, (rank, inputs, *kernel)), (B, (outputs, rank, *ones))):
                    _add_parameter(self, f"{name}.{module}{suffix}", nn.Parameter(torch.zeros(shape)))

    @classmethod
    def from_state_dicts(cls, sets: Mapping[str, tuple[StateDict, float]]) -> Self:
        """Make the sets of their state dicts, whose tensors they keep.

        Args:
            sets: by the sets' names, the weights `<module>.lora_A.weight` and `<module>.lora_B.weight` of each module,
                and alpha.

        Raises:
            ValueError: if one of a module's two weights is missing, their shapes do not belong together, or there is
                anything else.
        """
        config = {
            name: {"alpha": alpha, "modules": _module_sizes(name, weights)} for name, (weights, alpha) in sets.items()
        }
        with init_empty_weights():
            model = cls(config)
        model.load_state_dict(
            {f"{name}.{key}": tensor for name, (weights, _) in sets.items() for key, tensor in weights.items()},
            assign=True,
        )
        return model.eval()

    @property
    def names(self) -> list[str]:
        """The names of the sets."""
        return list(self.config.sets)

    def modules_of(self, name: str) -> list[str]:
        """List the modules that a set changes."""
        return list(self.config.sets[name]["modules"])

    def lora_state_dict(self, name: str) -> dict[str, torch.Tensor]:
        """Give the weights of a set by diffusers' names, `<module>.lora_A.weight` and `<module>.lora_B.weight`."""
        return dict(self.get_submodule(name).state_dict())

    def lora_metadata(self, name: str) -> dict[str, Any]:
        """Give what diffusers has to be told besides the weights of a set: without it, alpha is taken for the rank."""
        ranks = {module: sizes[0] for module, sizes in self.config.sets[name]["modules"].items()}
        rank = Counter(ranks.values()).most_common(1)[0][0]
        others = {f"^{module.replace('.', chr(92) + '.')}": own for module, own in ranks.items() if own != rank}
        return {
            "r": rank,
            "lora_alpha": self.config.sets[name]["alpha"],
            "rank_pattern": others,
            "target_modules": list(ranks),
        }

    def attach(self, unet: Any) -> Self:
        """Put every set on the UNet and activate all of them, besides the LoRAs that are active already.

        Sets that are on it are only activated, with the weight that they have: loading another LoRA deactivates them.

        Raises:
            ValueError: if the UNet has another LoRA with the name of a set, or does not have the layers of a set.
        """
        unet = unwrap_module(unet)
        layers = lora_layers(unet)
        if missing := self._missing(layers):
            self._check_layers(unet)
            if taken := sorted({*missing} & {*getattr(unet, "peft_config", {})}):
                raise ValueError(
                    f"The UNet has LoRAs named {taken}, which are the names of this model's own sets: load yours "
                    "under another `adapter_name`."
                )
            active = active_loras(layers.values())
            for name in missing:
                self._load(unet, name)
            unet.set_adapter([*(name for name in active if name not in self.names), *self.names])
        else:
            self._activate(unet, layers, self.names)
        return self

    def activate(self, unet: Any, names: Iterable[str]) -> None:
        """Activate these of the attached sets and deactivate the others; other LoRAs stay as they are."""
        unet = unwrap_module(unet)
        self._activate(unet, lora_layers(unet), names)

    def _activate(self, unet: Any, layers: Mapping[str, Any], names: Iterable[str]) -> None:
        wanted = [*(name for name in active_loras(layers.values()) if name not in self.names), *names]
        # A layer that was added later may differ.
        if any({*layer.active_adapters} != {*wanted} for layer in layers.values()):
            unet.set_adapter(wanted)

    def is_fused(self, unet: Any) -> bool:
        """Whether a set is merged into the UNet's weights."""
        layers = lora_layers(unwrap_module(unet)).values()
        return any({*self.names} & {*layer.merged_adapters} for layer in layers)

    def is_attached(self, unet: Any) -> bool:
        """Whether the UNet has all sets, on exactly their modules."""
        return not self._missing(lora_layers(unwrap_module(unet)))

    def _missing(self, layers: Mapping[str, Any]) -> list[str]:
        """List the sets that a UNet's layers do not have on exactly their modules."""
        found: dict[str, set[str]] = {name: set() for name in self.names}
        for path, layer in layers.items():
            for name in found.keys() & getattr(layer, "lora_A", {}).keys():
                found[name].add(path)
        return [name for name in self.names if found[name] != {*self.modules_of(name)}]

    def detach(self, unet: Any) -> Self:
        """Take the sets off the UNet, and nothing else.

        Without another LoRA on it, its modules and state dict are stock again.

        Raises:
            ValueError: if a set is fused into the UNet's weights.
        """
        if not self.is_attached(unet):
            return self
        unet = unwrap_module(unet)
        layers = lora_layers(unet)
        if fused := sorted({*self.names} & {name for layer in layers.values() for name in layer.merged_adapters}):
            raise ValueError(f"The LoRA sets {fused} are fused into the UNet's weights: call `unfuse_lora()` first.")
        self.activate(unet, [])  # otherwise PEFT activates another LoRA in their place
        unet.delete_adapters(self.names)
        for path, layer in layers.items():
            if not loras_of(layer):
                replace_module(unet, path, layer.get_base_layer())
        return self

    def _load(self, unet: Any, name: str) -> None:
        weights = self.lora_state_dict(name)
        device, dtype = unet.device, unet.dtype  # diffusers looks them up in every module
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)  # several sets are meant
            unet.load_lora_adapter(
                {key: tensor.to(device, dtype) for key, tensor in weights.items()},
                prefix=None,
                adapter_name=name,
                metadata=self.lora_metadata(name),
                low_cpu_mem_usage=True,  # otherwise weights are drawn first, from the global generator
            )

    def _check_layers(self, unet: Any) -> None:
        """Make sure that the UNet has the layers of every set, in their sizes."""
        layers = dict(unet.named_modules())
        wrong = [
            f"  {name}: {module} {sizes}, but the UNet's is {found}"
            for name, entry in self.config.sets.items()
            for module, sizes in entry["modules"].items()
            if (found := layer_sizes(layers.get(module))) != list(sizes[1:])
        ]
        if wrong:
            raise ValueError(
                "The LoRA sets do not belong to this UNet. Sizes of layers are [inputs, outputs, kernel height, "
                f"kernel width], those of a LoRA begin with its rank. {len(wrong)} differ:\n" + "\n".join(wrong)
            )

    def save_lora(self, folder: str | Path) -> list[Path]:
        """Write each set as a file that the stock `load_lora_weights` of any pipeline reads, alpha included.

        A single set has the name that diffusers expects, several are `<set>.safetensors`.

        Returns:
            The files.
        """
        files = [LORA_WEIGHT_NAME_SAFE] if len(self.names) == 1 else [f"{name}.safetensors" for name in self.names]
        for name, file in zip(self.names, files, strict=True):
            StableDiffusionLoraLoaderMixin.save_lora_weights(
                folder,
                unet_lora_layers={key: tensor.contiguous() for key, tensor in self.lora_state_dict(name).items()},
                unet_lora_adapter_metadata=self.lora_metadata(name),
                weight_name=file,
            )
        return [Path(folder) / file for file in files]


def layer_sizes(layer: nn.Module | None) -> list[int] | None:
    """Give `[inputs, outputs]` of a linear layer or `[inputs, outputs, height, width]` of a convolution, else None."""
    if isinstance(layer, BaseTunerLayer):
        layer = layer.get_base_layer()
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        return None
    outputs, inputs, *kernel = layer.weight.shape
    return [inputs, outputs, *kernel]


def _add_parameter(root: nn.Module, key: str, parameter: nn.Parameter) -> None:
    """Put a parameter where its name says, in modules that hold nothing else."""
    *path, last = key.split(".")
    for name in path:
        child = root._modules.get(name)
        if child is None:
            child = nn.Module()
            root.add_module(name, child)
        root = child
    root.register_parameter(last, parameter)


def _module_sizes(name: str, weights: StateDict) -> dict[str, list[int]]:
    modules = [key.removesuffix(A) for key in weights if key.endswith(A)]
    if not modules:
        raise ValueError(f"The LoRA set {name!r} has no weights.")
    expected = {module + suffix for module in modules for suffix in (A, B)}
    if wrong := sorted(expected ^ weights.keys()):
        raise ValueError(f"The LoRA set {name!r} needs pairs of lora_A and lora_B, but these have none: {wrong}.")
    sizes = {}
    for module in modules:
        down, up = weights[module + A].shape, weights[module + B].shape
        if up[1:] != (down[0], *[1] * (len(down) - 2)):
            raise ValueError(
                f"{module} of the LoRA set {name!r} has lora_A {list(down)} and lora_B {list(up)}, whose ranks differ."
            )
        sizes[module] = [down[0], down[1], up[0], *down[2:]]
    return sizes
