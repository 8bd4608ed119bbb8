"""Tables of users as they come: saved by spreadsheets, cut off, in old encodings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffusers_sr.data.lists import listed_names
from diffusers_sr.data.references import read_references
from diffusers_sr.data.tags import read_tags

TAGS = 'file,tags\r\nméer.png,"sky, sea"\r\nb.png,\r\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_a_table_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "tags.csv"
    path.write_bytes(TAGS.replace("\r\n", end).encode(encoding))
    assert read_tags(path) == ["sky, sea", ""]
    path.write_bytes(f"file,reference{end}é,b{end}".encode(encoding))
    assert read_references(path) == {"é": {"b": 1.0}}
    path.write_bytes(f"é a.png{end}{end}b.png".encode(encoding))
    assert listed_names(path, [Path("é a.png"), Path("b.png")]) == {"é a.png", "b.png"}


@pytest.mark.parametrize("byte_order", ["le", "be"])
def test_a_mark_of_either_byte_order_is_read(tmp_path: Path, byte_order: str) -> None:
    path = tmp_path / "tags.csv"
    path.write_bytes(f"\ufeff{TAGS}".encode(f"utf-16-{byte_order}"))
    assert read_tags(path) == ["sky, sea", ""]


FAULTS = {
    "Latin-1": (TAGS.encode("latin-1"), r", row 2: this is not UTF-8 text \(byte 0xe9\): save the file as UTF-8"),
    "half of UTF-16": (TAGS.encode("utf-16")[:-1], r", row 3: this is not UTF-16 text .*save the file as UTF-8"),
    "UTF-16 without a mark": (b"f\0i\0", r", row 1: there is a NUL character, as in UTF-16: save .* as UTF-8"),
    "NUL": (b"file,tags\na,b\nb,\0\n", r", row 3: there is a NUL"),
    "empty": (b"", r" has the columns \[\]; it needs 'file' and 'tags': name the columns in the first row"),
    "no header": (b"a.png,sky\n", r" has the columns \['a.png', 'sky'\]; it needs 'file' and 'tags'"),
    "semicolons": (b"file;tags\na;b\n", r" has the columns \['file;tags'\].*with commas between them"),
    "twice the column": (b"file,tags,tags\na,b,c\n", r".*, of which \['tags'\] are there twice"),
    "missing cell": (
        b"file,tags\na,b\nc\n",
        r", row 3: the number of cells is 1, but that of the columns .* is 2",
    ),
    "extra cell": (b'file,tags\n\na,"b\nc"\nd,sky, sea\n', r", row 5: the number of cells is 3.*in quotation marks"),
    "no name": (b"file,tags\n,b\n", r", row 2 has no file name"),
    "two sets of tags": (b"file,tags\na,b\na,b\na,c\n", r", row 4: 'a' is there a second time, with other tags"),
    "huge cell": (b"file,tags\na,b\nc," + b"x" * 131073, r", row 3: field larger than field limit .*at most 131072"),
    "quote that does not end": (b'file,tags\na,"b\nc,d\n', r", row 2: unexpected end of data.*quotation mark"),
    "text after a quote": (b'file,tags\na,"b"c\n', r", row 2: .*expected after"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_certain_is_refused_with_file_and_row(tmp_path: Path, fault: str) -> None:
    content, message = FAULTS[fault]
    path = tmp_path / "tags.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + message):
        read_tags(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,reference,similarity\na,b\n", r", row 2: the number of cells is 2, but that of the columns .* is 3"),
        (b"file,reference,similarity\na,b,1\na,c,inf\n", r", row 3 gives a and c the similarity 'inf'"),
        (b"file,reference\na,\n", r", row 2 has no file name"),
        (b"file,reference\na,b\xff\n", r", row 2: this is not UTF-8 text \(byte 0xff\)"),
    ],
)
def test_references_are_refused_with_file_and_row(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "references.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + message):
        read_references(path)
