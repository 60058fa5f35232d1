"""Both readings of Algorithm 1, and marks after the first updates."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import learn2learn
import numpy as np
import pytest
import torch

import metaseg
from metaseg.adapt.batches import stack
from metaseg.adapt.watch import is_first_mark, read_marks
from metaseg.cases.labels import SUBREGIONS
from metaseg.errors import UsageError
from metaseg.runs.networks import load_network
from metaseg.store.prepare import open_data
from metaseg.training.optimization import build_loss

INNER, OUTER = 0.05, 0.02
SGD: dict[str, Any] = {
    "shots": 1, "slices": 8, "marks": 1, "inner_learning_rate": INNER, "outer_learning_rate": OUTER,
    "outer_optimizer": "sgd", "clip_norm": 0, "meta_batch": "patient",
}  # fmt: skip


def rows(run: Path, name: str = "selection.csv") -> list[dict[str, str]]:
    return list(csv.DictReader((run / name).open()))


def learn2learns_update(pretrained: dict[str, Any], chosen: list[dict[str, str]]) -> dict[str, torch.Tensor]:
    """θ − β ∇ Σ over all tasks of the patient, by learn2learn alone, from the choices that a run has logged."""
    network = load_network(pretrained["from_run"])
    network.model.eval()
    [case] = [
        case for case in open_data([pretrained["data"]], cache=pretrained["cache"]) if case.id == chosen[0]["case"]
    ]
    loss = build_loss("dice-ce", SUBREGIONS, 0.7, torch.device("cpu"))

    def batch(position: int, role: str) -> tuple[torch.Tensor, torch.Tensor]:
        [row] = [row for row in chosen if (int(row["position"]), row["role"]) == (position, role)]
        stored = [int(row["slice"]) - case.native_slice(0)]
        return stack(case.images(stored, network.card.modalities), case.labels(stored, SUBREGIONS))

    maml = learn2learn.algorithms.MAML(network.model, lr=INNER)
    total = torch.zeros(())
    for position in range(1 + max(int(row["position"]) for row in chosen)):
        learner = maml.clone()
        images, labels = batch(position, "support")
        learner.adapt(loss(learner(images), labels))
        images, labels = batch(position, "query")
        total = total + loss(learner(images), labels)
    total.backward()
    return {name: (p - OUTER * p.grad).detach() for name, p in network.model.named_parameters()}


@pytest.mark.parametrize("engine", ["auto", "learn2learn"])
def test_a_visit_is_one_update_by_the_sum_over_all_tasks_of_the_patient(pretrained, tmp_path, engine):
    run = metaseg.metatune(**pretrained, **SGD, budget=1, engine=engine, out=tmp_path / "r").run
    chosen = rows(run)
    tasks = {row["position"]: row["task"] for row in chosen}
    assert set(tasks.values()) == {"learned", "unlearned"}
    assert {row["step"] for row in chosen} == {str(3 * len(tasks))}
    assert len(tasks) >= 3
    found = dict(load_network(run).model.named_parameters())
    for name, expected in learn2learns_update(pretrained, chosen).items():
        torch.testing.assert_close(found[name].detach(), expected, rtol=1e-4, atol=1e-6)


def test_both_readings_take_the_same_tasks_of_a_visit(pretrained, tmp_path):
    settings = SGD | {"order": "active", "budget": 9}
    dealt, summed = (
        rows(metaseg.metatune(**pretrained, **(settings | {"meta_batch": reading}), out=tmp_path / reading).run)
        for reading in ("pairs", "patient")
    )
    assert len({row["step"] for row in dealt}) > len({row["step"] for row in summed}) == 1
    # The network that scored the patient is the same, since one visit is scored once.
    assert {(row["slice"], row["role"], row["task"]) for row in dealt} == {
        (row["slice"], row["role"], row["task"]) for row in summed
    }


def test_source_tasks_are_as_many_as_those_of_the_longer_side(pretrained, tmp_path):
    chosen = rows(metaseg.metatune(**pretrained, **SGD, budget=20, replay="added", out=tmp_path / "r").run)
    for step in {row["step"] for row in chosen}:
        kinds = [row["task"] for row in chosen if row["step"] == step and row["role"] == "query"]
        assert kinds.count("source") == max(kinds.count("learned"), kinds.count("unlearned"))


@pytest.mark.parametrize("dividing", [{"tasks_per_step": 2}, {"rescore_every": 1}])
def test_what_would_divide_the_patients_tasks_is_refused(pretrained, tmp_path, dividing):
    option = "--" + next(iter(dividing)).replace("_", "-")
    with pytest.raises(UsageError, match=f"{option} would divide them"):
        metaseg.metatune(**pretrained, **SGD, **dividing, budget=9, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_first_marks_are_the_powers_of_two():
    assert [update for update in range(1, 40) if is_first_mark(update, 5)] == [1, 2, 4, 8, 16]
    assert not any(is_first_mark(update, 0) for update in range(1, 40))


@pytest.mark.parametrize(
    ("verb", "settings", "updates"),
    [
        ("naivetune", {"budget": 24, "batch_size": 2}, [0, 1, 2, 4, 6, 12]),
        ("metatune", {"budget": 30, "slices": 4, "order": "unlearned-only"}, [0, 1, 2, 4, 5, 10]),
    ],
)
def test_the_first_updates_are_evaluated_beside_the_even_marks(pretrained, tmp_path, verb, settings, updates):
    run = getattr(metaseg, verb)(
        **pretrained, shots=2, marks=2, watch_cases=1, first_marks=3, **settings, out=tmp_path / "r"
    ).run
    marks = sorted({(int(row["step"]), int(row["update"])) for row in read_marks(run)})
    assert [update for _, update in marks] == updates
    cost = marks[-1][0] // marks[-1][1]
    np.testing.assert_array_equal([step for step, _ in marks], [cost * update for update in updates])
