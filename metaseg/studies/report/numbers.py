"""How numbers are written in a report: figures, intervals, p values."""

from __future__ import annotations

import math

import pandas as pd

LEVEL = 0.05


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """A number with a real minus sign; a dash for NaN."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    # No "-0.000".
    text = text.lstrip("+-") if float(text) == 0 else text
    return text.replace("-", "−")


def interval(row: pd.Series, figure: str, digits: int = 3) -> str:
    """The 95 % interval of a figure; empty where it has none."""
    low, high = row[f"{figure}_low"], row[f"{figure}_high"]
    return "" if math.isnan(low) else f"{number(low, digits)} to {number(high, digits)}"


def with_interval(row: pd.Series, figure: str) -> str:
    """``0.512 (95 % CI 0.478 to 0.541)``."""
    between = interval(row, figure)
    return number(row[figure]) + (f" (95 % CI {between})" if between else "")


def p_value(value: float) -> str:
    """``0.012``, ``< 0.001`` or a dash."""
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
