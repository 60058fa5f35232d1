from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from metaseg.cases import Case, Split, label_scheme, make_split, missing_strata, read_split
from metaseg.errors import DataError, UsageError, WriteError


def case(
    id: str, patient: str | None = None, cohort: str = "HGG", grade: str | None = None, site: str | None = None
) -> Case:
    return Case(id, patient or id, cohort, {}, None, label_scheme("brats"), grade=grade, site=site)


def cohort_of(counts: dict[str, int]) -> list[Case]:
    """So many patients of each kind, one case each."""
    return [case(f"{kind}-{index}", cohort=kind) for kind, count in counts.items() for index in range(count)]


@st.composite
def case_sets(draw: st.DrawFn) -> list[Case]:
    patients = draw(st.integers(3, 40))
    owners = [*range(patients), *draw(st.lists(st.integers(0, patients - 1), max_size=30))]
    kinds = draw(st.lists(st.sampled_from("ABC"), min_size=patients, max_size=patients))
    return [case(f"c{index}", f"p{owner}", kinds[owner]) for index, owner in enumerate(owners)]


SHARES = st.sampled_from(
    [None, {"train": 0.5, "test": 0.5}, {"train": 0.8, "val": 0.1, "test": 0.1}, {"a": 0.34, "b": 0.33, "c": 0.33}]
)


@settings(max_examples=60, deadline=None)
@given(cases=case_sets(), parts=SHARES, seed=st.integers(0, 2**32 - 1), stratify=st.sampled_from(["cohort", None]))
def test_every_case_is_in_one_part_and_no_patient_in_two(
    cases: list[Case], parts: dict[str, float] | None, seed: int, stratify: Any
) -> None:
    split = make_split(cases, parts, seed=seed, stratify=stratify)
    assert sorted(name for names in split.parts.values() for name in names) == sorted(case.id for case in cases)
    patients = [{case.patient for case in split.select(cases, part)} for part in split.parts]
    assert sum(map(len, patients)) == len(set().union(*patients))
    assert all(patients)
    shuffled = random.Random(seed).sample(cases, len(cases))
    assert make_split(shuffled, parts, seed=seed, stratify=stratify) == split


@settings(max_examples=60, deadline=None)
@given(
    counts=st.dictionaries(st.sampled_from("ABCD"), st.integers(3, 60), min_size=1),
    parts=SHARES,
    folds=st.sampled_from([None, 2, 5]),
    seed=st.integers(0, 99),
)
def test_numbers_of_patients_keep_the_shares_overall_and_in_every_stratum(
    counts: dict[str, int], parts: dict[str, float] | None, folds: int | None, seed: int
) -> None:
    cases = cohort_of(counts)
    shares = (
        {f"fold-{i}": 1 / folds for i in range(folds)} if folds else parts or {"train": 0.7, "val": 0.15, "test": 0.15}
    )
    # Smaller sets give every part one patient before they keep shares.
    assume(min(shares.values()) * len(cases) >= 1)
    split = make_split(cases, None if folds else parts, folds=folds, seed=seed)
    for part, share in shares.items():
        chosen = Counter(case.cohort for case in split.select(cases, part))
        assert abs(chosen.total() - share * len(cases)) < 1 + 1e-6
        for kind, count in counts.items():
            assert abs(chosen[kind] - share * count) <= 2 + 1e-6


def test_the_splits_of_hao_et_al() -> None:
    """BraTS 2019, 259 HGG and 76 LGG: 203 / 66 / 66 patients, alike in grade."""
    cases = [
        case(f"{kind}{index}", grade=kind) for kind, count in (("HGG", 259), ("LGG", 76)) for index in range(count)
    ]
    split = make_split(cases, {"train": 203, "val": 66, "test": 66}, stratify="grade")
    assert {part: len(ids) for part, ids in split.parts.items()} == {"train": 203, "val": 66, "test": 66}
    shares = [
        sum(case.grade == "LGG" for case in split.select(cases, part)) / len(split.parts[part]) for part in split.parts
    ]
    assert max(shares) - min(shares) < 0.02
    assert {
        part: len(ids) for part, ids in make_split(cases, {"train": 0.6, "val": 0.2, "test": 0.2}).parts.items()
    } == {
        "train": 201,
        "val": 67,
        "test": 67,
    }


