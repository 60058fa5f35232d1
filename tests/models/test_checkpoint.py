from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from metaseg.errors import MetasegError, RunError, TrainingError, UsageError, WriteError
from metaseg.models import (
    SEGMENTERS,
    ModelCard,
    PadToStride,
    build_segmenter,
    load_checkpoint,
    resolve_options,
    save_checkpoint,
)
from metaseg.models.card import upgrade_card

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"channels": (4, 8, 8), "strides": (2, 2)},
    "basic-unet": {"features": (4, 4, 4, 4, 8, 4)},
    "dynunet": {"filters": (4, 4, 8)},
    "segresnet": {"init_filters": 4, "blocks_down": (1, 1)},
}


def made(name: str = "unet", seed: int = 1) -> tuple[PadToStride, ModelCard]:
    options = SMALL.get(name, {})
    card = ModelCard(
        name,
        2,
        4,
        ("flair", "t1ce"),
        "subregions",
        options=resolve_options(name, options),
        normalisation={"method": "z-score", "clip": [0.5, 99.5]},
        trained_on=("HGG",),
        synthetic=True,
        step=120,
        metrics={"Dice/ET": 0.1 + 0.2, "HD95/ET": float("nan")},
        parent="runs/other/best",
    )
    return build_segmenter(name, 2, 4, seed=seed, **options), card


@pytest.mark.parametrize("name", SEGMENTERS.names())
def test_every_network_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    model, card = made(name)
    # Running statistics, where there are any, move away from their start.
    model(torch.randn(2, 2, 64, 64))
    file = save_checkpoint(tmp_path / "checkpoints" / "best", model, card)
    assert file == tmp_path / "checkpoints" / "best.safetensors"
    before = torch.get_rng_state()
    again, read = load_checkpoint(file)
    assert torch.equal(before, torch.get_rng_state())
    assert read == card
    state, expected = again.state_dict(), model.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) and state[key].dtype == expected[key].dtype for key in state)
    images = torch.randn(1, 2, 20, 20)
    assert torch.equal(again.eval()(images), model.eval()(images))


def test_no_other_file_is_left(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best", *made())
    assert sorted(os.listdir(tmp_path)) == ["best.json", "best.safetensors"]


def test_saving_the_same_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, *made())
    for suffix in (".json", ".safetensors"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_number_types_and_awkward_values_are_kept(tmp_path: Path) -> None:
    model, card = made()
    model.double()
    with torch.no_grad():
        next(model.parameters()).view(-1)[:3] = torch.tensor([-0.0, 1.7e308, 5e-324], dtype=torch.float64)
    save_checkpoint(tmp_path / "best", model, card)
    again, _ = load_checkpoint(tmp_path / "best")
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert ours.dtype == torch.float64
        assert torch.equal(ours.view(torch.int64), theirs.view(torch.int64))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["parameters", "buffers"])
def test_numbers_that_are_not_finite_are_neither_saved_nor_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, value: float
) -> None:
    model, card = made()
    model.register_buffer("statistics", torch.ones(3))
    monkeypatch.setattr("metaseg.models.checkpoint._require_description", lambda model, card: None)
    tensor = next(getattr(model, kind)())
    name = next(name for name, one in model.state_dict(keep_vars=True).items() if one is tensor)
    with torch.no_grad():
        tensor.view(-1)[-1] = value
    with pytest.raises(TrainingError, match=rf"not saved: {name} holds"):
        save_checkpoint(tmp_path / "best", model, card)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as earlier:  # a release that saved it
        earlier.setattr("metaseg.models.checkpoint.non_finite", lambda tensors: None)
        save_checkpoint(tmp_path / "best", model, card)
    with pytest.raises(RunError, match=rf"(?s)non-finite values in {name}.*best\.safetensors"):
        load_checkpoint(tmp_path / "best")


def test_what_was_loaded_can_be_trained_and_is_apart_from_the_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best", *made())
    model, _ = load_checkpoint(tmp_path / "best")
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(1, 2, 16, 16)).square().mean().backward()
    optimiser.step()
    again, _ = load_checkpoint(tmp_path / "best")
    assert not torch.equal(next(model.parameters()), next(again.parameters()))


@pytest.mark.parametrize("name", ["best", "best.safetensors", "best.json", "step-0.5"])
def test_any_of_its_names_leads_to_the_checkpoint(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path / name, *made())
    assert load_checkpoint(tmp_path / name)[1].step == 120
    assert len(os.listdir(tmp_path)) == 2


