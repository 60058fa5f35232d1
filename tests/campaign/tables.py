"""Kind G: layouts that no naming covers, told by a table; and trees that look like something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from campaign.bench import Bench
from campaign.dropped import words
from campaign.labels import lesion_volumes
from campaign.layouts import MODALITIES, subject, write_volume
from campaign.trial import Trial, Words

Rows = list[list[str]]


def rewrite(data: Path, change: Callable[[Rows], Rows | str | bytes], delimiter: str = ",") -> None:
    rows = [line.split(",") for line in (data / "cases.csv").read_text().splitlines()]
    changed = change(rows)
    if isinstance(changed, bytes):
        (data / "cases.csv").write_bytes(changed)
    elif isinstance(changed, str):
        (data / "cases.csv").write_text(changed)
    else:
        (data / "cases.csv").write_text("\n".join(delimiter.join(row) for row in changed) + "\n")


def text(rows: Rows) -> str:
    return "\n".join(",".join(row) for row in rows) + "\n"


def cell(row: int, column: str, value: str) -> Callable[[Rows], Rows]:
    def change(rows: Rows) -> Rows:
        rows[row][rows[0].index(column)] = value
        return rows

    return change


def header(old: str, new: str) -> Callable[[Rows], Rows]:
    return lambda rows: [[new if name == old else name for name in rows[0]], *rows[1:]]


def without(column: str) -> Callable[[Rows], Rows]:
    return lambda rows: [[one for name, one in zip(rows[0], row, strict=True) if name != column] for row in rows]


SAME: dict[str, Callable[[Rows], Rows | str | bytes]] = {
    "semicolons": lambda rows: text(rows).replace(",", ";"),
    "tabs": lambda rows: text(rows).replace(",", "\t"),
    "a byte-order mark": lambda rows: b"\xef\xbb\xbf" + text(rows).encode(),
    "backslashes": lambda rows: text(rows).replace("/", "\\"),
    "Windows line ends": lambda rows: text(rows).replace("\n", "\r\n").encode(),
    "quotes": lambda rows: "\n".join(",".join(f'"{one}"' for one in row) for row in rows) + "\n",
    "spaces around values": lambda rows: text(rows).replace(",", " , "),
    "empty lines": lambda rows: text(rows).replace("\n", "\n\n"),
    "no end of the last line": lambda rows: text(rows).rstrip("\n"),
    "capitals in the header": lambda rows: text([[name.upper() for name in rows[0]], *rows[1:]]),
    "another order of columns": lambda rows: [row[::-1] for row in rows],
    "other names of modalities": lambda rows: text(rows).replace("t1ce", "T1Gd", 1).replace("flair", "T2-FLAIR", 1),
    "lines of commas at the end": lambda rows: text(rows) + ",,,,,,,\n",
}
WRONG: dict[str, tuple[Callable[[Rows], Rows | str | bytes], str]] = {
    "empty": (lambda rows: "", "cases.csv"),
    "of a header alone": (lambda rows: rows[:1], "no rows|cases.csv"),
    "without a header": (lambda rows: rows[1:], "cases.csv"),
    "without case and patient": (lambda rows: without("patient")(without("case")(rows)), "cases.csv"),
    "without modalities": (lambda rows: [row[:4] for row in rows], "cases.csv"),
    "with one case twice": (cell(2, "case", "case0"), "case0"),
    "with one file twice in a row": (cell(1, "t2", "scans/0/FLAIR_reg.nii.gz"), "FLAIR_reg|flair.*t2|t2.*flair"),
    "with one file for two cases": (cell(2, "t1ce", "scans/0/T1CE_reg.nii.gz"), "T1CE_reg|case[01]"),
    "with one label for two cases": (cell(2, "label", "outlines/0.nii.gz"), r"outlines/0|case[01]"),
    "with two columns of one modality": (header("t2", "T1Gd"), "t1ce"),
    "with a file that is not there": (cell(1, "t1", "scans/0/gone.nii.gz"), "gone.nii.gz"),
    "with a label that is not there": (cell(1, "label", "outlines/gone.nii.gz"), "gone.nii.gz"),
    "with a folder for a file": (cell(1, "t1", "scans"), "scans"),
    "with an address": (cell(1, "t1", "https://example.org/t1.nii.gz"), "example.org"),
    "with a file of no image": (cell(1, "t1", "cases.csv"), "cases.csv"),
    "with an empty case and patient": (lambda rows: cell(1, "patient", "")(cell(1, "case", "")(rows)), "row 2|line 2"),
    "with a row of too many cells": (lambda rows: [rows[0], [*rows[1], "more"], *rows[2:]], "row 2|line 2"),
    "with a row of too few cells": (lambda rows: [rows[0], rows[1][:4], *rows[2:]], "case0|row 2|line 2"),
    "with an empty modality": (cell(1, "t1", ""), "t1"),
    "with one image an outline": (cell(1, "t1", "outlines/0.nii.gz"), "outlines/0|case0"),
    "with swapped labels": (lambda rows: cell(2, "label", "outlines/0.nii.gz")(cell(1, "label", "outlines/1.nii.gz")(rows)), "case[01]"),
    "in UTF-16": (lambda rows: text(rows).encode("utf-16"), "cases.csv"),
    "of zeros": (lambda rows: bytes(500), "cases.csv"),
    "with an open quote": (lambda rows: text(rows).replace("case0", '"case0'), "cases.csv"),
    "with a case named ..": (cell(1, "case", "../../escaped"), r"\.\."),
    "with a label scheme nobody knows": (cell(1, "label_scheme", "brats1999"), "brats1999"),
    "with a volume of a 3-D file": (cell(1, "t1", "scans/0/T1_reg.nii.gz#3"), "T1_reg"),
    "with a misspelt modality": (header("t1ce", "t1xe"), "t1xe|t1ce"),
}  # fmt: skip
DOUBT = {
    "with one label for two cases",
    "with swapped labels",
    "with a misspelt modality",
    "with an empty modality",
    "with one image an outline",
}


def tables() -> Iterator[Trial]:
    for name, change in SAME.items():

        def summary(bench: Bench, change: Callable[[Rows], Rows | str | bytes] = change) -> Words:
            data = bench.data("table", 2)
            rewrite(data, change)
            return "data", "summary", data, "--json"

        def like(bench: Bench) -> Words:
            return "data", "summary", bench.data("table", 2), "--json"

        yield Trial("G", f"a table with {name}", summary, "same", like=like, metrics=lesion_volumes)
    for name, (wrong, named) in WRONG.items():
        for verb in ("check", "pretrain", "predict", "split"):
            if verb in ("split", "predict") and name not in (
                "empty",
                "without a header",
                "with one case twice",
                "with a case named ..",
            ):
                continue

            def use(bench: Bench, wrong: Callable[[Rows], Rows | str | bytes] = wrong, verb: str = verb) -> Words:
                data = bench.data("table", 3)
                rewrite(data, wrong)
                return *words(bench, verb, data), "--format", "table"

            doubtful = name in DOUBT and verb != "check"
            outcome = "told" if doubtful else "refused"
            yield Trial("G", f"a table {name}, {verb}", use, outcome, (named,), may_leave=doubtful)

    def on_split(bench: Bench, change: Callable[[Rows], Rows]) -> Words:
        data = bench.data("table", 3)
        rewrite(data, lambda rows: change([[*rows[0], "split"], *([*row, "train"] for row in rows[1:])]))
        return *words(bench, "pretrain", data), "--split", data / "cases.csv"

    for name, change in {
        "without val": lambda rows: rows,
        "with one patient in two parts": lambda rows: cell(2, "patient", "pat0")(cell(2, "split", "val")(rows)),
        "with no part at all": lambda rows: [rows[0], *([*row[:-1], ""] for row in rows[1:])],
    }.items():
        yield Trial(
            "G", f"a table as split {name}", lambda bench, change=change: on_split(bench, change), "refused", ("val|split|pat0",),
        )  # fmt: skip


def trees() -> Iterator[Trial]:
    """Layouts without a table: refused with the way to one, never read as something else; and indexed."""

    def bids(root: Path) -> None:
        for number in range(3):
            images, label = subject(number)
            scans = root / f"sub-{number:02}" / "ses-01" / "anat"
            for modality, suffix in (("flair", "FLAIR"), ("t1", "T1w"), ("t1ce", "ce-gd_T1w"), ("t2", "T2w")):
                write_volume(scans / f"sub-{number:02}_ses-01_{suffix}.nii.gz", images[modality])
            outline = root / "derivatives" / "seg" / f"sub-{number:02}" / "ses-01" / "anat"
            write_volume(outline / f"sub-{number:02}_ses-01_space-T1w_dseg.nii.gz", label)
        (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')

    def upenn(root: Path) -> None:
        for number in range(3):
            case = f"UPENN-GBM-{number:05}_11"
            images, label = subject(number)
            for modality, suffix in (("flair", "FLAIR"), ("t1", "T1"), ("t1ce", "T1GD"), ("t2", "T2")):
                write_volume(root / "images_structural" / case / f"{case}_{suffix}.nii.gz", images[modality])
            write_volume(root / "images_segm" / f"{case}_segm.nii.gz", np.where(label == 3, 4, label).astype(np.uint8))

    def ucsf(root: Path) -> None:
        for number in range(3):
            case = f"UCSF-PDGM-{number + 4:04}"
            images, label = subject(number)
            for modality, suffix in (("flair", "FLAIR"), ("t1", "T1"), ("t1ce", "T1c"), ("t2", "T2")):
                write_volume(root / f"{case}_nifti" / f"{case}_{suffix}.nii.gz", images[modality])
            write_volume(
                root / f"{case}_nifti" / f"{case}_tumor_segmentation.nii.gz",
                np.where(label == 3, 4, label).astype(np.uint8),
            )

    def bare(root: Path) -> None:
        for number in range(3):
            images, label = subject(number)
            for modality in MODALITIES:
                write_volume(root / f"Patient-{number}" / f"{modality.upper()}.nii.gz", images[modality])
            write_volume(root / f"Patient-{number}" / "tumor.nii.gz", label)

    def own_folder(root: Path) -> None:
        for number in range(3):
            images, label = subject(number)
            for modality in MODALITIES:
                write_volume(root / modality / f"{number:03}.nii.gz", images[modality])
            write_volume(root / "labels" / f"{number:03}.nii.gz", label)

    def dicom(root: Path) -> None:
        for number in range(3):
            (root / f"P{number}").mkdir(parents=True)
            (root / f"P{number}" / "IM0001.dcm").write_bytes(bytes(128) + b"DICM")

    def bad_words(bench: Bench, tree: Callable[[Path], None], verb: str) -> Words:
        tree(bench.place / "tree")
        return words(bench, verb, bench.place / "tree")

    trees = {
        "BIDS": bids,
        "UPENN": upenn,
        "UCSF": ucsf,
        "bare names": bare,
        "a folder for each modality": own_folder,
        "DICOM": dicom,
    }
    for name, tree in trees.items():
        for verb in ("check", "pretrain", "predict", "split", "evaluate"):
            outcome = "told" if verb == "split" else "refused"
            yield Trial(
                "G", f"{name} without a table, {verb}", lambda bench, tree=tree, verb=verb: bad_words(bench, tree, verb),
                outcome, ("table|index|no case|UPENN|UCSF|modalit|convention",), may_leave=verb == "split",
            )  # fmt: skip
        if name != "DICOM":

            def indexed(bench: Bench, tree: Callable[[Path], None] = tree) -> Words:
                from campaign.runner import run

                tree(bench.place / "tree")
                run(("data", "index", bench.place / "tree"), bench.assets, bench.place)
                scheme = "brats" if tree in (upenn, ucsf) else "brats2023"
                return "data", "summary", bench.place / "tree", "--format", "table", "--label-scheme", scheme, "--json"

            def like(bench: Bench) -> Words:
                return "data", "summary", bench.data("brats2023", 3), "--json"

            yield Trial("G", f"{name}, indexed", indexed, "same", like=like, metrics=lesion_volumes)
    for name, words_of in {
        "a folder that is not there": lambda bench: ("data", "index", "nowhere"),
        "an empty folder": lambda bench: ("data", "index", (bench.place / "empty").mkdir() or "empty"),
        "a file": lambda bench: ("data", "index", bench.data("table", 2) / "cases.csv"),
        "a tree that has a table": lambda bench: ("data", "index", bench.data("table", 2)),
        "pictures": lambda bench: ("data", "index", bench.data("image-folder", 6)),
    }.items():
        yield Trial(
            "G",
            f"index of {name}",
            words_of,
            "told" if name == "pictures" else "refused",
            ("nowhere|empty|cases.csv|image|picture",),
            may_leave=name == "pictures",
        )


def other_formats() -> Iterator[Trial]:
    """NRRD and MetaImage volumes, good and damaged."""

    def convert(bench: Bench, suffix: str, spoil: Callable[[Path], None] | None = None) -> Path:
        import SimpleITK

        data = bench.data("table", 2)
        for path in sorted(data.rglob("*.nii.gz")):
            image = nib.load(path)
            array = np.asarray(image.dataobj)
            volume = SimpleITK.GetImageFromArray(array.transpose(2, 1, 0))
            volume.SetSpacing((1.0, 1.0, 2.0))
            target = path.with_name(path.name.replace(".nii.gz", suffix))
            SimpleITK.WriteImage(volume, str(target))
            path.unlink()
        rewrite(data, lambda rows: text(rows).replace(".nii.gz", suffix))
        if spoil:
            spoil(data / f"scans/0/T1CE_reg{suffix}")
        return data

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    for suffix in (".nrrd", ".mha"):

        def like(bench: Bench) -> Words:
            return "data", "summary", bench.data("table", 2), "--json"

        yield Trial(
            "G", f"volumes in {suffix}", lambda bench, suffix=suffix: ("data", "summary", convert(bench, suffix), "--json"), "same",
            like=like, metrics=lesion_volumes, tolerance=1e-6,
        )  # fmt: skip
        damages: dict[str, Callable[[Path], None]] = {
            "cut off": cut, "empty": lambda path: path.write_bytes(b"") and None, "zeros": lambda path: path.write_bytes(bytes(400)) and None,
            "words": lambda path: path.write_text("NRRD0005\ntype: short\n") and None,
        }  # fmt: skip
        for name, damage in damages.items():
            for verb in ("check", "pretrain"):
                yield Trial(
                    "G", f"{suffix} {name}, {verb}",
                    lambda bench, suffix=suffix, damage=damage, verb=verb: words(bench, verb, convert(bench, suffix, damage)),
                    "refused", ("T1CE_reg",),
                )  # fmt: skip


TRIALS = [*tables(), *trees(), *other_formats()]
