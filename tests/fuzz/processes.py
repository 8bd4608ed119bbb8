"""Take folders of damaged files through the routes, and note what ought not to happen."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .folders import fill
from .models import Models, save_models
from .routes import ROOT, ROUTES, Outcome, Route
from .run import MEMORY
from .watch import Ended, watch

BATCH = 1000
"""Damaged files of a folder."""

ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "ACCELERATE_USE_CPU": "true",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}


@dataclass
class Total:
    """What became of all files that took a route."""

    programs: int = 0
    files: int = 0
    outcome: Outcome = field(default_factory=Outcome)
    silence: float = 0.0
    memory: float = 0.0
    findings: int = 0


@dataclass
class RouteReport:
    """The outcome of a run: by route, and what ought not to have happened."""

    totals: dict[str, Total] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def table(self) -> str:
        lines = [
            "| route | programs | files | came out | refused | longest silence, s | peak memory, GB | findings |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, each in self.totals.items():
            lines.append(
                f"| {name} | {each.programs} | {each.files} | {each.outcome.came_out} | {each.outcome.refused} | "
                f"{each.silence:.1f} | {each.memory / 1e9:.2f} | {each.findings} |"
            )
        return "\n".join(lines)


def run_routes(names: Iterable[str], files: int, seed: int, first: int = 0, keep: Path | None = None) -> RouteReport:
    """Take damaged files number `first` to `first + files - 1` through the routes, `BATCH` at a time.

    Args:
        names: of the routes.
        files, seed, first: as in `run`.
        keep: folder for the files, and all that was written, of the programs with a finding.
    """
    report = RouteReport({name: Total() for name in names})
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        models = save_models(work / "models")
        for start in range(first, first + files, BATCH):
            paths = fill(work / "in", min(BATCH, first + files - start), seed, start)
            for route, total in report.totals.items():
                if (start - first) // BATCH % ROUTES[route].every == 0:
                    problems = _take(ROUTES[route], paths, work, models, total)
                    report.findings += [f"{route}, files from {start} on: {problem}" for problem in problems]
                    if problems and keep is not None:
                        _keep(work, keep / f"{route}-{start}", problems)
                    print(f"files from {start} on, {route}: {len(problems)} findings", file=sys.stderr, flush=True)
            shutil.rmtree(work / "in")
    return report


def _take(route: Route, paths: list[Path], work: Path, models: Models, total: Total) -> list[str]:
    for name in ("out", "log"):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / "log").mkdir()
    command = route.command(work / "in", work / "out", models)
    ended = watch(command, work / "log", work / "out", route.seconds, ENVIRONMENT)
    outcome = Outcome()
    problems = problems_of(route, paths, work / "out", ended, outcome)
    total.programs += 1
    total.files += len(paths)
    total.outcome.came_out += outcome.came_out
    total.outcome.refused += outcome.refused
    total.silence = max(total.silence, ended.silence)
    total.memory = max(total.memory, ended.memory)
    total.findings += len(problems)
    return problems


def problems_of(route: Route, files: list[Path], results: Path, ended: Ended, outcome: Outcome) -> list[str]:
    """Say what is wrong with the end of a program or with its results; counts the files in `outcome`."""
    problems = []
    if ended.hung:
        problems.append(f"no sign of life for {route.seconds} seconds; the last was {_last_line(ended)!r}")
    elif ended.status not in route.statuses:
        problems.append(f"exit status {ended.status}; the last line is {_last_line(ended)!r}")
    if "Traceback (most recent call last)" in ended.errors:
        problems.append(f"a traceback, which ends in {_last_line(ended)!r}")
    if ended.memory > MEMORY:
        problems.append(f"{ended.memory / 1e9:.2f} GB of memory")
    left = [name for _, _, names in os.walk(results) for name in names if name.endswith((".partial", ".unfinished"))]
    problems += [f"{name} is left" for name in left]
    return [*problems, *route.problems(files, results, ended, outcome)]


def _last_line(ended: Ended) -> str:
    lines = ended.errors.replace("\r", "\n").strip().splitlines()
    return lines[-1] if lines else ""


def _keep(work: Path, folder: Path, problems: list[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("in", "out", "log"):
        if (work / name).exists():
            shutil.copytree(work / name, folder / name)
    (folder / "findings.txt").write_text("\n".join(problems) + "\n")
