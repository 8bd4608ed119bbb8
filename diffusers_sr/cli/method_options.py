"""The options for arguments that only some pipelines take, read off the classes of their calls.

The option for an argument with a single value is in the argument's field. The options for arguments that need more
than one value are here, by the argument's name, whichever pipelines take it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from ..hub import METHODS
from ..sampling.call import Call
from .captioner import add_prompts_or_captioner
from .references import add_reference, read_references


class OwnOptions(NamedTuple):
    """The options for an argument that is made of several values: their names in the namespace, and what adds them."""

    names: tuple[str, ...]
    add: Callable[[argparse._ArgumentGroup], None]


class MethodArgument(NamedTuple):
    """An argument of a call that has options: how argparse adds that for its value, and the pipelines that take it."""

    option: Mapping[str, Any] | None
    pipelines: list[str]


OWN_OPTIONS = {
    "reference_images": OwnOptions(("reference",), add_reference),
    "captioner": OwnOptions(("prompts", "captioner"), add_prompts_or_captioner),
}


def call_class(pipeline: str) -> type[Call]:
    """Import the class of a pipeline's call without the pipeline: `a.pipeline.XPipeline` has `a.call.XCall`."""
    module, _, name = pipeline.rpartition(".")
    kind: type[Call] = getattr(import_module(f"{module.rpartition('.')[0]}.call"), f"{_short(name)}Call")
    return kind


def method_arguments() -> dict[str, MethodArgument]:
    """Find the arguments that have options, by name; where methods share one, the first says how it is added."""
    common = {field.name for field in dataclasses.fields(Call)}
    found: dict[str, MethodArgument] = {}
    for pipeline in METHODS.values():
        for field in dataclasses.fields(call_class(pipeline)):
            option = field.metadata.get("option")
            if field.name not in common and (option is not None or field.name in OWN_OPTIONS):
                argument = found.setdefault(field.name, MethodArgument(option, []))
                argument.pipelines.append(_short(pipeline.rpartition(".")[2]))
    return found


def add_method_options(command: argparse.ArgumentParser) -> None:
    """Add the options in groups whose titles say which pipelines take them."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, argument in method_arguments().items():
        title = f"options of {' and '.join(argument.pipelines)}"
        if title not in groups:
            groups[title] = command.add_argument_group(title)
        if name in OWN_OPTIONS:
            OWN_OPTIONS[name].add(groups[title])
        else:
            groups[title].add_argument(_flag(name), **argument.option or {})


def check_together(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with status 2 if options of different groups, which argparse cannot compare, exclude each other."""
    if options.reference is not None and options.num_references is not None:
        parser.error("argument --num-references: not allowed with argument --reference")


def refused_options(kind: type[Call], options: argparse.Namespace) -> list[str]:
    """List the options that were given for arguments that this class of call does not have.

    One that asks for what the class does anyway, such as one step of a one-step model, is not refused.
    """
    taken = {field.name for field in dataclasses.fields(kind)}
    names = {"num_inference_steps": "steps"}
    common = {names.get(name, name): value for name, value in kind.fixed.items()}
    return [_flag(name) for name, value in common.items() if getattr(options, name, None) not in (None, value)] + [
        _flag(option)
        for name in method_arguments()
        if name not in taken
        for option in _option_names(name)
        if getattr(options, option) is not None
    ]


def read_method_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """Read the arguments that were given, references from their files; exit with status 2 if one cannot be read.

    Captioners are not among them: one is loaded after the pipeline, and prompts from files are those of one image.
    """
    arguments = {
        name: getattr(options, name)
        for name in method_arguments()
        if name not in OWN_OPTIONS and getattr(options, name) is not None
    }
    if options.reference is not None:
        arguments["reference_images"] = read_references(parser, options.reference)
    return arguments


def _option_names(argument: str) -> tuple[str, ...]:
    return OWN_OPTIONS[argument].names if argument in OWN_OPTIONS else (argument,)


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _short(pipeline: str) -> str:
    return pipeline.removesuffix("Pipeline")
