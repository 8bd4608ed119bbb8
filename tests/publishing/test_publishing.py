"""Publishing to the Hub: what can be seen without one, and the tests that have a stand-in for it."""

import json
from dataclasses import dataclass

import pytest

from diffusers_sr.pretrained.files import ModelFolderError
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from diffusers_sr.training.arguments import TrainingArguments, parse_arguments
from diffusers_sr.training.publish import HubArguments, publish, publisher
from tests.components import components
from tests.hub_stub import run_tests_with_hub


@dataclass(kw_only=True)
class Arguments(TrainingArguments, HubArguments):
    """As a trainer's."""


def arguments(*argv):
    return parse_arguments(Arguments, ["--output_dir", "runs/seesr", *argv])


def test_round_trip(tmp_path):
    """In a process of its own: huggingface_hub reads where the Hub is when it is imported."""
    run_tests_with_hub(tmp_path, "tests/publishing/hub_round_trip.py")


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
        publish(tmp_path, SeeSRPipeline, "base", "me/seesr", content="adapter")
    with pytest.raises(ModelFolderError, match=r"There is no .*model_index\.json"):
        publish(tmp_path, SeeSRPipeline, "base", "me/seesr")
