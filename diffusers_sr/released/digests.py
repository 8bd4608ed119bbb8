"""Checking that a file is the one that its source states."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK = 1 << 20
# What files begin with that are often found under the name of another.
_OTHERS = {b"<": "a page of the web", b"version https://git-lfs": "a pointer of Git LFS"}


def has_digest(path: Path, digest: str) -> bool:
    """Whether a file has a digest: "sha256:" and its SHA-256, or "git:" and the id of its blob in git."""
    kind, _, expected = digest.partition(":")
    if kind == "sha256":
        hashed = hashlib.sha256()
    else:
        hashed = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            hashed.update(block)
    return hashed.hexdigest() == expected


def kind_of(path: Path) -> str:
    """Say what a file is that should have been another: a page, a pointer, or only of how many bytes."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    for mark, kind in _OTHERS.items():
        if start.startswith(mark):
            return kind
    return f"another file, of {path.stat().st_size} bytes"
