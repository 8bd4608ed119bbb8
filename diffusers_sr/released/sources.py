"""The places that files of released models are fetched from, and what is known of the files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The names of a file, the preferred one first. A pattern, such as "tokenizer/*", takes all files that fit it.
Alternatives = tuple[str, ...]


@dataclass(frozen=True)
class HubFiles:
    """Files of a repository on the Hub.

    Args:
        repo: its id.
        files: those that are needed.
        path: the file or folder among them that a converter is given; "" for the whole repository.
        revision: the commit; None if no commit is known to hold the files. Then it is the newest one when the files
            are fetched, which is written down beside the converted model.
        repo_type: the kind of repository.
    """

    repo: str
    files: tuple[Alternatives, ...]
    path: str = ""
    revision: str | None = None
    repo_type: Literal["model", "space"] = "model"


@dataclass(frozen=True)
class WebFile:
    """A file at a URL.

    Args:
        url: the URL, which names a commit of its repository.
        digest: "sha256:" and the SHA-256 of the file, or "git:" and the id of its blob in git.
        size: in bytes; None if it is not known.
    """

    url: str
    digest: str
    size: int | None = None

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class WebFiles:
    """Files at URLs.

    Args:
        files: the files.
        is_folder: whether a converter is given a folder with the files, and not the only file.
    """

    files: tuple[WebFile, ...]
    is_folder: bool = False


Source = HubFiles | WebFiles
