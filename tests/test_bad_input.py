"""Every kind of bad input, through the command line: one clear message, an exit code, and nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from metaseg.cases.readers import read_cases
from metaseg.cases.splits import make_split

Call = Callable[..., tuple[int, str, str]]
CASE = "Brats18_HGG01_1_1"
TINY = (
    "--epochs",
    "1",
    "--slices-per-epoch",
    "8",
    "--jobs",
    "1",
    "--model-options",
    '{"channels":[4,8],"strides":[2]}',
)


@pytest.fixture
def call(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METASEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("METASEG_DEBUG", raising=False)
    return call


@pytest.fixture
def data(write_cases, tmp_path: Path) -> Path:
    """Three good cases, to be spoiled."""
    shutil.copytree(write_cases(count=3), tmp_path / "HGG")
    return tmp_path / "HGG"


def image(data: Path, modality: str) -> Path:
    return data / CASE / f"{CASE}_{modality}.nii.gz"


def rewrite(path: Path, values: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> None:
    old = nib.load(path)
    array = values(np.asarray(old.dataobj))
    nib.save(nib.Nifti1Image(array, old.affine if affine is None else affine), path)


def truncated(data: Path) -> None:
    content = image(data, "t2").read_bytes()
    image(data, "t2").write_bytes(content[: len(content) // 2])


def garbage(data: Path) -> None:
    image(data, "t2").write_bytes(b"this is no image" * 40)


def other_shape(data: Path) -> None:
    rewrite(image(data, "t2"), lambda array: array[:, :, :-2])


def other_affine(data: Path) -> None:
    rewrite(image(data, "t2"), lambda array: array, np.diag([-1.0, -1.0, 2.5, 1.0]))


def not_finite(data: Path) -> None:
    def spoil(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32)
        array[4, 4, 4] = np.nan
        return array

    rewrite(image(data, "t2"), spoil)


def unexpected_label(data: Path) -> None:
    rewrite(image(data, "seg"), lambda array: np.where(array == 4, 7, array).astype(np.uint8))


def label_of_other_shape(data: Path) -> None:
    rewrite(image(data, "seg"), lambda array: array[:-1])


def missing_modality(data: Path) -> None:
    image(data, "t1ce").unlink()


def doubled_modality(data: Path) -> None:
    nib.save(nib.load(image(data, "t2")), data / CASE / f"{CASE}_t2.nii")


def empty_image(data: Path) -> None:
    for modality in ("flair", "t1", "t1ce", "t2"):
        rewrite(image(data, modality), np.zeros_like)


SPOILED = [
    (truncated, "t2"), (garbage, "t2"), (other_shape, "t2"), (other_affine, "t2"), (not_finite, "t2"),
    (unexpected_label, "seg"), (label_of_other_shape, "seg"), (missing_modality, "t1ce"), (doubled_modality, "t2"),
    (empty_image, CASE),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "named"), SPOILED, ids=lambda value: getattr(value, "__name__", value))
class TestSpoiledCase:
    def test_check_names_file_and_remedy(self, call, data, spoil, named):
        spoil(data)
        code, out, _ = call("data", "check", data, "--json")
        assert code == 1
        findings = json.loads(out)["findings"]
        errors = [finding for finding in findings if finding["severity"] == "error"]
        assert any(CASE in str(finding["case"]) and named in str(finding) for finding in errors)
        assert all(finding["remedy"] for finding in findings)

    def test_pretrain_refuses_it_in_one_message(self, call, data, tmp_path, spoil, named):
        spoil(data)
        code, _, error = call(
            "pretrain", "--data", data, "--modalities", "flair,t1,t1ce,t2", "--out", tmp_path / "run", *TINY
        )
        assert code in (1, 2)
        assert CASE in error
        assert named in error
        assert "Traceback" not in error
        assert error.count("metaseg:") == 1
        assert not (tmp_path / "run").exists()
        cached = tmp_path / "cache" / "cases"
        assert not [path for path in cached.glob("*") if path.name.endswith(".part") or CASE in path.name]


class TestGoodData:
    def test_check_finds_nothing(self, call, data):
        code, out, _ = call("data", "check", data, "--json")
        assert code == 0
        assert json.loads(out)["findings"] == []


class TestSplits:
    @pytest.fixture
    def leaking(self, data, tmp_path) -> Path:
        split = make_split(read_cases(data), parts={"train": 1, "val": 1, "test": 1}, stratify=None)
        split.save(tmp_path / "split.json")
        content = json.loads((tmp_path / "split.json").read_text())
        content["parts"]["val"].append(content["parts"]["train"][0])
        (tmp_path / "split.json").write_text(json.dumps(content))
        return tmp_path / "split.json"

    @pytest.mark.parametrize("verb", ["pretrain", "check", "naivetune"])
    def test_patient_in_two_parts_is_refused_wherever_the_split_is_used(self, call, data, leaking, tmp_path, verb):
        out = tmp_path / "run"
        words = {
            "pretrain": ("pretrain", "--data", data, "--split", leaking, "--out", out, *TINY),
            "check": ("data", "check", data, "--split", leaking, "--json"),
            "naivetune": ("naivetune", "--data", data, "--split", leaking, "--out", out, "--shots", 1, "--from"),
        }[verb]
        if verb == "naivetune":
            assert call("pretrain", "--data", data, "--out", tmp_path / "pre", *TINY)[0] == 0
            words = (*words, tmp_path / "pre")
        code, output, error = call(*words)
        assert code in (1, 2)
        assert "listed twice" in error or "split by patient" in output
        assert "Traceback" not in error
        assert not out.exists()


class TestArguments:
    @pytest.mark.parametrize(
        ("words", "named"),
        [
            (("pretrain", "--data", "nowhere"), "nowhere"),
            (("pretrain", "--model", "unet9", "--phantom-cases", "2"), "unet9"),
            (("pretrain", "--device", "cuda:7"), "cuda:7"),
            (("pretrain", "--weights", "nothing.pth", "--phantom-cases", "2"), "nothing.pth"),
            (("pretrain", "--epochs", "many"), "epochs"),
            (("pretrain", "--resume", "--out", "nothing"), "nothing"),
            (("metatune", "--order", "activ", "--from", "x"), "active"),
            (("metatune", "--from", "nothing"), "nothing"),
            (("metatune", "--threshold", "half", "--from", "x"), "half"),
            (("naivetune", "--from", "nothing"), "nothing"),
            (("evaluate", "nothing"), "nothing"),
            (("predict", "nothing", "case", "--out", "pred"), "nothing"),
            (("data", "check", "nowhere"), "nowhere"),
            (("data", "summary", "nowhere"), "nowhere"),
            (("data", "split", "nowhere"), "nowhere"),
            (("data", "prepare", "nowhere", "store"), "nowhere"),
        ],
        ids=lambda value: "-".join(value[:3]) if isinstance(value, tuple) else None,
    )
    def test_one_message_and_nothing_written(self, call, tmp_path, words, named):
        code, _, error = call(*words)
        assert code in (1, 2)
        assert named in error
        assert "Traceback" not in error
        assert not [path.name for path in tmp_path.iterdir() if path.name != "cache"]
