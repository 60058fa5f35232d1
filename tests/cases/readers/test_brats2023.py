from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metaseg.cases import MODALITIES, read_cases

SUFFIXES = ("-t2f", "-t1n", "-t1c", "-t2w", "-seg")


@pytest.mark.parametrize("cohort", ["GLI", "MET", "MEN", "PED", "SSA"])
def test_cohort_and_patient_come_from_the_name(tmp_path: Path, write_case: Callable[..., Path], cohort: str) -> None:
    for time in ("000", "001"):
        write_case(tmp_path / f"BraTS-{cohort}-00110-{time}", SUFFIXES)
    cases = read_cases(tmp_path)
    assert [case.id for case in cases] == [f"BraTS-{cohort}-00110-000", f"BraTS-{cohort}-00110-001"]
    assert {(case.patient, case.cohort) for case in cases} == {(f"BraTS-{cohort}-00110", cohort)}
    assert cases[0].modalities == MODALITIES
    assert cases[0].scheme.name == cases[0].format == "brats2023"
    assert [int(cases[0].images[name].read().flat[0]) for name in MODALITIES] == [1, 2, 0, 1]


def test_names_without_time_point(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    write_case(tmp_path / "BraTS-GoAT-00007", SUFFIXES)
    (case,) = read_cases(tmp_path)
    assert (case.patient, case.cohort) == ("BraTS-GoAT-00007", "GOAT")


def test_numbers_in_other_names_are_not_time_points(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    for name in ("site-01-001", "site-01-002"):
        write_case(tmp_path / "MET" / name, SUFFIXES)
    cases = read_cases(tmp_path)
    assert [case.patient for case in cases] == ["site-01-001", "site-01-002"]
    assert {case.cohort for case in cases} == {"MET"}


def test_the_radiotherapy_set(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    write_case(tmp_path / "BraTS-MEN-RT-0001-1", ["_t1c", "_gtv"])
    (case,) = read_cases(tmp_path)
    assert (case.patient, case.cohort, case.scheme.name) == ("BraTS-MEN-RT-0001", "MEN-RT", "whole-lesion")
    assert case.modalities == ("t1ce",)
    assert case.label is not None


def test_an_unlabelled_case_folder(tmp_path: Path, write_case: Callable[..., Path]) -> None:
    folder = write_case(tmp_path / "BraTS-MET-00110-000", SUFFIXES[:4])
    (case,) = read_cases(folder)
    assert case.label is None
    assert case.cohort == "MET"
