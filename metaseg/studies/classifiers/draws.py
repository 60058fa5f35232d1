"""What was drawn from a ranking of slices and what it was worth: bands, sizes, and both parts (Hao et al. 2021).

Bands are entries that take the first slices of what is left between two fractions of one ranking; sizes are entries
that differ in how many slices their networks learn. They are found by their settings, so that no name is asked of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from metaseg.classify.fitting import METRICS, NAMES
from metaseg.classify.rounds import CURVE_NAME, read_curve, read_rounds
from metaseg.classify.uncertainty import RANKED_ROUND, list_file, read_list
from metaseg.config.classification import ClassifyActiveConfig
from metaseg.metrics.statistics import known_deviation, seeds_interval
from metaseg.pictures.charts import draw_uncertainty
from metaseg.pictures.draws import PART_ROLES, draw_part_bars, draw_points, series_of_draws
from metaseg.runs.folder import RunFolder
from metaseg.studies.classifiers.plan import ClassifierConfig, ClassifierWork
from metaseg.studies.classifiers.selection import PanelChart, write_charts
from metaseg.studies.tables import write_table
from metaseg.studies.workers import Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST = 3
"""Bands, or sizes of one series, that make a chart."""
MOST_BARS = 12
PARTS = {"val": "validation", "test": "test"}
FINAL_COLUMNS = ("entry", "seed", "part", "labels", "learned", *METRICS)


def final_rows(work: ClassifierWork, cells: Sequence[Unit]) -> pd.DataFrame:
    """The final metrics of finished cells on the validation and the test part, the mean of a seed's folds.

    Returns:
        ``FINAL_COLUMNS``: ``labels`` are those spent, ``learned`` the slices that the last network learned; both NaN
        for entries that learn all.

    Raises:
        RunError: A file of a cell is damaged.
    """
    rows = [row for cell in cells for row in _of_cell(work.folder / cell.folder, cell)]
    table = pd.DataFrame(rows, columns=list(FINAL_COLUMNS))
    return table.groupby(["entry", "seed", "part"], sort=False, as_index=False).mean()


def _of_cell(run: Path, cell: Unit) -> list[tuple[object, ...]]:
    if (run / CURVE_NAME).exists():
        table, last = read_curve(run / CURVE_NAME), read_rounds(run)[-1]
        config = RunFolder.open(run).config(ClassifyActiveConfig)
        learned = len(last.chosen) if config.fit_on == "chosen" else last.labelled
        found = table[table["round"] == last.number].set_index("part")
        values = {part: [float(found.loc[part, name]) for name in METRICS] for part in PARTS if part in found.index}
        return [(cell.label, cell.seed, part, last.labelled, learned, *known) for part, known in values.items()]
    metrics = RunFolder.open(run).read_json("result.json").get("metrics", {})
    values = {
        part: [math.nan if (value := metrics.get(f"{name}/{part}")) is None else float(value) for name in METRICS]
        for part in PARTS
    }
    return [(cell.label, cell.seed, part, math.nan, math.nan, *known) for part, known in values.items()]


@dataclass(frozen=True)
class Draw:
    """What the last network of an entry learns.

    Attributes:
        entry: The entry.
        series: Entries of one series differ in size alone.
        size: Fraction of the pool that it learns.
    """

    entry: str
    series: str
    size: float


def drawn_sizes(work: ClassifierWork) -> list[Draw]:
    """The entries of series of sizes, each of which has :data:`FEWEST` sizes or more."""
    alike: dict[str, dict[float, str]] = {}
    for label, entry in work.entries.items():
        if isinstance(entry, ClassifyActiveConfig) and (size := _size(entry)) is not None:
            by_chance = entry.rounds == 1
            key = repr(replace(entry, batch=1.0, budget=1.0, initial=0.0 if by_chance else entry.initial))
            alike.setdefault(key, {})[size] = label
    return [
        Draw(label, _without_number(work.titles[next(iter(of_size.values()))]), size)
        for of_size in alike.values()
        if len(of_size) >= FEWEST
        for size, label in sorted(of_size.items())
    ]


def _size(entry: ClassifyActiveConfig) -> float | None:
    """Fraction of the pool that the last network learns; None where that is not one draw."""
    size = entry.initial if entry.rounds == 1 else entry.batch
    one_draw = entry.rounds == 1 or (entry.rounds == RANKED_ROUND and entry.fit_on == "chosen")
    return size if one_draw and 0 < size < 1 else None


def _without_number(title: str) -> str:
    """``drawn`` of ``drawn-10`` or ``drawn 10 %``."""
    return re.sub(r"[\W\d_]+$", "", title) or title


def drawn_bands(work: ClassifierWork) -> dict[str, tuple[float, float]]:
    """The entries that take a band of one ranking, with its ends, from the most uncertain on; none, or several."""
    alike: dict[str, dict[str, tuple[float, float]]] = {}
    for label, entry in work.entries.items():
        if isinstance(entry, ClassifyActiveConfig) and _takes_a_band(entry):
            key = repr(replace(entry, drop_top=0.0, drop_bottom=0.0))
            alike.setdefault(key, {})[label] = (entry.drop_top, 1.0 - entry.drop_bottom)
    bands = max(alike.values(), key=len, default={})
    return dict(sorted(bands.items(), key=lambda item: item[1])) if len(bands) >= FEWEST else {}


def _takes_a_band(entry: ClassifyActiveConfig) -> bool:
    """Whether a draw takes all that is left of a ranking between its ends."""
    width = 1.0 - entry.drop_top - entry.drop_bottom
    return entry.draw == "top" and 0 < width < 1 and width <= entry.batch + 1e-9


def controls(work: ClassifierWork, entries: Sequence[str]) -> list[str]:
    """The entries that draw by chance from a ranking in which others take the first."""
    alike = {_without_band(work.entries[label]) for label in entries}
    return [
        label
        for label, entry in work.entries.items()
        if isinstance(entry, ClassifyActiveConfig) and entry.draw == "random" and _without_band(entry) in alike
    ]


def _without_band(entry: ClassifierConfig) -> str:
    """The settings that bands of one ranking share with a draw by chance from it, to be compared."""
    if not isinstance(entry, ClassifyActiveConfig):
        return ""
    return repr(replace(entry, drop_top=0.0, drop_bottom=0.0, draw="top"))


def spread_over_seeds(values: pd.Series, name: str, least: float = 0.0) -> dict[str, float]:
    """Mean, deviation and Student's 95 % interval over seeds, not below ``least``, as the columns of a summary."""
    known = values.to_numpy(np.float64)
    low, high = seeds_interval(known, least=least)
    mean = float(known.mean()) if len(known) else math.nan
    return {
        name: mean,
        f"{name}_sd_seeds": known_deviation(known) if len(known) else math.nan,
        f"{name}_low_seeds": low,
        f"{name}_high_seeds": high,
    }


