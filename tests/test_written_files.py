from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metaseg.errors import UsageError, WriteError
from metaseg.files import (
    _writer,
    making_folder,
    refuse_existing,
    replacing,
    require_writable,
    write_text,
)

REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "quota",
    errno.EROFS: "can only be read",
    errno.EACCES: "permission is denied",
    errno.EIO: "the disk reports an error",
    errno.EMFILE: "too many files are open",
    errno.EFBIG: "larger than the system allows",
}


@pytest.mark.parametrize(("number", "words"), REFUSALS.items())
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_refusal_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str, moment: str
) -> None:
    file = tmp_path / "table.csv"
    write_text(file, "old")

    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"metaseg.files.os.{moment}", refuse)
    with pytest.raises(WriteError, match=words) as told:
        write_text(file, "new")
    assert told.value.where == file
    assert told.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert file.read_text() == "old"


def test_numpy_tells_a_full_disk_in_words_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="the disk is full"), replacing(tmp_path / "a.npy"):
        raise OSError("1000 requested and 12 written")


def name_of_a_file(folder: Path) -> Path:
    (folder / "file").write_text("mine")
    return folder / "file"


def below_a_file(folder: Path) -> Path:
    return name_of_a_file(folder) / "run"


def dangling_link(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "nowhere")
    return folder / "link"


def circular_link(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "link")
    return folder / "link"


def long_name(folder: Path) -> Path:
    return folder / ("x" * 300)


def long_path(folder: Path) -> Path:
    return folder.joinpath(*["y" * 200] * 30)


@pytest.mark.parametrize("place", [name_of_a_file, below_a_file, dangling_link, circular_link, long_name, long_path])
def test_a_folder_that_cannot_be_is_told_before_work_begins(tmp_path: Path, place) -> None:
    folder = place(tmp_path)
    with pytest.raises(WriteError) as told:
        require_writable(folder)
    assert told.value.where == folder


def test_asking_makes_nothing(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    require_writable(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", REFUSALS)
def test_a_full_disk_is_told_before_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("metaseg.files.os.fsync", refuse)
    with pytest.raises(WriteError, match=REFUSALS[number]):
        require_writable(tmp_path / "run")


def test_a_folder_takes_the_place_of_a_file_never(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(WriteError, match="a folder stands where a file should be"):
        write_text(tmp_path / "a", "text")


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    def fill() -> None:
        with making_folder(tmp_path / "case") as made:
            np.save(made / "images.npy", np.zeros(3))
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteError, match="the disk is full"):
        fill()
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_unasked_and_an_input_not_even_then(tmp_path: Path) -> None:
    table, link, new = tmp_path / "index.csv", tmp_path / "link.csv", tmp_path / "new.csv"
    table.write_text("mine")
    link.symlink_to(table)
    refuse_existing([new])
    refuse_existing([table], overwrite=True)
    with pytest.raises(UsageError, match="exists already"):
        refuse_existing([new, table])
    for output in (table, link):
        with pytest.raises(UsageError, match="would replace a file that is read"):
            refuse_existing([output], overwrite=True, inputs=[table])
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists already"):
        refuse_existing([link])


@pytest.fixture(scope="module")
def dead() -> int:
    """Number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize("suffix", ["tmp", "part"])
def test_what_dead_processes_left_unfinished_is_removed_and_nothing_else(
    tmp_path: Path, dead: int, suffix: str
) -> None:
    """Such as that of a prediction or a split that is made again, and of cases in a store."""
    machine = _writer().partition("-")[0]
    gone = {f".a b.csv.{machine}-{dead}.{suffix}", *([f".a b.csv.{dead}.tmp"] if suffix == "tmp" else [])}
    kept = {
        f".a b.csv.{machine}-{os.getppid()}.{suffix}", f".a b.csv.{os.getppid()}.{suffix}", f".a b.csv.words.{suffix}",
        f".a b.csv.00000000-{dead}.{suffix}", f"a b.csv.{dead}.{suffix}", f".{suffix}", f".{dead}.{suffix}x",
    }  # fmt: skip
    for name in gone | kept:
        (tmp_path / name).mkdir() if suffix == "part" else (tmp_path / name).write_text("half")
    if suffix == "part":
        with making_folder(tmp_path / "case"):
            pass
    else:
        write_text(tmp_path / "a b.csv", "whole")
        kept |= {"a b.csv"}
    assert {path.name for path in tmp_path.iterdir()} - {"case"} == kept
