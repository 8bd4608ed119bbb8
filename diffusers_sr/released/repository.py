"""Files of a repository on the Hub: which there are, whether they are here, and fetching them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    is_offline_mode,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError, of the library it is built on
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .digests import has_digest, kind_of
from .errors import ReleasedModelError
from .sources import HubFiles


@dataclass(frozen=True)
class Entry:
    """A file in a repository: its size in bytes, and its digest as in `has_digest`, None if that is not known."""

    size: int
    digest: str | None


@dataclass(frozen=True)
class Listing:
    """The files of a source, by their paths in the repository, at a commit."""

    source: HubFiles
    commit: str
    entries: dict[str, Entry]

    def cached(self, path: str) -> Path | None:
        """Find a file in the Hub's cache."""
        found = try_to_load_from_cache(self.source.repo, path, revision=self.commit, repo_type=self.source.repo_type)
        return Path(found) if isinstance(found, str) else None

    def missing_bytes(self) -> int:
        """Count the bytes that are not in the Hub's cache yet."""
        return sum(entry.size for path, entry in self.entries.items() if self.cached(path) is None)


def read_listings(sources: Mapping[str, HubFiles]) -> dict[str, Listing]:
    """Ask the Hub for the files of sources, once for each repository, so that all its files are of one commit.

    Without a connection they are looked for in the Hub's cache.

    Raises:
        ReleasedModelError: if a repository or a file cannot be found, or if there is no connection.
    """
    read: dict[tuple[str, str | None], tuple[str, dict[str, Entry]]] = {}
    listings = {}
    for name, source in sources.items():
        commit, entries = read.get((source.repo, source.revision)) or _read_entries(source)
        read[source.repo, source.revision] = commit, entries
        listings[name] = Listing(source, commit, _select(source, entries))
    return listings


def _read_entries(source: HubFiles) -> tuple[str, dict[str, Entry]]:
    """Read the commit and all files of a source's repository."""
    try:
        info = HfApi().repo_info(
            source.repo, revision=source.revision, repo_type=source.repo_type, files_metadata=True
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _absent(source, error) from error
    except (HTTPError, OSError) as error:
        cached = _read_cached(source)
        if cached is None:
            raise _not_downloaded(source, error) from error
        return cached
    entries = {
        sibling.rfilename: Entry(
            sibling.size or 0, f"sha256:{sibling.lfs.sha256}" if sibling.lfs else f"git:{sibling.blob_id}"
        )
        for sibling in getattr(info, "siblings", None) or ()
    }
    return str(info.sha), entries


def fetch(listing: Listing) -> Path:
    """Fetch the files into the Hub's cache, check them, and give the path of what a converter is given.

    Raises:
        ReleasedModelError: if a file cannot be fetched, or is not the one that the Hub states; it is removed.
        OSError: if it cannot be written.
    """
    source = listing.source
    root = Path()
    for path, entry in listing.entries.items():
        try:
            local = Path(hf_hub_download(source.repo, path, revision=listing.commit, repo_type=source.repo_type))
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise _absent(source, error) from error
        except (EntryNotFoundError, HTTPError) as error:
            raise _not_downloaded(source, error) from error
        except OSError as error:
            if error.errno is not None:  # the disk's
                raise
            raise ReleasedModelError(
                f"{path} of {source.repo} did not arrive whole: check the connection and try again. "
                f"({str(error).partition(chr(10))[0]})"
            ) from error
        if entry.digest is not None and not has_digest(local, entry.digest):
            kind = kind_of(local)
            for damaged in (local.resolve(), local):
                damaged.unlink(missing_ok=True)
            raise ReleasedModelError(
                f"{path} of {source.repo} is not the file that the Hub states, but {kind}: it was damaged on the way "
                "or on the disk. It has been removed: try again."
            )
        root = local.parents[path.count("/")]
    return root / source.path


def _select(source: HubFiles, entries: dict[str, Entry]) -> dict[str, Entry]:
    """Choose the files that are needed: of alternatives the first that there is."""
    selected: dict[str, Entry] = {}
    for names in source.files:
        found = next((fitting for name in names if (fitting := _fitting(name, entries))), None)
        if found is None:
            raise ReleasedModelError(
                f"The repository {_url(source)} has no {' or '.join(names)}: it has changed, and the model "
                "cannot be fetched by name any more. Convert it with `diffusers-sr convert` from files that you have."
            )
        selected |= {path: entries[path] for path in found}
    return selected


def _fitting(name: str, entries: dict[str, Entry]) -> list[str]:
    if "*" not in name:
        return [name] if name in entries else []
    return sorted(path for path in entries if fnmatchcase(path, name))


def _read_cached(source: HubFiles) -> tuple[str, dict[str, Entry]] | None:
    """Read what the Hub's cache has of a repository; None if a file is missing.

    The names of what its links lead to are the files' digests. On disks without links there are none.
    """
    try:
        root = Path(
            snapshot_download(source.repo, revision=source.revision, repo_type=source.repo_type, local_files_only=True)
        )
        entries = {}
        for path in root.rglob("*"):
            if path.is_file():
                kind = {64: "sha256", 40: "git"}.get(len(path.resolve().name)) if path.is_symlink() else None
                digest = None if kind is None else f"{kind}:{path.resolve().name}"
                entries[path.relative_to(root).as_posix()] = Entry(path.stat().st_size, digest)
        _select(source, entries)
    except (OSError, ValueError):
        return None
    return root.name, entries


def _absent(source: HubFiles, error: Exception) -> ReleasedModelError:
    if isinstance(error, GatedRepoError):
        return ReleasedModelError(
            f"{_url(source)} is open only to those who accept its terms: accept them there, log in with `hf auth "
            "login`, and try again."
        )
    revision = f" with the commit {source.revision}" if isinstance(error, RevisionNotFoundError) else ""
    return ReleasedModelError(
        f"There is no repository {_url(source)}{revision} any more. If you have its files, or know a copy, convert "
        "the model with `diffusers-sr convert`, which takes folders and other Hub ids."
    )


def _not_downloaded(source: HubFiles, error: Exception) -> ReleasedModelError:
    if is_offline_mode():
        return ReleasedModelError(
            f"{source.repo} has to be downloaded from the Hub, but HF_HUB_OFFLINE is set: unset it once."
        )
    if isinstance(error, HfHubHTTPError):
        return ReleasedModelError(
            f"{source.repo} could not be downloaded from the Hub, which answered {error.response.status_code}: try "
            "again later. Files that are complete are kept."
        )
    cause = error.__cause__ or error
    reason = (str(cause) or type(cause).__name__).partition("\n")[0]
    return ReleasedModelError(
        f"{source.repo} has to be downloaded from the Hub, which could not be reached ({reason}): check the "
        "connection and try again. Files that are complete are kept."
    )


def _url(source: HubFiles) -> str:
    return f"{constants.ENDPOINT}/{'spaces/' if source.repo_type == 'space' else ''}{source.repo}"
