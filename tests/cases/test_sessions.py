from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaseg.cases import Case, label_scheme, make_split
from metaseg.cases.patients import doubtful_sessions, patient_of

SAME_PATIENT = [
    ("pat01_ses1", "pat01_ses2", "pat01ses3"),
    ("sub-01", "sub-01_ses-02", "sub-01_ses-pre_run-1"),
    ("BraTS-GLI-00110-000", "BraTS-GLI-00110-001", "BraTS_GLI_00110_002"),
    ("Brats18_CBICA_ALU_1", "BraTS19_CBICA_ALU_1"),
    ("P1", "P1_20190101", "P1_2020-01-01", "P1_01.02.2019", "20190101_P1", "P1-20190101T101112"),
    ("P1", "P1_pre", "P1_post", "P1-preop", "P1_post-op", "P1pre", "pre_P1"),
    ("P1", "P1_tp1", "P1_visit2", "P1_baseline", "P1_followup", "P1_follow-up_2", "P1_scan1", "P1_v1", "P1_T0"),
    ("P1", "P1_session-A", "P1_day0", "P1_wk12", "P1 month 6", "P1.time.1", "P1_1st", "P1_2nd", "P1_MR2"),
    ("Smith_pre", "Smith_post"),
    ("HGG_pre_001", "HGG_post_001"),
    ("P1_ses1_reg", "P1_ses2_reg"),
    ("PatientID_0003_Timepoint_1", "PatientID_0003_Timepoint_2"),
    ("Patient-001_week-000-1", "Patient-001_week-044"),
    ("UPENN-GBM-00001_11", "UPENN-GBM-00001_21"),
    ("UCSF-PDGM-0004", "UCSF-PDGM-0004_FU003d"),
    ("W39_1998.09.19", "W39_1999.01.02"),
]
# fmt: off
OTHER_PATIENTS = [
    "case_001", "case_002", "BraTS20_Training_001", "BraTS2021_00001", "BRATS_001", "TCGA-02-0001",
    "TCGA-02-0003", "scan_001", "scan_002", "visit_1", "visit_2", "mri_scan_001", "patient_visit_1",
    "patient_visit_2", "patient07", "MR040240C", "MR040240D", "C3L-00016", "20190101", "20190102", "ses1",
    "ses2", "2013_11", "site1_001", "site1_002", "posterior1", "prostate_01", "preterm01", "last",
    "BraTS-GoAT-00007", "100416",
]
# fmt: on


@pytest.mark.parametrize("names", SAME_PATIENT, ids=lambda names: names[0])
def test_sessions_are_of_one_patient(names: tuple[str, ...]) -> None:
    patients = {patient_of(name).replace("_", "-") for name in names}
    assert len(patients) == 1
    assert {patient_of(patient) for patient in map(patient_of, names)} == set(map(patient_of, names))


def test_bare_numbers_count_patients() -> None:
    assert [patient_of(name) for name in OTHER_PATIENTS] == OTHER_PATIENTS


@pytest.mark.parametrize(
    "names",
    [
        ("name_0800", "name_0801"), ("P01_1", "P01_2"), ("P01a", "P01b"), ("P01_A", "P01_B"), ("P1_2019", "P1_2020"),
        ("P1_m06", "P1_m12"), ("P1_190101", "P1_200101"), ("Smith_scan1", "Smith_scan2"),
        ("patient_20190101", "patient_20200101"),
    ],
)  # fmt: skip
def test_what_may_be_a_session_is_doubted(names: tuple[str, ...]) -> None:
    assert [patient_of(name) for name in names] == list(names)
    assert doubtful_sessions([*names, "other"]) == [names]


@pytest.mark.parametrize(
    "names",
    [
        ["case_001", "case_002"], [f"BraTS2021_{number:05}" for number in range(0, 300, 2)], ["hgg_000", "hgg_001"],
        [f"case_{number}" for number in range(300)], ["patient07", "patient19"], ["MR040240C", "MR040240D"],
        ["BraTS20_Training_001", "BraTS20_Training_002"], [f"site1_{number:03}" for number in range(20)],
    ],
    ids=lambda names: names[0],
)  # fmt: skip
def test_counted_patients_are_not_doubted(names: list[str]) -> None:
    assert doubtful_sessions(names) == []


SESSIONS = [
    ("{}_ses1", "{}_ses2"), ("{}_ses-01", "{}_ses-02", "{}_ses-03"), ("{}_pre", "{}_post"), ("{}-tp1", "{}-tp2"),
    ("{}_20190101", "{}_20200615"), ("{}_2019-01-01", "{}_2020-06-15"), ("{}_baseline", "{}_followup"),
    ("{}_v1", "{}_v2"),
    ("{}_visit1", "{}_visit2", "{}_visit12"), ("{}_scan1", "{}_scan2"), ("{}_day0", "{}_week12"), ("{}", "{}_FU2"),
]  # fmt: skip
PATIENTS = ["P{}", "pat{:02}", "sub-{:03}", "{:06}", "BraTS-GLI-{:05}", "case_{:03}", "Site{}-x", "name_{:04}"]


@settings(max_examples=1000, deadline=None)
@given(
    patients=st.sets(st.integers(1, 9999), min_size=3, max_size=5),
    naming=st.sampled_from(PATIENTS),
    sessions=st.lists(st.sampled_from(SESSIONS), min_size=5, max_size=5),
    folds=st.sampled_from([None, 2, 3]),
    seed=st.integers(0, 99),
)
def test_no_split_ever_parts_the_sessions_of_a_patient(
    patients: set[int], naming: str, sessions: list[tuple[str, ...]], folds: int | None, seed: int
) -> None:
    owner = {
        pattern.format(naming.format(number)): number
        for number, patterns in zip(sorted(patients), sessions, strict=False)
        for pattern in patterns
    }
    scheme = label_scheme("brats")
    cases = [Case(name, patient_of(name), "HGG", {}, None, scheme) for name in owner]
    split = make_split(cases, folds=folds, seed=seed)
    parts = [{owner[name] for name in names} for names in split.parts.values()]
    assert sum(map(len, parts)) == len(patients)
