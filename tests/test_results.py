"""What a notebook shows of results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metaseg.inference.predict import CasePrediction, PredictionResult
from metaseg.results import Result, metrics_table


@dataclass(frozen=True)
class Result(Result):
    out: Path
    synthetic: bool = False

    def table(self) -> pd.DataFrame:
        return metrics_table(before={"dice/<ET>": 0.25}, after={"dice/<ET>": np.nan})


def test_a_notebook_shows_a_table_and_where_the_files_are():
    shown = Result(Path("runs") / "<a>")._repr_html_()
    assert "Result: runs/&lt;a&gt;</p>" in shown
    assert "<td>0.250</td>" in shown
    assert "dice/&lt;ET&gt;" in shown
    assert "SYNTHETIC" in Result(Path("runs"), synthetic=True)._repr_html_()


def test_volumes_are_shown_in_millilitres_where_they_are_known():
    volumes = {"WT": {"voxels": 7.0, "ml": 0.5}, "ET": {"voxels": 3.0, "ml": None}}
    result = PredictionResult(Path("out"), (CasePrediction("a", {}, volumes, False),), False)
    assert result.table().to_dict("records") == [{"case": "a", "WT": 0.5, "ET": 3.0}]
