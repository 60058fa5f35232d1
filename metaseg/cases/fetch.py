"""Download public data sets: resumable, checked against a published checksum, unpacked safely, done once only.

A download that breaks off leaves a ``.part`` file; the next attempt asks the server for its rest (HTTP ``Range``).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from metaseg.errors import DataError, ExistsError, MetasegError, unknown_name

RETRIES = 5
"""Attempts in a row that may bring nothing before the download is given up."""

FIRST_WAIT_S = 1.0
"""Pause before the first retry in seconds; it doubles with each one."""

_CHUNK_BYTES = 1 << 16
_TIMEOUT_S = (10, 60)
_MARKER = "SOURCE.txt"
_Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Download:
    """A data set that can be had without registration.

    Attributes:
        name: What users type.
        base_url: Address of the folder that holds the archive.
        archive: File name of the tar archive.
        checksum: Algorithm and digest as pooch writes them, ``"md5:..."``.
        folder: Top folder inside the archive.
        licence: Terms under which it is published.
        citation: What to cite.
    """

    name: str
    base_url: str
    archive: str
    checksum: str
    folder: str
    licence: str
    citation: str


_DECATHLON = Download(
    name="msd-task01-brats",
    base_url="https://msd-for-monai.s3-us-west-2.amazonaws.com",
    archive="Task01_BrainTumour.tar",
    checksum="md5:240a19d752f0d9e9101544901065d872",
    folder="Task01_BrainTumour",
    licence="CC-BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)",
    citation="Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13:4128, 2022",
)
DOWNLOADS: Mapping[str, Download] = {_DECATHLON.name: _DECATHLON}


def fetch_dataset(
    name: str = "msd-task01-brats", out: str | Path = "data", *, base_url: str | None = None, progress: bool = True
) -> Path:
    """Download a data set and unpack it; where that is done already, return at once.

    An archive that was put into ``out`` by hand is used if its checksum is right. The archive is deleted once unpacked.

    Args:
        name: One of :data:`DOWNLOADS`.
        out: Folder in which the data set's own folder is made.
        base_url: Another address (a mirror) of the folder that holds the archive.
        progress: Show a progress bar on standard error.

    Returns:
        The data set's folder, ready for :func:`metaseg.cases.readers.read_cases`.

    Raises:
        UsageError: There is no data set of that name.
        DataError: The server cannot be reached or lacks the file, the checksum is wrong (the file is kept aside), the
            archive is unsafe or damaged, or the disk is too small.
    """
    if name not in DOWNLOADS:
        raise unknown_name("data set", name, DOWNLOADS)
    download, root = DOWNLOADS[name], Path(out)
    folder, archive = root / download.folder, root / download.archive
    print(f"{download.name}: licence {download.licence}; cite {download.citation}", file=sys.stderr)
    if (folder / _MARKER).is_file():
        return folder
    if folder.exists():
        raise ExistsError(
            f"{folder.name} exists, but was not written by this command",
            where=folder,
            expected=f"a complete download with {_MARKER}, or no folder",
            remedy="use the folder as it is if you unpacked it yourself, or remove it and run the command again",
        )
    with _disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        url = f"{(base_url or download.base_url).rstrip('/')}/{download.archive}"
        if not (archive.is_file() and _has_checksum(archive, download.checksum)):
            _download(url, archive, download.checksum, progress)
        _unpack(archive, folder, f"{url}\n{download.checksum}\n{download.licence}\n{download.citation}\n")
        archive.unlink()
    return folder


def _download(url: str, archive: Path, checksum: str, progress: bool) -> None:
    """Bring ``url`` to ``archive``, continuing an earlier attempt, and check it."""
    part = archive.with_name(archive.name + ".part")
    with _progress_bar(archive.name, progress) as advance:
        _download_part(url, part, advance)
    if not _has_checksum(part, checksum):
        aside = archive.with_name(archive.name + ".corrupt")
        os.replace(part, aside)
        raise DataError(
            f"{archive.name} arrived damaged or was changed at its source: its checksum differs",
            where=aside,
            expected=checksum,
            remedy="run the command again to download it anew; the damaged file was kept under the name above",
        )
    os.replace(part, archive)


def _download_part(url: str, part: Path, advance: _Advance) -> None:
    """Retry with growing pauses until ``part`` is complete; an attempt that brought bytes starts the count anew."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _continue(url, part, advance)
        except (requests.RequestException, _IncompleteError) as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures > RETRIES:
                raise DataError(
                    f"could not download the file: {_reason(error)}",
                    where=url,
                    expected="a server that answers",
                    remedy="check the network and the proxy settings (HTTPS_PROXY), then run the command again: "
                    f"it continues after the {_size(part) / 1e6:.1f} MB that have arrived",
                ) from error
            time.sleep(FIRST_WAIT_S * 2 ** (failures - 1))


