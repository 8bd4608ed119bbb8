"""Publishing to the Hub: what can be seen without one, and the tests that have a stand-in for it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffusers_sr.seesr.pipeline import SeeSRPipeline
from diffusers_sr.training.arguments import TrainingArguments, parse_arguments
from diffusers_sr.training.publish import HubArguments, publish, publisher
from tests.components import components

ROOT = Path(__file__).parents[2]
RUN_WITH_STUB = """
import gc, sys
gc.set_threshold(50_000, 10, 10)
from tests.hub_stub import serve
serve()
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@dataclass(kw_only=True)
class Arguments(TrainingArguments, HubArguments):
    """As a trainer's."""


def arguments(*argv):
    return parse_arguments(Arguments, ["--output_dir", "runs/seesr", *argv])


def test_round_trip(tmp_path):
    """In a process of its own: huggingface_hub reads where the Hub is when it is imported."""
    # Without the settings of the other tests, which turn the network off.
    command = [sys.executable, "-c", RUN_WITH_STUB, "--noconftest", "-q", "-p", "no:cacheprovider"]
    command += ["--basetemp", str(tmp_path / "tests")]
    run = subprocess.run(
        [*command, "tests/publishing/hub_round_trip.py"],
        cwd=ROOT,
        env={**os.environ, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


def test_nothing_is_published_by_default():
    assert publisher(arguments(), SeeSRPipeline) is None


def test_the_token_is_in_nothing_that_is_written():
    secret = arguments("--push_to_hub", "--hub_token", "hf_secret", "--hub_model_id", "me/seesr")
    assert secret.hub_token == "hf_secret"
    assert "hf_secret" not in repr(secret)
    assert "hf_secret" not in json.dumps(vars(secret)), "what training_arguments.json and trackers are given"
    assert vars(secret)["hub_model_id"] == "me/seesr"
    assert arguments().hub_token is None


@pytest.mark.parametrize("tracker", ["wandb", "all"])
def test_a_token_is_not_shown_to_weights_and_biases(tracker):
    with pytest.raises(ValueError, match="hf auth login"):
        publisher(arguments("--push_to_hub", "--hub_token", "hf_secret", "--report_to", tracker), SeeSRPipeline)


def test_unknown_content():
    with pytest.raises(ValueError, match="--hub_content 'weights', expected one of pipeline, adapter"):
        publisher(arguments("--push_to_hub", "--hub_content", "weights"), SeeSRPipeline)


def test_a_folder_that_no_trainer_wrote(tmp_path):
    components("seesr")["adapter"].save_pretrained(tmp_path / "adapter")
    with pytest.raises(FileNotFoundError, match="no folder controlnet: give the output folder of a trainer"):
        publish(tmp_path, SeeSRPipeline, "base", "me/seesr")
