from __future__ import annotations

import json
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from active_runs import left_by
from forked import kill_after, start

from metaseg.classify import active
from metaseg.classify.acquire import PatchImages, patch_probabilities
from metaseg.classify.active import run_classify_active
from metaseg.classify.fitting import new_classifier
from metaseg.classify.rounds import read_rounds
from metaseg.config.classification import ClassifyActiveConfig
from metaseg.config.io import dump_config, load_config
from metaseg.errors import RunError, UsageError
from metaseg.runs.folder import RunFolder
from metaseg.runs.networks import load_classifier_network
from metaseg.sampling import aift_scores, pattern_counts, prediction_patterns


class TestBudget:
    @pytest.mark.parametrize(
        ("sizes", "labels"),
        [
            ({"initial": 4, "batch": 4, "budget": 12}, [4, 8, 12]),
            ({"initial": 4, "batch": 5, "budget": 11}, [4, 9, 11]),
            ({"initial": 0, "batch": 6, "budget": 12}, [6, 12]),
            ({"initial": 0.1, "batch": 0.2, "budget": 0.5}, [2, 6, 10]),
            ({"initial": 10, "batch": 20, "budget": 1}, [10, 20]),
            ({"initial": 30, "batch": 20, "budget": 200}, [20]),
            ({"initial": 4, "batch": 4, "budget": 12, "rounds": 2}, [4, 8]),
            ({"initial": 15, "batch": 5, "budget": 1, "drop_top": 0.5, "drop_bottom": 0.4}, [15]),
            ({"initial": 10, "batch": 5, "budget": 1, "drop_top": 0.5, "draw": "random"}, [10, 15, 17, 18, 19]),
        ],
    )
    def test_labels_after_each_round(self, active_config, parts_of, sizes, labels):
        result = run_classify_active(active_config(acquisition="margin", epochs=1, **sizes))
        rounds = read_rounds(result.run)
        assert [one.labelled for one in rounds] == labels
        chosen = [name for one in rounds for name in one.chosen]
        assert len(set(chosen)) == len(chosen) == result.labels == labels[-1]
        assert set(chosen) <= set(parts_of().train.ids)

    def test_labels_are_those_of_the_data_set(self, active_config, parts_of):
        known = dict(zip(parts_of().train.ids, parts_of().train.labels.tolist(), strict=True))
        for one in read_rounds(run_classify_active(active_config(epochs=1)).run):
            assert one.labels == tuple(known[name] for name in one.chosen)

    def test_ranking_all_counts_the_union(self, active_config):
        """Hao et al. 2021: 30 % and 30 % of all, so that between 30 and 60 % are labelled."""
        config = active_config(
            initial=0.3, batch=0.3, budget=1, rounds=2, rank="all", drop_top=0.1, drop_bottom=0.1, draw="random",
            fit_on="chosen", epochs=1,
        )  # fmt: skip
        first, second = read_rounds(run_classify_active(config).run)
        assert len(first.chosen) == len(second.chosen) == 6
        assert second.labelled == len(set(first.chosen) | set(second.chosen))
        assert 6 < second.labelled < 12

    def test_ranking_all_keeps_to_the_budget(self, active_config):
        result = run_classify_active(active_config(rank="all", acquisition="random", epochs=1, batch=7, budget=9))
        assert result.labels == 9
        assert len({name for one in read_rounds(result.run) for name in one.chosen}) == 9

    def test_a_ranking_that_brings_nothing_new_ends_the_run(self, active_config):
        # Rates of nothing change no ranking: the same slices are chosen again.
        result = run_classify_active(
            active_config(rank="all", initial=0, batch=4, budget=12, learning_rate=1e-30, epochs=1, transfer="freeze")
        )
        assert result.labels < 12
        assert len(read_rounds(result.run)) <= 6

    def test_stops_at_a_metric(self, active_config):
        result = run_classify_active(active_config(stop_at=0.01, epochs=1))
        assert len(read_rounds(result.run)) == 1

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"batch": 2.5}, "--batch 2.5"),
            ({"budget": 0.001}, "--budget 0.001 of 20 slices is none"),
            ({"initial": 0.001}, "--initial 0.001 of 20 slices is none"),
            ({"drop_top": 0.6, "drop_bottom": 0.5}, "leave nothing"),
            ({"acquisition": "committee", "initial": 0}, "there are none before the first round"),
            ({"acquisition": "badge", "drop_top": 0.1}, "chooses a set"),
            ({"transfer": "scratch", "weights": "imagenet"}, "--transfer scratch with --weights"),
            ({"ask": "labels.csv"}, "--ask without --classes"),
        ],
    )
    def test_settings_that_contradict_are_told_before_anything_is_written(
        self, active_config, tmp_path, changes, match
    ):
        with pytest.raises(UsageError, match=match):
            run_classify_active(active_config(**changes))
        assert not (tmp_path / "run").exists()


