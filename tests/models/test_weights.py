from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DynUNet, UNet
from safetensors.torch import save_file
from torch import nn

from metaseg.errors import DataError
from metaseg.models import WeightReport, build_segmenter, load_weights, unique_state
from metaseg.models.weights import read_tensors

UNET = {"channels": (4, 8, 8), "strides": (2, 2)}


def unet(in_channels: int = 2, num_classes: int = 3, seed: int = 0) -> nn.Module:
    return build_segmenter("unet", in_channels, num_classes, seed=seed, **UNET)


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("prefix", ["", "net.", "module.", "module.net.", "_orig_mod.module.net."])
def test_wrappers_prefixes_do_not_matter(prefix: str) -> None:
    source, model = unet(seed=1), unet(seed=2)
    report = load_weights(model, {prefix + key: value for key, value in source.net.state_dict().items()})
    assert report.fraction == 1
    assert (report.skipped, report.missing, report.unexpected) == ((), (), ())
    assert equal(model.state_dict(), source.state_dict())


def test_a_bare_monai_network_is_loaded_and_loads() -> None:
    model = unet(seed=1)
    bare = UNet(2, 2, 3, **UNET, num_res_units=2, norm=("instance", {"affine": True}))
    assert load_weights(bare, model.state_dict()).fraction == 1
    assert equal(bare.state_dict(), model.net.state_dict())


def test_another_number_of_classes_leaves_the_head_fresh_and_says_so() -> None:
    source, model = unet(num_classes=4, seed=1), unet(num_classes=2, seed=2)
    before, given = snapshot(model), source.state_dict()
    report = load_weights(model, given)
    names = {name for name, _, _ in report.skipped}
    assert names == {name for name in before if before[name].shape != given[name].shape}
    assert names
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in names else given[name])
    text = "\n".join(report.lines())
    assert "does not fit, starts fresh" in text
    assert report.skipped[0][0] in text
    fitted = sum(value.numel() for name, value in model.named_parameters() if name not in names)
    assert report.fraction == pytest.approx(fitted / sum(value.numel() for value in model.parameters()))


def test_another_number_of_modalities_is_skipped_unless_adapted() -> None:
    source = unet(in_channels=4, seed=1)
    entries = {
        "net.model.0.conv.unit0.conv.weight",
        "net.model.0.residual.weight",
    }
    assert {name for name, _, _ in load_weights(unet(seed=2), source.state_dict()).skipped} == entries
    model = unet(seed=2)
    report = load_weights(model, source.state_dict(), adapt_input=True)
    assert set(report.adapted) == entries
    assert report.fraction == 1
    grey = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(model(grey.expand(-1, 2, -1, -1)), source(grey.expand(-1, 4, -1, -1)))


def test_only_input_kernels_are_adapted() -> None:
    narrow = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1))
    wide = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 3, 1))
    report = load_weights(narrow, wide.state_dict(), min_loaded=0.0, adapt_input=True)
    # The second kernel differs in its input channels alone, but they are features and no modalities.
    assert report.adapted == ()
    assert ("1.weight", (3, 6, 1, 1), (3, 4, 1, 1)) in report.skipped


def test_too_little_leaves_the_model_as_it_was_and_names_the_first_misfits() -> None:
    model = unet()
    before = snapshot(model)
    other = build_segmenter("unet", 2, 3, seed=0, channels=(6, 10, 10), strides=(2, 2))
    with pytest.raises(DataError, match=r"(?s)does not fit, starts fresh: net\.model.*at least 50%.*to do:"):
        load_weights(model, other.state_dict())
    assert equal(before, model.state_dict())


def test_the_least_share_can_be_chosen() -> None:
    model = unet()
    name, tensor = next(iter(unet(seed=3).state_dict().items()))
    report = load_weights(model, {name: tensor, "other": torch.zeros(1)}, min_loaded=0.0)
    assert report.loaded == (name,)
    assert report.unexpected == ("other",)
    assert len(report.missing) == len(model.state_dict()) - 1
    assert report.lines(limit=2)[-1].strip() == "in the file only, left out: other"
    assert any("more" in line for line in report.lines(limit=2))


def test_only_all_of_the_parameters_are_called_100_percent() -> None:
    nearly = WeightReport("file", ("a",), (), (("b", (4,), (2,)),), (), (), fraction=0.99999)
    assert "99.9 %" in nearly.lines()[0]


def test_values_that_are_not_finite_are_refused() -> None:
    model, source = unet(), unet(seed=1)
    before, given = snapshot(model), source.state_dict()
    given["net.model.0.residual.weight"] = torch.full_like(given["net.model.0.residual.weight"], float("nan"))
    with pytest.raises(DataError, match=r"non-finite values in net\.model\.0\.residual\.weight"):
        load_weights(model, given)
    assert equal(before, model.state_dict())


def test_layers_with_two_names_are_listed_once_and_found_under_either() -> None:
    options = {"filters": (4, 4, 8)}
    source, model = (build_segmenter("dynunet", 1, 2, seed=seed, **options) for seed in (1, 2))
    unique = unique_state(source)
    assert len(unique) < len(source.state_dict())
    assert sum(value.numel() for value in unique.values()) == sum(value.numel() for value in source.parameters())
    aliases = {name: value for name, value in source.state_dict().items() if name not in unique}
    report = load_weights(model, aliases, min_loaded=0.0)
    assert not report.unexpected
    assert torch.equal(model.net.input_block.conv1.conv.weight, source.net.input_block.conv1.conv.weight)
    bare = DynUNet(2, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=(4, 4, 8), norm_name=("instance", {"affine": True}))
    assert load_weights(model, bare.state_dict()).unexpected == ()


@pytest.mark.parametrize("nested", [None, "state_dict", "model_state_dict", "network_weights"])
def test_training_scripts_files_are_read(tmp_path: Path, nested: str | None) -> None:
    state = unet(seed=1).state_dict()
    torch.save({nested: state, "epoch": 7} if nested else state, tmp_path / "file.pth")
    assert equal(read_tensors(tmp_path / "file.pth"), dict(state))


def test_safetensors_are_read_with_and_without_suffix(tmp_path: Path) -> None:
    state = dict(unet(seed=1).state_dict())
    save_file(state, tmp_path / "step-0.5.safetensors")
    assert equal(read_tensors(tmp_path / "step-0.5.safetensors"), state)
    assert equal(read_tensors(tmp_path / "step-0.5"), state)
    assert load_weights(unet(), tmp_path / "step-0.5").origin.endswith("step-0.5")


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "trap": Trap(tmp_path / "sprung")}, tmp_path / "file.pth")
    with pytest.raises(DataError, match="holds more than tensors"):
        read_tensors(tmp_path / "file.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("noise.pth", b"no weights at all"),
        ("short.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"),
        ("empty.safetensors", b""),
    ],
)
def test_damaged_files_are_data_errors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_weights(unet(), tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}])
def test_files_without_weights_are_data_errors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(DataError, match="holds"):
        read_tensors(tmp_path / "file.pth")


def test_a_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name the file itself"):
        read_tensors(tmp_path)
