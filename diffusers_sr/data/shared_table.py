"""A table that several processes write together, and that goes on after an interruption."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..image.names import printable
from ..image.partial import whole_file
from .names import is_utf8
from .tables import read_rows

Cells = Sequence[str]
"""A row without the first cell, which names the file."""


class SharedTable:
    """The rows of a CSV file by the file that they are about, which may have several or none.

    Until the table is finished, each process appends lines of JSON to a part of its own beside it. A line that an
    interruption left unfinished does not count. A table that was finished goes on with its rows.

    Args:
        path: the CSV file.
        columns: its columns after the first one, `file`.
        settings: what the rows depend on.
        process: number of this process.

    Raises:
        ValueError: if the rows that are there have other columns, or the parts were made with other settings.
    """

    def __init__(self, path: Path, columns: Sequence[str], settings: Mapping[str, Any], process: int = 0) -> None:
        self.path = path
        self.columns = tuple(columns)
        self.settings = dict(settings)
        self.rows: dict[str, list[Cells]] = {}
        self._part = path.with_name(f"{path.name}.part{process}")
        self._is_started = False
        if path.is_file():
            for _, row in read_rows(path, ("file", *columns)):
                self.rows.setdefault(row["file"], []).append([row[column] for column in columns])
        for part in self._parts():
            self._read(part)

    def add(self, rows: Mapping[str, Sequence[Cells]]) -> None:
        """Append the rows of some files, in one write. All processes have to have opened the table before."""
        lines: list[object] = [[name, [*map(list, cells)]] for name, cells in rows.items()]
        if not self._is_started:
            lines.insert(0, {"settings": self.settings})
            self._is_started = True
        # Each line begins with a line break, which ends one that an interruption left unfinished.
        with open(self._part, "a", encoding="utf-8") as file:
            file.write("".join(f"\n{json.dumps(line)}" for line in lines))

    def finish(self, files: Iterable[str]) -> None:
        """Write the table, and remove the parts; no process may add rows any more.

        Args:
            files: the order of the files; others whose rows are there come after them.

        Raises:
            ValueError: if a file's name is not UTF-8 text.
        """
        for part in self._parts():
            self._read(part)
        rows = [(name, *cells) for name in dict.fromkeys([*files, *self.rows]) for cells in self.rows.get(name, ())]
        if broken := next((name for name, *_ in rows if not is_utf8(name)), None):
            raise ValueError(f"The name {printable(broken)} is not UTF-8 text, as a table has to be: rename the file.")
        # The writer itself leaves a carriage return without quotation marks, and it would end the row.
        has_return = any("\r" in cell for row in rows for cell in row)
        with whole_file(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL)
            writer.writerow(("file", *self.columns))
            writer.writerows(rows)
        for part in self._parts():
            part.unlink()

    def _parts(self) -> list[Path]:
        return sorted(path for path in self.path.parent.iterdir() if path.name.startswith(f"{self.path.name}.part"))

    def _read(self, part: Path) -> None:
        for text in part.read_text(encoding="utf-8").split("\n"):
            try:
                line = json.loads(text)
            except ValueError:  # empty, or left unfinished
                continue
            if isinstance(line, list):
                name, rows = line
                self.rows[name] = rows
            elif line["settings"] != self.settings:
                raise ValueError(
                    f"{part} was begun with other settings, {line['settings']} instead of {self.settings}: give the "
                    "options it was begun with, or another output."
                )
