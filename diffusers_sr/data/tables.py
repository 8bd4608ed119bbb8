"""Text files and tables of users: in which encodings and forms they are read, and which are refused."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

# The mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str | Path) -> str:
    """Read a text file in UTF-8, or in the encoding that a byte order mark at its beginning names.

    Raises:
        ValueError: if it is in another encoding.
    """
    content = Path(path).read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        row = 1 + content[: error.start].decode(encoding, errors="ignore").count("\n")
        raise ValueError(
            f"{path}, row {row}: this is not {encoding.removesuffix('-sig').upper()} text (byte "
            f"{content[error.start]:#04x}): save the file as UTF-8."
        ) from error
    if "\0" in text:
        row = 1 + text[: text.index("\0")].count("\n")
        raise ValueError(f"{path}, row {row}: there is a NUL character, as in UTF-16: save the file as UTF-8.")
    return text


def read_rows(path: str | Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Read the rows of a CSV file whose first row names the columns.

    Args:
        path: the file.
        required: columns that it has to have; it may have more.

    Returns:
        For each row where it is, in words, and its cells by column; empty rows are left out.

    Raises:
        ValueError: if it is not UTF-8 or UTF-16 text; lacks a required column, or has a column twice; or if a row has
            too few cells, too many, or one that does not end.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    columns: list[str] | None = None
    begin = 1
    try:
        for cells in reader:
            where, begin = f"{path}, row {begin}", reader.line_num + 1
            if columns is None:
                columns = _checked_columns(path, cells, required)
            elif cells:
                yield where, _named(cells, columns, where)
    except csv.Error as error:
        raise ValueError(
            f"{path}, row {begin}: {error}. A cell holds at most {csv.field_size_limit()} characters; one that begins "
            'with a quotation mark ends with one, and is written "" inside.'
        ) from error
    if columns is None:
        _checked_columns(path, [], required)


def _checked_columns(path: str | Path, columns: list[str], required: Sequence[str]) -> list[str]:
    if not set(required) <= set(columns):
        raise ValueError(
            f"{path} has the columns {columns}; it needs {' and '.join(map(repr, required))}: name the columns in the "
            "first row, with commas between them."
        )
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ValueError(f"{path} has the columns {columns}, of which {twice} are there twice: leave one out.")
    return columns


def _named(cells: list[str], columns: list[str], where: str) -> dict[str, str]:
    if len(cells) != len(columns):
        raise ValueError(
            f"{where}: the number of cells is {len(cells)}, but that of the columns {columns} is {len(columns)}: "
            "separate cells by commas, and put a cell that holds commas in quotation marks."
        )
    return dict(zip(columns, cells, strict=True))