def of_entry(finals: pd.DataFrame, entry: str, part: str, metric: str) -> pd.Series:
    """A metric of an entry on a part by seed."""
    rows = finals[(finals["entry"] == entry) & (finals["part"] == part)]
    return rows.set_index("seed")[metric].dropna()


def with_validation(work: ClassifierWork, summarised: pd.DataFrame, finals: pd.DataFrame) -> pd.DataFrame:
    """A summary with the metrics of the validation part, and what each band is above the one farther out.

    Args:
        work: The comparison.
        summarised: As from :func:`metaseg.studies.classifiers.tables.entry_summary`.
        finals: As from :func:`final_rows`.

    Returns:
        It with ``val_NAME`` for every name of ``METRICS``, and with ``NAME_step`` and ``val_NAME_step`` of the study's
        metric where there are bands; each with ``_sd_seeds``, ``_low_seeds`` and ``_high_seeds``.
    """
    metric, steps = work.study.metric, band_steps(work)
    rows = []
    for entry in summarised.get("entry", ()):
        row: dict[str, object] = {"entry": entry}
        for name in METRICS:
            row |= spread_over_seeds(of_entry(finals, entry, "val", name), f"val_{name}")
        for part, name in (("test", metric), ("val", f"val_{metric}")):
            if entry in steps:
                mine, outer = (of_entry(finals, one, part, metric) for one in (entry, steps[entry]))
                row |= spread_over_seeds((mine - outer).dropna(), f"{name}_step", least=-1.0)
        rows.append(row)
    return summarised.merge(pd.DataFrame(rows), on="entry", how="left") if rows else summarised


def band_steps(work: ClassifierWork) -> dict[str, str]:
    """Each band's neighbour toward the nearer end of the ranking; the outermost bands have none."""
    bands = drawn_bands(work)
    labels = list(bands)
    steps = {}
    for place, (label, (low, high)) in enumerate(bands.items()):
        outer = place - 1 if low + high < 1 else place + 1
        if 0 <= outer < len(labels):
            steps[label] = labels[outer]
    return steps


