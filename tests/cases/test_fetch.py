"""Downloads against a small local server that can misbehave."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import tarfile
import threading
from collections import namedtuple
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from metaseg.cases import fetch
from metaseg.cases.fetch import DOWNLOADS, fetch_dataset
from metaseg.errors import DataError, ExistsError, UsageError


class Server:
    """Serves one body; keeps the Range headers it was sent."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.ranges: list[str | None] = []
        self.drop_after: list[int] = []  # bytes after which each next answer breaks off
        self.status: list[int] = []  # answers before the real one
        self.ignore_range = False
        self.wrong_start = False
        self.say_length = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"
        threading.Thread(target=self.httpd.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        if self.status:
            request.send_error(self.status.pop(0))
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and not self.ignore_range else 0
        if start >= len(self.body):
            request.send_response(416)
            if self.say_length:
                request.send_header("Content-Range", f"bytes */{len(self.body)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if self.wrong_start and start:
            start = 1
        body = self.body[start:]
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.drop_after.pop(0)] if self.drop_after else body)


def make_tar(*extra: tuple[tarfile.TarInfo, bytes]) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, 400_000, dtype=np.uint8).tobytes()
    files = {"Tiny/dataset.json": b"{}", "Tiny/imagesTr/a.nii.gz": noise, "Tiny/imagesTr/._a.nii.gz": b"apple"}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info, content in extra:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


BODY = make_tar()


@pytest.fixture
def server(monkeypatch):
    server = Server(BODY)
    offer(monkeypatch, server.body)
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.0)
    yield server
    server.httpd.shutdown()
    server.httpd.server_close()


def offer(monkeypatch, body: bytes) -> None:
    checksum = "md5:" + hashlib.md5(body).hexdigest()
    tiny = replace(DOWNLOADS["msd-task01-brats"], name="tiny", archive="Tiny.tar", checksum=checksum, folder="Tiny")
    monkeypatch.setattr(fetch, "DOWNLOADS", {"tiny": tiny})


def get(server: Server, out) -> object:
    return fetch_dataset("tiny", out, base_url=server.url, progress=False)


def test_registry_agrees_with_monai():
    # Its source is read, because importing it takes seconds.
    source = (Path(find_spec("monai").origin).parent / "apps" / "datasets.py").read_text(encoding="utf-8")
    download = DOWNLOADS["msd-task01-brats"]
    assert f'"Task01_BrainTumour": "{download.base_url}/{download.archive}"' in source
    assert f'"Task01_BrainTumour": "{download.checksum.removeprefix("md5:")}"' in source


def test_downloads_and_unpacks(server, tmp_path, capsys):
    folder = get(server, tmp_path / "new" / "data")
    assert folder == tmp_path / "new" / "data" / "Tiny"
    assert sorted(path.name for path in folder.rglob("*")) == ["SOURCE.txt", "a.nii.gz", "dataset.json", "imagesTr"]
    assert os.listdir(folder.parent) == ["Tiny"]
    assert server.ranges == [None]
    assert "CC-BY-SA 4.0" in capsys.readouterr().err


def test_second_call_downloads_nothing(server, tmp_path):
    get(server, tmp_path)
    assert get(server, tmp_path) == tmp_path / "Tiny"
    assert len(server.ranges) == 1


def test_broken_connection_is_continued_where_it_broke(server, tmp_path):
    server.drop_after = [150_000, 65_536]
    get(server, tmp_path)
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges[1:]]
    assert server.ranges[0] is None
    assert len(starts) == 2
    assert 0 < starts[0] <= 150_000 < 150_000 + 65_536 >= starts[1] > starts[0]


def test_partial_file_of_an_earlier_run_is_continued(server, tmp_path):
    (tmp_path / "Tiny.tar.part").write_bytes(BODY[:1234])
    get(server, tmp_path)
    assert server.ranges == ["bytes=1234-"]


def test_server_that_ignores_range_restarts_the_file(server, tmp_path):
    server.ignore_range = True
    (tmp_path / "Tiny.tar.part").write_bytes(b"x" * 1234)
    assert get(server, tmp_path).is_dir()
    assert server.ranges == ["bytes=1234-"]


def test_server_that_sends_another_part_restarts_the_file(server, tmp_path):
    server.wrong_start = True
    (tmp_path / "Tiny.tar.part").write_bytes(BODY[:1234])
    assert get(server, tmp_path).is_dir()
    assert server.ranges == ["bytes=1234-", None]


