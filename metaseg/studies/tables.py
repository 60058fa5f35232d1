"""Tables of a study and what their columns mean; the tidy table has one row per evaluation of a case at a mark."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from metaseg.errors import DataError
from metaseg.files import FileKind, read_frame, replacing


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading in the file.
        meaning: What it holds, in words.
        unit: Of its numbers; empty for names, and for numbers without one.
        better: Whether ``higher`` or ``lower`` numbers are better; empty where neither is.
        kind: Names and ids are ``text``; ``whole`` numbers and ``number``s are at least 0.
    """

    name: str
    meaning: str
    unit: str = ""
    better: Literal["", "higher", "lower"] = ""
    kind: Literal["text", "whole", "number"] = "number"


Columns = Mapping[str, Column]
"""Columns by name, in their order."""


def columns_by_name(*columns: Column) -> Columns:
    """Columns by name, in their order."""
    return {column.name: column for column in columns}


_TARGET = Column("target", "target domain", kind="text")
_METHOD = Column("method", "label of the method", kind="text")
_SHOTS = Column("shots", "labelled target patients", kind="whole")
_SEED = Column("seed", "seed of the run", kind="whole")
_WORK = Column("work", "work spent, 0 before tuning", "slice gradient evaluations")

TABLE_COLUMNS = columns_by_name(
    _TARGET,
    _METHOD,
    Column("family", "family of the method", kind="text"),
    _SHOTS,
    _SEED,
    _WORK,
    Column("update", "updates of the parameters so far; none where the run did not count them"),
    Column("domain", "target or source", kind="text"),
    Column("case", "the evaluated case", kind="text"),
    Column("patient", "its patient", kind="text"),
    Column("region", "the evaluated region", kind="text"),
    Column("dice", "overlap of prediction and label; none where both are empty", "0 to 1", "higher"),
)
"""Columns of the tidy table."""

TIMING_COLUMNS = columns_by_name(
    _TARGET,
    _METHOD,
    _SHOTS,
    _SEED,
    _WORK,
    Column("seconds", "time of tuning up to that mark, on a CPU the processor's", "s", "lower"),
)
"""Columns of the timing table, which has one row per mark."""

PAIR_COLUMNS = columns_by_name(
    _TARGET,
    _SHOTS,
    Column("metric", "what is compared", kind="text"),
    Column("method_a", "the first method", kind="text"),
    Column("method_b", "the second method", kind="text"),
    Column("n", "patients with the metric under both", kind="whole"),
    Column(
        "n_seeds", "seeds that both have; of fewer than three, the interval and p are over patients alone", kind="whole"
    ),
    Column("mean_difference", "the first minus the second"),
    Column("low", "lower end of its 95 % interval"),
    Column("high", "upper end of its 95 % interval"),
    Column("p", "of Wilcoxon's signed-rank test", "", "lower"),
    Column("p_holm", "the same after Holm's correction", "", "lower"),
    Column("rank_biserial", "effect size, from -1 to 1"),
)
"""Columns of comparisons in pairs."""


def _tested(name: str, meaning: str, better: Literal["higher", "lower"]) -> list[Column]:
    ends = {
        "low": "lower end of its interval",
        "high": "upper end of its interval",
        "p": "p",
        "p_holm": "p after correction",
    }
    return [
        Column(name, meaning, "Dice", better),
        *(Column(f"{name}_{end}", f"{meaning}: {text}") for end, text in ends.items()),
    ]


BOTH_AXES_COLUMNS = columns_by_name(
    _TARGET,
    _SHOTS,
    Column("baseline", "the method compared with", kind="text"),
    _METHOD,
    Column("n_seeds", "seeds that both have; of fewer than three, all is over patients alone", kind="whole"),
    Column("n_target_patients", "target patients", kind="whole"),
    *_tested("gain", "final target Dice minus the baseline's", "higher"),
    Column("n_source_patients", "source patients", kind="whole"),
    Column("forgotten", "source Dice lost", "Dice", "lower"),
    Column("forgotten_by_baseline", "source Dice that the baseline lost", "Dice", "lower"),
    *_tested("spared", "what the baseline forgot minus what the method forgot", "higher"),
    *_tested("excess", "what was forgotten beyond the allowed fraction of the baseline's", "lower"),
    Column("both", "as good on the target, and within that fraction on the source"),
)
"""Columns of comparisons on both axes."""

DOMAINS = ("target", "source")
SUFFIXES = (".csv", ".parquet")
FORMER_NAMES = {"step": "work"}
"""Columns that tables of the first release call otherwise."""
MEASURED = ("dice", "seconds")
"""What was measured; all other columns say what of."""
LATER = ("update",)
"""What tables of earlier versions lack; it follows from the work, and may be empty."""
_DIGITS = "%.10g"


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