class _IncompleteError(Exception):
    """The server closed the connection early or sent another part than asked for."""


def _continue(url: str, part: Path, advance: _Advance) -> None:
    """One attempt: ask for what is missing of ``part`` and append it."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        first, total = _served_range(response)
        if response.status_code == 416:
            # Nothing is left to send. Some servers do not say how long the file is: then the checksum decides.
            if total in (None, have):
                return
            part.unlink(missing_ok=True)
            raise _IncompleteError("the partial file is longer than the server's file")
        _refuse_status(response, url)
        if first not in (0, have):
            part.unlink(missing_ok=True)
            raise _IncompleteError(f"the server sent bytes from {first}, not from {have}")
        if total is not None:
            # The archive and its unpacked content lie side by side for a moment.
            _require_space(part.parent, 2 * total - first)
        # A server that ignores the range sends the file from its start: the earlier part is then dropped.
        with part.open("ab" if first else "wb") as file:
            written = first
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                written += len(chunk)
                advance(written, total or 0)
    if total is not None and written != total:
        raise _IncompleteError(f"{written} of {total} bytes arrived")


def _served_range(response: requests.Response) -> tuple[int, int | None]:
    """First byte that the response holds and the whole file's size, where the server says."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", response.headers.get("Content-Range", ""))
    if match:
        return int(match[1] or 0), int(match[2])
    if response.status_code == 206:
        raise _IncompleteError("the server sent a part without saying which (no Content-Range)")
    length = response.headers.get("Content-Length")
    return 0, int(length) if length and response.status_code == 200 else None


def _refuse_status(response: requests.Response, url: str) -> None:
    """Give up at once on an answer that a retry cannot change; let other failures be retried."""
    status = response.status_code
    if 400 <= status < 500 and status not in (408, 425, 429):
        raise DataError(
            f"the server answered {status} {response.reason}",
            where=url,
            expected="the archive",
            remedy="the file may have moved: look for it on the data set's page, download it by hand into the output "
            "folder and run the command again",
        )
    response.raise_for_status()


def _unpack(archive: Path, folder: Path, source: str) -> None:
    """Unpack into a temporary folder beside ``folder``, then rename: a folder of that name is always complete."""
    work = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            _require_space(archive.parent, sum(member.size for member in tar))
            tar.extractall(work, filter=_member_filter)
        if not (work / folder.name).is_dir():
            raise DataError(f"the archive holds no folder {folder.name}", where=archive)
        (work / folder.name / _MARKER).write_text(source, encoding="utf-8")
        os.replace(work / folder.name, folder)
    except tarfile.FilterError as error:
        raise DataError(
            f"the archive would write outside its folder: {error}",
            where=archive,
            expected="plain files and folders below one folder",
            remedy="do not use this archive; get the data set from its publisher",
        ) from error
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"the archive cannot be unpacked: {error}", where=archive, remedy="delete it and run the command again"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _member_filter(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    # macOS leaves "._name" files with attributes in archives; readers would take them for volumes.
    return None if Path(member.name).name.startswith("._") else tarfile.data_filter(member, path)


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _disk_full(folder, f"{needed / 1e9:.1f} GB (archive and unpacked files)", f"{free / 1e9:.1f} GB are free")


def _disk_full(folder: Path, needed: str, found: str) -> DataError:
    return DataError(
        f"the disk is too small: {found}",
        where=folder,
        expected=needed,
        remedy="free some space or choose another folder with --out; what has arrived is kept and continued",
    )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn the system's errors of writing into messages."""
    try:
        yield
    except (MetasegError, requests.RequestException):
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(folder, "room for the data set", "no space is left") from error
        raise DataError(
            f"cannot write here: {error.strerror or error}", where=folder, remedy="choose another folder with --out"
        ) from error


def _has_checksum(path: Path, checksum: str) -> bool:
    algorithm, digest = checksum.split(":")
    return bool(pooch.file_hash(str(path), alg=algorithm) == digest)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    """The innermost cause of a network error, without the layers of wrapping."""
    text = str(error)
    match = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    return match[1] if match else text


@contextmanager
def _progress_bar(title: str, shown: bool) -> Iterator[_Advance]:
    """Yield a function that takes the bytes present and the whole size, and shows them."""
    if not shown:
        yield lambda present, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda present, total: bar.update(task, completed=present, total=total or None)
