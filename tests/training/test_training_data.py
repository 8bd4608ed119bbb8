"""docs/training_data.md says what the recipes do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusers_sr.data.degradation_mixture import DEGRADATIONS
from tests.training.runs import TRAINING

PAGE = (Path(__file__).parents[2] / "docs/training_data.md").read_text(encoding="utf-8")
STAGES = {
    "DAPE (SeeSR)": ["dape"],
    "SeeSR": ["seesr"],
    "CoSeR, both stages": ["cognitive_encoder", "coser"],
    "CasSR, both stages": ["scedit", "cassr"],
    "XPSR": ["xpsr"],
    "OSEDiff": ["osediff"],
    "PiSA-SR, both stages": ["pisa_pixel", "pisa"],
}


def recipe(name: str) -> tuple[dict[str, Any], int]:
    text = (TRAINING / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    (processes,) = re.findall(r"^# Processes: (\d+)$", text, re.MULTILINE)
    return yaml.safe_load(text), int(processes)


def rows(start: str) -> list[list[str]]:
    """Read the table whose header begins with a text."""
    lines = PAGE[PAGE.index(f"\n{start}") + 1 :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_photos_are_prepared_as_the_page_says() -> None:
    table = rows("| stage | data |")
    assert [row[0] for row in table] == [*STAGES]
    for stage, _, _, resize_mode, degradation in table:
        for name in STAGES[stage]:
            values, _ = recipe(f"{name}_paper")
            assert (f"`{values['resize_mode']}`", f"`{values['degradation']}`") == (resize_mode, degradation)


def test_all_degradations_are_on_the_page() -> None:
    assert {row[0].strip("`") for row in rows("| `--degradation` | source |")} == DEGRADATIONS.keys()


def test_samples_and_passes_are_those_of_the_recipes() -> None:
    for names, samples, photos, passes in rows("| recipe | samples |"):
        for name in re.findall(r"`(\w+)`", names):
            values, processes = recipe(name)
            batches = values["max_train_steps"] * values["gradient_accumulation_steps"]
            assert batches * values["train_batch_size"] * processes == int(samples.replace(",", ""))
        share = int(samples.replace(",", "")) / int(photos.replace(",", ""))
        assert float(passes) == pytest.approx(share, abs=0.05)
