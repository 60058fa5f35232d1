from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

import metaseg
from metaseg.adapt.batches import place_in_turn
from metaseg.adapt.metatune import parse_threshold
from metaseg.adapt.scoring import score_slices
from metaseg.adapt.watch import Watch, due_marks
from metaseg.cases.labels import SUBREGIONS
from metaseg.errors import DataError, TrainingError, UsageError
from metaseg.inference.predictor import Predictor
from metaseg.metrics.overlap import class_counts
from metaseg.runs.networks import load_network
from metaseg.sampling import slice_dice
from metaseg.store.prepare import open_data

SMALL = {"shots": 2, "slices": 6, "budget": 48, "marks": 2}


ONE_VISIT = {"shots": 1, "slices": 8, "budget": 9, "marks": 1}
"""One visit to one case: a step of a learned and an unlearned task, then one of the side that is left."""


def rows(run, name):
    return list(csv.DictReader((run / name).open()))


def weights(run):
    return torch.cat([p.flatten() for p in load_network(run).model.parameters()])


class TestMetatune:
    def test_adapts_logs_and_keeps_the_source_in_sight(self, pretrained, tmp_path):
        result = metaseg.metatune(
            **pretrained, **(SMALL | {"budget": 240}), out=tmp_path / "r", order="active", outer_learning_rate=0.005
        )
        assert result.after["dice/target/WT"] > result.before["dice/target/WT"]
        assert result.forgetting["forgetting/WT"] == pytest.approx(
            result.before["dice/source/WT"] - result.after["dice/source/WT"]
        )
        assert result.spent >= 240
        names = {row["name"] for row in rows(result.run, "metrics.csv")}
        assert {"dice/target/ET", "dice/source/ET", "tasks/learned", "tasks/unlearned", "tasks/threshold"} <= names
        card = load_network(result.run).card
        assert card.trained_on == ("HGG", "MET")
        assert card.parent == str(pretrained["from_run"])
        assert list((tmp_path / "r").glob("events.out.tfevents*"))

    @pytest.mark.parametrize(
        "order", ["active", "passive", "hardest", "easiest", "sequential", "entropy", "foreground-random"]
    )
    def test_every_order_runs_and_no_slice_is_taken_twice_in_a_visit(self, pretrained, tmp_path, order):
        run = metaseg.metatune(**pretrained, **(SMALL | {"budget": 12}), out=tmp_path / "r", order=order).run
        taken = [(row["case"], row["slice"]) for row in rows(run, "selection.csv")]
        assert len(taken) == len(set(taken)) > 0
        roles = {row["role"] for row in rows(run, "selection.csv")}
        assert roles == {"support", "query"}

    def test_active_takes_the_farthest_first(self, pretrained, tmp_path):
        run = metaseg.metatune(**pretrained, **ONE_VISIT, out=tmp_path / "r", order="active").run
        visit = rows(run, "selection.csv")
        steps = sorted({int(row["step"]) for row in visit})
        dice = {
            kind: [[float(r["dice"]) for r in visit if int(r["step"]) == step and r["task"] == kind] for step in steps]
            for kind in ("learned", "unlearned")
        }
        threshold = float(visit[0]["threshold"])
        flat = [value for step in dice["learned"] for value in step]
        assert flat == sorted(flat, reverse=True)
        assert min(flat) >= threshold
        flat = [value for step in dice["unlearned"] for value in step]
        assert flat == sorted(flat)
        assert max(flat) < threshold

    def test_a_threshold_that_parts_nothing_is_replaced_by_rank_and_told(self, pretrained, tmp_path):
        run = metaseg.metatune(**pretrained, **ONE_VISIT, out=tmp_path / "r", threshold="0").run
        visit = rows(run, "selection.csv")
        assert {row["rule"] for row in visit} == {"rank"}
        assert min(float(row["dice"]) for row in visit if row["task"] == "learned") >= float(visit[0]["threshold"]) > 0
        [session] = json.loads((run / "manifest.json").read_text())["sessions"]
        assert session["threshold"] == {"rule": "0", "scorings": 1, "fallbacks": 1}
        assert [row["value"] for row in rows(run, "metrics.csv") if row["name"] == "tasks/fallback"] == ["1.0"]

    def test_budget_is_counted_in_slice_gradients(self, pretrained, tmp_path):
        second = metaseg.metatune(**pretrained, **SMALL, out=tmp_path / "a")
        first = metaseg.metatune(**pretrained, **SMALL, out=tmp_path / "b", first_order=True)
        naive = metaseg.naivetune(**pretrained, **SMALL, out=tmp_path / "c", batch_size=4)
        assert (second.spent, first.spent, naive.spent) == (48, 48, 48)
        # Two tasks a step: 3 evaluations each in second order, 2 in first.
        assert len({row["step"] for row in rows(second.run, "selection.csv")}) == 48 // 6
        assert len({row["step"] for row in rows(first.run, "selection.csv")}) == 48 // 4
        assert len({row["step"] for row in rows(naive.run, "selection.csv")}) == 48 // 4

    def test_rescoring_inside_a_case_takes_each_slice_once_still(self, pretrained, tmp_path):
        run = metaseg.metatune(**pretrained, **ONE_VISIT, out=tmp_path / "r", rescore_every=1).run
        taken = [(row["case"], row["slice"]) for row in rows(run, "selection.csv")]
        assert len(taken) == len(set(taken))

    def test_same_seed_same_bits(self, pretrained, tmp_path):
        runs = [
            metaseg.metatune(**pretrained, **SMALL, out=tmp_path / name, order="passive", seed=seed).run
            for name, seed in (("a", 5), ("b", 5), ("c", 6))
        ]
        assert torch.equal(weights(runs[0]), weights(runs[1]))
        assert not torch.equal(weights(runs[0]), weights(runs[2]))
        assert (runs[0] / "selection.csv").read_text() == (runs[1] / "selection.csv").read_text()

    def test_diverging_run_stops_with_the_last_good_weights(self, pretrained, tmp_path):
        rates: dict[str, float]
        for name, rates in (("first", {"inner_learning_rate": 1e30}), ("later", {"outer_learning_rate": 1e6})):
            with pytest.raises(TrainingError, match="finite") as caught:
                metaseg.metatune(**pretrained, **SMALL, **rates, out=tmp_path / name, clip_norm=0, ema=0.0)
            kept = sorted(file.name for file in (tmp_path / name).rglob("*.safetensors"))
            assert ("no weights had been saved" in str(caught.value.remedy)) == (not kept)
            if kept:
                assert all(torch.isfinite(p).all() for p in load_network(tmp_path / name).model.parameters())
            assert json.loads((tmp_path / name / "state.json").read_text())["status"] == "failed"

    def test_too_few_slices_for_a_task_end_the_run_instead_of_looping(self, pretrained, tmp_path):
        with pytest.raises(DataError, match="no shot has slices enough"):
            metaseg.metatune(**pretrained, **(SMALL | {"slices": 2}), out=tmp_path / "r", threshold="median")

    def test_unknown_order_and_threshold_are_refused_before_work(self, pretrained, tmp_path):
        with pytest.raises(UsageError, match="'order' is 'activ'"):
            metaseg.metatune(**pretrained, order="activ", out=tmp_path / "a")
        with pytest.raises(UsageError, match="threshold 'mean'"):
            metaseg.metatune(**pretrained, threshold="mean", out=tmp_path / "b")
        assert not (tmp_path / "a").exists()
        assert not (tmp_path / "b").exists()


