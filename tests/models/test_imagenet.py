"""ImageNet weights on the real way: downloaded from a server, put in place by hand, and checked both times."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from imagenet_files import ImageNetFiles
from torch import nn

from metaseg.errors import DataError, MetasegError
from metaseg.models import build_classifier, build_segmenter, classifier_names
from metaseg.models.classifiers import check_classifier, find_classifier
from metaseg.models.segmenters import check_segmenter

MODELS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"

Build = Callable[[], nn.Module]
NETWORKS: dict[str, tuple[str, Build, str, str]] = {
    # The file, what is built on it, and a layer there and here.
    "classifier of torchvision": (
        "alexnet",
        lambda: build_classifier("alexnet", 1, 2, "imagenet", seed=0),
        "features.3.weight",
        "net.features.3.weight",
    ),
    "classifier of timm": (
        "timm:legacy_xception",
        lambda: build_classifier("xception", 3, 2, "imagenet", seed=0, head="dense"),
        "conv2.weight",
        "net.conv2.weight",
    ),
    "segmenter": (
        "vgg16",
        lambda: build_segmenter("fcn-vgg16", 4, 4, "imagenet", seed=0),
        "features.28.weight",
        "net.features.28.weight",
    ),
}


@pytest.fixture(params=NETWORKS)
def network(request) -> tuple[str, Build, str, str]:
    return NETWORKS[request.param]


def test_weights_are_downloaded_once(imagenet: ImageNetFiles, network) -> None:
    name, build, there, here = network
    file = imagenet.publish(name)
    for _ in range(2):
        found = build().state_dict()[here]
        assert imagenet.asked == [file.name]
    assert torch.equal(found, torch.load(file)[there])
    assert [path.name for path in imagenet.cache.iterdir()] == [file.name]


def test_offline_the_message_says_which_file_to_put_where(imagenet: ImageNetFiles, network) -> None:
    name, build, there, here = network
    file = imagenet.publish(name)
    kept = file.rename(file.with_suffix(".kept"))
    with pytest.raises(MetasegError) as caught:
        build()
    expected, remedy = str(caught.value.expected), str(caught.value.remedy)
    assert f"the file {file.name} in {imagenet.cache}" in expected
    assert f"begins with {file.stem.rpartition('-')[2]}" in expected
    assert "TORCH_HOME" in remedy
    assert "--weights FILE" in remedy
    imagenet.cache.mkdir(parents=True, exist_ok=True)
    shutil.copy(kept, imagenet.cache / file.name)
    assert torch.equal(build().state_dict()[here], torch.load(kept)[there])


@pytest.mark.parametrize(
    ("check", "named"),
    [
        (partial(check_classifier, "alexnet"), "alexnet"),
        (partial(check_classifier, "xception", head="dense"), "timm:legacy_xception"),
        (partial(check_segmenter, "fcn-vgg16", {}), "vgg16"),
    ],
    ids=["torchvision", "timm", "segmenter"],
)
def test_weights_are_looked_for_before_anything_is_built(imagenet: ImageNetFiles, check, named) -> None:
    file = imagenet.publish(named)
    check("imagenet")
    assert imagenet.asked == [], "a dry run downloads nothing"
    for _ in range(2):
        check("imagenet", download=True)
        assert imagenet.asked == [file.name]
    (imagenet.cache / file.name).write_bytes(b"something else")
    with pytest.raises(DataError, match="not the file of the ImageNet weights"):
        check("imagenet")


def test_a_file_in_place_is_checked(imagenet: ImageNetFiles) -> None:
    file = imagenet.publish("vgg16")
    imagenet.cache.mkdir(parents=True)
    cut_off = imagenet.cache / file.name
    cut_off.write_bytes(file.read_bytes()[:-100])
    checksum = file.stem.rpartition("-")[2]
    with pytest.raises(
        DataError, match=rf"(?s)not the file of the ImageNet weights.*begins with {checksum}.*delete it"
    ):
        NETWORKS["segmenter"][1]()
    shutil.copy(file, cut_off)
    NETWORKS["segmenter"][1]()
    assert imagenet.asked == []


def test_a_download_that_is_not_the_file_leaves_nothing_behind(imagenet: ImageNetFiles) -> None:
    file = imagenet.publish("vgg16")
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(MetasegError, match=r"(?s)could not get the ImageNet weights of VGG-16.*invalid hash"):
        NETWORKS["segmenter"][1]()
    assert not list(imagenet.cache.iterdir())


@pytest.mark.skipif(not MODELS_PAGE.is_file(), reason="needs the repository")
def test_the_page_on_models_names_the_libraries_files() -> None:
    rows = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \| `([\w.-]+\.pth)` \|", MODELS_PAGE.read_text(), flags=re.MULTILINE)
    listed = {name: file for names, file in rows for name in re.findall(r"`([\w-]+)`", names)}
    known = {name: find_classifier(name) for name in classifier_names()}
    assert listed.pop("fcn-vgg16") == listed["vgg16"]
    assert listed == {
        name: str(library.address).rpartition("/")[2]
        for name, library in known.items()
        if library.statistics() is not None
    }
