from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from metaseg.config.segmentation import PretrainConfig
from metaseg.errors import MetasegError, RunError, UsageError
from metaseg.models import (
    Classifier,
    ModelCard,
    build_classifier,
    build_segmenter,
    load_checkpoint,
    load_classifier,
    read_checkpoint,
    resolve_options,
    save_checkpoint,
)
from metaseg.models.classifier import InputStatistics
from metaseg.runs.folder import RunFolder
from metaseg.runs.networks import load_classifier_network, load_network


def made(name: str = "2d-cnn", head: str = "linear", image_size: int = 64) -> tuple[Classifier, ModelCard]:
    model = build_classifier(name, 2, 3, seed=1, head=head, image_size=image_size)  # type: ignore[arg-type]
    model.pretrained_on(InputStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    card = ModelCard(
        name,
        2,
        3,
        ("flair", "t1ce"),
        "classes",
        options=model.options,
        task="classification",
        classes=("glioma", "meningioma", "pituitary"),
        metrics={"AUC": 0.9},
    )
    return model, card


@pytest.mark.parametrize("head", ["linear", "dense"])
@pytest.mark.parametrize("name", ["lau-cnn", "2d-cnn", "mobilenetv2", "timm:resnet18", "regnet_y_400mf"])
def test_a_classifier_comes_back_bit_for_bit(tmp_path: Path, name: str, head: str) -> None:
    model, card = made(name, head)
    model(torch.randn(2, 2, 64, 64))  # running statistics move away from their start
    save_checkpoint(tmp_path / "best", model, card)
    before = torch.get_rng_state()
    again, read = load_classifier(tmp_path / "best")
    assert torch.equal(before, torch.get_rng_state())
    assert read == card
    assert again.training
    assert again.options == model.options
    state, expected = again.state_dict(), model.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) and state[key].dtype == expected[key].dtype for key in state)
    images = torch.randn(2, 2, 64, 64)
    assert torch.equal(again.eval()(images), model.eval()(images))


def test_a_card_keeps_the_networks_own_options(tmp_path: Path) -> None:
    own = {"head_options": {"units": [8, 4], "input_dropout": 0.2}, "model_options": {"filters2": 24, "units1": 48}}
    model = build_classifier("lau-cnn", 2, 3, seed=1, head="dense", image_size=32, **own)  # type: ignore[arg-type]
    model(torch.randn(4, 2, 32, 32))
    _, card = made()
    card = dataclasses.replace(card, name="lau-cnn", options=model.options)
    save_checkpoint(tmp_path / "best", model, card)
    again, read = load_classifier(tmp_path / "best")
    assert {name: read.options[name] for name in own} == own
    images = torch.randn(2, 2, 32, 32)
    assert torch.equal(again.eval()(images), model.eval()(images))


def test_number_types_are_kept(tmp_path: Path) -> None:
    model, card = made()
    save_checkpoint(tmp_path / "best", model.double(), card)
    again, _ = load_classifier(tmp_path / "best")
    images = torch.randn(2, 2, 32, 32, dtype=torch.float64)
    assert torch.equal(again.eval()(images), model.eval()(images))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 4, "classes": tuple("abcd")},
        {"in_channels": 1, "modalities": ("t1",)},
        {"name": "lau-cnn"},
        {"options": {}},
    ],
)
def test_a_card_that_describes_another_classifier_is_refused_when_saving(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    model, card = made()
    with pytest.raises(UsageError, match="describes another network"):
        save_checkpoint(tmp_path / "best", model, dataclasses.replace(card, **changes))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_card_names_each_class() -> None:
    _, card = made()
    with pytest.raises(UsageError, match="card of 3 classes names glioma, meningioma"):
        dataclasses.replace(card, classes=("glioma", "meningioma"))


def segmenter(path: Path) -> None:
    options = {"channels": (4, 8), "strides": (2,)}
    card = ModelCard("unet", 1, 2, ("t1",), "whole-lesion", options=resolve_options("unet", options))
    save_checkpoint(path, build_segmenter("unet", 1, 2, seed=0, **options), card)


def test_each_loader_refuses_the_others_network(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "classifier", *made())
    segmenter(tmp_path / "segmenter")
    for load in (load_checkpoint, load_network):
        with pytest.raises(RunError, match=r"(?s)is for classification.*expected: a network that segments"):
            load(tmp_path / "classifier")  # type: ignore[operator]
    for load in (load_classifier, load_classifier_network):
        with pytest.raises(RunError, match=r"(?s)is for segmentation.*expected: a slice classifier"):
            load(tmp_path / "segmenter")  # type: ignore[operator]


def test_the_run_folder_of_a_classifier_loads(tmp_path: Path) -> None:
    model, card = made()
    with RunFolder.create(PretrainConfig(out=tmp_path / "run")) as run:
        save_checkpoint(run.checkpoints / "last", model, card)
    loaded = load_classifier_network(tmp_path / "run")
    assert (loaded.card, loaded.run, loaded.checkpoint.name) == (card, tmp_path / "run", "last.safetensors")
    assert not loaded.model.training
    images = torch.randn(1, 2, 32, 32)
    assert torch.equal(loaded.model(images), model.eval()(images))
    with pytest.raises(RunError, match="is for classification"):
        load_network(tmp_path / "run")


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "other-net"}, "unknown classifier 'other-net'"),
        ({"options": {"head": "square"}}, "unknown head"),
        ({"options": {"width": 3}}, "none of a classifier"),
        ({"options": {"image_size": "large"}}, "none of a classifier"),
        ({"options": {"input_statistics": {"mean": 1}}}, "input statistics"),
        ({"options": {"input_statistics": [1]}}, "input statistics"),
        ({"options": {"head": "dense"}}, "describes another network"),
        ({"num_classes": 4, "classes": ["a", "b", "c", "d"]}, "describes another network"),
        ({"classes": []}, r"names \(none\)"),
        ({"classes": ["a", "a", "b"]}, "names a, a, b"),
        ({"classes": ["glioma"]}, "3 classes names glioma"),
    ],
)
def test_cards_that_cannot_be_used_say_why(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    save_checkpoint(tmp_path / "best", *made())
    rewrite(tmp_path / "best.json", **changes)
    with pytest.raises(MetasegError, match=message):
        load_classifier(tmp_path / "best")


def test_an_older_card_names_no_classes(tmp_path: Path) -> None:
    segmenter(tmp_path / "best")
    card = json.loads((tmp_path / "best.json").read_text())
    del card["classes"]
    (tmp_path / "best.json").write_text(json.dumps(card))
    assert load_checkpoint(tmp_path / "best")[1].classes == ()


def test_a_classifiers_checkpoint_can_be_read_without_its_network(tmp_path: Path) -> None:
    model, card = made()
    save_checkpoint(tmp_path / "best", model, card)
    tensors, read = read_checkpoint(tmp_path / "best")
    assert read == card
    assert tensors.keys() == model.state_dict().keys()
