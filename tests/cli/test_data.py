from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from metaseg.cases import read_split

Call = Callable[..., tuple[int, str, str]]


def write_case(root: Path, number: int, damaged: bool = False) -> None:
    name = f"Brats18_TCIA01_{number:03}_1"
    folder = root / "HGG" / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(number)
    for modality in ("flair", "t1", "t1ce", "t2"):
        values = rng.integers(1, 900, (12, 10, 4)).astype(np.int16)
        nib.save(nib.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])), folder / f"{name}_{modality}.nii.gz")
    label = np.zeros((12, 10, 4), np.uint8)
    label[3:6, 3:6, 1:3] = 3 if damaged else 4
    nib.save(nib.Nifti1Image(label, np.diag([-1.0, -1.0, 1.0, 1.0])), folder / f"{name}_seg.nii.gz")


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    for number in range(1, 5):
        write_case(tmp_path / "cases", number)
    return tmp_path / "cases"


def test_check_ends_with_0_or_1(cases: Path, call: Call) -> None:
    code, text, progress = call("data", "check", cases)
    assert code == 0, text
    assert "4 cases (brats)" in text
    assert "checking cases 4/4" in progress
    write_case(cases, 9, damaged=True)
    code, text, _ = call("data", "check", cases, "--json")
    report = json.loads(text)
    assert (code, report["ok"], report["cases"]) == (1, False, 5)
    assert {finding["case"] for finding in report["findings"] if finding["severity"] == "error"} == {
        "Brats18_TCIA01_009_1"
    }
    code, text, _ = call("data", "check", cases)
    assert code == 1
    assert "Brats18_TCIA01_009_1" in text


def test_summary(cases: Path, call: Call) -> None:
    code, text, _ = call("data", "summary", cases, "--csv", "out/table.csv")
    assert code == 0
    assert "4 cases of 4 patients" in text
    assert "4 x 10 x 12" in text
    assert len(Path("out/table.csv").read_text().splitlines()) == 5
    content = json.loads(call("data", "summary", cases, "--json")[1])
    # 3 x 3 x 2 voxels of 1 mm.
    assert content["totals"]["volumes"]["ml"]["WT"]["median"] == pytest.approx(0.018)


def test_split_is_written_once(cases: Path, call: Call) -> None:
    words = ("data", "split", cases, "--parts", "train=3,test=1", "--stratify", "none", "--out", "s.json")
    code, text, _ = call(*words)
    assert code == 0
    assert "train" in text
    split = read_split("s.json")
    assert [len(split.parts[name]) for name in ("train", "test")] == [3, 1]
    before = Path("s.json").read_bytes()
    code, _, error = call(*words, "--seed", "1")
    assert (code, Path("s.json").read_bytes()) == (2, before)
    assert "--overwrite" in error
    assert call(*words, "--overwrite")[0] == 0
    assert Path("s.json").read_bytes() == before


