"""Controls and the adaptive order end to end: what they draw, what they log, and that they resume to the same bits."""

from __future__ import annotations

import csv
import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

import metaseg
from metaseg.adapt.engines import TaskBatch
from metaseg.adapt.metatune import MetaTuning
from metaseg.adapt.scoring import BANDS, AdaptiveScores, check_order, require_same_task, score_slices
from metaseg.config.fields import describe_fields
from metaseg.config.segmentation import MetatuneConfig
from metaseg.errors import RunError, UsageError
from metaseg.models.checkpoint import save_checkpoint
from metaseg.runs.networks import load_network
from metaseg.sampling import ORDERS, Pool, plan_case
from metaseg.store.stored_case import StoredCase

SMALL = {"shots": 2, "slices": 6, "budget": 12, "marks": 1, "watch_cases": 1}


def rows(run, name):
    return list(csv.DictReader((run / name).open()))


def weights(run):
    return torch.cat([p.flatten() for p in load_network(run).model.parameters()])


class TestControls:
    @pytest.mark.parametrize("order", ["unlearned-only", "learned-only", "adaptive"])
    def test_each_runs_and_takes_no_slice_twice_in_a_visit(self, pretrained, tmp_path, order):
        budget = 3 if order.endswith("-only") else 6  # one step, and so one visit
        result = metaseg.metatune(
            **pretrained, **(SMALL | {"shots": 1, "budget": budget}), out=tmp_path / "r", order=order
        )
        chosen = rows(result.run, "selection.csv")
        taken = [(row["case"], row["slice"]) for row in chosen]
        assert len(taken) == len(set(taken)) > 0
        kinds = {row["task"] for row in chosen}
        assert kinds == ({order.removesuffix("-only")} if order.endswith("-only") else {"learned", "unlearned"})
        assert math.isfinite(result.after["dice/target/WT"])

    def test_reverse_takes_the_nearest_to_the_threshold_first(self, pretrained, tmp_path):
        settings = SMALL | {"shots": 1, "slices": 8, "budget": 9}
        chosen = rows(
            metaseg.metatune(**pretrained, **settings, out=tmp_path / "r", order="reverse").run, "selection.csv"
        )
        taken = [(row["case"], row["slice"]) for row in chosen]
        assert len(taken) == len(set(taken))
        for kind in ("learned", "unlearned"):
            far = [abs(float(r["dice"]) - float(r["threshold"])) for r in chosen if r["task"] == kind]
            assert len(far) >= 2
            assert far == sorted(far)


class TestOracle:
    def test_the_oracles_easiest_come_first_and_a_case_is_scored_once(self, pretrained, tmp_path, monkeypatch):
        # An oracle that finds other slices easy than the network which is tuned: that network, disturbed.
        knowing = load_network(pretrained["from_run"])
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in knowing.model.parameters():
                p += 0.5 * p.std() * torch.randn(p.shape, generator=generator) if p.numel() > 1 else 0
        oracle = save_checkpoint(tmp_path / "oracle", knowing.model, knowing.card)
        scored: list[tuple[StoredCase, Pool]] = []

        def spying(model, case, *rest):
            scored.append((case, score_slices(model, case, *rest)))
            return scored[-1][1]

        monkeypatch.setattr("metaseg.adapt.scoring.score_slices", spying)
        settings = SMALL | {"shots": 1, "slices": 8, "budget": 18, "rescore_every": 1}
        run = metaseg.metatune(**pretrained, **settings, out=tmp_path / "r", order="oracle", oracle=str(oracle)).run
        assert len(scored) == 1
        case, pool = scored[0]
        known = {case.native_slice(int(i)): dice for i, dice in zip(pool.index, pool.score("dice"), strict=True)}
        first = [row for row in rows(run, "selection.csv") if int(row["step"]) == 6]
        assert any(abs(known[int(row["slice"])] - float(row["dice"])) > 0.01 for row in first)
        for kind in ("learned", "unlearned"):
            drawn = [known[int(row["slice"])] for row in first if row["task"] == kind]
            assert len(drawn) == 2
            assert drawn == sorted(drawn, reverse=True)

    def test_it_must_see_the_same_images_and_know_the_same_classes(self, pretrained):
        card = load_network(pretrained["from_run"]).card
        require_same_task(card, card, "runs/oracle")
        require_same_task(replace(card, modalities=card.modalities[::-1]), card, "runs/oracle")
        with pytest.raises(UsageError, match=r"(?s)oracle's modalities: t1.*runs/oracle"):
            require_same_task(replace(card, modalities=("t1",), in_channels=1), card, "runs/oracle")
        with pytest.raises(UsageError, match="oracle's label space: whole-lesion"):
            require_same_task(replace(card, label_space="whole-lesion", num_classes=2), card, "runs/oracle")