class TestPatterns:
    """What is kept of the patches' predictions (Zhou et al. 2017, Sec. 4.4)."""

    AIFT: ClassVar = {"acquisition": "aift", "patches": 6, "patch_fraction": 0.5, "initial": 0, "epochs": 1}

    def test_the_ends_of_the_ranking_with_their_predictions(self, active_config, parts_of):
        config, pool = active_config(**self.AIFT), parts_of().train
        rounds = read_rounds(run_classify_active(config).run)
        # Of the first round, the network is the one that all begins with.
        images = PatchImages(config.patches, config.seed)
        predicted = patch_probabilities(new_classifier(config, pool, config.seed), pool, images)
        ranking = np.argsort(-aift_scores(predicted, patch_fraction=0.5), kind="stable")
        letters, found = prediction_patterns(predicted), rounds[0].patterns
        assert dict(found.counts) == pattern_counts(letters)
        assert rounds[0].chosen == tuple(one.name for one in found.first[: len(rounds[0].chosen)])
        for kept, places in ((found.first, ranking[:10]), (found.last, ranking[-10:])):
            assert [one.name for one in kept] == [pool.ids[place] for place in places]
            assert [one.pattern for one in kept] == letters[places].tolist()
            assert [one.label for one in kept] == pool.labels[places].tolist()
            assert np.allclose([one.probabilities for one in kept], predicted[places, :, 1], atol=1e-6)
        left = [sum(one.patterns.counts.values()) for one in rounds]
        assert left == [20, 16, 12]
        assert len(rounds[-1].patterns.last) == 10

    def test_none_of_a_choice_by_chance_or_of_a_strategy_without_patches(self, active_config):
        rounds = read_rounds(run_classify_active(active_config(epochs=1)).run)
        assert {one.patterns for one in rounds} == {None}
        rounds = read_rounds(run_classify_active(active_config(**self.AIFT | {"initial": 4}, overwrite=True)).run)
        assert [one.patterns is None for one in rounds] == [True, False, False]

    def test_an_annotator_is_told_no_label_in_advance(self, active_config, tmp_path):
        config = active_config(**self.AIFT, ask=tmp_path / "labels.csv", classes="left,right")
        [waiting] = read_rounds(run_classify_active(config).run)
        assert {one.label for one in (*waiting.patterns.first, *waiting.patterns.last)} == {None}

    def test_the_classes_of_the_whole_pool_are_kept(self, active_config, parts_of):
        run = run_classify_active(active_config(epochs=1)).run
        assert json.loads((run / "result.json").read_text())["pool"] == parts_of().train.counts()


class TestFits:
    @pytest.fixture
    def fits(self, monkeypatch):
        """The weights with which each round begins and ends, and what it learns."""
        seen, real = [], active.fit_round

        def spy(model, labelled, *args, **options):
            begin = {name: value.clone() for name, value in model.state_dict().items()}
            result = real(model, labelled, *args, **options)
            end = {name: value.clone() for name, value in result.state_dict().items()}
            seen.append({"begin": begin, "end": end, "labelled": labelled, **options})
            return result

        monkeypatch.setattr(active, "fit_round", spy)
        return seen

    @staticmethod
    def same(one, other):
        return all(torch.equal(value, other[name]) for name, value in one.items())

    def test_continue_begins_where_the_round_before_ended(self, active_config, fits):
        run_classify_active(active_config(fit="continue"))
        for before, after in pairwise(fits):
            assert self.same(after["begin"], before["end"])
            assert not self.same(after["begin"], after["end"])

    def test_reset_begins_anew(self, active_config, fits):
        run_classify_active(active_config(fit="reset"))
        assert len(fits) == 3
        assert all(self.same(one["begin"], fits[0]["begin"]) for one in fits)

    def test_learns_all_labelled_or_the_chosen(self, active_config, fits):
        run_classify_active(active_config(epochs=1))
        assert [len(one["labelled"]) for one in fits] == [4, 8, 12]
        fits.clear()
        run_classify_active(active_config(epochs=1, fit_on="chosen", overwrite=True))
        assert [len(one["labelled"]) for one in fits] == [4, 4, 4]

    def test_freeze_trains_the_head_alone(self, active_config, fits):
        run_classify_active(active_config(transfer="freeze", epochs=1, budget=4))
        moved = {name for name, value in fits[0]["begin"].items() if not torch.equal(value, fits[0]["end"][name])}
        assert moved
        assert all(name.startswith("net.fc.") for name in moved)

    def test_a_committee_begins_alike_and_learns_at_three_rates(self, active_config, fits):
        run_classify_active(active_config(acquisition="committee", epochs=1, budget=8))
        members = [one for one in fits if one.get("rate")]
        assert [one["rate"] for one in members] == [1e-3, 5e-4, 1e-4]
        assert all(self.same(one["begin"], fits[0]["begin"]) for one in members)
        moved = [sum((one["end"][name] - one["begin"][name]).abs().sum() for name in one["end"]) for one in members]
        assert moved[0] > moved[2]

    def test_best_keeps_the_best_epoch(self, active_config, monkeypatch):
        scores = iter([0.1, 0.9, 0.5])
        kept = []
        monkeypatch.setattr(
            "metaseg.classify.fitting.part_metrics",
            lambda model, slices, part: (
                kept.append(model.state_dict()["net.fc.bias"].clone()) or {"auc/val": next(scores)}
            ),
        )
        result = run_classify_active(active_config(keep="best", epochs=3, budget=4))
        final = load_classifier_network(result.run, "last").model.state_dict()["net.fc.bias"]
        assert torch.equal(final, kept[1])
        assert not torch.equal(final, kept[2])


