from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

import metaseg.models
from metaseg.errors import UsageError
from metaseg.models import Classifier, build_classifier, classifier_names, count_parameters, mc_dropout
from metaseg.models.classifiers import find_classifier, rebuild_classifier
from metaseg.models.heads import PixelsAsChannels, dense_head

LIBRARIES_OWN = {
    # As torchvision's and timm's documentation give them, for 3 channels and 1000 classes.
    "alexnet": 61_100_840,
    "vgg16": 138_357_544,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "mobilenetv2": 3_504_872,
    "efficientnet-b0": 5_288_548,
    "xception": 22_855_952,
}
QUICK = ("lau-cnn", "2d-cnn", "mobilenetv2", "resnet18")


def on_meta(name: str, in_channels: int, num_classes: int, **options: object) -> Classifier:
    with torch.device("meta"):
        return rebuild_classifier(name, in_channels, num_classes, options)


def test_the_papers_networks_are_there() -> None:
    assert set(classifier_names()) == {*LIBRARIES_OWN, "lau-cnn", "2d-cnn"}


@pytest.mark.parametrize(("name", "count"), LIBRARIES_OWN.items())
def test_sizes_are_the_libraries_own(name: str, count: int) -> None:
    model = on_meta(name, 3, 1000)
    assert count_parameters(model) == count
    assert all(key.startswith("net.") for key in model.state_dict())


def test_laus_network_has_the_papers_parameters() -> None:
    model = build_classifier("lau-cnn", 1, 4, seed=0)
    statistics = [tensor for tensor in model.buffers() if tensor.is_floating_point()]
    assert count_parameters(model) == 3_235_892
    assert sum(tensor.numel() for tensor in statistics) == 160
    assert count_parameters(model) + 160 == 3_236_052
    # The rows of the paper's table that can be read.
    layers = {name: count_parameters(layer) for name, layer in model.net.named_modules() if name}
    assert (layers["conv2.0"], layers["conv3.0"]) == (4640, 18496)
    assert (layers["dense1.0"], layers["dense2.0"], layers["fc"]) == (3_211_328, 1040, 68)
    assert model.eval()(torch.randn(2, 1, 224, 224)).shape == (2, 4)


def test_the_plain_network_has_three_blocks_of_convolution_batch_norm_and_dropout() -> None:
    model = build_classifier("2d-cnn", 3, 2, seed=0)
    for _, (block,) in model.blocks:
        kinds = [type(layer) for layer in block]
        assert [kinds.count(kind) for kind in (nn.Conv2d, nn.BatchNorm2d, nn.Dropout)] == [1, 1, 1]
        assert next(layer.p for layer in block if isinstance(layer, nn.Dropout)) == 0.1


@pytest.mark.parametrize("name", ["lau-cnn", "2d-cnn", "mobilenetv2", "resnet18"])
@pytest.mark.parametrize("size", [(32, 32), (70, 45)])
def test_other_sizes_are_taken(models: dict[str, Classifier], name: str, size: tuple[int, int]) -> None:
    assert models[name].eval()(torch.randn(2, 4, *size)).shape == (2, 3)


def test_the_dense_layer_of_laus_network_follows_the_image_size() -> None:
    small = build_classifier("lau-cnn", 1, 4, seed=0, image_size=64)
    assert small.net.get_submodule("dense1.0").in_features == 64 * 8 * 8
    assert small.eval()(torch.randn(1, 1, 64, 64)).shape == (1, 4)


def test_options_of_laus_network_shape_its_layers() -> None:
    options = {"filters1": 8, "filters2": 12, "filters3": 20, "units1": 32, "units2": 10, "kernel_size": 5}
    model = build_classifier("lau-cnn", 2, 4, seed=0, image_size=64, model_options={**options, "dropout": 0.5})
    convolutions = (2 * 25 + 1) * 8 + (8 * 25 + 1) * 12 + (12 * 25 + 1) * 20
    dense = (20 * 8 * 8 + 1) * 32 + (32 + 1) * 10 + (10 + 1) * 4
    assert count_parameters(model) == convolutions + dense + 2 * (32 + 10)  # and scale and shift of both batch norms
    assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {0.5}
    assert model.eval()(torch.randn(1, 2, 64, 64)).shape == (1, 4)


