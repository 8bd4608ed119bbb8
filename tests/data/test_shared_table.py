"""A table that several processes write, and that an interruption leaves in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_sr.data.shared_table import SharedTable
from diffusers_sr.data.tables import read_rows


def test_processes_write_one_table(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    first, second = (SharedTable(path, ("tags", "weight"), {"tagger": "x"}, process) for process in (0, 1))
    first.add({"a/1.png": [("sky, sea", "0.5"), ('a "red" house', "0.31")]})
    second.add({"b/1.png": [("tree", "1")], "c\n1.png": []})
    first.add({"é.png": [("sun", "1")]})
    assert not path.exists()
    first.finish(["a/1.png", "é.png", "c\n1.png", "damaged.png"])
    assert path.read_text(encoding="utf-8") == (
        'file,tags,weight\na/1.png,"sky, sea",0.5\na/1.png,"a ""red"" house",0.31\né.png,sun,1\nb/1.png,tree,1\n'
    )
    assert [each.name for each in tmp_path.iterdir()] == ["tags.csv"]
    again = SharedTable(path, ("tags", "weight"), {"tagger": "y"})
    assert again.rows["a/1.png"] == [["sky, sea", "0.5"], ['a "red" house', "0.31"]]


def test_cut_anywhere_it_goes_on_with_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    part = tmp_path / "tags.csv.part0"
    table = SharedTable(path, ("tags",), {"tagger": "x"})
    table.add({"a": [("1, 2",)], "b": [("3",)]})
    table.add({"c": [("4",)]})
    content = part.read_bytes()
    expected = {"a": [["1, 2"]], "b": [["3"]], "c": [["4"]]}
    for length in range(0, len(content) + 1, 3):
        part.write_bytes(content[:length])
        whole = {line.split('"')[1] for line in content[:length].decode().split("\n") if line.endswith("]]]")}
        cut = SharedTable(path, ("tags",), {"tagger": "x"})
        assert cut.rows == {name: expected[name] for name in whole}
        cut.add({name: expected[name] for name in expected.keys() - whole})
        assert SharedTable(path, ("tags",), {"tagger": "x"}, process=1).rows == expected
    cut.finish("abc")
    assert [row for _, row in read_rows(path, ("file",))] == [
        {"file": name, "tags": rows[0][0]} for name, rows in expected.items()
    ]


def test_other_settings_and_columns_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    SharedTable(path, ("tags",), {"tagger": "x"}, process=3).add({"a": [("1",)]})
    with pytest.raises(ValueError, match=r"part3 was begun with other settings, \{'tagger': 'x'\} instead of"):
        SharedTable(path, ("tags",), {"tagger": "y"})
    table = SharedTable(path, ("tags",), {"tagger": "x"})
    table.finish("a")
    with pytest.raises(
        ValueError, match=r"has the columns \['file', 'tags'\]; it needs 'file' and 'tags' and 'weight'"
    ):
        SharedTable(path, ("tags", "weight"), {})
    table.add({"\udcff": [("1",)]})
    with pytest.raises(ValueError, match=r"The name \\udcff is not UTF-8 text"):
        table.finish(["\udcff"])