SETTINGS = {"acquisition": "bald", "dropout_passes": 2, "epochs": 1, "batch": 4, "budget": 12}
INTERRUPTIONS = [
    *(("write_round", call, "after") for call in range(1, 9)),
    *((name, 2, "before") for name in ("choose", "fit_round", "save_checkpoint", "part_metrics", "write_curve")),
    *((name, 3, "after") for name in ("choose", "fit_round", "save_checkpoint", "part_metrics", "write_curve")),
    ("save_checkpoint", 4, "before"), ("save_checkpoint", 4, "after"),
    ("measure_test_part", 1, "before"), ("measure_test_part", 1, "after"),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(common, tmp_path_factory):
    """What a run leaves that nobody interrupted."""
    settings = common | SETTINGS | {"initial": 4, "out": tmp_path_factory.mktemp("whole") / "run"}
    return left_by(run_classify_active(load_config(ClassifyActiveConfig, None, settings)).run)


class TestInterruptions:
    @pytest.mark.parametrize(("name", "call", "when"), INTERRUPTIONS)
    def test_goes_on_to_the_same_end(self, active_config, whole, monkeypatch, name, call, when):
        real, calls = getattr(active, name), []

        def interrupted(*args, **options):
            calls.append(1)
            if len(calls) == call and when == "before":
                raise KeyboardInterrupt
            result = real(*args, **options)
            if len(calls) == call:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(active, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_classify_active(active_config(**SETTINGS))
        monkeypatch.setattr(active, name, real)
        result = run_classify_active(active_config(**SETTINGS, resume=True))
        assert left_by(result.run) == whole

    def test_a_finished_run_has_nothing_left(self, active_config, whole, capsys):
        config = active_config(**SETTINGS)
        first = run_classify_active(config)
        again = run_classify_active(active_config(**SETTINGS, resume=True))
        assert "nothing to resume" in capsys.readouterr().out
        pd.testing.assert_frame_equal(first.curve, again.curve)
        assert again.labels == first.labels

    def test_a_damaged_round_is_told(self, active_config):
        run = run_classify_active(active_config(epochs=1)).run
        state = json.loads((run / "state.json").read_text())
        (run / "state.json").write_text(json.dumps(state | {"status": "stopped"}))
        (run / "rounds" / "round-002.json").write_text("{}")
        with pytest.raises(RunError, match="damaged"):
            run_classify_active(active_config(epochs=1, resume=True))

    def test_killed_and_continued(self, active_config, whole, tmp_path):
        """SIGKILL at a random moment, not a polite exception."""
        config = active_config(**SETTINGS)
        dump_config(config, tmp_path / "active.yaml")
        process = start(["classify", "active", "--config", tmp_path / "active.yaml"])
        kill_after(process, config.out / "rounds", np.random.default_rng().uniform(0, 0.4))
        result = run_classify_active(active_config(**SETTINGS, resume=True))
        assert left_by(result.run) == whole
        assert RunFolder.open(result.run).finished