def test_options_that_are_the_defaults_leave_the_network_and_its_card_as_they_were() -> None:
    plain, said = (
        build_classifier("lau-cnn", 1, 4, seed=0, image_size=32, model_options=options)
        for options in (None, {"filters1": 16, "dropout": 0.25, "kernel_size": 3})
    )
    assert "model_options" not in plain.options
    assert said.options == plain.options
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(plain.parameters(), said.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("lau-cnn", {"filter1": 8}, "(?s)'lau-cnn': filter1: Extra.*filters1 .default 16"),
        ("lau-cnn", {"dropout": 1.0}, "dropout: Input should be less than 1"),
        ("lau-cnn", {"kernel_size": 4}, "kernel_size: Input should be 1, 3, 5 or 7"),
        ("2d-cnn", {"units1": 8}, "units1: Extra"),
        ("resnet50", {"dropout": 0.2}, "(?s)'resnet50': dropout: Extra.*this network has none"),
    ],
)
def test_wrong_options_are_told(name: str, options: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_classifier(name, 1, 4, model_options=options)


@pytest.fixture(scope="module")
def models() -> dict[str, Classifier]:
    return {name: build_classifier(name, 4, 3, seed=0, image_size=64) for name in QUICK}


def test_a_seed_repeats_the_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (build_classifier("resnet18", 2, 3, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_a_fresh_first_convolution_responds_as_strongly_as_the_librarys(in_channels: int) -> None:
    theirs = torchvision.models.resnet18(weights=None).conv1
    ours = build_classifier("resnet18", in_channels, 2, seed=0).net.get_submodule("conv1")
    assert ours.weight.shape[1] == in_channels
    per_channel = [layer.weight.detach().var() * layer.weight.shape[1] for layer in (theirs, ours)]
    assert float(per_channel[1]) == pytest.approx(float(per_channel[0]), rel=0.1)


# Names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("torchvision:resnet18", "torchvision"),
        ("resnet18", "torchvision"),
        ("timm:resnet18", "timm"),
        ("convnext_atto", "timm"),
        ("xception", "timm"),
    ],
)
def test_names_lead_to_the_libraries(name: str, kind: str) -> None:
    assert type(find_classifier(name)).__name__.lower() == kind


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet5", "resnet50"),
        ("lau-cn", "lau-cnn"),
        ("torchvision:mobilenetv3_large", "mobilenet_v3_large"),
        ("timm:xceptoin41", "xception41"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"(?s)unknown classifier '{name}'.*did you mean '{near}'.*lau-cnn"):
        build_classifier(name, 1, 2)


def test_networks_for_other_tasks_are_unknown() -> None:
    with pytest.raises(UsageError, match="unknown classifier"):
        build_classifier("torchvision:fcn_resnet50", 3, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "square"}, "unknown head 'square'"),
        ({"image_size": 4}, "at least 8 x 8"),
    ],
)
def test_wrong_options_are_usage_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_classifier("lau-cnn", 1, 2, **options)  # type: ignore[arg-type]


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        build_classifier("lau-cnn", 1, 0)


def test_a_network_without_a_last_linear_layer_is_refused() -> None:
    with pytest.raises(UsageError, match="does not end in a linear layer"):
        build_classifier("squeezenet1_1", 3, 2)


def test_timm_is_imported_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in Path(metaseg.models.__file__).parent.glob("*.py"):
        top = ast.parse(path.read_text(encoding="utf-8")).body
        assert not any("timm" in ast.unparse(node) for node in top if isinstance(node, ast.Import | ast.ImportFrom))
    monkeypatch.setitem(sys.modules, "timm", None)  # an import would fail
    for name in ("lau-cnn", "mobilenetv2"):
        assert build_classifier(name, 1, 2, seed=0).blocks


# What a network takes


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (4, 64, 64)])
def test_images_of_another_shape_are_refused(models: dict[str, Classifier], shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"(?s)of shape .*expected: \(batch, 4 channels"):
        models["resnet18"](torch.zeros(shape))


@pytest.mark.parametrize(("name", "least"), [("alexnet", 63), ("vgg16", 32), ("lau-cnn", 8)])
def test_images_that_are_too_small_are_refused_with_the_least_size(name: str, least: int) -> None:
    model = on_meta(name, 1, 2).eval()
    assert model(torch.zeros(1, 1, least, least, device="meta")).shape == (1, 2)
    with pytest.raises(UsageError, match=f"at least {least} x {least}"):
        model(torch.zeros(1, 1, least, least - 1, device="meta"))


@pytest.mark.parametrize("name", ["vit_b_32", "timm:vit_tiny_patch16_224"])
def test_transformers_of_one_size_say_so(name: str) -> None:
    model = on_meta(name, 3, 2, image_size=64).eval()
    assert model(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, 2)
    with pytest.raises(UsageError, match="64 x 64 pixels: it takes the size that it was built for"):
        model(torch.zeros(1, 3, 96, 96, device="meta"))


# Heads, blocks and embeddings