def test_seeds_differ_and_are_random_within_a_stratum() -> None:
    cases = cohort_of({"HGG": 40})
    tests = [make_split(cases, seed=seed).parts["test"] for seed in range(60)]
    assert len(set(tests)) == 60
    drawn = Counter(name for names in tests for name in names)
    # Each of 40 patients is expected in 6 of 40 test places, 9 times in 60 draws: none is left out or always in.
    assert len(drawn) == 40
    assert max(drawn.values()) < 22


def test_strata_may_be_grade_or_site() -> None:
    cases = [case(f"{index}", site="CBICA" if index % 2 else None) for index in range(20)]
    split = make_split(cases, {"a": 0.5, "b": 0.5}, stratify="site")
    assert [Counter(case.site for case in split.select(cases, part)) for part in "ab"] == [
        Counter({"CBICA": 5, None: 5})
    ] * 2


def test_groups_are_divided_alike_within_a_stratum() -> None:
    cases = cohort_of({"HGG": 40})
    groups = {one.id: "first" if number < 10 else "second" for number, one in enumerate(cases)}
    split = make_split(cases, {"train": 0.5, "val": 0.2, "test": 0.3}, groups=groups)
    assert {part: Counter(groups[name] for name in ids) for part, ids in split.parts.items()} == {
        "train": {"first": 5, "second": 15}, "val": {"first": 2, "second": 6}, "test": {"first": 3, "second": 9},
    }  # fmt: skip


def test_parts_of_are_told_by_patient() -> None:
    cases = [case("a", "P"), case("b", "P"), case("c", "Q"), case("d", "R")]
    split = Split(0, None, {"train": ("a", "b"), "test": ("c",)}, {"a": "P", "b": "P", "c": "Q"})
    assert split.parts_of(cases) == {"P": "train", "Q": "test"}


def test_folds() -> None:
    cases = [*cohort_of({"HGG": 9, "LGG": 6}), case("again", "HGG-0")]
    split = make_split(cases, folds=5)
    assert list(split.parts) == [f"fold-{index}" for index in range(5)]
    turn = split.fold(2)
    assert turn.parts["test"] == split.parts["fold-2"]
    assert sorted(turn.parts["train"] + turn.parts["test"]) == sorted(case.id for case in cases)
    with pytest.raises(UsageError, match="unknown part of the split 'fold-5'"):
        split.fold(5)


