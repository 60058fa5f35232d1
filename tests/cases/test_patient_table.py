from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metaseg.cases import Case, label_scheme, read_cases
from metaseg.cases.patients import doubtable, patient_of, read_patient_table
from metaseg.errors import DataError, DataWarning


@pytest.mark.parametrize(
    "text", ["case,patient\na,X\nb,X\n", "\ufeffPatient;Case;session\nX;a;1\nX;b;2\n", "case\tpatient\na\tX\nb\tX"]
)
def test_the_table_says_whose_scan_it_is(tmp_path: Path, write_case: Callable[..., Path], text: str) -> None:
    for name in ("a", "b", "c_ses1"):
        write_case(tmp_path / "data" / name)
    table = tmp_path / "patients.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.warns(DataWarning, match=r"1 of 3 cases are not in the table of patients: c_ses1"):
        cases = read_cases(tmp_path / "data", patients=table)
    assert {case.id: case.patient for case in cases} == {"a": "X", "b": "X", "c_ses1": "c"}


def test_names_of_brats_2018_are_understood() -> None:
    def case(name: str) -> Case:
        return Case(name, patient_of(name), "HGG", {}, None, label_scheme("brats"))

    assert doubtable([case("Brats18_2013_11_1"), case("Brats18_2013_20_1")]) == set()
    assert doubtable([case("P01_1"), case("P02_ses1")]) == {"P01_1", "P02"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("case,patient\na,X\na,Y\n", "of two patients, X and Y"),
        ("case,patient\na,\n", "row 2 says case 'a', patient ''"),
        ("case,person\na,X\n", "patient ''"),
        ("case,patient\n", "no rows"),
        ("", "no rows"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "patients.csv").write_text(text)
    with pytest.raises(DataError, match=named):
        read_patient_table(tmp_path / "patients.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_patient_table(tmp_path / "none.csv")
