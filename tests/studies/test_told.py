from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from metaseg.studies.study_metrics import method_summary
from metaseg.studies.told import AUTO, DECISION_COLUMNS, ONE, TOLD, told_summary

CASES = {"source": ["s0", "s1", "s2"], "target": ["t0", "t1"]}


def table(methods: tuple[str, ...] = ("naive",), seeds: tuple[int, ...] = (0, 1)) -> pd.DataFrame:
    """Dice at three marks; the last one of seed 1 lies further out, as where a meta-step overshoots."""
    rng = np.random.default_rng(3)
    rows = []
    for method, seed, (domain, cases) in product(methods, seeds, CASES.items()):
        for work, case in product((0, 50, 100 + seed), cases):
            head = {"target": "met", "method": method, "family": "plain", "shots": 2, "seed": seed, "work": work}
            head |= {"update": work, "domain": domain, "case": case, "patient": case, "region": "WT"}
            rows.append(head | {"dice": rng.uniform(0.1, 0.9)})
    return pd.DataFrame(rows)


def decisions(rows: pd.DataFrame, wrong: set[tuple[int, str]]) -> pd.DataFrame:
    cases = rows.drop_duplicates(["method", "seed", "case"])
    other = {"source": "target", "target": "source"}
    decided = [
        other[row.domain] if (row.seed, row.case) in wrong else row.domain for row in cases.itertuples(index=False)
    ]
    return cases.assign(decided=decided)[list(DECISION_COLUMNS)]


def at(rows: pd.DataFrame, domain: str, end: str, seed: int, case: str) -> float:
    of_case = rows[(rows["domain"] == domain) & (rows["seed"] == seed) & (rows["case"] == case)]
    return float(of_case.loc[of_case["work"] == getattr(of_case["work"], end)(), "dice"].iloc[0])


def test_a_case_has_the_dice_of_the_network_that_takes_it():
    rows = table()
    wrong = {(0, "s1"), (1, "t0")}
    found = told_summary(rows, decisions(rows, wrong), "WT", resamples=50).set_index("network")
    assert list(found.index) == [ONE, TOLD, AUTO]
    source = {
        (seed, case): (at(rows, "source", "min", seed, case), at(rows, "source", "max", seed, case))
        for seed, case in product((0, 1), CASES["source"])
    }
    target = {
        (seed, case): (at(rows, "target", "min", seed, case), at(rows, "target", "max", seed, case))
        for seed, case in product((0, 1), CASES["target"])
    }
    assert found.loc[TOLD, "forgetting"] == 0
    assert found.loc[TOLD, "source_after"] == pytest.approx(np.mean([before for before, _ in source.values()]))
    assert found.loc[TOLD, "target_after"] == pytest.approx(np.mean([after for _, after in target.values()]))
    taken = [after if key in wrong else before for key, (before, after) in source.items()]
    assert found.loc[AUTO, "source_after"] == pytest.approx(np.mean(taken))
    taken = [before if key in wrong else after for key, (before, after) in target.items()]
    assert found.loc[AUTO, "target_after"] == pytest.approx(np.mean(taken))
    assert found.loc[AUTO, "error_source"] == pytest.approx(1 / 6)
    assert found.loc[AUTO, "error_target"] == pytest.approx(1 / 4)
    assert found.loc[[ONE, TOLD], ["error_source", "error_target"]].isna().all(axis=None)
    one = method_summary(rows, "WT", resamples=50).iloc[0]
    for metric in ("target_after", "source_after", "forgetting", "forgetting_low"):
        assert found.loc[ONE, metric] == pytest.approx(one[metric])


def test_runs_without_a_gate_have_no_row_of_it():
    rows = table(("naive", "tuned"))
    gated = decisions(rows[(rows["method"] == "tuned") & (rows["seed"] == 0)], set())
    found = told_summary(rows, gated, "WT", resamples=50)
    assert [tuple(row) for row in found[["method", "network", "n_seeds"]].to_numpy()] == [
        ("naive", ONE, 2),
        ("naive", TOLD, 2),
        ("tuned", ONE, 2),
        ("tuned", TOLD, 2),
        ("tuned", AUTO, 1),
    ]
    right = found.set_index(["method", "network"]).loc[("tuned", AUTO)]
    assert (right["error_source"], right["error_target"], right["forgetting"]) == (0, 0, 0)
    nobody = told_summary(rows, gated.iloc[:0], "WT", resamples=50)
    assert AUTO not in set(nobody["network"])
