"""Print the tables of docs/results.md from the tables of a finished comparison of classifiers.

Usage: classifier_table.py STUDY [METRIC [ENTRY]]

For active learning the curves follow, and what share of labels each entry saves against ENTRY.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from metaseg.studies.classifiers.tables import label_metrics

NAMES = {"auc": "AUC", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1": "macro F1"}


def interval(row: pd.Series, name: str) -> str:
    """``0.812 (0.778 to 0.841)``; without the interval where there is none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.3f}" if pd.isna(low) else f"{row[name]:.3f} ({low:.3f} to {high:.3f})"


def share(row: pd.Series) -> str:
    """Labels saved in per cent with their interval; a curve that never got there saves nothing."""
    if pd.isna(row.get("labels_needed")) or pd.isna(row.get("labels_saved")):
        return "-"
    ends = [f"{100 * row[end]:.0f}" if row[end] > -1e9 else "none" for end in ("labels_saved_low", "labels_saved_high")]
    return f"{100 * row['labels_saved']:.0f} % ({ends[0]} to {ends[1]})"


def curve_tables(study: Path, metric: str, entry: str | None) -> None:
    """Means over seeds by number of labels, on test part and rest of the pool; labels saved against an entry."""
    curves = pd.read_csv(study / "curves.csv")
    for part in ("test", "pool"):
        rows = curves[curves["part"] == part].groupby(["entry", "labels"])[metric].mean().unstack()
        if len(rows):
            print(f"\n{part}: {NAMES[metric]} by labels, mean over seeds\n\n{rows.round(3).to_string()}")
    for label in curves["entry"].unique() if entry is not None else ():
        if label != entry:
            row = pd.Series(label_metrics(curves, label, str(entry), metric, 2000))
            print(f"\n{label} against {entry}: {row.get('labels_needed', float('nan')):.0f} labels, saves {share(row)}")


def main(study: Path, metric: str = "auc", entry: str | None = None) -> None:
    """Print the summary, the best first, the pairs and the curves."""
    table = pd.read_csv(study / "summary.csv").sort_values(metric, ascending=False)
    active = "area" in table
    others = [name for name in NAMES if name != metric and not active]
    heads = ["entry", "seeds", NAMES[metric], "SD over seeds", *(NAMES[name] for name in others)]
    heads += ["labels", "area", "labels needed", "labels saved"] if active else []
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for _, row in table.iterrows():
        cells = [row["entry"], f"{row['n_seeds']:.0f}", interval(row, metric), f"{row[f'{metric}_sd_seeds']:.3f}"]
        cells += [f"{row[name]:.3f}" for name in others]
        if active:
            counts = ["-" if pd.isna(row.get(name)) else f"{row[name]:.0f}" for name in ("labels", "labels_needed")]
            cells += [counts[0], "-" if pd.isna(row["area"]) else interval(row, "area"), counts[1], share(row)]
        print("| " + " | ".join(cells) + " |")
    pairs = pd.read_csv(study / "pairwise.csv")
    if len(pairs):
        print(f"\n| against {pairs['baseline'].iloc[0]} | patients | accuracy, difference | p | p, Holm |")
        print("|---|---|---|---|---|")
        for _, row in pairs.sort_values("difference", ascending=False).iterrows():
            values = [
                f"{row['n_patients']:.0f}",
                f"{row['difference']:+.3f}",
                f"{row['p']:.3f}",
                f"{row['p_holm']:.3f}",
            ]
            print("| " + " | ".join([row["entry"], *values]) + " |")
    if active:
        curve_tables(study, metric, entry)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])