@pytest.mark.parametrize("head", ["linear", "dense"])
@pytest.mark.parametrize(
    "name",
    [*classifier_names(), "densenet121", "vit_b_16", "swin_t", "timm:convnext_atto", "timm:vit_tiny_patch16_224"],
)
def test_every_parameter_is_in_one_block_or_in_the_head(name: str, head: str) -> None:
    model = on_meta(name, 4, 3, head=head)
    modules = [module for _, block in model.blocks for module in block] + list(model.head_modules)
    found = [id(parameter) for module in modules for parameter in module.parameters()]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in model.parameters()}
    names = [block for block, _ in model.blocks]
    assert len(names) == len(set(names)) >= 3
    assert model.last_linear.out_features == 3
    assert model.last_linear in set(model.head_modules[0].modules())
    assert model(torch.zeros(2, 4, 224, 224, device="meta")).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("alexnet", ["conv1", "conv2", "conv3", "conv4", "conv5", "fully-connected"]),
        ("vgg16", ["conv1", "conv2", "conv3", "conv4", "conv5", "fully-connected"]),
        ("resnet101", ["stem", "layer1", "layer2", "layer3", "layer4"]),
        ("mobilenetv2", ["stem", *(f"stage{number}" for number in range(1, 8)), "last"]),
        ("efficientnet-b0", ["stem", *(f"stage{number}" for number in range(1, 8)), "last"]),
        ("xception", ["stem", "entry", "middle", "exit"]),
        ("lau-cnn", ["conv1", "conv2", "conv3", "dense"]),
        ("2d-cnn", ["conv1", "conv2", "conv3"]),
    ],
)
def test_blocks_are_named_as_in_the_papers(name: str, blocks: list[str]) -> None:
    model = on_meta(name, 3, 2)
    assert [block for block, _ in model.blocks] == blocks
    convolutions = [
        sum(isinstance(layer, nn.Conv2d) for part in block for layer in part.modules()) for _, block in model.blocks
    ]
    if name == "vgg16":
        assert convolutions == [2, 2, 3, 3, 3, 0]
    if name == "mobilenetv2":  # repeats of the paper's table 2, three convolutions each but the first
        assert convolutions == [1, 2, 6, 9, 12, 9, 9, 3, 1]


@pytest.mark.parametrize("head", ["linear", "dense"])
@pytest.mark.parametrize("name", QUICK)
def test_the_last_linear_layer_on_the_embedding_gives_the_logits(name: str, head: str) -> None:
    model = build_classifier(name, 4, 3, seed=0, head=head, image_size=64).eval()  # type: ignore[arg-type]
    images = torch.randn(2, 4, 64, 64)
    with torch.no_grad():
        logits, embedding = model.forward_with_embedding(images)
        assert torch.equal(model(images), logits)
        assert torch.equal(model.embed(images), embedding)
        assert torch.equal(model.last_linear(embedding), logits)
    assert embedding.shape == (2, model.last_linear.in_features)
    assert not model.last_linear._forward_pre_hooks


def test_the_dense_head_is_the_papers() -> None:
    head = dense_head(2048, 2)
    assert [type(layer) for layer in head] == [nn.Flatten, nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Dropout, nn.Linear]
    assert head.dropout.p == 0.1  # type: ignore[union-attr]
    assert on_meta("resnet50", 3, 2, head="dense").embed(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 256)
    # VGG's own fully connected layers leave with its top.
    assert on_meta("vgg16", 3, 2, head="dense").net.get_submodule("classifier.dense").in_features == 512 * 7 * 7


VGG_HEAD = {"units": [510], "dropout": 0.3, "input_dropout": 0.23, "pooling": "average"}


def test_the_head_of_the_papers_fine_tuned_vgg_is_expressible() -> None:
    model = on_meta("vgg16", 3, 2, head="dense", head_options=VGG_HEAD)
    head = model.net.get_submodule("classifier")
    assert model.net.avgpool.output_size == 1  # type: ignore[union-attr]
    assert [type(layer).__name__ for layer in head] == [
        "Flatten", "BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear",
    ]  # fmt: skip
    assert (head.input_norm.num_features, head.dense.out_features, head.norm.num_features) == (512, 510, 510)
    assert (head.input_dropout.p, head.dropout.p) == (0.23, 0.3)
    assert model.options["head_options"] == VGG_HEAD
    # Keras counts, of the same layers with one sigmoid: 2,048 + 261,630 + 2,040 + 511; a second logit adds 511.
    assert sum(one.numel() for one in head.parameters()) + 2 * (512 + 510) == 2_048 + 261_630 + 2_040 + 2 * 511


def test_hidden_layers_are_as_many_as_units() -> None:
    head = dense_head(8, 2, units=[6, 4], dropout=0.2)
    widths = [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)]
    assert widths == [(8, 6), (6, 4), (4, 2)]
    assert [type(layer) for layer in dense_head(8, 2, units=[])] == [nn.Flatten, nn.Linear]


