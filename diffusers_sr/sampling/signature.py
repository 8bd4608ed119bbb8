"""The signature and the help of a call, read off its fields, and the call that a signature's arguments make."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from .call import MODELS_OWN, Call, CallT
from .checks import check_fraction

Function = TypeVar("Function", bound=Callable[..., Any])


def read_call(
    kind: type[CallT],
    args: Sequence[Any],
    arguments: Mapping[str, Any],
    defaults: Mapping[str, Any],
    caller: str,
) -> CallT:
    """Make the complete and checked value from the arguments of a call.

    Args:
        kind: the method's subclass of `Call`.
        args, arguments: as they were given, by position and by name.
        defaults: those of the model, for arguments that are None.
        caller: name of the pipeline, for errors.

    Raises:
        TypeError: if an argument is unknown, or given twice.
        ValueError: as `kind` does.
    """
    signature = call_signature(kind)
    if unknown := sorted(arguments.keys() - signature.parameters.keys()):
        near = difflib.get_close_matches(unknown[0], signature.parameters, 1)
        raise TypeError(
            f"{caller} has no argument {', '.join(map(repr, unknown))}: "
            f"{f'did you mean {near[0]!r}? ' if near else ''}It takes {', '.join(signature.parameters)}."
        )
    given = signature.bind_partial(*args, **arguments).arguments
    if given.get("color_fix", MODELS_OWN) == MODELS_OWN:
        given["color_fix"] = defaults["color_fix"]
    if given.get("official_preprocessing") is True:
        defaults = {**defaults, **kind.official_values(given)}
    if (fidelity := given.get("fidelity")) is not None:
        check_fraction("fidelity", fidelity)
        explicit = {name: value for name, value in given.items() if value is not None}
        defaults = {**defaults, **kind.fidelity_values(fidelity, {**defaults, **explicit, **kind.fixed})}
    given |= kind.fixed
    for each in dataclasses.fields(kind):
        # Embeddings, if given, take the place of a default text.
        is_given = any(given.get(name) is not None for name in (each.name, f"{each.name}_embeds"))
        if each.metadata.get("from_model") and not is_given and each.name not in kind.fixed:
            given[each.name] = defaults[each.name]
    return kind(**given)


def call_signature(kind: type[Call]) -> inspect.Signature:
    """Make the signature of a call: the arguments of all methods by position or name, a method's own by name only."""
    common = {each.name for each in dataclasses.fields(Call)}
    parameters = []
    for each in sorted(dataclasses.fields(kind), key=lambda each: each.name not in common):
        if each.name in kind.fixed:
            continue
        annotation = each.metadata.get("annotation", each.type)
        optional = each.metadata.get("from_model") and "None" not in str(each.type)
        parameters.append(
            inspect.Parameter(
                each.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD if each.name in common else inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if each.name == "image" else each.default,
                annotation=f"{annotation} | None" if optional else annotation,
            )
        )
    return inspect.Signature(parameters)


def with_arguments_of(kind: type[Call]) -> Callable[[Function], Function]:
    """Give a `__call__(self, *args, **kwargs)` the signature and the documentation of the call that it takes."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return function(self, *args, **kwargs)

        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        signature = call_signature(kind)
        call.__signature__ = signature.replace(parameters=[own, *signature.parameters.values()])  # type: ignore[attr-defined]
        call.__doc__ = _documentation(kind)
        return call  # type: ignore[return-value]

    return decorate


def _documentation(kind: type[Call]) -> str:
    helps = {each.name: each.metadata["help"] for each in dataclasses.fields(kind)}
    helps["fidelity"] += kind.fidelity_meaning
    lines = [
        line
        for name in call_signature(kind).parameters
        for line in textwrap.wrap(f"{name}: {helps[name]}", 112, initial_indent=" " * 4, subsequent_indent=" " * 8)
    ]
    return "\n".join(
        [
            "Enlarge one image, or several of the same size.",
            "",
            "Arguments that are None take their values from `pipeline.config.call_defaults` where it has one.",
            "",
            "Args:",
            *lines,
            "",
            "Returns:",
            "    The images, as an `ImagePipelineOutput` or the only element of a tuple.",
            "",
            "Raises:",
            "    ValueError: if an argument has a value that is not allowed, or two do not go together.",
            "    NotFiniteError: if a stage gives NaN or infinite values, in float32 too; it is a ValueError.",
            "    TypeError: if an image is of an unknown kind, or an argument is unknown.",
        ]
    )