def test_the_card_can_be_read_by_people(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best", *made())
    card = json.loads((tmp_path / "best.json").read_text())
    assert card["modalities"] == ["flair", "t1ce"]
    assert card["metrics"] == {"Dice/ET": 0.30000000000000004, "HD95/ET": None}
    assert card["options"]["num_res_units"] == 2
    assert card["format_version"] == 1


def test_a_card_that_describes_another_network_is_refused_when_saving(tmp_path: Path) -> None:
    model, card = made()
    with pytest.raises(UsageError, match="describes another network"):
        save_checkpoint(tmp_path / "best", model, dataclasses.replace(card, num_classes=2, label_space="whole-lesion"))
    assert not os.listdir(tmp_path)


def test_a_card_holds_json_values_only() -> None:
    with pytest.raises(UsageError, match="options"):
        ModelCard("unet", 1, 2, ("t1",), "subregions", options={"norm": object()})


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_missing_half_is_named(tmp_path: Path, suffix: str) -> None:
    save_checkpoint(tmp_path / "best", *made())
    (tmp_path / f"best{suffix}").unlink()
    with pytest.raises(RunError, match=rf"(?s)best\{suffix}.*--weights"):
        load_checkpoint(tmp_path / "best")


@pytest.mark.parametrize("damage", ["truncate", "flip", "swap"])
def test_weights_that_are_not_the_cards_are_noticed(tmp_path: Path, damage: str) -> None:
    file = save_checkpoint(tmp_path / "best", *made())
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[-5] ^= 1
    else:
        content = bytearray(save_checkpoint(tmp_path / "other", *made(seed=2)).read_bytes())
    file.write_bytes(content)
    with pytest.raises(RunError, match="do not belong together"):
        load_checkpoint(tmp_path / "best")


def rewrite(file: Path, **changes: object) -> None:
    card = json.loads(file.read_text())
    card.update(changes)
    file.write_text(json.dumps({key: value for key, value in card.items() if value != "leave out"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99, "metaseg_version": "9.0"}, "(?s)format 99.*update metaseg.*9.0"),
        ({"format_version": "new"}, "does not say its format"),
        ({"name": "leave out"}, "name: Field required"),
        ({"in_channels": "many"}, "in_channels"),
        ({"stepp": 3}, "stepp"),
        ({"options": 4}, "options"),
        ({"task": "classification", "classes": ["a", "b", "c", "d"]}, "is for classification"),
        ({"num_classes": 2, "label_space": "whole-lesion"}, "describes another network"),
        ({"num_classes": 3}, "3 classes in the label space 'subregions'"),
        ({"label_space": "whole"}, "label space 'whole'"),
        ({"in_channels": 10**9}, "1000000000 modalities names"),
        ({"in_channels": -2}, "-2 modalities names"),
        ({"modalities": ["t1", "t1"]}, "names t1, t1"),
        ({"normalisation": {"image_size": -3}}, "image_size is -3"),
        ({"normalisation": {"image_size": "big"}}, "image_size is big"),
        ({"options": {"channels": [10**12, 10**12, 4], "strides": [2, 2]}}, r"(?s)describes .*best\.json"),
        ({"options": {"colour": "red"}}, r"(?s)colour.*best\.json"),
        ({"options": {"num_res_units": 10**9}}, r"(?s)num_res_units.*best\.json"),
        ({"name": "../../etc/passwd"}, r"(?s)unknown network.*best\.json"),
        ({"options": {"channels": [4, 8, 9], "strides": [2, 2]}}, "describes another network"),
    ],
)
def test_cards_that_cannot_be_used_say_why(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    save_checkpoint(tmp_path / "best", *made())
    rewrite(tmp_path / "best.json", **changes)
    with pytest.raises(RunError, match=message):
        load_checkpoint(tmp_path / "best")


@pytest.mark.parametrize("content", ["", "{", "[]", '"card"'])
def test_a_damaged_card_is_named(tmp_path: Path, content: str) -> None:
    save_checkpoint(tmp_path / "best", *made())
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(RunError, match=r"(?s)damaged.*best\.json"):
        load_checkpoint(tmp_path / "best")


def test_an_unknown_network_is_an_error_that_lists_the_known(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best", *made())
    rewrite(tmp_path / "best.json", name="other-net")
    with pytest.raises(MetasegError, match="unknown network 'other-net'"):
        load_checkpoint(tmp_path / "best")


def test_an_older_card_is_filled_in(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best", *made())
    rewrite(
        tmp_path / "best.json", task="leave out", parent="leave out", metaseg_version="leave out", metrics="leave out"
    )
    _, card = load_checkpoint(tmp_path / "best")
    assert (card.task, card.parent, card.metaseg_version, card.metrics) == ("segmentation", None, "unknown", {})
    assert upgrade_card({"format_version": 0})["format_version"] == 1


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_an_interrupted_saving_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    model, card = made()
    save_checkpoint(tmp_path / "best", model, card)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"metaseg.files.os.{moment}", full)
    with pytest.raises(WriteError, match="the disk is full"):
        save_checkpoint(tmp_path / "best", made(seed=2)[0], card)
    monkeypatch.undo()
    again, _ = load_checkpoint(tmp_path / "best")
    assert torch.equal(next(again.parameters()), next(model.parameters()))
    assert len(os.listdir(tmp_path)) == 2
