"""The code blocks of a document, and how they are run: in a folder that has small files of all the names they read.

Blocks that are not run are checked: Python compiles, and the programs' own parsers take their arguments.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from diffusers_sr.cli import main
from tests.training.runs import reset_accelerate, script

LANGUAGES = ("sh", "python")
NOT_CODE = "text"
"""The language of blocks that are not code, such as equations."""
ARGPARSE = (argparse.ArgumentParser, "parse_args")
"""The function that reads the arguments of a program: its owner and its name."""

_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_SCRIPT = re.compile(r"(training|benchmarks)/\w+\.py")
_REASON = re.compile(r"<!-- not run: (?P<reason>[^\n]+) -->\n\Z")

SMALL = [
    "--max_train_steps", "1", "--train_batch_size", "1", "--gradient_accumulation_steps", "1", "--resolution", "32",
    "--dataloader_num_workers", "0", "--mixed_precision", "no", "--use_8bit_adam", "false",
]  # fmt: skip
"""Options that make a step of any recipe small, and possible without a GPU."""

SMALL_ENCODER = [
    "--num_queries", "3", "--srresnet_channels", "8", "--srresnet_blocks", "1", "--qformer_layers", "2",
    "--qformer_heads", "2", "--qformer_intermediate_size", "16",
]  # fmt: skip

OPTIONS = {
    "prepare": [],
    "find_references": ["--count", "1", "--device", "cpu"],
    "make_tags": [],
    "make_prompts": ["--num_samples", "2", "--resolution", "32"],
    "make_references": ["--num_samples", "2", "--resolution", "32", "--steps", "1"],
    "evaluate": [],
    "train_dape": SMALL,
    "train_seesr": [*SMALL, "--push_to_hub", "false"],
    "train_cognitive_encoder": [*SMALL, *SMALL_ENCODER],
    "train_coser": SMALL,
    "train_scedit": SMALL,
    "train_cassr": SMALL,
    "train_xpsr": SMALL,
    "train_pisa_pixel": SMALL,
    "train_pisa": [*SMALL, "--lpips_weight", "0"],
    "train_osediff": [*SMALL, "--lpips_weight", "0"],
}
"""The scripts of `training/` that blocks may run, and the options that are added there."""


@dataclass(frozen=True)
class Block:
    """A code block, and why it is not run: the text of the comment right before it, `<!-- not run: why -->`."""

    line: int
    language: str
    code: str
    reason: str | None


def blocks(text: str) -> Iterator[Block]:
    """Read the code blocks of a Markdown text.

    Raises:
        ValueError: if a block is neither of one of `LANGUAGES` nor of `NOT_CODE`.
    """
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["language"] == NOT_CODE:
            continue
        if match["language"] not in LANGUAGES:
            allowed = ", ".join((*LANGUAGES, NOT_CODE))
            raise ValueError(f"line {line}: a block in {match['language']!r}, expected one of {allowed}.")
        comment = _REASON.search(text, 0, match.start())
        yield Block(line, match["language"], match["code"], comment and comment["reason"])


def run(block: Block) -> None:
    """Run a block in the current folder.

    Raises:
        ValueError: if it has a command that there is no way to run.
    """
    if block.language == "python":
        exec(compile(block.code.replace('"cuda"', '"cpu"'), f"<line {block.line}>", "exec"), {"__name__": "__main__"})
        return
    for command in commands(block.code):
        command()


def check(block: Block) -> None:
    """Check a block that is not run. The arguments of programs that are not this project's are not checked.

    Raises:
        SyntaxError: if Python cannot compile it.
        ValueError: if a program does not take its arguments.
    """
    if block.language == "python":
        compile(block.code, f"<line {block.line}>", "exec")
        return
    for words in _words(block.code):
        match _own(words):
            case ["diffusers-sr", *options]:
                _parse(ARGPARSE, main, options)
            case ["python", path, *options] if _SCRIPT.fullmatch(path):
                module = script(Path(path).stem) if path.startswith("training/") else _benchmark(path)
                # A trainer reads a recipe besides, and checks the values in the end.
                parser = (module, "parse_arguments") if hasattr(module, "parse_arguments") else ARGPARSE
                _parse(parser, module.main, options)


def commands(code: str) -> list[Callable[[], object]]:
    """The shell of a block: it runs the commands in this process, without those that install this package."""
    found = [_command(_own(words)) for words in _words(code) if words[:2] != ["pip", "install"]]
    if not found:
        raise ValueError("nothing is left to run: say why with `<!-- not run: why -->` before the block.")
    return found


def _words(code: str) -> list[list[str]]:
    """Split a block into its commands, and these into words."""
    lines = [shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines()]
    return [part for line in lines for part in _parts(line)]


def _parts(words: list[str]) -> Iterator[list[str]]:
    while "&&" in words:
        end = words.index("&&")
        yield words[:end]
        words = words[end + 1 :]
    if words:
        yield words


def _own(words: list[str]) -> list[str]:
    """Rewrite a command of this project in the simplest form: `diffusers-sr OPTIONS` or `python SCRIPT OPTIONS`."""
    match words:
        case ["accelerate", "launch", *rest] | ["python", *rest]:
            for number, word in enumerate(rest):
                if rest[number : number + 2] == ["-m", "diffusers_sr.cli"]:
                    return ["diffusers-sr", *rest[number + 2 :]]
                if _SCRIPT.fullmatch(word):
                    return ["python", *rest[number:]]
    return words


def _command(words: list[str]) -> Callable[[], object]:
    match words:
        case ["diffusers-sr", *options]:
            return lambda: _successfully(main(options))
        case ["python", path, *options] if Path(path).stem in OPTIONS:
            return lambda: _train(Path(path).stem, options)
    raise ValueError(
        f"there is no way to run `{shlex.join(words)}`: add it to tests/readme.py, or say why it is not run with "
        "`<!-- not run: why -->` before the block."
    )


def _benchmark(path: str) -> Any:
    return importlib.import_module(path.removesuffix(".py").replace("/", "."))


class _Parsed(Exception):
    """A program has read its arguments."""


def _parse(parser: tuple[Any, str], program: Callable[[list[str]], object], options: list[str]) -> None:
    """Run a program until the function that reads its arguments has returned."""
    read = getattr(*parser)

    def read_and_stop(*arguments: Any, **more: Any) -> None:
        read(*arguments, **more)
        raise _Parsed

    try:
        with mock.patch.object(*parser, read_and_stop):
            program(options)
    except _Parsed:
        return
    except SystemExit as error:
        raise ValueError(f"its parser does not take {shlex.join(options)}") from error
    raise AssertionError("the program ended before it had read its arguments")


def _train(stage: str, options: list[str]) -> None:
    reset_accelerate()
    script(stage).main([*options, *OPTIONS[stage]])


def _successfully(status: int) -> None:
    assert status == 0
