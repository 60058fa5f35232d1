"""Print the tables of docs/results.md from the tables of a finished comparison.

Usage: study_table.py STUDY [BASELINE], where STUDY/summary.csv and STUDY/both_axes.csv stand.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd


def with_interval(row: pd.Series, metric: str) -> str:
    """``0.512 (0.478 to 0.541)``; without the interval where there is none."""
    text = f"{row[metric]:.3f}"
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return text if pd.isna(low) else f"{text} ({low:.3f} to {high:.3f})"


def methods_table(rows: pd.DataFrame) -> None:
    """All methods of one target, the best balanced mean first."""
    first = rows.iloc[0]
    print(
        f"{int(first['n_target_patients'])} target and {int(first['n_source_patients'])} source patients; before tuning"
    )
    print(f"{first['target_before']:.3f} on the target and {first['source_before']:.3f} on the source.\n")
    print("| method | seeds | target after | source after | forgotten | balanced mean | area | work to 90 % |")
    print("|---|---|---|---|---|---|---|---|")
    for _, row in rows.sort_values("balanced_mean", ascending=False).iterrows():
        cells = [row["method"], str(int(row["n_seeds"]))]
        cells += [with_interval(row, name) for name in ("target_after", "source_after", "forgetting", "balanced_mean")]
        cells += [f"{row['balanced_area']:.3f}", "-" if pd.isna(row["steps_to_90"]) else f"{row['steps_to_90']:.0f}"]
        print("| " + " | ".join(cells) + " |")


def both_table(rows: pd.DataFrame, baseline: str) -> None:
    """Every method against the baseline on both axes."""
    print(
        f"| against {baseline} | target gain | p | forgotten | spared | p | half of {baseline}'s | excess | p | both |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for _, row in rows.sort_values(["both", "gain"], ascending=False).iterrows():
        cells = [row["method"], with_interval(row, "gain"), f"{row['gain_p']:.3f}", f"{row['forgotten']:.3f}"]
        cells += [with_interval(row, "spared"), f"{row['spared_p']:.4f}"]
        cells += [f"{row['forgotten_by_baseline'] / 2:.3f}", with_interval(row, "excess"), f"{row['excess_p']:.4f}"]
        print("| " + " | ".join([*cells, "**yes**" if row["both"] else "no"]) + " |")


def main(study: Path, baseline: str = "naive") -> None:
    summary, both = pd.read_csv(study / "summary.csv"), pd.read_csv(study / "both_axes.csv")
    for (target, shots), rows in summary.groupby(["target", "shots"]):
        print(f"\n### {target}, {shots} shots\n")
        methods_table(rows)
        compared = both.query("target == @target and shots == @shots and baseline == @baseline")
        if len(compared):
            print()
            both_table(compared, baseline)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
