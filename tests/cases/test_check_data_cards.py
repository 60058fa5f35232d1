"""What the data cards tell users to do works."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from metaseg.cases.check import check_dataset
from metaseg.cases.labels import LABEL_SCHEMES
from metaseg.cases.readers import READERS, read_cases
from metaseg.cases.splits import make_split

CARDS = Path(__file__).parents[2] / "data_cards"
MINE = ("brats", "brats-mets", "ucsf-bmsr", "cheng", "four-class", "tumour-yes-no", "phantoms", "open-ms")


def card(name: str) -> str:
    return (CARDS / f"{name}.md").read_text(encoding="utf-8")


def test_ucsf_recipe_gives_cases_with_patients(tmp_path, monkeypatch):
    for seed, study in enumerate(("100101A", "100101B", "100102A")):
        (tmp_path / study).mkdir()
        image = np.random.default_rng(seed).integers(1, 100, (4, 16, 16, 8)).astype(np.int16)
        for channel, values in zip(("FLAIR", "T1pre", "T1post", "T2Synth"), image, strict=True):
            nib.Nifti1Image(np.pad(values, 1), np.eye(4)).to_filename(tmp_path / study / f"{study}_{channel}.nii.gz")
        label = np.zeros((18, 18, 10), dtype=np.uint8)
        label[2:4, 2:4, 2:4] = 1
        nib.Nifti1Image(label, np.eye(4)).to_filename(tmp_path / study / f"{study}_seg.nii.gz")
    (recipe,) = re.findall(r"```python\n(.*?)```", card("ucsf-bmsr"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(recipe, {})
    cases = read_cases(tmp_path, format="nnunet")
    assert [case.id for case in cases] == [f"BraTS-UCSF-{name}" for name in ("100101-1", "100101-2", "100102-1")]
    assert [case.patient for case in cases] == ["BraTS-UCSF-100101", "BraTS-UCSF-100101", "BraTS-UCSF-100102"]
    assert {(case.modalities, case.cohort, case.scheme.name) for case in cases} == {
        (("flair", "t1", "t1ce"), "MET", "whole-lesion")
    }
    assert check_dataset(tmp_path, format="nnunet").findings == ()
    assert sorted(map(len, make_split(cases, {"train": 0.5, "test": 0.5}).parts.values())) == [1, 2]


@pytest.mark.parametrize("name", MINE)
def test_cards_name_existing_formats_and_schemes(name):
    text = card(name)
    assert set(re.findall(r"--format ([a-z0-9-]+)", text)) <= set(READERS)
    assert set(re.findall(r"--label-scheme ([a-z0-9-]+)", text)) <= set(LABEL_SCHEMES)
    assert "metaseg data check" in text


@pytest.mark.parametrize("name", MINE)
def test_cards_have_the_same_headings(name):
    headings = re.findall(r"^## (.*)$", card(name), re.MULTILINE)
    assert headings == ["Source, citation, terms", "Get it", "Conventions", "How metaseg reads it", "Known traps"]


def test_brats_card_tells_the_schemes_values():
    classes = {"necro": 1, "core": 1, "edema": 2, "enhancing tumour": 3}
    rows = re.findall(r"^\| (\d) \| (.*) \| (.*) \| (.*) \|$", card("brats"), re.MULTILINE)
    for scheme, column in (("brats", 1), ("brats2023", 2), ("msd-brats", 3)):
        told = {
            int(row[0]): next(number for word, number in classes.items() if word in row[column])
            for row in rows
            if row[column] != "–"
        }
        assert {0: 0} | told == dict(LABEL_SCHEMES[scheme].values)
