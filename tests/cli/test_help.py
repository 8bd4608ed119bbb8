"""Help, and wrong arguments, which are answered without what takes long to import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import diffusers_sr
from diffusers_sr import hub

PACKAGE = Path(diffusers_sr.__file__).parent
SLOW = ("torch", "numpy", "diffusers", "transformers", "PIL")


def run_without(modules: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process that cannot import these modules."""
    program = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({modules!r}))
sys.argv = ["diffusers-sr", *{arguments!r}]
runpy.run_module("diffusers_sr.cli", run_name="__main__")
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)


@pytest.mark.parametrize(
    ("arguments", "status", "output"),
    [
        (("--help",), 0, "describe photographs, for XPSR and PASD"),
        (("upscale", "--help"), 0, "--method {seesr,coser,cassr,xpsr,pasd,one_step}"),
        (("caption", "--help"), 0, "(HuggingFaceTB/SmolVLM-500M-Instruct)"),
        ((), 2, "the following arguments are required: COMMAND"),
        (("magic",), 2, "invalid choice: 'magic'"),
        (("upscale",), 2, "the following arguments are required: INPUT, -o/--output"),
        (("upscale", "a.png", "-o", "b.png", "--magic"), 2, "unrecognized arguments: --magic"),
        (("upscale", "a.png", "-o", "b.png", "--method", "magic"), 2, "invalid choice: 'magic'"),
        (("upscale", "a.png", "-o", "b.png", "--method", "pasd"), 2, "the package has no small model of pasd"),
        (("upscale", "a.png", "-o", "b.png", "--cfw-weight", "much"), 2, "invalid float value: 'much'"),
        (
            ("upscale", "a.png", "-o", "b.png", "--reference", "c.png", "--num-references", "2"),
            2,
            "argument --num-references: not allowed with argument --reference",
        ),
        (
            ("upscale", "a.png", "-o", "b.png", "--prompts", "c", "--captioner", "measured"),
            2,
            "argument --captioner: not allowed with argument --prompts",
        ),
        (("caption", "a", "-o", "b", "--layout", "xml"), 2, "invalid choice: 'xml'"),
        (("evaluate", "--help"), 0, "--protocol {osediff,seesr,xpsr,coser,cassr,faithdiff}"),
        (
            ("evaluate", "a", "b", "--inputs", "c"),
            2,
            "--skip-existing and --paper: only with argument --model or --method",
        ),
        (("testset", "--help"), 0, "div2k-val-sharpened  the same, with sharpened originals"),
        (("caption", "a", "-o", "b", "--names"), 2, "--names: not allowed with a --captioner other than measured"),
    ],
)
def test_answered_without_what_takes_long_to_import(arguments, status, output):
    done = run_without(SLOW, *arguments)
    assert done.returncode == status, done.stderr
    assert output in (done.stderr if status else done.stdout)


def test_options_say_which_pipelines_take_them():
    sections = run_without(SLOW, "upscale", "--help").stdout.split("\n\n")
    groups = {
        section.splitlines()[0]: re.findall(r"^  (--\S+)", section, re.MULTILINE)
        for section in sections
        if section.startswith("options of")
    }
    assert groups == {
        "options of SeeSR and OneStep:": ["--tags"],
        "options of SeeSR:": ["--psr-weight"],
        "options of CasSR:": ["--activation"],
        "options of CoSeR and CasSR:": ["--reference"],
        "options of CoSeR:": ["--num-references", "--cfw-weight"],
        "options of XPSR and PASD:": ["--prompts", "--captioner", "--caption-overflow"],
        "options of XPSR:": ["--low-level-prompt"],
        "options of OneStep:": ["--pixel-scale", "--semantic-scale"],
    }


def test_as_a_program():
    command = [sys.executable, "-m", "diffusers_sr.cli", "upscale", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert "--color-fix {adain,wavelet,none}" in done.stdout


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda path: path.name)
def test_no_methods_name_stands_in_the_command_line(path):
    """The code that captions are made with is imported from the folder of a method, and called by no method's name."""
    code = re.sub(r"^\s*from \.\.\S+ import .*$", "", path.read_text(), flags=re.MULTILINE)
    words = {word.removesuffix("Pipeline").lower() for word in re.findall(r"[A-Za-z]+", code)}
    assert words & {*hub.METHODS, "scedit"} == set()