@pytest.mark.parametrize("say_length", [True, False])
def test_complete_partial_file_is_taken(server, tmp_path, say_length):
    server.say_length = say_length
    (tmp_path / "Tiny.tar.part").write_bytes(BODY)
    assert get(server, tmp_path).is_dir()
    assert server.ranges == [f"bytes={len(BODY)}-"]


def test_partial_file_longer_than_the_server_s_is_dropped(server, tmp_path):
    (tmp_path / "Tiny.tar.part").write_bytes(BODY + b"more")
    assert get(server, tmp_path).is_dir()
    assert server.ranges[-1] is None


def test_archive_put_there_by_hand_is_used(server, tmp_path):
    (tmp_path / "Tiny.tar").write_bytes(BODY)
    assert get(server, tmp_path).is_dir()
    assert server.ranges == []


def test_wrong_checksum_keeps_the_file_aside(server, tmp_path):
    server.body = BODY[:-1] + b"x"
    with pytest.raises(DataError, match="checksum") as caught:
        get(server, tmp_path)
    assert caught.value.where == tmp_path / "Tiny.tar.corrupt"
    assert os.listdir(tmp_path) == ["Tiny.tar.corrupt"]
    server.body = BODY
    assert get(server, tmp_path).is_dir()


def test_missing_file_is_one_message_without_retries(server, tmp_path):
    server.status = [404]
    with pytest.raises(DataError, match="404"):
        get(server, tmp_path)
    assert len(server.ranges) == 1


def test_overloaded_server_is_asked_again(server, tmp_path):
    server.status = [503, 429]
    assert get(server, tmp_path).is_dir()
    assert len(server.ranges) == 3


def test_gives_up_after_attempts_without_progress(server, tmp_path):
    server.status = [500] * 50
    (tmp_path / "Tiny.tar.part").write_bytes(BODY[:200_000])
    with pytest.raises(DataError, match="could not download") as caught:
        get(server, tmp_path)
    assert len(server.ranges) == 1 + fetch.RETRIES
    assert "0.2 MB" in caught.value.remedy
    assert (tmp_path / "Tiny.tar.part").stat().st_size == 200_000


def test_refused_connection_is_one_message(server, tmp_path):
    server.httpd.shutdown()
    server.httpd.server_close()
    with pytest.raises(DataError, match="Connection refused"):
        get(server, tmp_path)


def traversal() -> tarfile.TarInfo:
    return tarfile.TarInfo("Tiny/../../escaped.txt")


def outside_link() -> tarfile.TarInfo:
    link = tarfile.TarInfo("Tiny/link")
    link.type, link.linkname = tarfile.SYMTYPE, "../../.."
    return link


@pytest.mark.parametrize("member", [traversal, outside_link])
def test_archive_that_leaves_its_folder_is_refused(server, tmp_path, monkeypatch, member):
    server.body = make_tar((member(), b""))
    offer(monkeypatch, server.body)
    out = tmp_path / "out"
    with pytest.raises(DataError, match="outside"):
        get(server, out)
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(out) == ["Tiny.tar"]


def test_archive_of_something_else_is_refused(server, tmp_path, monkeypatch):
    server.body = b"no archive at all" * 100
    offer(monkeypatch, server.body)
    with pytest.raises(DataError, match="cannot be unpacked"):
        get(server, tmp_path)


def test_foreign_folder_is_left_alone(server, tmp_path):
    (tmp_path / "Tiny").mkdir()
    with pytest.raises(ExistsError, match="not written by this command"):
        get(server, tmp_path)
    assert server.ranges == []


def test_small_disk_is_noticed_before_the_download(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, int(1.5 * len(BODY))))
    with pytest.raises(DataError, match="disk"):
        get(server, tmp_path)
    assert os.listdir(tmp_path) == []


def test_full_disk_is_one_message(server, tmp_path, monkeypatch):
    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "_continue", no_space)
    with pytest.raises(DataError, match="no space is left"):
        get(server, tmp_path)


def test_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match="msd-task01-brats"):
        fetch_dataset("brats", tmp_path)


def test_progress_bar_ends_complete(server, tmp_path, capsys):
    fetch_dataset("tiny", tmp_path, base_url=server.url, progress=True)
    assert "Tiny.tar" in capsys.readouterr().err
