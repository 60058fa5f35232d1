"""The plain methods as runs of ``metaseg.naivetune``: their logs, their resumption, what they leave alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import metaseg
from metaseg.adapt.watch import Watch
from metaseg.errors import UsageError
from metaseg.models import build_segmenter
from metaseg.models.parts import encoder_modules, head_modules, load_adapters, merge_adapters, remove_adapters
from metaseg.runs.networks import load_network

SMALL = {"shots": 2, "slices": 6, "budget": 24, "marks": 2, "watch_cases": 1, "batch_size": 4, "learning_rate": 0.003}
SETTINGS: dict[str, dict[str, Any]] = {
    "naive": {},
    "head-only": {},
    "freeze-encoder": {},
    "l2-sp": {},
    "ewc": {"fisher_slices": 4},
    "lwf": {"ema": 0.9},
    "replay": {"augment": "light"},
    "lora": {"lora_rank": 2, "ema": 0.9},
    "rehearse": {},
    "wise-ft": {"ema": 0.9},
    "scratch": {},
}
FILES = ("checkpoints/last.safetensors", "marks.csv", "metrics.csv", "selection.csv", "result.json")


def rows(run: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((run / name).open()))


def network(run: Path) -> nn.Module:
    return load_network(run).model


def same(one: nn.Module, other: nn.Module) -> dict[str, bool]:
    second = other.state_dict()
    return {name: torch.equal(tensor, second[name]) for name, tensor in one.state_dict().items()}


@pytest.fixture(scope="module")
def whole(pretrained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of each method that was left alone; made once."""
    made: dict[str, Any] = {}

    def run(method: str) -> Any:
        if method not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            made[method] = metaseg.naivetune(**pretrained, **(SMALL | SETTINGS[method]), method=method, out=out)
        return made[method]

    return run


@pytest.mark.parametrize("method", SETTINGS)
def test_runs_logs_and_says_what_it_spent(whole: Any, pretrained: dict[str, Any], method: str) -> None:
    result = whole(method)
    prepared = SETTINGS[method].get("fisher_slices", 0)
    chosen = rows(result.run, "selection.csv")
    assert result.spent == 24
    assert len(chosen) == result.spent - prepared
    assert {int(row["step"]) for row in rows(result.run, "marks.csv")} == {0, 12, 24}
    assert {row["domain"] for row in rows(result.run, "marks.csv")} == {"target", "source"}
    assert result.before == whole("naive").before
    changed = same(network(pretrained["from_run"]), network(result.run))
    assert not all(changed.values())
    assert load_network(result.run).card.parent == str(pretrained["from_run"])


