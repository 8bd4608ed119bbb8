"""The code blocks of a document, and how they are run: in a folder that has small files of all the names they read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diffusers_sr.cli import main
from tests.training.runs import reset_accelerate, script

LANGUAGES = ("sh", "python")

_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
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
        ValueError: if a block is not of one of `LANGUAGES`.
    """
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["language"] not in LANGUAGES:
            raise ValueError(f"line {line}: a block in {match['language']!r}, expected one of {', '.join(LANGUAGES)}.")
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


def commands(code: str) -> list[Callable[[], object]]:
    """The shell of a block: it runs the commands in this process, without those that install this package."""
    lines = [line.split("#")[0].strip() for line in code.replace("\\\n", " ").splitlines()]
    parts = [part for line in lines for part in line.split("&&") if part]
    found = [_command(shlex.split(part)) for part in parts if not part.lstrip().startswith("pip install ")]
    if not found:
        raise ValueError("nothing is left to run: say why with `<!-- not run: why -->` before the block.")
    return found


def _command(words: list[str]) -> Callable[[], object]:
    match words:
        case ["diffusers-sr", *options]:
            return lambda: _successfully(main(options))
        case ["python", path, *options] | ["accelerate", "launch", "--quiet", path, *options] if (
            Path(path).stem in OPTIONS
        ):
            return lambda: _train(Path(path).stem, options)
    raise ValueError(
        f"there is no way to run `{shlex.join(words)}`: add it to tests/readme.py, or say why it is not run with "
        "`<!-- not run: why -->` before the block."
    )


def _train(stage: str, options: list[str]) -> None:
    reset_accelerate()
    script(stage).main([*options, *OPTIONS[stage]])


def _successfully(status: int) -> None:
    assert status == 0
