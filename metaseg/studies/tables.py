"""A study's tables: one row per evaluation of a case at a mark, and one row per mark with its seconds."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from metaseg.errors import DataError
from metaseg.files import FileKind, read_frame, replacing

TABLE_COLUMNS = (
    "target",
    "method",
    "family",
    "shots",
    "seed",
    "step",
    "domain",
    "case",
    "patient",
    "region",
    "dice",
)
"""Columns of the tidy table. ``step`` is the work spent, in slice gradient evaluations, 0 before tuning; ``domain`` is
``target`` or ``source``; ``dice`` is in [0, 1], or NaN where label and prediction are both empty."""

TIMING_COLUMNS = ("target", "method", "shots", "seed", "step", "seconds")
"""Columns of the timing table. ``seconds`` are those of tuning up to that mark, on a CPU the processor's."""

DOMAINS = ("target", "source")
SUFFIXES = (".csv", ".parquet")

_TEXT = ("target", "method", "family", "domain", "case", "patient", "region")
_WHOLE = ("shots", "seed")
_MEASURED = ("dice", "seconds")
_DIGITS = "%.10g"
_EXPECTED = {"dice": "a number from 0 to 1, or none", **dict.fromkeys(_WHOLE, "a whole number, at least 0")}


def write_table(frame: pd.DataFrame, path_without_suffix: Path) -> list[Path]:
    """Write a table as CSV, and as parquet too where pyarrow is installed; files are replaced whole.

    The columns of a study's tables come first, then any others by name; rows are sorted and numbers rounded to ten
    digits, so that equal content gives equal bytes. Any other table keeps the order of its columns and rows.

    Args:
        frame: The table.
        path_without_suffix: Where to write; ``.csv`` and ``.parquet`` are appended.

    Returns:
        The files written.
    """
    frame = _canonical(frame)
    text = frame.to_csv(index=False, float_format=_DIGITS, lineterminator="\n")
    csv, parquet = (_with_suffix(path_without_suffix, suffix) for suffix in SUFFIXES)
    with replacing(csv) as stream:
        stream.write(text.encode("utf-8"))
    if importlib.util.find_spec("pyarrow") is None:
        # One that an earlier writer left would no longer say the same.
        parquet.unlink(missing_ok=True)
        return [csv]
    with replacing(parquet) as stream:
        frame.to_parquet(stream, index=False, engine="pyarrow")
    return [csv, parquet]


def read_table(path: Path, columns: Sequence[str] = TABLE_COLUMNS) -> pd.DataFrame:
    """Read a table that :func:`write_table` wrote, and check it.

    Args:
        path: The file, or its path without suffix (then the CSV is read if there is one).
        columns: What it must hold: ``TABLE_COLUMNS`` or ``TIMING_COLUMNS``.

    Returns:
        The table; names and ids are text, also where they look like numbers.

    Raises:
        DataError: The file is missing or unreadable, lacks columns, holds values that make no sense or a row twice.
    """
    file = path
    if path.suffix not in SUFFIXES:
        there = (_with_suffix(path, suffix) for suffix in SUFFIXES)
        file = next((one for one in there if one.is_file()), _with_suffix(path, SUFFIXES[0]))
    try:
        if file.suffix != SUFFIXES[1]:
            return check_table(_read_csv(file), columns, file)
        frame = pd.read_parquet(file, engine="pyarrow")
    except ImportError as error:
        raise DataError(
            "pyarrow is not installed, which reads parquet", where=file, remedy="read the CSV beside it"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"the table cannot be read: {error}", where=file, expected="a table of a study, CSV or parquet"
        ) from error
    return check_table(frame, columns, file)


def check_table(
    frame: pd.DataFrame, columns: Sequence[str] = TABLE_COLUMNS, where: str | Path | None = None
) -> pd.DataFrame:
    """Check a table of a study.

    Args:
        frame: The table.
        columns: What it must hold.
        where: Its file, for messages.

    Returns:
        A copy with names and ids as text and numbers as numbers.

    Raises:
        DataError: Columns are missing, a value makes no sense, or a row is there twice.
    """
    expected = "columns " + ", ".join(columns)
    if missing := [name for name in columns if name not in frame.columns]:
        found = ", ".join(map(str, frame.columns)) or "(none)"
        raise DataError(f"the table lacks column {', '.join(missing)}; it has {found}", where=where, expected=expected)
    frame = frame.astype({name: str for name in _TEXT if name in columns})
    for name in [name for name in columns if name not in _TEXT]:
        numbers = pd.to_numeric(frame[name], errors="coerce")
        wrong = _wrong_numbers(name, frame[name], numbers)
        if wrong.any():
            raise DataError(
                f"{name} is '{frame.loc[wrong, name].iloc[0]}' in {int(wrong.sum())} of {len(frame)} rows",
                where=where,
                expected=_EXPECTED.get(name, "a number, at least 0"),
            )
        frame[name] = numbers.astype(np.int64 if name in _WHOLE else np.float64)
    _check_rows(frame, columns, where)
    return frame


