"""Kind H: files and folders that cannot be read or written, and what already stands where output is to go."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import nibabel as nib
import numpy as np
from PIL import Image

from campaign.bench import Bench, short
from campaign.dropped import words
from campaign.layouts import first_image, first_label
from campaign.trial import Trial, Words

Spoil = Callable[[Path], None]


def plain(path: Path) -> bytearray:
    """A compressed NIfTI file's content."""
    return bytearray(gzip.decompress(path.read_bytes()))


def dimensions(*sizes: int) -> Spoil:
    def spoil(path: Path) -> None:
        content = plain(path)
        struct.pack_into("<8h", content, 40, len(sizes), *sizes, *([1] * (7 - len(sizes))))
        path.write_bytes(gzip.compress(bytes(content)))

    return spoil


def header_field(offset: int, kind: str, value: float) -> Spoil:
    def spoil(path: Path) -> None:
        content = plain(path)
        struct.pack_into(kind, content, offset, value)
        path.write_bytes(gzip.compress(bytes(content)))

    return spoil


def bomb(path: Path) -> None:
    """A small file that unpacks to a gigabyte."""
    content = bytes(plain(path))
    path.unlink()
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(content)
        block = bytes(1 << 24)
        for _ in range(64):
            stream.write(block)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def socket_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.nii.gz")


def self_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


VOLUMES: dict[str, Spoil] = {
    "32,767 cubed": dimensions(32767, 32767, 32767),
    "32,767 in one axis": dimensions(32767, 20, 10),
    "a negative size": dimensions(24, -20, 10),
    "a size of 0": dimensions(24, 0, 10),
    "7 axes": dimensions(24, 20, 10, 1, 2, 3, 2),
    "no axes": dimensions(),
    "9 axes": header_field(40, "<h", 9),
    "an unknown type": header_field(70, "<h", 999),
    "complex numbers": header_field(70, "<h", 32),
    "colours": header_field(70, "<h", 128),
    "an offset beyond the file": header_field(108, "<f", 1e9),
    "a negative offset": header_field(108, "<f", -400.0),
    "an offset of NaN": header_field(108, "<f", float("nan")),
    "a wrong magic": header_field(344, "<i", 0),
    "a wrong header size": header_field(0, "<i", 999),
    "a bomb": bomb,
    "a pipe": pipe,
    "a folder": folder,
    "an endless device": socket_link,
    "a link to itself": self_link,
    "a dangling link": dangling_link,
    "nothing in it": lambda path: path.write_bytes(b"") and None,
    "one byte": lambda path: path.write_bytes(b"\x1f") and None,
    "gzip's magic alone": lambda path: path.write_bytes(b"\x1f\x8b") and None,
    "gzip of nothing": lambda path: path.write_bytes(gzip.compress(b"")) and None,
    "a broken checksum": lambda path: path.write_bytes(path.read_bytes()[:-8] + bytes(8)) and None,
    "bzip2's magic": lambda path: path.write_bytes(b"BZh" + bytes(400)) and None,
    "a web page": lambda path: path.write_text("<html>404 not found</html>" * 40) and None,
    "an LFS pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n") and None,
}  # fmt: skip


def volumes() -> Iterator[Trial]:
    for number, (name, spoil) in enumerate(VOLUMES.items()):
        named = ("Brats18_X_0_1|00001-000", "t1ce|t1c")
        for verb in ("check", ("predict", "pretrain", "evaluate")[number % 3]):

            def use(bench: Bench, spoil: Spoil = spoil, verb: str = verb) -> Words:
                layout = "brats2023" if verb == "evaluate" else "brats"
                data = bench.data(layout, 3)
                spoil(first_image(layout, data))
                return words(bench, verb, data)

            outcome = {"predict": "goes on", "evaluate": "told"}.get(verb, "refused")
            yield Trial("H", f"an image of {name}, {verb}", use, outcome, named, may_leave=verb == "evaluate")
    for name in ("32,767 cubed", "a pipe", "nothing in it", "a folder", "a bomb"):
        for verb in ("evaluate", "data prepare", "data summary"):

            def label(bench: Bench, name: str = name, verb: str = verb) -> Words:
                data = bench.data("brats2023", 3)
                VOLUMES[name](first_label("brats2023", data))
                return words(bench, verb.rpartition(" ")[2], data)

            outcome = "refused" if verb == "data prepare" else "told"
            yield Trial("H", f"a label of {name}, {verb}", label, outcome, ("00001-000",), may_leave=True)