def test_small_sets_fill_every_part() -> None:
    assert [len(ids) for ids in make_split(cohort_of({"HGG": 3})).parts.values()] == [1, 1, 1]
    with pytest.raises(DataError, match="2 patients cannot fill 3 parts"):
        make_split(cohort_of({"HGG": 2}))


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"parts": {"train": 0.7, "test": 0.2}}, "the parts are"),
        ({"parts": {"train": 1.5, "test": -0.5}}, "the parts are"),
        ({"parts": {}}, "the parts are"),
        ({"parts": {"train": 5, "test": 6}}, "ask for 11 patients, the data has 10"),
        ({"folds": 1}, "1 folds"),
        ({"folds": 3, "parts": {"a": 1.0}}, "both parts and folds"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        make_split(cohort_of({"HGG": 10}), **arguments)


def test_doubled_ids_are_refused() -> None:
    with pytest.raises(DataError, match="one id"):
        make_split([case("a"), case("a"), case("b"), case("c")])


def test_round_trip(tmp_path: Path) -> None:
    split = make_split(cohort_of({"HGG": 10, "Müller": 4}), seed=3)
    path = tmp_path / "new" / "split.json"
    split.save(path)
    assert read_split(path) == Split.load(str(path)) == split
    assert json.loads(path.read_text(encoding="utf-8"))["version"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["split.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "split.json"
    split = make_split(cohort_of({"HGG": 5}))
    split.save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(WriteError, match="disk full"):
        make_split(cohort_of({"HGG": 8})).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("parts", "patients", "hint"),
    [
        ({"train": ("a",), "test": ("b",)}, {"a": "p", "b": "p"}, "patient p is in two parts, 'train' and 'test'"),
        ({"train": ("a",), "test": ("a",)}, {"a": "p"}, "case a is listed twice"),
        ({"train": ("a", "a")}, {"a": "p"}, "case a is listed twice"),
        ({"train": ("a", "b")}, {"a": "p"}, "case b has no patient"),
    ],
)
def test_a_leaking_split_can_neither_be_made_nor_loaded(
    tmp_path: Path, parts: dict[str, tuple[str, ...]], patients: dict[str, str], hint: str
) -> None:
    with pytest.raises(DataError, match=hint):
        Split(0, None, parts, patients)
    path = tmp_path / "split.json"
    content = {
        "format": "metaseg-split",
        "version": 1,
        "seed": 0,
        "stratify": None,
        "parts": parts,
        "patients": patients,
    }
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=hint) as caught:
        Split.load(path)
    assert caught.value.where == path


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"format": "other"}, "no split file"),
        ({"version": 2}, "of version 2"),
        ({"parts": ["a"]}, "another shape"),
        ({"parts": {"train": 3}}, "another shape"),
        ({"patients": None}, "another shape"),
        ({"seed": "x"}, "another shape"),
    ],
)
def test_garbled_files(tmp_path: Path, change: dict[str, Any], hint: str) -> None:
    path = tmp_path / "split.json"
    make_split(cohort_of({"HGG": 5})).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=hint):
        Split.load(path)


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_files_that_are_no_split(tmp_path: Path, content: str) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(DataError, match="split file"):
        Split.load(tmp_path / "split.json")
    with pytest.raises(DataError, match="does not exist"):
        Split.load(tmp_path / "no.json")


def test_select_refuses_other_data() -> None:
    cases = cohort_of({"HGG": 10})
    split = make_split(cases)
    with pytest.raises(UsageError, match="unknown part of the split 'valid'") as caught:
        split.select(cases, "valid")
    assert caught.value.expected == "one of train, val, test"
    with pytest.raises(DataError, match=r"7 of 7 cases .* not in the data: HGG-1, .* and 2 more"):
        split.select(cohort_of({"LGG": 10}), "train")
    with pytest.raises(DataError, match="two cases of the data have one id"):
        split.select([*cases, cases[0]], "train")


def test_select_finds_a_patient_that_the_split_did_not_know() -> None:
    cases = [case(f"c{index}") for index in range(6)]
    split = make_split(cases, {"train": 0.5, "test": 0.5})
    hidden = [case(entry.id, "one patient") for entry in cases]
    with pytest.raises(DataError, match=r"patient one patient is in test: .*; train: "):
        split.select(hidden, "train")


def test_select_takes_a_larger_data_set() -> None:
    cases = cohort_of({"HGG": 6})
    split = make_split(cases)
    chosen = split.select([*cohort_of({"LGG": 3}), *reversed(cases)], "train")
    assert tuple(case.id for case in chosen) == split.parts["train"]


def test_strata_that_a_part_lacks_are_named() -> None:
    cases = [*cohort_of({"A": 20, "B": 1, "C": 2}), case("C-copy", "C-0", "C")]
    split = make_split(cases, {"train": 0.6, "val": 0.2, "test": 0.2})
    missing = {stratum.name: stratum for stratum in missing_strata(cases, split)}
    assert set(missing) == {"B", "C"}
    assert (missing["B"].patients, len(missing["B"].parts)) == (1, 2)
    assert missing["C"].patients == 2
    assert str(missing["B"]).startswith("cohort B has 1 patient and is not in ")


def test_complete_and_unstratified_splits_lack_nothing() -> None:
    cases = cohort_of({"A": 20, "B": 10})
    assert missing_strata(cases, make_split(cases, folds=5)) == []
    rare = [*cases, case("x", cohort="C")]
    plain = make_split(rare, folds=2, stratify=None)
    assert missing_strata(rare, plain) == []
    assert [stratum.name for stratum in missing_strata(rare, plain, "cohort")] == ["C"]
    assert missing_strata(rare, plain, "site") == []
