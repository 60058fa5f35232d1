"""Whatever is wrong with a file ends in one error that names it."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaseg.errors import DataError, MetasegError
from metaseg.files import FileKind, read_frame, read_json, read_rows, read_yaml

KIND = FileKind("a thing", "mend it", DataError)

DAMAGES: dict[str, bytes] = {
    "empty": b"",
    "cut off": b'{"a": 1, "b": [2',
    "zeros": b"\0" * 64,
    "null inside": b'{"a": "x\0y"}',
    "latin-1": 'a,b\n{"ä": 1}'.encode("latin-1"),
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "noise": bytes(range(256)),
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "long number": b'{"a": ' + b"9" * 5000 + b"}",
    "overflow": b'{"a": 1e400}',
    "infinite": b'{"a": Infinity}',
    "nan": b'{"a": NaN}',
    "twice": b'{"a": 1, "a": 2}',
    "half a character": b'{"a": "\\ud800"}',
    "number": b"3",
    "list": b"[1, 2]",
    "text": b'"text"',
    "null": b"null",
    "page": b"<!DOCTYPE html><html><body>404</body></html>",
}


@dataclass(frozen=True)
class Shape:
    a: int
    b: list[str]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_json_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(DAMAGES[damage])
    with pytest.raises(DataError) as caught:
        read_json(path, KIND)
    assert caught.value.where == path
    assert caught.value.remedy == "mend it"
    assert caught.value.expected == "a thing"
    assert "\n" not in caught.value.found
    assert len(caught.value.found) < 400


@pytest.mark.parametrize(
    "damage", ["zeros", "null inside", "latin-1", "utf-16", "noise", "deep", "twice", "half a character"]
)
def test_a_damaged_yaml_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(DAMAGES[damage])
    with pytest.raises(DataError):
        read_yaml(path, KIND)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("read", [read_rows, read_frame])
def test_a_damaged_table_is_named(tmp_path: Path, damage: str, read: Any) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(DAMAGES[damage])
    with pytest.raises(DataError):
        read(path, KIND, ("a", "b"))


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "null in the name", "long name", "loop", "below a file"])
def test_what_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "below a file":
        path.write_text("x")
        path = path / "y"
    elif kind != "missing":
        path = tmp_path / ("a\0b" if kind.startswith("null") else "x" * 300)
    for read in (read_json, read_yaml, read_rows, read_frame):
        with pytest.raises(DataError, match=r"(?s)cannot be read|pipe"):
            read(path, KIND)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"a": 1},
        {"a": "x", "b": []},
        {"a": 1, "b": "ab"},
        {"a": 1, "b": [1]},
        {"a": 1.5, "b": []},
        [1],
        {"a": None, "b": []},
    ],
)
def test_another_shape_is_named(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="another shape"):
        read_json(path, KIND, Shape)


def test_a_good_file_is_read_with_or_without_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + '{"a": 1, "b": ["ä", "\\ud83d\\ude00"], "more": 1e3}'.encode())
        assert read_json(path, KIND, Shape) == Shape(1, ["ä", "😀"])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_table_is_read_whatever_separates_it(tmp_path: Path, separator: str, ending: str) -> None:
    path = tmp_path / "x.csv"
    rows = [["name", "n", "x"], ["NA", "7", ""], ["", "", ""], ["007", "-1", "2.5"]]
    path.write_bytes(("﻿" + ending.join(separator.join(row) for row in rows)).encode())
    assert read_rows(path, KIND, ("name",), ("n",), ("x",)) == [
        {"name": "NA", "n": "7", "x": ""},
        {"name": "007", "n": "-1", "x": "2.5"},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,n\nx,1.5\n", "line 2: n is '1.5'"),
        ("a,n\nx,\n", "no whole number"),
        ("a,n\nx,99999999999999999999\n", "no whole number"),
        ("a,n,x\nx,1,inf\n", "no finite number"),
        ("a,n,x\nx,1,1e999\n", "no finite number"),
        ("a,n,a\nx,1,2\n", "the column a twice"),
        ("n\n1\n", "lacks the column a"),
        ("a,n\nx,1,2\n", "3 cells for 2 columns"),
        ('a,n\n"' + "x" * 200_000, "cannot be read"),
    ],
)
def test_wrong_cells_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_rows(path, KIND, ("a",), ("n",), ("x",) if ",x" in text.partition("\n")[0] else ())


def test_a_log_may_have_been_cut_off_in_its_last_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("step,value\n1,0.5\n2,0.")
    assert [row["step"] for row in read_rows(path, KIND, (), ("step",), ("value",), growing=True)] == ["1"]
    path.write_text("step,value\n1\n2,0.5\n")
    with pytest.raises(DataError, match="1 cells for 2 columns"):
        read_rows(path, KIND, (), ("step",), ("value",), growing=True)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_content_whatever_ends_otherwise(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    for read in (read_json, read_yaml, read_rows, read_frame):
        with contextlib.suppress(MetasegError):
            read(path, KIND)