def pictures() -> Iterator[Trial]:
    def huge(path: Path) -> None:
        """A picture whose header claims a gigapixel."""
        import zlib

        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"0"))
            + chunk(b"IEND", b"")
        )

    def frames(path: Path) -> None:
        frame = Image.fromarray(np.zeros((24, 24), np.uint8))
        frame.save(path.with_suffix(".gif"), save_all=True, append_images=[frame, frame])
        path.write_bytes(path.with_suffix(".gif").read_bytes())
        path.with_suffix(".gif").unlink()

    spoilt: dict[str, Spoil] = {
        "cut off": lambda path: path.write_bytes(path.read_bytes()[:60]) and None,
        "empty": lambda path: path.write_bytes(b"") and None,
        "words": lambda path: path.write_text("no picture" * 20) and None,
        "a gigapixel": huge,
        "a pipe": pipe,
        "a folder": folder,
        "a link to itself": self_link,
    }
    for name, spoil in spoilt.items():
        for verb in ("check", "predict", "classify train", "split"):

            def use(bench: Bench, spoil: Spoil = spoil, verb: str = verb) -> Words:
                data = bench.data("image-folder", 6)
                spoil(first_image("image-folder", data))
                return words(bench, verb, data, "image-folder")

            odd = name in ("a folder", "a link to itself", "a pipe")
            outcome = "told" if verb == "split" or odd else "goes on" if verb == "predict" else "refused"
            yield Trial("H", f"a picture {name}, {verb}", use, outcome, ("glioma00",), may_leave=True)
        for verb in ("check", "predict", "pretrain"):

            def in_table(bench: Bench, spoil: Spoil = spoil, verb: str = verb) -> Words:
                data = bench.data("slices", 3)
                spoil(first_image("slices", data))
                return words(bench, verb, data, "slices")

            yield Trial(
                "H",
                f"a listed picture {name}, {verb}",
                in_table,
                "told" if verb == "predict" else "refused",
                ("glioma0-0",),
                may_leave=verb == "predict",
            )