@pytest.mark.parametrize(
    ("name", "averaged", "flattened"),
    [
        ("vgg16", 512, 512 * 49),
        ("alexnet", 256, 256 * 36),
        ("resnet50", 2048, 2048 * 9),
        ("xception", 2048, 2048 * 9),
        ("mobilenetv2", 1280, 1280 * 9),
        ("efficientnet-b0", 1280, 1280 * 9),
        ("2d-cnn", 128, 128 * 144),
    ],
)
def test_a_dense_head_stands_on_averaged_or_on_flattened_maps(name: str, averaged: int, flattened: int) -> None:
    images = torch.zeros(2, 3, 96, 96, device="meta")
    for pooling, expected in (("average", averaged), ("flatten", flattened)):
        model = on_meta(name, 3, 2, head="dense", image_size=96, head_options={"pooling": pooling})
        (head,) = model.head_modules
        assert head.dense.in_features == expected  # type: ignore[union-attr]
        assert model(images).shape == (2, 2)
        assert set(on_meta(name, 3, 2, head="dense", image_size=96).state_dict()) == set(model.state_dict())


@pytest.mark.parametrize("name", ["mobilenetv2", "2d-cnn"])
def test_flattened_maps_are_the_bases_own_pixel_by_pixel(name: str) -> None:
    model = build_classifier(name, 1, 2, seed=0, head="dense", image_size=64, head_options={"pooling": "flatten"})
    model.eval()  # torchvision's own dropout stands between
    (base,) = [module for module in model.modules() if isinstance(module, PixelsAsChannels)]
    maps: list[torch.Tensor] = []
    features: list[torch.Tensor] = []
    base.register_forward_pre_hook(lambda layer, inputs: maps.append(inputs[0]))
    (head,) = model.head_modules
    head.dense.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0]))  # type: ignore[union-attr]
    with torch.no_grad():
        model(torch.randn(2, 1, 64, 64))
    assert maps[0].shape[2:] == {"mobilenetv2": (2, 2), "2d-cnn": (8, 8)}[name]
    assert torch.equal(features[0], maps[0].flatten(1))


@pytest.mark.parametrize(
    ("model", "head", "options", "message"),
    [
        ("vgg16", "linear", {"units": [4]}, "with --head linear"),
        ("vgg16", "dense", {"unit": [4]}, "(?s)wrong option of network 'dense head'.*units"),
        ("vgg16", "dense", {"dropout": 1.5}, "dropout"),
        ("vgg16", "dense", {"units": [0]}, "units"),
        ("vgg16", "dense", {"pooling": "max"}, "pooling"),
        ("lau-cnn", "dense", {"pooling": "average"}, "pooling: average with the network 'lau-cnn'"),
        ("densenet121", "dense", {"pooling": "flatten"}, "with the network 'densenet121'"),
    ],
)
def test_wrong_options_of_a_head_are_usage_errors(
    model: str, head: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        on_meta(model, 1, 2, head=head, head_options=options)


# Monte-Carlo dropout


def test_dropout_alone_is_switched_on(models: dict[str, Classifier]) -> None:
    model = models["2d-cnn"].eval()
    images = torch.randn(2, 4, 32, 32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        still = model(images)
        with mc_dropout(model):
            assert {type(layer) for layer in model.modules() if layer.training} == {nn.Dropout}
            assert not torch.equal(model(images), model(images))
        assert torch.equal(model(images), still)
    assert not any(layer.training for layer in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_modes_are_restored_after_an_error(models: dict[str, Classifier]) -> None:
    model = models["mobilenetv2"].train()
    model.net.get_submodule("classifier.0").eval()
    with pytest.raises(ValueError, match="mine"), mc_dropout(model):
        raise ValueError("mine")
    assert not model.net.get_submodule("classifier.0").training
    assert model.training


@pytest.mark.parametrize("name", ["resnet50", "xception"])
def test_a_network_without_dropout_says_how_to_get_one(name: str) -> None:
    with (
        pytest.raises(UsageError, match=rf"(?s)'{name}' has no dropout.*--head dense"),
        mc_dropout(on_meta(name, 1, 2)),
    ):
        pass
    with mc_dropout(on_meta(name, 1, 2, head="dense")):
        pass


@pytest.mark.parametrize("name", classifier_names())
def test_the_page_on_models_gives_each_classifiers_size(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    cells = next(cells for cells in rows if cells[1:2] == [f"`{name}`"] and len(cells) > 6)
    own = name in ("lau-cnn", "2d-cnn")
    model = on_meta(name, 1, 4) if own else on_meta(name, 3, 1000)
    assert cells[2] == f"{count_parameters(model):,}"
    assert cells[4] == str(model.min_size)
    assert cells[6] == ("" if own else "yes")
