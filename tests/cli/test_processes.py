"""Several processes that share the work, as `accelerate launch` and `torchrun` start them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import diffusers_sr
from diffusers_sr.xpsr.prompts import read_prompts
from tests import programs
from tests.cli.photos import files
from tests.components import tiny_image

ACCELERATE = (
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command by accelerate's launcher, which is torchrun with other options."""
    command = [sys.executable, "-m", *ACCELERATE, "-m", "diffusers_sr.cli", "upscale", *arguments, "--device", "cpu"]
    folder = Path(diffusers_sr.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


def run_two(*arguments: str, command: str = "upscale") -> tuple[list[int], str, str]:
    """Run the command in two processes that have a launcher's variables: statuses, and all they print."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        programs.start(
            *("-m", "diffusers_sr.cli", command, *arguments, "--device", "cpu"),
            environment={**common, "RANK": rank, "LOCAL_RANK": rank},
            output=f"output-{rank}",
            errors=f"errors-{rank}",
        )
        for rank in "01"
    ]
    statuses = [process.wait() for process in processes]
    output, errors = ("".join(Path(f"{name}-{rank}").read_text() for rank in "01") for name in ("output", "errors"))
    return statuses, output, errors


def test_two_processes_share_a_folder(run, model, capsys):
    for number in range(5):
        path = Path("in", *["sub"] * (number % 2), f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        tiny_image(16, 12, seed=number).save(path)
    Path("in/z.png").write_text("no image")
    assert run("in", "-o", "alone", "--recursive") == 1
    own = ("in", "-o", "out", "--model", model, "--upscale", "2", "--recursive")
    done = launch(*own)
    assert done.returncode == 1, done.stderr
    assert files("out") == files("alone")
    for name in files("out"):
        assert Path("out", name).read_bytes() == Path("alone", name).read_bytes()
    # Neither the failure nor the summary is said twice.
    assert done.stderr.count("in/z.png: is not an image that can be read") == 1
    assert re.fullmatch(
        r"Images done: 5, \S+ seconds an image, peak memory \S+ GB\n"
        r"Images and folders that failed: 1\n  in/z.png: is not .*\n",
        done.stdout,
    )
    before = {name: Path("out", name).stat().st_mtime_ns for name in files("out")}
    os.remove("out/sub/3.png")
    os.remove("in/z.png")
    statuses, output, errors = run_two(*own, "--skip-existing")
    assert statuses == [0, 0], errors
    assert re.fullmatch(
        r"Skipped, because they exist: 4\nImages done: 1, \S+ seconds an image, peak memory \S+ GB\n", output
    )
    changed = [name for name in files("out") if Path("out", name).stat().st_mtime_ns != before[name]]
    assert changed == ["sub/3.png"]


def test_what_makes_no_sense_is_said_once(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_image().save("a.png")
    before = Path("a.png").read_bytes()
    statuses, _, errors = run_two("a.png", "-o", "a.png", "--model", model)
    assert 0 not in statuses
    assert errors.count("would overwrite the input") == 1
    assert Path("a.png").read_bytes() == before
    assert not [name for name in files() if not name.startswith(("a.png", "output-", "errors-"))]


def test_two_processes_describe_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    names = ["bear", "fox", "owl"]
    for number, name in enumerate(names):
        tiny_image(16, 12, seed=number).save(f"in/{name}.png")
    Path("in/z.png").write_text("no image")
    options = ("in", "-o", "prompts", "--captioner", "measured", "--names")
    statuses, output, errors = run_two(*options, command="caption")
    assert statuses == [1, 1], errors
    assert output == "Images described: 3, described before: 0, failed: 1\n"
    assert errors.count("in/z.png: ") == 1
    prompts = read_prompts("prompts", [Path("in", f"{name}.png") for name in names])
    assert [each.high_level for each in prompts] == names
