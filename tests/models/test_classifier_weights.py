"""Pretrained weights of classifiers: where they come from, what fits, and the intensities that they know."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision.models
from imagenet_files import ImageNetFiles
from safetensors.torch import save_file
from torch import nn

from metaseg.errors import DataError, MetasegError, UsageError
from metaseg.models import WeightReport, build_classifier, save_checkpoint
from metaseg.models.card import ModelCard
from metaseg.models.classifiers import rebuild_classifier


def random_net(name: str) -> nn.Module:
    """A library's network of the papers' size with weights and running statistics of its own."""
    net = torchvision.models.get_model(name, weights=None)
    with torch.no_grad():
        for key, tensor in net.state_dict().items():
            if "running" in key:
                tensor.uniform_(0.5, 1.5)
    return net.eval()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return random_net("resnet18")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of torch's that is empty, and no connection."""

    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


def pictures(count: int = 2, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour pictures with a black frame, as 0 to 1, and the same as z-scores with a background of 0."""
    colours = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8).float() / 255
    scores = colours * 5 - 2.5
    scores[..., :8] = 0
    colours[..., :8] = 0
    return colours, scores


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_imagenet_weights_give_torchvisions_own_logits(imagenet: ImageNetFiles, name: str) -> None:
    theirs = random_net(name)
    entry = torchvision.models.get_model_weights(name).IMAGENET1K_V1  # type: ignore[attr-defined]
    imagenet.publish(name, theirs.state_dict())
    colours, scores = pictures()
    reports: list[WeightReport] = []
    ours = build_classifier(name, 3, 1000, "imagenet", seed=0, on_weights=reports.append).eval()
    preset = entry.transforms(crop_size=64, resize_size=64)
    with torch.no_grad():
        torch.testing.assert_close(ours.input(scores), preset(colours), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours(scores), theirs(preset(colours)), rtol=1e-4, atol=1e-4)
    assert reports[0].fraction == 1
    assert "intensities of the images it was pretrained on" in "\n".join(reports[0].lines())


@pytest.mark.parametrize("in_channels", [1, 4])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_librarys_file_is_spread_over_other_channels(
    tmp_path: Path, resnet: nn.Module, in_channels: int, suffix: str
) -> None:
    file = tmp_path / f"resnet18-f37072fd{suffix}"
    if suffix == ".pth":
        torch.save(resnet.state_dict(), file)
    else:
        save_file(resnet.state_dict(), file)
    reports: list[WeightReport] = []
    ours = build_classifier("resnet18", in_channels, 2, file, seed=0, on_weights=reports.append).eval()
    assert reports[0].adapted == ("net.conv1.weight",)
    assert {name for name, _, _ in reports[0].skipped} == {"net.fc.weight", "net.fc.bias"}
    statistics = ours.input.statistics
    assert statistics is not None
    assert statistics.mean == pytest.approx((0.449,) * in_channels, abs=1e-3)
    # A grey picture leads to the features of the same picture in colours, were their statistics equal.
    grey = torch.rand(2, 1, 64, 64)
    resnet.fc, kept = nn.Identity(), resnet.fc
    ours.pretrained_on(None)
    with torch.no_grad():
        expected = resnet(grey.repeat(1, 3, 1, 1))
        torch.testing.assert_close(ours.embed(grey.repeat(1, in_channels, 1, 1)), expected, rtol=1e-3, atol=1e-3)
    resnet.fc = kept


def test_without_pretraining_images_pass_unchanged(tmp_path: Path) -> None:
    images = torch.randn(1, 4, 8, 8)
    source = build_classifier("resnet18", 4, 3, seed=1)
    assert torch.equal(source.input(images), images)
    torch.save(source.state_dict(), tmp_path / "ours.pth")
    assert build_classifier("resnet18", 4, 3, tmp_path / "ours.pth", seed=0).input.statistics is None


def test_scores_beyond_the_window_are_cut_off_and_the_background_is_black() -> None:
    with torch.device("meta"):
        model = rebuild_classifier("2d-cnn", 1, 2, {"input_statistics": {"mean": [0.25], "std": [0.5]}})
    model.to_empty(device="cpu").pretrained_on(model.input.statistics)
    scores = torch.tensor([-9.0, -2.5, 0.0, 1e-6, 2.5, 9.0]).view(1, 1, 1, 6)
    expected = (torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.0]) - 0.25) / 0.5
    torch.testing.assert_close(model.input(scores).flatten(), expected)


def test_timms_weights_are_spread_over_other_channels(imagenet: ImageNetFiles) -> None:
    theirs = timm.create_model("legacy_xception", pretrained=False)
    imagenet.publish("timm:legacy_xception", theirs.state_dict())
    reports: list[WeightReport] = []
    ours = build_classifier("xception", 1, 2, "imagenet", seed=0, head="dense", on_weights=reports.append)
    assert torch.equal(ours.net.get_submodule("conv2").weight, theirs.get_submodule("conv2").weight)
    assert reports[0].adapted == ("net.conv1.weight",)
    assert ours.input.statistics is not None
    assert ours.input.statistics.mean == (0.5,)


def test_a_failed_download_says_how_to_pass_a_file(hub: Path) -> None:
    for name in ("mobilenetv2", "xception"):
        with pytest.raises(MetasegError, match=r"(?s)could not get the ImageNet weights.*no route.*--weights FILE"):
            build_classifier(name, 1, 2, "imagenet")


def test_pickles_of_a_library_are_refused(imagenet: ImageNetFiles) -> None:
    imagenet.publish("timm:legacy_xception", {"conv1.weight": Path("object")})
    with pytest.raises(MetasegError, match="could not get the ImageNet weights"):
        build_classifier("xception", 1, 2, "imagenet")


@pytest.mark.parametrize("name", ["lau-cnn", "2d-cnn"])
def test_networks_without_imagenet_weights_say_which_have_them(name: str) -> None:
    with pytest.raises(UsageError, match=r"(?s)no ImageNet weights for the classifier.*vgg16"):
        build_classifier(name, 1, 2, "imagenet")


def test_bad_files_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 cut off")
    torch.save(build_classifier("2d-cnn", 1, 2, seed=0).state_dict(), tmp_path / "other.pth")
    for file, message in (("none.pth", "cannot read"), ("damaged.pth", "damaged"), ("other.pth", "do not fit")):
        with pytest.raises(DataError, match=message):
            build_classifier("resnet18", 1, 2, tmp_path / file, seed=0)


def test_a_checkpoints_card_says_how_its_input_was(tmp_path: Path, resnet: nn.Module) -> None:
    torch.save(resnet.state_dict(), tmp_path / "resnet.pth")
    source = build_classifier("resnet18", 3, 4, tmp_path / "resnet.pth", seed=0)
    card = ModelCard(
        "resnet18",
        3,
        4,
        ("t1", "t1ce", "t2"),
        "classes",
        options=source.options,
        task="classification",
        classes=("a", "b", "c", "d"),
    )
    save_checkpoint(tmp_path / "best", source, card)
    tuned = build_classifier("resnet18", 3, 2, tmp_path / "best.safetensors", seed=0)
    assert source.input.statistics is not None
    assert tuned.input.statistics == source.input.statistics
    assert build_classifier("resnet18", 3, 2, tmp_path / "best", seed=0).input.statistics == source.input.statistics