def count_empty_cases(table: pd.DataFrame) -> pd.DataFrame:
    """Settle what cases count in which there was nothing to find.

    As everywhere in metaseg (:func:`metaseg.metrics.forgetting.paired_dice`): a case stays NaN, and out of every
    mean, if no evaluation of the study found anything in it. If one did, those that found nothing were right and count
    as Dice 1 beside its 0. So all means of a region are over the same cases, and a network that begins to see tumour
    where there is none is not spared.

    Args:
        table: The tidy table.

    Returns:
        A copy with ``dice`` settled.
    """
    known = table["dice"].notna()
    seen = known.groupby([table[name] for name in ("target", "domain", "patient", "case", "region")]).transform("any")
    return table.assign(dice=table["dice"].where(known | ~seen.astype(bool), 1.0))


def rows_of_region(table: pd.DataFrame, region: str) -> pd.DataFrame:
    """Checked and settled rows of one region, from a tidy table.

    Raises:
        DataError: The table is not one, or has rows but none of the region.
    """
    table = check_table(table)
    rows = table[table["region"] == region]
    if len(table) and not len(rows):
        raise DataError(
            f"the table has no region '{region}'", expected="one of " + ", ".join(sorted(table["region"].unique()))
        )
    return count_empty_cases(rows)


def _wrong_numbers(name: str, given: pd.Series, numbers: pd.Series) -> pd.Series:
    if name == "dice":
        # Rounding may leave a little more than 1.
        return (numbers.isna() & given.notna()) | (numbers.notna() & ~numbers.between(0.0, 1.0 + 1e-9))
    wrong = numbers.isna() | (numbers < 0) | np.isinf(numbers.astype(np.float64))
    return wrong | (numbers % 1 != 0) if name in _WHOLE else wrong


def _check_rows(frame: pd.DataFrame, columns: Sequence[str], where: str | Path | None) -> None:
    if "domain" in columns and (strange := sorted(set(frame["domain"].unique()) - set(DOMAINS))):
        raise DataError(f"domain is '{strange[0]}'", where=where, expected=" or ".join(DOMAINS))
    keys = [name for name in columns if name not in _MEASURED]
    if (twice := frame.duplicated(keys)).any():
        row = ", ".join(f"{name} {frame.loc[twice, name].iloc[0]}" for name in keys)
        raise DataError(
            f"{int(twice.sum())} rows are there more than once, such as {row}",
            where=where,
            expected="one row per " + ", ".join(keys),
        )


def _read_csv(file: Path) -> pd.DataFrame:
    frame = read_frame(file, FileKind("a table of a study, CSV or parquet", error=DataError))
    # A patient may be called 007 or NA: only what was measured may be empty.
    return frame.mask(frame.isin(["", "nan", "NaN"]) & frame.columns.isin(_MEASURED), np.nan)


def _canonical(frame: pd.DataFrame) -> pd.DataFrame:
    known = next((names for names in (TABLE_COLUMNS, TIMING_COLUMNS) if set(names) <= set(frame.columns)), None)
    frame = frame.copy()
    for name in frame.select_dtypes("floating").columns:
        # Adding 0 turns -0 into 0.
        frame[name] = np.array([float(_DIGITS % value) for value in frame[name]], dtype=np.float64) + 0.0
    if known is None:
        return frame.reset_index(drop=True)
    frame = frame[[*known, *sorted(set(frame.columns) - set(known))]]
    frame = frame.astype({name: str for name in _TEXT if name in known})
    return frame.sort_values(list(frame.columns), ignore_index=True)


def _with_suffix(path: Path, suffix: str) -> Path:
    # Not Path.with_suffix, which takes what follows a dot in a name for a suffix.
    return path.with_name(path.name + suffix)
