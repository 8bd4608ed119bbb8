"""Released models in several processes, and on a full disk.

`test_released.py` runs these tests in a process that has a `HubStub`.
"""

from __future__ import annotations

import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from filelock import FileLock

from diffusers_sr.cli.main import main
from diffusers_sr.hub import load_pipeline, pipeline_class
from diffusers_sr.released import cache
from tests import programs
from tests.components import tiny_image
from tests.released.stubbed import HYPIR, left, sent

UPSCALE = """
import os, sys
from huggingface_hub import constants
constants.HF_HUB_CACHE = os.environ["HF_HUB_CACHE"]  # which it reads when it is imported
constants.HF_HUB_DOWNLOAD_TIMEOUT = 120
from diffusers_sr.cli.main import main
sys.exit(main(["upscale", *sys.argv[1:]]))
"""


def start(output: str) -> tuple[programs.Program, Path]:
    """Upscale a photo with `hypir` in a process of its own, whose error output goes into a file."""
    tiny_image().save("photo.png")
    arguments = ("photo.png", "-o", output, "--model", "hypir", "--device", "cpu", "--upscale", "1")
    errors = Path(f"{output}.txt")
    return programs.start("-c", UPSCALE, *arguments, errors=errors), errors


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
    process.send_signal(signal.SIGKILL)
    process.wait()
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