def occupied() -> Iterator[Trial]:
    """What stands where output is to go is not replaced, and a place that cannot be written is named at once."""

    def command(bench: Bench, verb: str, out: object) -> Words:
        data = bench.assets.good("brats2023", 3)
        pictures = bench.assets.good("image-folder", 8)
        tuning = {"pretrain", "naivetune", "tune", "metatune", "classify train", "classify active"}
        if verb in tuning:
            options = list(short(bench, verb))
            options[options.index("--out") + 1] = out
            return *verb.split(), *options
        return {
            "predict": ("predict", bench.assets.pretrained, data, "--out", out, "--no-pictures"),
            "evaluate": ("evaluate", bench.assets.pretrained, "--data", data, "--out", out, "--no-surface", "--pictures", 0),
            "classify predict": ("classify", "predict", bench.assets.classifier, pictures, "--out", out, "--pictures", 0),
            "classify evaluate": ("classify", "evaluate", bench.assets.classifier, "--out", out, "--pictures", 0),
            "report": ("report", bench.assets.pretrained, "--out", out, "--no-figures"),
            "data prepare": ("data", "prepare", data, out),
            "data split": ("data", "split", data, "--out", out, "--parts", "train=1,test=2"),
            "data summary": ("data", "summary", data, "--csv", out),
            "data phantoms": ("data", "phantoms", out, "--cases", 1),
            "data index": ("data", "index", bench.assets.good("table", 2), "--out", out),
            "compare": ("compare", study(bench, data), "--out", out),
            "classify compare": ("classify", "compare", entries(bench, pictures), "--out", out),
            "classify search": ("classify", "search", search(bench, pictures), "--out", out, "--trials", 1),
            "ask": ("classify", "active", *short(bench, "classify active"), "--classes", "glioma,meningioma", "--ask", out),
        }[verb]  # fmt: skip

    def study(bench: Bench, data: Path) -> Path:
        split = bench.split(data, bench.assets.good("brats", 3), counts=(1, 1, 1))
        (bench.place / "study.yaml").write_text(
            f"from: {bench.assets.pretrained}\ntargets: {{met: {{data: {data}, classes: [MET]}}}}\nmethods: {{naive: {{}}}}\n"
            f"shared: {{slices: 4, split: {split}, source: {bench.assets.good('brats', 3)}}}\nshots: [1]\nseeds: 1\nbudget: 4\nmarks: 1\nthreads: 1\n"
        )
        return bench.place / "study.yaml"

    def entries(bench: Bench, data: Path) -> Path:
        (bench.place / "entries.yaml").write_text(
            f"shared: {{data: {data}, model: lau-cnn, input_size: 16, epochs: 1}}\nentries: {{a: {{}}, b: {{epochs: 2}}}}\nseeds: 1\nthreads: 1\n"
        )
        return bench.place / "entries.yaml"

    def search(bench: Bench, data: Path) -> Path:
        (bench.place / "search.yaml").write_text(
            f"shared: {{data: {data}, model: lau-cnn, input_size: 16, epochs: 1}}\nthreads: 1\n"
        )
        return bench.place / "search.yaml"

    files = ("report", "data split", "data summary", "ask", "data index")
    for verb in files:

        def taken(bench: Bench, verb: str = verb) -> Words:
            name = "page.html" if verb == "report" else "mine.csv"
            (bench.place / name).write_text("a user's own\n")
            return command(bench, verb, name)

        yield Trial("H", f"{verb} onto a user's file", taken, "refused", ("page.html|mine.csv",))

        def a_folder(bench: Bench, verb: str = verb) -> Words:
            (bench.place / "mine").mkdir()
            return command(bench, verb, "mine")

        if verb != "report":
            yield Trial("H", f"{verb} onto a folder", a_folder, "refused", ("mine",))

    def own_index(bench: Bench) -> Words:
        data = bench.data("slices", 3)
        return "data", "summary", data, "--csv", data / "index.csv"

    yield Trial("H", "data summary onto the data set's own index.csv", own_index, "refused", ("index.csv",))

    def own_table(bench: Bench) -> Words:
        data = bench.data("table", 3)
        return "data", "split", data, "--out", data / "cases.csv"

    yield Trial("H", "data split onto the data set's own cases.csv", own_table, "refused", ("cases.csv",))
    folders = (
        "pretrain", "naivetune", "metatune", "classify train", "classify active", "predict", "evaluate", "classify predict",
        "classify evaluate", "data prepare", "data phantoms", "compare", "classify compare", "classify search",
    )  # fmt: skip
    for verb in (*folders, *files):

        def below_a_file(bench: Bench, verb: str = verb) -> Words:
            (bench.place / "file").write_text("a user's own\n")
            return command(bench, verb, "file/out")

        yield Trial("H", f"{verb} below a file", below_a_file, "refused", ("file",))
        if verb in folders:

            def a_file(bench: Bench, verb: str = verb) -> Words:
                (bench.place / "mine").write_text("a user's own\n")
                return command(bench, verb, "mine")

            yield Trial("H", f"{verb} onto a file", a_file, "refused", ("mine",))

        def no_place(bench: Bench, verb: str = verb) -> Words:
            return command(bench, verb, "/proc/metaseg/out")

        yield Trial("H", f"{verb} where nothing can be written", no_place, "refused", ("/proc",))

        def too_long(bench: Bench, verb: str = verb) -> Words:
            return command(bench, verb, "x" * 300)

        if verb in ("pretrain", "predict", "data split", "data summary", "report", "evaluate", "data phantoms"):
            yield Trial("H", f"{verb} to a name of 300 letters", too_long, "refused", ("x" * 100,))
    for verb in ("predict", "evaluate", "pretrain", "data phantoms", "data prepare", "classify predict"):

        def foreign(bench: Bench, verb: str = verb) -> Words:
            (bench.place / "mine").mkdir()
            for name in ("thesis.txt", "metrics.csv", "cases.json", "predictions.csv"):
                (bench.place / "mine" / name).write_text("a user's own\n")
            return command(bench, verb, "mine")

        outcome = "same" if verb in ("predict", "classify predict") else "told"
        yield Trial(
            "H",
            f"{verb} into a user's folder",
            foreign,
            outcome,
            ("mine",) if outcome == "told" else (),
            may_leave=True,
        )
    for verb in (*folders, *files):
        yield Trial(
            "H", f"{verb} on a full disk", lambda bench, verb=verb: command(bench, verb, "out"), "refused",
            ("full|no space", r"in: |out"), may_leave=verb not in ("data split", "data summary", "report"), during=full_disk,
        )  # fmt: skip


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Nothing more reaches the disk: what is written whole or not at all is not written."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with mock.patch("os.fsync", fail):
        yield


