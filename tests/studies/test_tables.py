import importlib.util
import re

import numpy as np
import pandas as pd
import pytest
from study_rows import study_row

from metaseg.errors import DataError
from metaseg.studies.tables import (
    TABLE_COLUMNS,
    TIMING_COLUMNS,
    check_table,
    count_empty_cases,
    read_study_table,
    rows_of_region,
    write_table,
)


@pytest.fixture
def table():
    rows = [
        study_row(method, seed, step, domain, patient, dice, case=f"{patient}-a", region="ET")
        for method in ("naive", "maml-active")
        for seed in (0, 1)
        for step in (0, 120)
        for domain, patient, dice in (("target", "007", 1 / 3), ("target", "NA", np.nan), ("source", "p1", 0.5))
    ]
    return pd.DataFrame(rows, columns=TABLE_COLUMNS)


def test_what_is_written_is_read(table, tmp_path):
    write_table(table, tmp_path / "results")
    for path in (tmp_path / "results", tmp_path / "results.csv"):
        back = read_study_table(path)
        expected = table.sort_values(list(TABLE_COLUMNS), ignore_index=True)
        pd.testing.assert_frame_equal(back, expected, check_dtype=False, atol=1e-9)
    # Names that look like numbers, or like nothing, stay what they are.
    assert set(back["patient"]) == {"007", "NA", "p1"}
    assert back["seed"].dtype == back["shots"].dtype == np.int64


def test_equal_content_gives_equal_bytes(table, tmp_path):
    other = table.sample(frac=1.0, random_state=0)[list(TABLE_COLUMNS)[::-1]].astype({"work": float, "shots": float})
    other["dice"] = other["dice"] + 1e-14
    first, second = write_table(table, tmp_path / "a"), write_table(other.astype({"shots": int}), tmp_path / "b")
    assert first[0].read_bytes() == second[0].read_bytes()
    assert first[0].read_text().splitlines()[:2] == [
        ",".join(TABLE_COLUMNS),
        "met,maml-active,gradient,5,0,0,0,source,p1-a,p1,ET,0.5",
    ]


def test_parquet_holds_what_the_csv_holds(table, tmp_path):
    pytest.importorskip("pyarrow")
    csv, parquet = write_table(table, tmp_path / "results")
    assert (csv.name, parquet.name) == ("results.csv", "results.parquet")
    pd.testing.assert_frame_equal(read_study_table(parquet), read_study_table(csv), check_dtype=False, rtol=0, atol=0)
    csv.unlink()
    assert len(read_study_table(tmp_path / "results")) == len(table)


def test_no_parquet_without_pyarrow(table, tmp_path, monkeypatch):
    stale = tmp_path / "results.parquet"
    stale.write_bytes(b"of an earlier time")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert write_table(table, tmp_path / "results") == [tmp_path / "results.csv"]
    assert not stale.exists()


def test_dots_in_a_name_are_no_suffix(table, tmp_path):
    assert write_table(table, tmp_path / "study.v1")[0].name == "study.v1.csv"
    assert len(read_study_table(tmp_path / "study.v1")) == len(table)


def test_columns_of_one_s_own_come_last_and_other_tables_keep_their_order(table, tmp_path):
    write_table(table.assign(reached=True, note="x"), tmp_path / "more")
    assert list(read_study_table(tmp_path / "more").columns) == [*TABLE_COLUMNS, "note", "reached"]
    summary = pd.DataFrame({"method": ["b", "a"], "mean": [-0.0, 0.1 + 0.2]})
    assert write_table(summary, tmp_path / "summary")[0].read_text() == "method,mean\nb,0\na,0.3\n"


def test_timing_is_read_as_timing(tmp_path):
    timing = pd.DataFrame([("met", "naive", 5, 0, 120, 3.25), ("met", "naive", 5, 0, 0, 0.0)], columns=TIMING_COLUMNS)
    write_table(timing, tmp_path / "timing")
    assert read_study_table(tmp_path / "timing", TIMING_COLUMNS)["seconds"].tolist() == [0.0, 3.25]
    with pytest.raises(DataError, match=r"lacks column family.*it has target, method"):
        read_study_table(tmp_path / "timing")


def test_empty_tables_are_tables(tmp_path):
    write_table(pd.DataFrame(columns=list(TABLE_COLUMNS)), tmp_path / "none")
    assert list(read_study_table(tmp_path / "none").columns) == list(TABLE_COLUMNS)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("dice", 1.2, "dice is '1.2' in 1 of 24 rows"),
        ("dice", "high", "dice is 'high'"),
        ("work", -1, "work is '-1'"),
        ("work", "", "work is ''"),
        ("seed", 0.5, "seed is '0.5'"),
        ("update", "some", "update is 'some'"),
        ("update", -2, "update is '-2'"),
        ("shots", "all", "shots is 'all'"),
        ("domain", "brain", "domain is 'brain'"),
    ],
)
def test_values_that_make_no_sense_are_named(table, column, value, message):
    table[column] = table[column].astype(object)
    table.loc[0, column] = value
    with pytest.raises(DataError, match=re.escape(message)):
        check_table(table, where="results.csv")


def test_tables_of_earlier_versions_have_no_updates(table, tmp_path):
    write_table(table.drop(columns="update"), tmp_path / "results")
    back = read_study_table(tmp_path / "results")
    assert back["update"].isna().all()
    write_table(back, tmp_path / "again")
    assert read_study_table(tmp_path / "again")["update"].isna().all()


def test_rows_that_are_there_twice_are_found(table):
    again = table.iloc[[3]].assign(dice=0.9)
    with pytest.raises(DataError, match=r"1 rows are there more than once, such as target met, .*work 120"):
        check_table(pd.concat([table, again]))


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00\x01", b"target,method\nx,y\n"])
def test_files_that_are_no_table_give_one_message(tmp_path, content):
    path = tmp_path / "results.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_study_table(path)
    assert caught.value.where == path
    assert caught.value.expected


def test_damaged_parquet_gives_one_message(tmp_path):
    (tmp_path / "results.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError):
        read_study_table(tmp_path / "results.parquet")


def test_cases_without_tumour_count_once_someone_sees_some(table):
    assert count_empty_cases(table)["dice"].isna().equals(table["dice"].isna())
    seen = (table["patient"] == "NA") & (table["method"] == "naive") & (table["work"] == 120) & (table["seed"] == 1)
    table.loc[seen, "dice"] = 0.0
    settled = count_empty_cases(table)
    assert settled.loc[seen, "dice"].tolist() == [0.0]
    assert settled.loc[(table["patient"] == "NA") & ~seen, "dice"].tolist() == [1.0] * 7
    pd.testing.assert_series_equal(
        settled.loc[table["patient"] != "NA", "dice"], table.loc[table["patient"] != "NA", "dice"]
    )


def test_regions_are_taken_apart(table):
    both = pd.concat([table, table.assign(region="WT", dice=0.9)])
    assert set(rows_of_region(both, "WT")["dice"]) == {0.9}
    with pytest.raises(DataError, match="no region 'TC'") as caught:
        rows_of_region(both, "TC")
    assert caught.value.expected == "one of ET, WT"
    assert rows_of_region(table.iloc[:0], "TC").empty


def test_tables_of_the_first_release_are_read(table, tmp_path):
    new = write_table(table, tmp_path / "new")[0]
    (tmp_path / "old.csv").write_text(new.read_text().replace(",work,", ",step,", 1))
    pd.testing.assert_frame_equal(read_study_table(tmp_path / "old.csv"), read_study_table(new))
