"""Released models: what can be seen without a Hub, and the tests that have a stand-in for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffusers_sr import hub
from diffusers_sr.cli.main import main
from diffusers_sr.released.catalogue import ELSEWHERE, RELEASED
from diffusers_sr.released.errors import ReleasedModelError, size_text
from diffusers_sr.released.sources import HubFiles, WebFiles
from tests.cli.test_help import SLOW, run_without
from tests.hub_stub import run_tests_with_hub

ROOT = Path(__file__).parents[2]


def test_with_a_hub(tmp_path):
    """In a process of its own: huggingface_hub reads where the Hub is when it is imported."""
    files = [f"tests/released/{name}.py" for name in ("by_name", "gone_wrong", "processes")]
    run_tests_with_hub(tmp_path, "-p", "tests.released.stubbed", *files)


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_model_gives_its_converter_what_it_needs(name):
    model = RELEASED[name]
    parameters = hub.converter_of(model.method, model.converter).__annotations__
    assert model.sources.keys() == parameters.keys() - {"output", "return"}
    for source in model.sources.values():
        if isinstance(source, HubFiles):
            assert source.revision is None or re.fullmatch("[0-9a-f]{40}", source.revision)
        else:
            assert isinstance(source, WebFiles)
            assert all(re.search("/[0-9a-f]{40}/", file.url) for file in source.files), "a commit"
            assert all(re.fullmatch("sha256:[0-9a-f]{64}|git:[0-9a-f]{40}", file.digest) for file in source.files)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_command_for_what_has_to_be_downloaded_is_one(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReleasedModelError) as error:
        hub.load_pipeline(name)
    message = str(error.value)
    assert "\n" not in message
    assert ELSEWHERE[name].where in message
    command = message.split("`")[1].split()
    assert command[:2] == ["diffusers-sr", "convert"]
    assert main(command[1:]) == 1
    assert "diffusers-sr: " in capsys.readouterr().err, "the files are not there"


def test_no_name_stands_for_two_models():
    assert not RELEASED.keys() & ELSEWHERE.keys()
    assert {model.method for model in RELEASED.values()} <= set(hub.METHODS)
    assert {model.method for model in ELSEWHERE.values()} <= set(hub.METHODS)
    assert not {*RELEASED, *ELSEWHERE} & set(hub.embedded_models())


def test_a_model_of_another_method_is_refused_before_anything_is_fetched():
    with pytest.raises(ValueError, match="'pasd' is a model of method='pasd', not of 'seesr': leave the method out"):
        hub.load_pipeline("pasd", method="seesr")


def test_models_are_listed_without_what_takes_long_to_import(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    done = run_without(SLOW, "models")
    assert done.returncode == 0, done.stderr
    table, *by_hand = done.stdout.split("\n\n")
    rows = [re.split(r"  +", line) for line in table.splitlines()]
    assert rows[0] == ["NAME", "METHOD", "BASE", "STATE", "SIZE", "LICENCE"]
    assert [row[0] for row in rows[1:]] == [*hub.embedded_models(), *RELEASED, *ELSEWHERE]
    found = {row[0]: row[1:] for row in rows}
    assert found["seesr-small"][:3] == ["seesr", "base-small", "in the package"]
    assert found["one-step-small"][:3] == ["one_step", "its own", "in the package"]
    assert found["hypir"] == ["one_step", "stable-diffusion-2-1-base", "to download", "?", RELEASED["hypir"].license]
    assert found["pisa"][2:4] == ["convert", "?"]
    assert len(by_hand) == len(ELSEWHERE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (5_630_000_000, "5.6 GB"), (10**15, "1000.0 TB")],
)
def test_sizes_are_written_as_people_read_them(size, text):
    assert size_text(size) == text
