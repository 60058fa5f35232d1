"""Networks of other packages: by a reference, by an entry point's name, or given as a module in memory."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from metaseg.errors import RunError, UsageError
from metaseg.models import (
    SEGMENTERS,
    ModelCard,
    PadToStride,
    build_segmenter,
    give_network,
    load_checkpoint,
    resolve_options,
    save_checkpoint,
)
from metaseg.models.parts import encoder_modules, head_modules
from metaseg.models.segmenters import Segmenter, network_package
from metaseg.runs.networks import give_loaded, load_network

SOURCE = """
from torch import nn


class Tiny(nn.Sequential):
    def __init__(self, in_channels: int, num_classes: int, width: int = 4) -> None:
        super().__init__(nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, num_classes, 1))

    def encoder_and_head(self):
        return [self[0]], [self[2]]


def flat(in_channels: int, num_classes: int):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
"""


SMALL = {"channels": [4, 8], "strides": [2], "num_res_units": 0}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_networks.py").write_text(SOURCE)
    yield "my_networks"
    sys.modules.pop("my_networks", None)


class Given(nn.Module):
    """A network that its class alone cannot build."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images)


def card(name: str, options: dict | None = None, **values) -> ModelCard:
    return ModelCard(name, 2, 2, ("t1", "flair"), "whole-lesion", options=options or {}, **values)


def test_a_reference_builds_and_is_rebuilt_from_its_card(module, tmp_path):
    name = f"{module}:Tiny"
    model = build_segmenter(name, 2, 2, seed=1, width=3)
    assert isinstance(model, PadToStride)
    assert model(torch.zeros(2, 2, 37, 9)).shape == (2, 2, 37, 9)
    assert resolve_options(name) == {"width": 4}
    with pytest.raises(UsageError, match="wrong option of network 'my_networks:Tiny'"):
        build_segmenter(name, 2, 2, depth=3)
    save_checkpoint(tmp_path / "net", model, card(name, {"width": 3}))
    loaded, _ = load_checkpoint(tmp_path / "net")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True))
    assert encoder_modules(model) == (model.net[0],)
    assert head_modules(model) == (model.net[2],)


def test_a_network_that_gives_no_logits_is_refused(module):
    with pytest.raises(UsageError, match=r"'my_networks:flat' gives \(1, 2\)") as told:
        build_segmenter(f"{module}:flat", 2, 2)
    assert told.value.expected == "logits of shape (1, 2, 64, 64)"


@pytest.mark.parametrize("plugin", [None, "tiny-networks 1.2"])
def test_loading_without_its_package_says_what_to_install(module, tmp_path, plugin):
    model = build_segmenter(f"{module}:Tiny", 2, 2, seed=1)
    save_checkpoint(tmp_path / "net", model, card(f"{module}:Tiny", {"width": 4}, plugin=plugin))
    assert json.loads((tmp_path / "net.json").read_text()).get("plugin") == plugin
    (tmp_path / "my_networks.py").unlink()
    sys.modules.pop(module)
    with pytest.raises(RunError, match="no module 'my_networks'") as told:
        load_checkpoint(tmp_path / "net")
    assert (f"install {plugin}" if plugin else "install its package") in told.value.remedy


def test_a_name_of_a_plugin_that_is_gone_names_the_plugin(tmp_path):
    model = build_segmenter("unet", 2, 2, seed=0, **SMALL)
    save_checkpoint(
        tmp_path / "net",
        model,
        card("unet", resolve_options("unet", SMALL)),
    )
    written = json.loads((tmp_path / "net.json").read_text())
    (tmp_path / "net.json").write_text(json.dumps(written | {"name": "their-net", "plugin": "their-package 0.3"}))
    with pytest.raises(RunError, match="their-net") as told:
        load_checkpoint(tmp_path / "net")
    assert "their-package 0.3" in told.value.remedy


def test_a_module_in_memory_is_copied_and_found_again_in_this_process(tmp_path):
    given = Given(nn.Conv2d(2, 2, 1))
    before = {name: value.clone() for name, value in given.state_dict().items()}
    name = give_network(given)
    assert name.endswith(":Given")
    model = build_segmenter(name, 2, 2)
    assert torch.equal(model.net.layer.weight, given.layer.weight)
    with torch.no_grad():
        model.net.layer.weight.zero_()
    save_checkpoint(tmp_path / "net", model, card(name))
    assert all(torch.equal(before[key], value) for key, value in given.state_dict().items())
    loaded, _ = load_checkpoint(tmp_path / "net")
    assert not loaded.net.layer.weight.any()
    # Another of the same class takes its place.
    assert give_network(Given(nn.Conv2d(2, 2, 3, padding=1))) == name
    with pytest.raises(RunError, match="weight"):
        load_checkpoint(tmp_path / "net")


def test_metasegs_own_networks_are_of_no_plugin():
    assert network_package("unet") is None
    assert network_package("my_networks:Tiny") is None
    assert network_package("torch.nn:Conv2d").startswith("torch ")
    assert all(isinstance(entry, Segmenter) for entry in SEGMENTERS.entries().values())


def test_a_network_in_memory_stands_for_a_run(tmp_path):
    given = Given(nn.Conv2d(2, 4, 1))
    name = give_loaded(given, ("t1", "flair"), cache=tmp_path)
    loaded = load_network(name)
    assert (loaded.card.label_space, loaded.card.modalities) == ("subregions", ("t1", "flair"))
    assert torch.equal(loaded.model.net.layer.weight, given.layer.weight)
    assert give_loaded(given, ("t1", "flair"), cache=tmp_path) == name
    with pytest.raises(UsageError, match="distinguishes 3 classes"):
        give_loaded(Given(nn.Conv2d(2, 3, 1)), ("t1", "flair"), cache=tmp_path)
    with pytest.raises(UsageError, match="not those of 'whole-lesion'"):
        give_loaded(given, ("t1", "flair"), "whole-lesion", cache=tmp_path)