def band_table(work: ClassifierWork, finals: pd.DataFrame) -> pd.DataFrame:
    """The study's metric of each band, and of the entries that draw by chance from the same ranking.

    Args:
        work: The comparison.
        finals: As from :func:`final_rows`.

    Returns:
        ``entry``, ``low`` and ``high`` (fractions of the ranking, from the most uncertain on), ``n_seeds``, ``learned``
        and ``labels`` (means over seeds), the study's metric on the test part, over seeds, and the columns of
        :func:`with_validation`; empty without bands.
    """
    bands = drawn_bands(work)
    rows = []
    for label in [*bands, *controls(work, list(bands))]:
        entry = work.entries[label]
        assert isinstance(entry, ClassifyActiveConfig)
        ends = {"low": entry.drop_top, "high": round(1.0 - entry.drop_bottom, 9)}
        rows.append({"entry": label, **ends, **_on_test(work, finals, label)})
    return _finished(work, rows, finals)


def size_table(work: ClassifierWork, finals: pd.DataFrame) -> pd.DataFrame:
    """The study's metric of each size of each series.

    Args:
        work: The comparison.
        finals: As from :func:`final_rows`.

    Returns:
        ``series``, ``size`` (fraction of the pool that the last network learns) and the columns of :func:`band_table`
        but for the ends; ``against``, the entry of the same size that draws by chance from the ranking, and the mean
        ``difference`` of both seed by seed with its interval; empty without series.
    """
    draws = drawn_sizes(work)
    by_chance = {
        draw.size: draw.entry
        for draw in draws
        if (entry := work.entries[draw.entry]).draw == "random" and entry.acquisition != "random"  # type: ignore[union-attr]
    }
    rows = []
    for draw in draws:
        row = {"entry": draw.entry, "series": draw.series, "size": draw.size, **_on_test(work, finals, draw.entry)}
        control = by_chance.get(draw.size, draw.entry)
        if control != draw.entry:
            mine, theirs = (of_entry(finals, one, "test", work.study.metric) for one in (draw.entry, control))
            row |= {"against": control, **spread_over_seeds((mine - theirs).dropna(), "difference", least=-1.0)}
        rows.append(row)
    return _finished(work, rows, finals)


def _on_test(work: ClassifierWork, finals: pd.DataFrame, label: str) -> dict[str, float]:
    rows = finals[(finals["entry"] == label) & (finals["part"] == "test")]
    begun = {"n_seeds": len(rows), "learned": rows["learned"].mean(), "labels": rows["labels"].mean()}
    return begun | spread_over_seeds(of_entry(finals, label, "test", work.study.metric), work.study.metric)


def _finished(work: ClassifierWork, rows: Sequence[Mapping[str, object]], finals: pd.DataFrame) -> pd.DataFrame:
    """The rows with anything in them, and their columns of the validation part."""
    table = pd.DataFrame([row for row in rows if row["n_seeds"]])
    return with_validation(work, table, finals) if len(table) else table


def draw_charts(work: ClassifierWork, finals: pd.DataFrame) -> list[PanelChart]:
    """Charts of bands, of sizes and of both parts, and of one uncertainty list, as far as the study has them.

    Args:
        work: The comparison.
        finals: As from :func:`final_rows`.
    """
    name = NAMES[work.study.metric]
    bands, sizes = band_table(work, finals), size_table(work, finals)
    charts = []
    if len(bands):
        caption = f"{name} of networks that learned one band of the ranking each. {_OVER_SEEDS}"
        draw = partial(_draw_bands, work=work, table=bands)
        charts.append(PanelChart("bands", f"{name} by band of the ranking", caption, (7.0, 4.2), (1, 1), draw))
    if len(sizes):
        caption = f"{name} on the test part by how many slices the last network learned. {_OVER_SEEDS}"
        draw = partial(_draw_sizes, work=work, table=sizes, finals=finals)
        charts.append(PanelChart("sizes", f"{name} by size", caption, (7.0, 4.4), (1, 1), draw))
    parts = _part_points(work, finals)
    if len(parts) and parts["place"].nunique() <= MOST_BARS:
        titles = [work.titles[label] for label in work.entries if (finals["entry"] == label).any()]
        caption = f"{name} on the validation and the test part. {_OVER_SEEDS}"
        size = (1.6 + 1.1 * len(titles), 4.2)
        draw = partial(_draw_parts, rows=parts, titles=titles, name=name)
        charts.append(PanelChart("parts", f"{name} on both parts", caption, size, (1, 1), draw))
    return charts