def test_several_folders_get_one_split_in_which_each_is_divided_alike(
    write_cases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = (write_cases("HGG", 6, centre=0.5), write_cases("MET", 6, centre=0.35))
    assert call("data", "split", *folders, "--parts", "train=6,val=2,test=4", "--stratify", "none")[0] == 0
    split = read_split("split.json")
    for name in ("HGG", "MET"):
        assert [sum(name in case for case in part) for part in split.parts.values()] == [3, 1, 2]
    # One patient in both folders stands once, and folders that a part lacks are named.
    shutil.copytree(folders[0] / "Brats18_HGG00_1_1", "few/HGG/Brats18_HGG00_1_1")
    code, text, said = call("data", "split", folders[0], "few", "--out", "s.json")
    assert (code, sum(map(len, read_split("s.json").parts.values()))) == (0, 6)
    assert "1 cases are in several folders, and count as one patient's: Brats18_HGG00_1_1" in said
    assert "warning: no patient of few is in " in text
    Path("whose.csv").write_text("case,patient,flair\nBrats18_HGG00_1_1,else,few/HGG/Brats18_HGG00_1_1/x.nii.gz\n")


def test_folds(cases: Path, call: Call) -> None:
    assert call("data", "split", cases, "--folds", "2")[0] == 0
    assert sorted(read_split("split.json").parts) == ["fold-0", "fold-1"]


def test_split_of_pictures_tells_copies_and_classes_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        noise = np.random.default_rng(number % 10).integers(0, 200, (10, 12), dtype=np.uint8)
        path = tmp_path / "pictures" / ("rare" if number == 9 else "ab"[number % 2]) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((96, 80), Image.Resampling.BICUBIC).save(path, quality=90 - number)
    code, text, _ = call("data", "split", "pictures", "--parts", "train=0.5,test=0.5", "--stratify", "grade")
    assert code == 0
    assert "2 of 12 pictures are copies or near-copies of others, and stay with them" in text
    assert "warning: grade rare has 1 patient and is not in t" in text
    parts = read_split("split.json").parts
    for first, copy in (("a-0", "a-10"), ("b-1", "b-11")):
        assert any({first, copy} <= set(part) for part in parts.values())


def test_prepare(cases: Path, call: Call) -> None:
    code, text, progress = call("data", "prepare", cases, "store", "--modalities", "t1,t1ce", "--jobs", "1")
    assert (code, text) == (0, "4 cases prepared in store\n"), progress
    assert call("data", "prepare", cases, cases)[0] == 2


def test_phantoms_get_their_arguments(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import metaseg.cases.phantoms as phantoms

    seen = {}

    def fake(out: Path, **options: object) -> list[Path]:
        seen.update(options, out=out)
        options["progress"](1, 2)  # type: ignore[operator]
        options["progress"](2, 2)  # type: ignore[operator]
        return [out, out]

    monkeypatch.setattr(phantoms, "make_phantoms", fake)
    code, text, progress = call("data", "phantoms", tmp_path, "--cohort", "met", "--cases", 2, "--seed", 5)
    assert (code, text) == (0, f"2 synthetic cases in {tmp_path}\n")
    assert "making phantoms 2/2" in progress
    seen.pop("progress")
    assert seen == {"out": tmp_path, "cohort": "met", "cases": 2, "seed": 5, "size": "small"}


def test_fetch_tells_licence_and_citation(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from metaseg.cases import fetch

    monkeypatch.setattr(fetch, "fetch_dataset", lambda name, out: out / name)
    code, text, _ = call("data", "fetch", "--out", tmp_path)
    assert code == 0
    for part in (str(tmp_path / "msd-task01-brats"), "licence: CC-BY-SA", "Antonelli"):
        assert part in text


def test_unknown_data_set_is_a_usage_error(call: Call, tmp_path: Path) -> None:
    code, _, error = call("data", "fetch", "nonsense", "--out", tmp_path)
    assert code == 2
    assert "nonsense" in error


def test_split_of_a_table_that_has_one(cases: Path, call: Call) -> None:
    files = sorted(cases.rglob("*_flair.nii.gz"))
    rows = [
        f"{file.parent.name},{part},{file}" for file, part in zip(files, ("train", "train", "val", "test"), strict=True)
    ]
    table = cases / "cases.csv"
    table.write_text("\n".join(["case,split,flair", *rows]))
    code, _, said = call("data", "split", table, "--parts", "train=0.5,test=0.5")
    assert code == 0
    assert "warning: the table has a column 'split'" in said
    assert [len(part) for part in read_split("split.json").parts.values()] == [2, 2]
    assert [len(part) for part in read_split(table).parts.values()] == [2, 1, 1]
    assert call("data", "check", table, "--split", table, "--allow-missing")[0] == 0


def test_index_writes_a_table_that_the_check_reads(cases: Path, call: Call) -> None:
    (cases / "HGG" / "scout.nii.gz").touch()
    code, text, _ = call("data", "index", cases)
    assert code == 0
    assert "4 cases of 4 patients: flair 4, label 4, t1 4, t1ce 4, t2 4" in text
    assert "left out: the name gives no modality: HGG/scout.nii.gz" in text
    table = cases / "cases.csv"
    assert call("data", "check", table, "--label-scheme", "brats")[0] == 0
    before = table.read_bytes()
    code, _, said = call("data", "index", cases, "--pattern", "{cohort}/{case}/*_{modality}.nii.gz")
    assert code == 2
    assert "exists" in said
    assert table.read_bytes() == before
    assert call("data", "index", cases, "--pattern", "{cohort}/{case}/*_{modality}.nii.gz", "--overwrite")[0] == 0
    assert table.read_bytes() == before
    code, _, said = call("data", "index", cases, "--pattern", "{case}", "--overwrite")
    assert (code, table.read_bytes()) == (2, before)
    assert "--pattern" in said


@pytest.mark.parametrize(
    "words",
    [
        ("summary", "DATA", "--csv", "FILE"),
        ("split", "DATA", "--out", "FILE"),
        ("index", "DATA", "--out", "FILE"),
        ("prepare", "DATA", "FILE"),
        ("phantoms", "FILE", "--cases", 1),
        ("fetch", "--out", "FILE"),
    ],
    ids=lambda words: words[0],
)
def test_no_verb_replaces_what_is_there(cases: Path, tmp_path: Path, call: Call, words: tuple[object, ...]) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("my own")
    given = [{"DATA": cases, "FILE": mine}.get(str(word), word) for word in words]
    code, _, text = call("data", *given)
    assert code in (1, 2)
    assert str(mine) in text
    assert "unexpected" not in text
    assert mine.read_text() == "my own"


@pytest.mark.parametrize("verb", ["summary", "split", "index"])
def test_no_output_takes_the_place_of_an_input(cases: Path, call: Call, verb: str) -> None:
    image = next(cases.rglob("*_t1.nii.gz"))
    before = image.read_bytes()
    option = "--csv" if verb == "summary" else "--out"
    code, _, text = call("data", verb, cases, option, image, "--overwrite")
    assert (code, image.read_bytes()) == (2, before)
    assert "would replace a file that is read" in text


@pytest.mark.parametrize("verb", ["summary", "prepare"])
def test_one_bad_case_does_not_stop_the_others(cases: Path, tmp_path: Path, call: Call, verb: str) -> None:
    bad = next(cases.rglob("*_002_1_t2.nii.gz"))
    bad.write_bytes(bad.read_bytes()[:80])
    given = ("--json", "--csv", tmp_path / "a.csv") if verb == "summary" else (tmp_path / "store",)
    code, text, errors = call("data", verb, cases, *given)
    assert code == 1
    assert "1 of 4 cases could not be" in errors
    assert "Brats18_TCIA01_002_1" in errors
    if verb == "summary":
        found = json.loads(text)
        assert [one["case"] for one in found["failed"]] == ["Brats18_TCIA01_002_1"]
        assert len(found["cases"]) == 3
        assert len((tmp_path / "a.csv").read_text().splitlines()) == 4
    else:
        assert len(json.loads((tmp_path / "store" / "store.json").read_text())["cases"]) == 3