@pytest.mark.parametrize("method", SETTINGS)
def test_stopped_in_the_middle_and_resumed_it_has_the_same_bits(
    whole: Any, pretrained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    mark, marked = Watch.mark, []

    def interrupted(self: Watch, model: nn.Module, spent: int, update: int) -> dict[str, float]:
        marked.append(spent)
        if len(marked) == 3:
            raise KeyboardInterrupt
        return mark(self, model, spent, update)

    cut = tmp_path / "cut"
    with monkeypatch.context() as patched:
        patched.setattr(Watch, "mark", interrupted)
        with pytest.raises(KeyboardInterrupt):
            metaseg.naivetune(**pretrained, **(SMALL | SETTINGS[method]), method=method, out=cut)
    assert (cut / "selection.csv").read_text() == (whole(method).run / "selection.csv").read_text()
    metaseg.naivetune(config=cut / "config.yaml", out=cut, resume=True)
    for name in (*FILES, *(["checkpoints/adapters.safetensors"] if method == "lora" else [])):
        assert (cut / name).read_bytes() == (whole(method).run / name).read_bytes(), name


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("l2-sp", {"l2_sp_alpha": 0, "l2_sp_beta": 0}),
        ("ewc", {"ewc_lambda": 0}),
        ("lwf", {"lwf_lambda": 0}),
        ("replay", {"replay_fraction": 0}),
    ],
)
def test_without_its_term_it_is_naive_to_the_bit(
    whole: Any, pretrained: dict[str, Any], tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    run = metaseg.naivetune(**pretrained, **SMALL, **settings, method=method, out=tmp_path / "r").run
    naive = whole("naive").run
    assert all(same(network(run), network(naive)).values())
    for name in FILES[1:]:
        assert (run / name).read_bytes() == (naive / name).read_bytes(), name


@pytest.mark.parametrize("method", ["l2-sp", "ewc", "lwf", "replay"])
def test_with_its_term_it_is_not(whole: Any, method: str) -> None:
    assert not all(same(network(whole(method).run), network(whole("naive").run)).values())


@pytest.mark.parametrize(
    ("method", "learning", "frozen"),
    [("head-only", head_modules, None), ("freeze-encoder", None, encoder_modules)],
)
def test_what_is_frozen_did_not_change_and_the_rest_did(
    whole: Any, pretrained: dict[str, Any], method: str, learning: Any, frozen: Any
) -> None:
    tuned = network(whole(method).run)
    part = {id(tensor) for module in (learning or frozen)(tuned) for tensor in module.parameters()}
    unchanged = same(tuned, network(pretrained["from_run"]))
    for name, tensor in tuned.named_parameters():
        assert unchanged[name] is ((id(tensor) in part) is (frozen is not None)), name


class TestReplay:
    def test_source_slices_are_logged_and_come_from_training_patients(
        self, whole: Any, pretrained: dict[str, Any]
    ) -> None:
        chosen = rows(whole("replay").run, "selection.csv")
        patients = json.loads((pretrained["from_run"] / "patients.json").read_text())
        trained, watched = ({row["case"] for row in patients[part]} for part in ("train", "val"))
        source = [row for row in chosen if row["task"] == "source"]
        assert [row["position"] for row in chosen] == [*"0123"] * 6
        assert [row["task"] for row in chosen] == ["plain", "plain", "plain", "source"] * 6
        assert {row["case"] for row in source} <= trained
        assert not {row["case"] for row in chosen} & watched

    def test_a_batch_of_one_is_refused(self, pretrained: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no room"):
            metaseg.naivetune(**pretrained, **(SMALL | {"batch_size": 1}), method="replay", out=tmp_path / "r")


class TestLora:
    def test_adapters_on_the_source_network_are_the_checkpoint_and_off_it_nothing(
        self, whole: Any, pretrained: dict[str, Any]
    ) -> None:
        run = whole("lora").run
        model = network(load_network(run).parent)
        load_adapters(model, load_file(run / "checkpoints" / "adapters.safetensors"))
        assert all(same(merge_adapters(model), network(run)).values())
        remove_adapters(model)
        assert all(same(model, network(pretrained["from_run"])).values())

    def test_convolutions_alone_changed(self, whole: Any, pretrained: dict[str, Any]) -> None:
        tuned = network(whole("lora").run)
        unchanged = same(tuned, network(pretrained["from_run"]))
        kernels = {name for name, tensor in tuned.named_parameters() if tensor.ndim == 4}
        assert {name for name, equal in unchanged.items() if not equal} == kernels

    def test_no_other_method_writes_further_weights(self, whole: Any) -> None:
        assert {path.name for path in (whole("naive").run / "checkpoints").glob("*.safetensors")} == {
            "last.safetensors",
            "source.safetensors",
        }


class TestEwc:
    def test_fisher_that_takes_the_whole_budget_is_refused(self, pretrained: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"4 taken by preparation(.|\n)*--fisher-slices"):
            metaseg.naivetune(
                **pretrained, **(SMALL | {"budget": 6}), method="ewc", fisher_slices=4, out=tmp_path / "r"
            )


def test_scratch_starts_from_the_seeds_own_weights(whole: Any, pretrained: dict[str, Any], tmp_path: Path) -> None:
    # A vanishing rate leaves the start as it was drawn.
    run = metaseg.naivetune(
        **pretrained, **(SMALL | {"learning_rate": 1e-30, "budget": 4}), method="scratch", seed=7, out=tmp_path / "r"
    ).run
    card = load_network(run).card
    expected = build_segmenter(card.name, card.in_channels, card.num_classes, seed=7, **card.options)
    for ours, drawn in zip(network(run).parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, drawn, rtol=0, atol=1e-20)


def test_scratch_knows_the_target_alone(whole: Any, pretrained: dict[str, Any], tmp_path: Path) -> None:
    run = metaseg.naivetune(**pretrained, **(SMALL | {"budget": 4}), method="scratch", out=tmp_path / "r").run
    patients = json.loads((run / "patients.json").read_text())
    loaded = load_network(run)
    assert loaded.card.trained_on == ("MET",)
    assert patients["inherited"] == []
    assert loaded.trained_patients == {row["patient"] for row in patients["train"]}
