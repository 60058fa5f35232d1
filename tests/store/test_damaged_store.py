"""A stored case that rots on the disk is named, and never used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaseg.cases.readers import read_cases
from metaseg.errors import DataError
from metaseg.store.prepare import build_store
from metaseg.store.prepare_case import PrepareOptions
from metaseg.store.store import check_store, open_store

FOUR = ("flair", "t1", "t1ce", "t2")


@pytest.fixture(scope="module")
def whole(write_cases, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "store"
    build_store(read_cases(write_cases(count=2)), path, PrepareOptions(FOUR, image_size=16), jobs=1)
    return path


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "store"))


def first(store: Path) -> Path:
    return min((store / "cases").iterdir())


def use(store: Path) -> None:
    """Open a store and touch all of it, as training does."""
    for case in open_store(store):
        case.images(slice(None))
        case.labels(slice(None))
        case.native_label()


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def change(path: Path, **values: Any) -> None:
    """Change ``case.json`` as a hand or an older release would: without its checksum."""
    content = json.loads(path.read_text())
    for name, value in values.items():
        content.pop(name) if value is ... else content.update({name: value})
    content.pop("checksum", None)
    path.write_text(json.dumps(content))


def reshaped(case: Path) -> None:
    np.save(case / "label.npy", np.load(case / "label.npy")[:, :, ::-1][:, :-1])


def label_nine(case: Path) -> None:
    label = np.load(case / "label.npy")
    label[0, 0, 0] = 9
    np.save(case / "label.npy", label)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a bit of the images": lambda case: flip(case / "images.npy", 5000),
    "a bit of the label": lambda case: flip(case / "label.npy", 900),
    "a bit of the whole label": lambda case: flip(case / "label_full.npy", 900),
    "a bit of a header": lambda case: flip(case / "images.npy", 30),
    "a bit of the record": lambda case: flip(case / "case.json", 200),
    "a digit of the mean": lambda case: (case / "case.json").write_text(
        (case / "case.json").read_text().replace('"mean": [1', '"mean": [2').replace('"mean": [2', '"mean": [3')
    ),
    "label 9": label_nine,
    "label 9, no checksum": lambda case: (label_nine(case), change(case / "case.json", checksums=...)),
    "not finite, no checksum": lambda case: (
        np.save(case / "images.npy", np.full_like(np.load(case / "images.npy"), np.nan, dtype=np.float32)),
        change(case / "case.json", checksums=...),
    ),
    "images missing": lambda case: (case / "images.npy").unlink(),
    "label missing": lambda case: (case / "label.npy").unlink(),
    "record missing": lambda case: (case / "case.json").unlink(),
    "record a folder": lambda case: ((case / "case.json").unlink(), (case / "case.json").mkdir()),
    "images cut off": lambda case: (case / "images.npy").write_bytes((case / "images.npy").read_bytes()[:-7]),
    "images too long": lambda case: (case / "images.npy").write_bytes((case / "images.npy").read_bytes() + b"0"),
    "images empty": lambda case: (case / "images.npy").write_bytes(b""),
    "images zeros": lambda case: (case / "images.npy").write_bytes(bytes(4000)),
    "images objects": lambda case: np.save(case / "images.npy", np.array([{}], dtype=object), allow_pickle=True),
    "images float64": lambda case: np.save(case / "images.npy", np.load(case / "images.npy").astype(float)),
    "images an archive": lambda case: (
        np.savez(case / "other", a=np.zeros(3)),
        (case / "other.npz").replace(case / "images.npy"),
    ),
    "label of another shape": reshaped,
    "record a list": lambda case: (case / "case.json").write_text("[1]"),
    "record null": lambda case: (case / "case.json").write_text("null"),
    "record zeros": lambda case: (case / "case.json").write_bytes(bytes(300)),
    "record deep": lambda case: (case / "case.json").write_text("[" * 100_000),
    "version text": lambda case: change(case / "case.json", version="x"),
    "space unknown": lambda case: change(case / "case.json", space="whole"),
    "no geometry": lambda case: change(case / "case.json", geometry=...),
    "affine of zeros": lambda case: change(
        case / "case.json", geometry={"shape": [26, 22, 12], "affine": [[0.0] * 4] * 4, "unit": "mm", "planar": False}
    ),
    "shape text": lambda case: change(case / "case.json", shape="abc"),
    "shape negative": lambda case: change(case / "case.json", shape=[-1, 3, 4]),
    "shape huge": lambda case: change(case / "case.json", shape=[10**9, 10**9, 10**9]),
    "crop outside": lambda case: change(case / "case.json", crop=[[0, 99], [0, 5], [0, 5]]),
    "crop a number": lambda case: change(case / "case.json", crop=3),
    "sd zero": lambda case: change(case / "case.json", sd=[0.0, 1.0, 1.0, 1.0]),
    "sd negative": lambda case: change(case / "case.json", sd=[-1.0, 1.0, 1.0, 1.0]),
    "sd too few": lambda case: change(case / "case.json", sd=[1.0]),
    "mean beyond 32 bits": lambda case: change(case / "case.json", mean=[1e300, 1.0, 1.0, 1.0]),
    "areas empty": lambda case: change(case / "case.json", areas=[]),
    "areas of three classes": lambda case: change(case / "case.json", areas=[[1, 2, 3]] * 12),
    "modalities twice": lambda case: change(case / "case.json", modalities=["t1"] * 4),
    "checksums text": lambda case: change(case / "case.json", checksums="abc"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_case_is_named_when_it_is_used_and_by_the_check(store: Path, damage: str) -> None:
    case = first(store)
    DAMAGES[damage](case)
    with pytest.raises(DataError) as caught:
        use(store)
    assert str(case) in str(caught.value.where)
    assert caught.value.remedy
    report = check_store(store)
    assert (report.ok, report.cases) == (False, 2)
    assert [(finding.kind, finding.case) for finding in report.findings] == [("unreadable", case.name)]
    assert report.findings[0].file.startswith(f"cases/{case.name}")


def test_a_whole_store_is_found_whole(store: Path) -> None:
    use(store)
    assert check_store(store).ok


def test_a_store_of_before_there_were_checksums_still_opens(store: Path) -> None:
    expected = [case.images(slice(None)) for case in open_store(store)]
    for case in (store / "cases").iterdir():
        change(case / "case.json", checksums=...)
    found = [case.images(slice(None)) for case in open_store(store)]
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
    assert check_store(store).ok


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", '{"version": 1}', '{"version": 1, "cases": "abc"}', '{"version": 1, "cases": [["a"]]}',
     '{"version": 1, "cases": ["../../x"]}', '{"version": "x", "cases": []}', '{"version": 1, "cases": ["a", "a"]}',
     '{"version": 99, "cases": []}', '{"version": 1, "version": 1, "cases": []}', "\0\0\0"],
)  # fmt: skip
def test_a_damaged_list_of_cases_is_named(store: Path, content: str) -> None:
    (store / "store.json").write_text(content)
    for read in (open_store, check_store):
        with pytest.raises(DataError) as caught:
            read(store)
        assert str(store) in str(caught.value.where)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_bit_counts(whole: Path, data: st.DataObject) -> None:
    files = sorted(file for file in first(whole).iterdir())
    file = data.draw(st.sampled_from(files))
    good = file.read_bytes()
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(bad)
    try:
        # Spaces that fill up a header, and the record's own between its values, mean nothing.
        assert not check_store(whole).ok or json_or_header_alike(file, good, bytes(bad))
    finally:
        file.write_bytes(good)


def json_or_header_alike(file: Path, good: bytes, bad: bytes) -> bool:
    if file.suffix == ".json":
        return bool(json.loads(good) == json.loads(bad))
    return good[128:] == bad[128:]
