"""What label values mean, and that no convention is offered that would turn one class into another."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaseg.cases import read_cases
from metaseg.cases.check import check_dataset
from metaseg.cases.labels import CAVITY, LABEL_SCHEMES, SUBREGIONS, WHOLE_LESION, LabelScheme, doubts, label_scheme
from metaseg.errors import DataError, DataWarning, UsageError
from metaseg.store.prepare import open_data
from metaseg.store.stored_case import to_space


@pytest.mark.parametrize("scheme", LABEL_SCHEMES.values(), ids=LABEL_SCHEMES)
def test_classes_come_back_from_the_file(scheme: LabelScheme) -> None:
    classes = np.arange(scheme.space.num_classes)
    np.testing.assert_array_equal(scheme.decode(scheme.encode(classes), "seg"), classes)


@pytest.mark.parametrize(
    ("name", "regions"),
    [
        # As the challenges' papers define them: BraTS 2018, 2023, paediatric 2024 (arXiv 2404.15009), treated 2024.
        ("brats", {"WT": {1, 2, 4}, "TC": {1, 4}, "ET": {4}}),
        ("brats2023", {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {3}}),
        ("brats-ped", {"WT": {1, 2, 3, 4}, "TC": {1, 2, 3}, "ET": {1}}),
        ("brats-post", {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {3}}),
        ("brats-post-core", {"WT": {1, 2, 3, 4}, "TC": {1, 3, 4}, "ET": {3}}),
        ("brats-post-cavity", {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {3}, "RC": {4}}),
        ("any-lesion", {"WT": set(range(1, 10))}),
    ],
)
def test_regions_of_the_published_conventions(name: str, regions: dict[str, set[int]]) -> None:
    scheme = LABEL_SCHEMES[name]
    values = np.array([value for value in range(10) if scheme.knows(np.array([value]))])
    classes = scheme.decode(values, "seg")
    found = {region: set(values[np.isin(classes, inside)]) for region, inside in scheme.space.regions.items()}
    assert found == regions


def test_a_cavity_is_no_tumour_in_any_other_space() -> None:
    classes = np.arange(5, dtype=np.uint8)
    assert to_space(classes, CAVITY, WHOLE_LESION, "p").tolist() == [0, 1, 1, 1, 0]
    assert to_space(classes, CAVITY, SUBREGIONS, "p").tolist() == [0, 1, 2, 3, 0]
    assert to_space(classes[:4], SUBREGIONS, CAVITY, "p").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_one_number_per_lesion(dtype: type) -> None:
    values = np.array([0, 1, 7, 120], dtype)
    assert label_scheme("any-lesion").decode(values, "seg").tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("scheme", ["brats2023", "whole-lesion", "any-lesion", "1=lesion"])
@pytest.mark.parametrize(
    ("value", "shown"), [(np.float32(0.9999999), "0.9999999"), (1.0000000001, "1.0000000001"), (0.5, "0.5")]
)
def test_values_that_are_not_whole_are_seen(scheme: str, value: float, shown: str) -> None:
    with pytest.raises(DataError, match=f"not whole: {shown}$|not whole: {shown}\n"):
        label_scheme(scheme).decode(np.array([value]), "seg")


@pytest.mark.parametrize(
    ("scheme", "values", "offered"),
    [
        ("brats", [0, 1, 2, 3], {"brats2023"}),
        ("brats", [0, 1, 2, 3, 4], set()),
        ("brats2023", [0, 1, 2, 3, 4], {"brats-post", "brats-post-core", "brats-post-cavity"}),
        ("brats2023", [0, 1, 2, 4], {"brats-post", "brats-post-core", "brats-post-cavity"}),
        ("brats2023", [0, 4], {"brats-post", "brats-post-core", "brats-post-cavity"}),
        ("brats2023", list(range(12)), {"any-lesion"}),
        ("brats", [0, 1, 2, 255], {"any-lesion"}),
        ("msd-brats", [0, 1, 2, 4], set()),
        ("brats-ped", [0, 5], {"any-lesion"}),
        (
            "whole-lesion",
            [0, 1, 2, 4],
            {"any-lesion", "brats", "brats-ped", "brats-post", "brats-post-core", "brats-post-cavity"},
        ),
        ("whole-lesion", [0, 255], {"any-lesion"}),
        ("any-lesion", [-1, 0], set()),
    ],
)
def test_remedies_keep_the_meaning(scheme: str, values: list[int], offered: set[str]) -> None:
    with pytest.raises(DataError, match="unexpected label values") as caught:
        label_scheme(scheme).decode(np.array(values, np.int16), "seg")
    words = str(caught.value.remedy).split()
    named = {after for before, after in itertools.pairwise(words) if before == "--label-scheme"}
    assert {name for name in named if "=" not in name} == offered
    assert (scheme == "any-lesion") != any("=?" in name for name in named)


@given(st.dictionaries(st.integers(1, 255), st.sampled_from(["NCR", "ed", "Et", "RC", "background"]), min_size=1))
def test_spelled_schemes(meanings: dict[int, str]) -> None:
    text = " , ".join(f"{value} = {name}" for value, name in meanings.items())
    if set(meanings.values()) == {"background"}:
        with pytest.raises(UsageError):
            label_scheme(text)
        return
    scheme = label_scheme(text)
    decoded = scheme.decode(np.array(list(meanings)), "seg")
    assert [scheme.space.classes[number].lower() for number in decoded] == [name.lower() for name in meanings.values()]
    assert label_scheme(scheme.name) == scheme


@pytest.mark.parametrize(
    "name", ["", "brats18", "1=", "=ET", "1=tumour", "0=ET", "256=ET", "1=ET,1=ED", "1=lesion,2=ET", "1:ET=2"]
)
def test_misspelled_schemes(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        label_scheme(name)
    assert "1=NCR,2=ED,3=ET,4=background" in str(caught.value)


def kinds(scheme: LabelScheme, labels: list[set[int]], **settings: bool) -> list[str]:
    return [kind for kind, _ in doubts([(scheme, values) for values in labels], **({"told": False} | settings))]


def test_what_a_whole_set_says() -> None:
    brats = LABEL_SCHEMES["brats"]
    assert kinds(brats, [{0, 1}, {0, 1, 2}, {3}]) == []
    assert kinds(brats, [{0, 1}, {1}, {0}]) == ["label-meaning"]
    assert kinds(brats, [{0, 1}], told=True) == ["label-region-absent"]
    assert kinds(brats, [{0, 1}], unite=True) == []
    assert kinds(brats, [{0}], unite=True) == ["label-region-absent"]
    assert kinds(brats, []) == []
    ((_, error),) = doubts([(brats, {1, 2}), (brats, {1})], told=False)
    assert error.found == "no label of 2 has the region ET"


PHANTOM = np.zeros((6, 6, 6), np.uint8)


LABEL_KINDS = {"label-meaning", "label-region-absent", "label-edition", "label-values"}


@pytest.mark.parametrize(
    ("folder", "suffixes", "values", "kind"),
    [
        ("MET-001", ("_flair", "_seg"), [1], "label-meaning"),
        ("BraTS-MET-00001-000", ("-t2f", "-seg"), [1], "label-meaning"),
        ("BraTS-GLI-00001-000", ("-t2f", "-seg"), [1, 2], "label-region-absent"),
        ("BraTS-PED-00001-000", ("-t2f", "-seg"), [1, 2, 3], "label-edition"),
        ("BraTS-PED-00001-000", ("-t2f", "-seg"), [1, 2, 3, 4], "label-values"),
        ("BraTS-GLI-02405-100", ("-t2f", "-seg"), [1, 2, 3, 4], "label-values"),
    ],
)
def test_the_check_and_the_verbs_agree(
    tmp_path: Path,
    write_nifti: Callable[..., Path],
    folder: str,
    suffixes: tuple[str, str],
    values: list[int],
    kind: str,
) -> None:
    label = PHANTOM.copy()
    label[2, 2, : len(values)] = values
    write_nifti(tmp_path / "set" / folder / f"{folder}{suffixes[0]}.nii.gz", np.full(label.shape, 5, np.int16) + label)
    write_nifti(tmp_path / "set" / folder / f"{folder}{suffixes[1]}.nii.gz", label)
    report = check_dataset(tmp_path / "set")
    # The grid is tiny, and its labels lie anywhere: other kinds have tests of their own.
    assert [one.kind for one in report.findings if one.kind in LABEL_KINDS] == [kind]
    if folder.startswith("BraTS"):
        assert "--label-scheme brats " not in report.to_json()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", DataWarning)
        if report.ok:
            open_data([tmp_path / "set"], cache=tmp_path)
        else:
            with pytest.raises(DataError):
                open_data([tmp_path / "set"], cache=tmp_path)
    assert bool(said) == report.ok


def test_paediatric_names_offer_the_paediatric_convention_alone(
    tmp_path: Path, write_nifti: Callable[..., Path]
) -> None:
    for cohort, offered in (("PED", {"brats-ped"}), ("GLI", {"brats-post", "brats-post-core", "brats-post-cavity"})):
        write_nifti(tmp_path / cohort / f"BraTS-{cohort}-00001-000-t2f.nii.gz")
        (case,) = read_cases(tmp_path / cohort)
        with pytest.raises(DataError) as caught:
            case.scheme.decode(np.arange(5), "seg")
        assert {name for name in LABEL_SCHEMES if f"{name} (" in str(caught.value.remedy)} == offered
