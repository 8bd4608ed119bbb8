"""Upload a model repository to the Hub, in one commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError

from .model_card import RENDERED


def create_repository(name: str, private: bool | None = None, token: str | None = None) -> str:
    """Create the repository if it does not exist, and give its full id.

    Args:
        name: "owner/name", or a name in the namespace of the token's owner.
        private: whether only its owner sees it, if it is created now; None is the owner's default.
        token: token with the right to write; None is that of `hf auth login`.

    Raises:
        HfHubHTTPError: if the Hub refuses, for instance because the token may not write there.
    """
    return HfApi(token=token).create_repo(name, private=private, exist_ok=True).repo_id


def upload_files(
    repo_id: str,
    files: Mapping[str, Path],
    card: ModelCard,
    message: str,
    token: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Upload files and the card in one commit: all of them are there afterwards, or the repository is as it was.

    A card that somebody has written is kept.

    Args:
        repo_id: id of a repository that exists.
        files: files by their paths in the repository.

    Raises:
        HfHubHTTPError: if the Hub refuses.
        ValueError: if the Hub does not accept the card's metadata.
        RuntimeError: if a file cannot be uploaded.
    """
    api = HfApi(token=token)
    operations = [CommitOperationAdd(path, file) for path, file in sorted(files.items())]
    if _has_no_written_card(repo_id, token):
        operations.append(CommitOperationAdd("README.md", str(card).encode()))
    return api.create_commit(repo_id, operations, commit_message=message, create_pr=create_pr)


def folder_files(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Find the files of a folder that have one of the names, or are in a subfolder with one, by their paths in it."""
    paths = [path for name in names for path in (folder / name, *(folder / name).rglob("*"))]
    return {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}


def _has_no_written_card(repo_id: str, token: str | None) -> bool:
    try:
        return RENDERED in ModelCard.load(repo_id, token=token, ignore_metadata_errors=True).text
    except EntryNotFoundError:
        return True