class TestNaivetune:
    def test_adapts_on_balanced_slices(self, pretrained, tmp_path):
        result = metaseg.naivetune(**pretrained, **(SMALL | {"budget": 200}), out=tmp_path / "r", learning_rate=0.005)
        assert result.after["dice/target/WT"] > result.before["dice/target/WT"]
        chosen = rows(result.run, "selection.csv")
        assert len(chosen) == 200
        assert {row["role"] for row in chosen} == {"batch"}

    def test_budget_that_is_no_multiple_of_the_batch_is_still_evaluated_at_its_end(self, pretrained, tmp_path):
        result = metaseg.naivetune(
            **pretrained, **(SMALL | {"budget": 10, "marks": 1}), out=tmp_path / "r", learning_rate=0.005
        )
        assert result.spent == 8
        marks = {int(row["step"]) for row in rows(result.run, "metrics.csv") if row["name"] == "dice/target/WT"}
        assert marks == {0, 8}


class TestScoring:
    def test_scores_equal_those_of_the_metrics(self, pretrained):
        network = load_network(pretrained["from_run"])
        case = open_data([pretrained["data"]], cache=pretrained["cache"]).cases[0]
        predictor = Predictor(network.model, network.card.modalities, SUBREGIONS, batch_size=3)
        pool = score_slices(predictor, case, np.arange(case.num_slices))
        predicted = Predictor(network.model, network.card.modalities, SUBREGIONS).classes(case)
        counts = class_counts(case.labels(slice(None)), predicted, 4, per_slice=True)
        expected = slice_dice(counts.intersection[:, 1:], counts.label[:, 1:], counts.predicted[:, 1:])
        np.testing.assert_allclose(pool.score("dice"), expected)
        assert (pool.score("entropy") >= 0).all()
        assert pool.score("entropy").max() <= np.log(4)


def test_threshold_words_and_numbers():
    assert parse_threshold("otsu") == "otsu"
    assert parse_threshold("0.25") == 0.25
    for text in ("1.5", "-0.1", "nan", "much"):
        with pytest.raises(UsageError):
            parse_threshold(text)


def test_visits_go_to_every_case_once_a_pass():
    passes = [[place_in_turn(round_ * 5 + position, 5, [7]) for position in range(5)] for round_ in range(4)]
    assert all(sorted(cases) == list(range(5)) for cases in passes)
    assert len({tuple(cases) for cases in passes}) > 1


def test_marks_fall_evenly_and_once():
    due = [spent for spent in range(6, 66, 6) if due_marks(spent - 6, spent, 60, 4)]
    assert due == [18, 30, 48, 60]


@pytest.mark.parametrize("verb", [metaseg.naivetune, metaseg.metatune])
def test_cut_off_before_its_first_state_it_begins_anew(verb, pretrained, tmp_path, monkeypatch):
    mark = Watch.mark

    def interrupted(self, model, spent, update):
        if spent:
            raise KeyboardInterrupt
        return mark(self, model, spent, update)

    small = SMALL | {"budget": 12, "marks": 1, "pictures": False}
    with monkeypatch.context() as patched:
        patched.setattr(Watch, "mark", interrupted)
        with pytest.raises(KeyboardInterrupt):
            verb(**pretrained, **small, out=tmp_path / "cut")
    verb(**pretrained, **small, out=tmp_path / "cut", resume=True)
    verb(**pretrained, **small, out=tmp_path / "whole")
    for name in ("marks.csv", "metrics.csv", "selection.csv"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
