from __future__ import annotations

from dataclasses import dataclass

import pytest

from metaseg.adapt.domains import check_apart, source_split, source_to_draw_from, source_to_watch
from metaseg.cases.splits import Split
from metaseg.config.segmentation import NaivetuneConfig
from metaseg.errors import DataError, UsageError
from metaseg.runs.networks import SeenPatients

PARTS = {"train": ("s1", "s2"), "val": ("s3",), "test": ("s4", "s5")}
TARGET = {"train": ("t1", "t2"), "val": ("t3",), "test": ("t4",)}
NOBODY = SeenPatients(frozenset(), frozenset())
PRETRAINED = SeenPatients(frozenset({"s1", "s2"}), frozenset({"s3"}), "val")


@dataclass(frozen=True)
class Member:
    """A case as far as a split looks at it."""

    id: str
    patient: str
    cohort: str = ""
    grade: str | None = None
    site: str | None = None
    files: tuple = ()


def members(parts, **patients):
    return [Member(case, patients.get(case, case)) for ids in parts.values() for case in ids]


def ids(cases):
    return [case.id for case in cases]


@pytest.fixture
def config(tmp_path):
    """Settings of an adaptation with a split of each folder; keywords change parts of the target's or settings."""

    def make(target=TARGET, source=PARTS, **settings):
        for name, parts in (("source", source), ("split", target)):
            patients = {case: case for part in parts.values() for case in part}
            Split(0, None, parts, patients).save(tmp_path / f"{name}.json")
        files = {"split": tmp_path / "split.json", "source_split": tmp_path / "source.json"}
        return NaivetuneConfig(**(files | settings))

    return make


def test_a_cell_watches_the_test_part_of_the_source_and_a_trial_its_val_part(config):
    source = members(PARTS)
    assert ids(source_to_watch(config(), PRETRAINED, source)) == ["s4", "s5"]
    assert ids(source_to_watch(config(test_part="val"), PRETRAINED, source)) == ["s3"]


def test_without_the_sources_split_the_validation_patients_are_left_out_too(config):
    source = members(PARTS)
    assert ids(source_to_watch(config(source_split=None), PRETRAINED, source)) == ["s4", "s5"]
    assert ids(source_to_watch(config(source_split=None, split=None), PRETRAINED, source)) == ["s4", "s5"]
    drawn = SeenPatients(PRETRAINED.trained, PRETRAINED.validated)
    assert ids(source_to_watch(config(source_split=None, test_part="val"), drawn, source)) == ["s4", "s5"]


def test_validation_patients_are_never_among_the_test_patients_of_another_split(config):
    # The network was pretrained with another split: s4 chose its weights.
    other = SeenPatients(frozenset({"s1"}), frozenset({"s4"}), "val")
    assert ids(source_to_watch(config(), other, members(PARTS))) == ["s5"]


def test_one_split_of_both_domains_serves_both(config):
    both = {part: (*PARTS[part], *TARGET[part]) for part in PARTS}
    one = config(target=both, source_split=None)
    assert ids(source_to_watch(one, PRETRAINED, members(PARTS))) == ["s4", "s5"]
    check_apart(one, PRETRAINED, members(TARGET), members(PARTS))


def test_a_split_of_the_target_alone_is_none_of_the_source(config):
    assert source_split(config(source_split=None), members(PARTS)) is None
    assert source_split(config(), members(PARTS)).parts == PARTS


def test_methods_draw_from_trained_patients_or_else_from_the_sources_train_part(config):
    source = members(PARTS)
    assert ids(source_to_draw_from(config(), SeenPatients(frozenset({"s2"}), frozenset()), source)) == ["s2"]
    assert ids(source_to_draw_from(config(), NOBODY, source)) == ["s1", "s2"]
    with pytest.raises(UsageError, match="draws from the source's training cases"):
        source_to_draw_from(config(source_split=None), NOBODY, source)


def test_cases_of_the_sources_split_that_are_not_there_are_refused(config):
    with pytest.raises(DataError, match=r"1 of 2 cases of part 'test' are not in the data: s5"):
        source_to_watch(config(), PRETRAINED, members(PARTS)[:-1])
    # Left out on purpose.
    assert ids(source_to_watch(config(source_classes=("HGG",)), PRETRAINED, members(PARTS)[:-1])) == ["s4"]


CROSSING = [
    ("s1", "t4", {}, "the network has seen 1 patient .P. of part 'test' of the target"),
    ("s3", "t4", {}, "the network has seen 1 patient .P. of part 'test' of the target"),
    ("s1", "t3", {"test_part": "val"}, "the network has seen 1 patient .P. of part 'val' of the target"),
    ("s4", "t1", {}, "P is in part 'test' as source and in part 'train' as target"),
    ("s4", "t3", {}, "P is in part 'test' as source and in part 'val' as target"),
    ("s3", "t1", {}, "P is in part 'val' as source and in part 'train' as target"),
    ("s1", "t3", {}, "P is in part 'train' as source and in part 'val' as target"),
    ("s4", "t1", {"source_split": None}, "P is in part 'test' as source and in part 'train' as target"),
]


@pytest.mark.parametrize(("source", "target", "settings", "named"), CROSSING)
def test_a_patient_of_both_folders_stands_on_one_side(config, source, target, settings, named):
    # Two files of one patient, under names that differ.
    seen = SeenPatients(*(frozenset("P" if name == source else name for name in names) for names in (
        PRETRAINED.trained, PRETRAINED.validated)), "val")  # fmt: skip
    with pytest.raises(DataError, match=named):
        check_apart(config(**settings), seen, members(TARGET, **{target: "P"}), members(PARTS, **{source: "P"}))


@pytest.mark.parametrize(("source", "target"), [("s1", "t2"), ("s3", "t3"), ("s4", "t4")])
def test_a_patient_of_both_folders_may_be_in_one_part(config, source, target):
    seen = SeenPatients(frozenset({"P", "s2"}), frozenset({"s3"}), "val") if source == "s1" else PRETRAINED
    for part in ("val", "test"):
        check_apart(config(test_part=part), seen, members(TARGET, **{target: "P"}), members(PARTS, **{source: "P"}))