def read_study_table(path: Path, columns: Columns = TABLE_COLUMNS) -> pd.DataFrame:
    """Read a table that :func:`write_table` wrote, and check it.

    Args:
        path: The file, or its path without suffix (then the CSV is read if there is one).
        columns: What it must hold: ``TABLE_COLUMNS`` or ``TIMING_COLUMNS``.

    Returns:
        The table; names and ids are text, also where they look like numbers.

    Raises:
        DataError: The file is missing or unreadable, lacks columns, holds values that make no sense or a row twice.
    """
    files = [path] if path.suffix in SUFFIXES else [_with_suffix(path, suffix) for suffix in SUFFIXES]
    file = next((file for file in files if file.is_file()), files[0])
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


def check_table(frame: pd.DataFrame, columns: Columns = TABLE_COLUMNS, where: str | Path | None = None) -> pd.DataFrame:
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
    former = {name: new for name, new in FORMER_NAMES.items() if new in columns and new not in frame.columns}
    lacking = [name for name in LATER if name in columns and name not in frame.columns]
    frame = frame.rename(columns=former).assign(**dict.fromkeys(lacking, np.nan))
    expected = "columns " + ", ".join(columns)
    if missing := [name for name in columns if name not in frame.columns]:
        found = ", ".join(map(str, frame.columns)) or "(none)"
        raise DataError(f"the table lacks column {', '.join(missing)}; it has {found}", where=where, expected=expected)
    frame = frame.astype({name: str for name, column in columns.items() if column.kind == "text"})
    for name, column in columns.items():
        if column.kind != "text":
            frame[name] = _numbers(frame[name], column, where)
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


def intervals_text(summarised: pd.DataFrame) -> str:
    """What the intervals of a summary are, for headings: ``95 % interval over patients and seeds``."""
    over = " or ".join(sorted(filter(None, summarised["interval_over"].unique()), key=len))
    return f"95 % interval over {over}" if over else "without intervals"


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


def _numbers(given: pd.Series, column: Column, where: str | Path | None) -> pd.Series:
    numbers = pd.to_numeric(given, errors="coerce")
    expected = f"a {'whole ' if column.kind == 'whole' else ''}number, at least 0"
    if column.name == "dice":
        # Rounding may leave a little more than 1.
        wrong = (numbers.isna() & given.notna()) | (numbers.notna() & ~numbers.between(0.0, 1.0 + 1e-9))
        expected = "a number from 0 to 1, or none"
    else:
        unknown = numbers.isna() if column.name not in LATER else numbers.isna() & given.notna() & (given != "")
        wrong = unknown | (numbers < 0) | np.isinf(numbers.astype(np.float64))
    if column.kind == "whole":
        wrong |= numbers % 1 != 0
    if wrong.any():
        raise DataError(
            f"{column.name} is '{given[wrong].iloc[0]}' in {int(wrong.sum())} of {len(given)} rows",
            where=where,
            expected=expected,
        )
    return numbers.astype(np.int64 if column.kind == "whole" else np.float64)


def _check_rows(frame: pd.DataFrame, columns: Columns, where: str | Path | None) -> None:
    if "domain" in columns and (strange := sorted(set(frame["domain"].unique()) - set(DOMAINS))):
        raise DataError(f"domain is '{strange[0]}'", where=where, expected=" or ".join(DOMAINS))
    keys = [name for name in columns if name not in (*MEASURED, *LATER)]
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
    return frame.mask(frame.isin(["", "nan", "NaN"]) & frame.columns.isin((*MEASURED, *LATER)), np.nan)


def _canonical(frame: pd.DataFrame) -> pd.DataFrame:
    known = next((names for names in (TABLE_COLUMNS, TIMING_COLUMNS) if set(names) <= set(frame.columns)), None)
    frame = frame.copy()
    for name in frame.select_dtypes("floating").columns:
        # Adding 0 turns -0 into 0.
        frame[name] = np.array([float(_DIGITS % value) for value in frame[name]], dtype=np.float64) + 0.0
    if known is None:
        return frame.reset_index(drop=True)
    frame = frame[[*known, *sorted(set(frame.columns) - set(known))]]
    frame = frame.astype({name: str for name, column in known.items() if column.kind == "text"})
    return frame.sort_values(list(frame.columns), ignore_index=True)


def _with_suffix(path: Path, suffix: str) -> Path:
    # Not Path.with_suffix, which takes what follows a dot in a name for a suffix.
    return path.with_name(path.name + suffix)
