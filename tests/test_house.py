"""The promises of the project outside its modules."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from diffusers_sr.cli.main import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_entry_point_stays() -> None:
    assert PROJECT["scripts"] == {"diffusers-sr": "diffusers_sr.cli:main"}
    assert EntryPoint("diffusers-sr", "diffusers_sr.cli:main", "console_scripts").load() is main


def test_every_requirement_of_the_tests_is_pinned_within_its_range() -> None:
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    pins = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *extras["train"], *extras["test"], *extras["docs"]]:
        requirement = Requirement(text)
        assert pins[requirement.name] in requirement.specifier, text