class TestCheck:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"order": "activ"}, "unknown order 'activ'"),
            ({"order": "badge"}, "unknown order 'badge'"),
            ({"order": "oracle"}, "order 'oracle' has no oracle"),
            ({"order": "active", "oracle": "runs/x"}, "order 'active' asks none"),
            ({"order": "learned-only", "replay": "learned"}, "puts source slices in their place"),
            ({"order": "unlearned-only", "rescore_every": 2}, "draws unlearned slices alone"),
        ],
    )
    def test_contradictions_are_refused(self, settings, message):
        with pytest.raises(UsageError, match=message):
            check_order(MetatuneConfig(**settings))

    def test_the_help_names_every_order_that_fits(self):
        order = next(field for field in describe_fields(MetatuneConfig) if field.name == "order")
        assert set(order.choices) == set(ORDERS)

    def test_an_oracle_that_is_not_there(self, tmp_path):
        with pytest.raises(RunError, match="no such run"):
            check_order(MetatuneConfig(order="oracle", oracle=str(tmp_path / "absent")))

    def test_what_fits_together_passes(self, pretrained):
        run = str(pretrained["from_run"])
        check_order(MetatuneConfig(order="random", rescore_every=2, replay="learned"))
        check_order(MetatuneConfig(order="unlearned-only", replay="learned"))
        check_order(MetatuneConfig(order="oracle", oracle=run, from_run=run))


def scores(loss=None) -> AdaptiveScores:
    class Fabric:
        autocast = staticmethod(nullcontext)

    return AdaptiveScores(loss or (lambda logits, labels: ((logits - labels) ** 2).mean()), Fabric())


class TestAdaptive:
    def test_the_reward_is_the_decrease_of_each_query_slices_loss(self):
        # The "network" gives its one weight as logit: losses (w - label) ** 2.
        class Constant(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = torch.nn.Parameter(torch.tensor(0.0))

            def forward(self, images):
                return images * 0 + self.weight

        adaptive, model = scores(), Constant()
        pool = adaptive.complete(None, Pool(index=np.arange(10, 14), dice=np.array([0.1, 0.4, 0.6, 0.9])))
        assert pool.score("preference").tolist() == [0.25] * 4
        plan = plan_case(pool, "adaptive", rng=np.random.default_rng(0))
        adaptive.planned(pool, plan)
        learned, unlearned = plan.steps[0].tasks
        # Loss of the learned query 1 -> 0, of the unlearned one 9 -> 4.
        images = torch.zeros(1, 1, 2, 2)
        batches = [TaskBatch(images, images, images, torch.full((1, 2, 2), label)) for label in (1.0, 3.0)]
        tasks = [(learned.query, batches[0]), (unlearned.query, batches[1])]
        with adaptive.rewarding(model, tasks), torch.no_grad():
            model.weight.fill_(1.0)
        assert adaptive.state_dict()["history"] == [1.0, 5.0]
        assert adaptive.progress == 3.0
        # The first reward has nothing to be compared with; the second is better than it, so its band gains.
        gained = {10: 0, 11: 1, 12: 2, 13: 3}[unlearned.query[0]]
        metrics = adaptive.metrics()
        assert max(range(BANDS), key=lambda band: metrics[f"scheduler/band-{band}"]) == gained
        assert metrics["scheduler/progress"] == 3.0
        assert model.weight.grad is None

    def test_a_step_without_tasks_of_the_case_or_one_that_diverged_teaches_nothing(self):
        adaptive, model = scores(lambda logits, labels: logits.mean() * math.nan), torch.nn.Identity()
        pool = adaptive.complete(None, Pool(index=np.arange(4), dice=np.array([0.1, 0.4, 0.6, 0.9])))
        plan = plan_case(pool, "adaptive", rng=np.random.default_rng(0))
        adaptive.planned(pool, plan)
        image = torch.zeros(1, 1, 2, 2)
        for tasks in ([], [(plan.steps[0].tasks[0].query, TaskBatch(image, image, image, image))]):
            with adaptive.rewarding(model, tasks):
                pass
            assert adaptive.state_dict() == {"weights": [0.0] * BANDS, "history": []}

    def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(self, pretrained, tmp_path, monkeypatch):
        extra = {"budget": 45, "outer_learning_rate": 0.01, "order": "adaptive", "replay": "added"}
        settings = pretrained | SMALL | extra
        result = metaseg.metatune(**settings, out=tmp_path / "whole")
        whole, step = result.run, MetaTuning._step

        def interrupted(self, *rest):
            if self.state.meta_step == 4:
                raise KeyboardInterrupt
            step(self, *rest)

        monkeypatch.setattr(MetaTuning, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            metaseg.metatune(**settings, out=tmp_path / "cut")
        monkeypatch.undo()
        assert len(rows(tmp_path / "cut", "selection.csv")) < len(rows(whole, "selection.csv"))
        cut = metaseg.metatune(**settings, out=tmp_path / "cut", resume=True).run
        assert torch.equal(weights(whole), weights(cut))
        for name in ("selection.csv", "metrics.csv"):
            assert (whole / name).read_text() == (cut / name).read_text()
        self.check_log(whole, result.spent)

    @staticmethod
    def check_log(run, spent):
        """Every step logs probabilities that move, and costs what its tasks cost: 3 each, the rewards nothing."""
        chosen = rows(run, "selection.csv")
        assert spent == 3 * sum(row["role"] == "query" for row in chosen)
        assert {row["task"] for row in chosen} == {"learned", "unlearned", "source"}
        logged = [row for row in rows(run, "metrics.csv") if row["name"].startswith("scheduler/")]
        steps = {int(row["step"]) for row in chosen}
        for step in steps:
            bands = [float(row["value"]) for row in logged if int(row["step"]) == step and "band" in row["name"]]
            assert len(bands) == BANDS
            assert sum(bands) == pytest.approx(1)
        assert max(float(row["value"]) for row in logged if "band" in row["name"]) > 0.25
        progress = [float(row["value"]) for row in logged if row["name"] == "scheduler/progress"]
        assert len(progress) == len(steps)
        assert any(value != 0 for value in progress)
