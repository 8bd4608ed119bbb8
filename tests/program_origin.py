"""The process that the programs of `tests.programs` are forked from: `python -m tests.program_origin`.

It has imported what takes long. Each line that it reads asks for a program, whose process it answers, or whether one
has ended, which it answers with the exit status, or null.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import tests.training.stages  # noqa: F401


def main() -> dict[str, Any] | None:
    """Answer requests. In the process of a program, give the request for it; else None, when there are no more."""
    gc.freeze()  # or each fork would copy the memory that it looks for garbage in
    for line in sys.stdin:
        request = json.loads(line)
        if "ended" in request:
            ended, status = os.waitpid(request["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = os.fork()
            if answer == 0:
                return dict(request)
        print(json.dumps(answer), flush=True)
    return None


def become(request: dict[str, Any]) -> None:
    """Make this process the one of a program, and run it."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which what a shell runs in the background ignores
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for stream, path in enumerate([os.devnull, *request["streams"]]):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOCTTY)
        os.dup2(file, stream)
        os.close(file)
    match request["words"]:
        case ["-m", module, *arguments]:
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.argv = ["-c", *arguments]
            exec(code, {"__name__": "__main__"})
        case [path, *arguments]:
            sys.argv = [path, *arguments]
            sys.path.insert(0, str(Path(path).resolve().parent))
            runpy.run_path(path, run_name="__main__")


if __name__ == "__main__" and (request := main()):
    become(request)