_OVER_SEEDS = "Mean over seeds, 95 % intervals over seeds (Student's t, three seeds at least)."


def uncertainty_chart(run: Path, title: str) -> PanelChart | None:
    """The uncertainty list of a run as a chart; None where it has none.

    Raises:
        RunError: The list is damaged.
    """
    path = list_file(run, RANKED_ROUND)
    if not path.exists():
        return None
    caption = (
        f"{title}: uncertainty of all slices as they lie in the pool and as they are ranked; the hardest and the "
        "easiest tenth in colour."
    )
    draw = partial(draw_uncertainty, table=read_list(path))
    return PanelChart("uncertainty", "Uncertainty of the slices", caption, (9.0, 3.8), (1, 2), draw)


def _draw_bands(axes: Sequence[Axes], work: ClassifierWork, table: pd.DataFrame) -> None:
    metric, bands = work.study.metric, list(drawn_bands(work))
    rows = table[table["entry"].isin(bands)]
    points = [_points(rows, f"{before}{metric}", part) for part, before in (("validation", "val_"), ("test", ""))]
    lines = {
        f"{work.titles[str(control)]}, {part}": (float(row[f"{before}{metric}"]), PART_ROLES[part])
        for control, row in table[~table["entry"].isin(bands)].set_index("entry").iterrows()
        for part, before in (("validation", "val_"), ("test", ""))
    }
    ticks = [f"{100 * row.low:.0f}-{100 * row.high:.0f}" for row in rows.itertuples()]
    draw_points(axes[0], pd.concat(points), PART_ROLES, lines, ticks)
    axes[0].set(xlabel="band of the ranking in %, the most uncertain first", ylabel=NAMES[metric])


def _points(rows: pd.DataFrame, name: str, series: str) -> pd.DataFrame:
    values = {"value": rows[name], "low": rows[f"{name}_low_seeds"], "high": rows[f"{name}_high_seeds"]}
    return pd.DataFrame({"series": series, "place": range(len(rows)), **values})


def _draw_sizes(axes: Sequence[Axes], work: ClassifierWork, table: pd.DataFrame, finals: pd.DataFrame) -> None:
    metric = work.study.metric
    points = _points(table, metric, "").assign(series=table["series"], place=100 * table["size"])
    lines = {
        work.titles[label]: (float(of_entry(finals, label, "test", metric).mean()), "ink")
        for label, entry in work.entries.items()
        if not isinstance(entry, ClassifyActiveConfig) and (finals["entry"] == label).any()
    }
    draw_points(axes[0], points, series_of_draws(list(dict.fromkeys(table["series"]))), lines)
    axes[0].set(
        xlabel="slices that the last network learned, % of the training part", ylabel=f"{NAMES[metric]}, test part"
    )


def _part_points(work: ClassifierWork, finals: pd.DataFrame) -> pd.DataFrame:
    """A row for each entry and part that is known."""
    rows = []
    for place, label in enumerate(label for label in work.entries if (finals["entry"] == label).any()):
        for part, series in PARTS.items():
            known = spread_over_seeds(of_entry(finals, label, part, work.study.metric), "value")
            ends = {"value": known["value"], "low": known["value_low_seeds"], "high": known["value_high_seeds"]}
            rows.append({"series": series, "place": place, **ends})
    table = pd.DataFrame(rows)
    return table.dropna(subset=["value"]) if len(table) else table


def _draw_parts(axes: Sequence[Axes], rows: pd.DataFrame, titles: Sequence[str], name: str) -> None:
    draw_part_bars(axes[0], rows, titles)
    axes[0].set_ylabel(name)


def write_draws(work: ClassifierWork, finals: pd.DataFrame, cells: Sequence[Unit], synthetic: bool) -> None:
    """Write the tables and charts of bands, sizes and parts, and of the first uncertainty list.

    Args:
        work: The comparison.
        finals: As from :func:`final_rows`.
        cells: The finished cells.
        synthetic: Whether the data are phantoms; the pictures then say so.
    """
    for name, table in (("bands", band_table(work, finals)), ("sizes", size_table(work, finals))):
        if len(table):
            write_table(table, work.folder / name)
    lists = (uncertainty_chart(work.folder / cell.folder, cell.name) for cell in cells)
    first = next((chart for chart in lists if chart is not None), None)
    write_charts([*draw_charts(work, finals), *([] if first is None else [first])], work.folder, synthetic)
