"""The names of photographs, and which photo is meant by a name or a path in a user's list or table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Name files: by the file's own name, and where several have the same by as many folders as tell them apart."""
    names = [path.name for path in paths]
    depth = 1
    while repeated := _repeated(names):
        depth += 1
        for number in repeated:
            names[number] = "/".join(paths[number].parts[-depth:])
        if all(depth >= len(paths[number].parts) for number in repeated):
            break  # the same file twice
    return names


def _repeated(names: Sequence[str]) -> list[int]:
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        numbers[name].append(number)
    return [number for group in numbers.values() if len(group) > 1 for number in group]


def is_utf8(name: str) -> bool:
    """Whether a name can be written as UTF-8; on Linux a file's name may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class PhotoFinder:
    """Finds photos by what a table calls them: the name, the path, or the end of the path.

    Args:
        photos: names or paths of the photos, by number.
        folders: the data folders that their paths begin with.
    """

    def __init__(self, photos: Sequence[str | Path], folders: Sequence[str | Path] = ()) -> None:
        self._parts = [_parts(photo.as_posix() if isinstance(photo, Path) else photo) for photo in photos]
        self._folders = [Path(folder).parts for folder in folders]
        self._by_name: dict[str, list[int]] = defaultdict(list)
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        for number, parts in enumerate(self._parts):
            self._by_name[parts[-1]].append(number)
            self._by_stem[_stem(parts[-1])].append(number)

    def find(self, name: str) -> list[int]:
        """Find the numbers of all photos that may be meant; those of exactly this path if there are any.

        A path is exact if it is the whole path of a photo, or its path from a data folder on.
        """
        own = _parts(name)
        found = [number for number in self._by_name.get(own[-1], ()) if _end_alike(self._parts[number], own)]
        exact = {own, *(folder + own for folder in self._folders)}
        return [number for number in found if self._parts[number] in exact] or found

    def near(self, name: str) -> list[int]:
        """Find the numbers of photos whose names or paths differ only in suffix or case."""
        own = _parts(name.casefold())
        numbers = self._by_stem.get(_stem(own[-1]), [])
        folders = {number: _parts("/".join(self._parts[number]).casefold())[:-1] for number in numbers}
        return [number for number in numbers if _end_alike(folders[number], own[:-1])]


def _parts(name: str) -> tuple[str, ...]:
    # On Windows tables hold backslashes, which no name of a photo there can have.
    return PurePosixPath(name.replace("\\", "/")).parts or (name,)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.casefold()


def _end_alike(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    shared = min(len(first), len(second))
    return first[len(first) - shared :] == second[len(second) - shared :]