@contextlib.contextmanager
def no_process() -> Iterator[None]:
    """No process may be started: ninety-nine would be one for each device asked for."""
    with mock.patch("metaseg.runs.together.subprocess") as subprocess:
        subprocess.Popen.side_effect = AssertionError("a process was started")
        yield


def machines() -> Iterator[Trial]:
    for verb in ("pretrain", "naivetune", "metatune", "classify train", "predict", "evaluate"):
        for option in (("--devices", 99), ("--nodes", 5), ("--device", "cuda:9"), ("--device", "tpu")):
            if verb in ("metatune", "naivetune", "evaluate") and option[0] != "--devices":
                continue

            def use(bench: Bench, verb: str = verb, option: Words = option) -> Words:
                head: Words = {
                    "predict": (bench.assets.pretrained, bench.assets.good("brats2023", 1), "--out", "pred"),
                    "evaluate": (bench.assets.pretrained, "--data", bench.assets.good("brats2023", 1), "--out", "out"),
                }.get(verb) or short(bench, verb)
                return *verb.split(), *head, *option

            yield Trial(
                "H",
                f"{verb} {option[0]} {option[1]}",
                use,
                "refused",
                (f"{str(option[0])[2:]}|{option[1]}",),
                during=no_process,
            )

    def loop(bench: Bench) -> Words:
        data = bench.data("brats", 2)
        (data / "HGG" / "again").symlink_to(data, target_is_directory=True)
        return "data", "summary", data, "--json"

    yield Trial("H", "a folder that links to itself", loop, "told", ("again|Brats18",))

    def large_index(bench: Bench) -> Words:
        data = bench.data("slices", 2)
        lines = (data / "index.csv").read_text().splitlines()
        (data / "index.csv").write_text("\n".join([lines[0], '"' + "x" * 200_000 + '",a,b,c', *lines[1:]]))
        return "data", "check", data, "--json"

    yield Trial("H", "a cell of 200,000 letters", large_index, "refused", ("index.csv",))

    def picky(bench: Bench) -> Words:
        data = bench.data("brats", 2)
        image = nib.load(first_image("brats", data))
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., None, None], image.affine), first_image("brats", data))
        return "data", "summary", data, "--json"

    yield Trial("H", "axes of one voxel more", picky, "told", ("t1ce|Brats18_X_0_1",))


TRIALS = [*volumes(), *pictures(), *occupied(), *machines()]
