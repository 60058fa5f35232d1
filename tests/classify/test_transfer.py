from __future__ import annotations

import copy
import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from metaseg.classify import train
from metaseg.classify.fitting import classifier_objective, classifier_optimizer
from metaseg.classify.slices import SliceBatches
from metaseg.classify.train import run_classify_train
from metaseg.classify.transfer import AUTO, LARGE, Transfer, choose_transfer
from metaseg.errors import UsageError
from metaseg.models import build_classifier
from metaseg.models.classifiers import rebuild_classifier
from metaseg.models.device import make_fabric
from metaseg.runs.networks import load_classifier_network
from metaseg.runs.training_state import load_training_state
from metaseg.training.augment import Augmentation
from metaseg.training.loop import LoopPlan, LoopState, fit

MODELS = ("lau-cnn", "2d-cnn")


GOLDEN = Path(__file__).parents[1] / "golden" / "aljanabi_auto.csv"


class TestAuto:
    @pytest.mark.parametrize("row", list(csv.DictReader(GOLDEN.open())), ids=lambda row: row["paper"][:20])
    def test_follows_the_table_of_al_janabi(self, train_config, row):
        stated = {"auto_size": row["size"], "auto_similarity": row["similarity"]}
        transfer, reason = choose_transfer(train_config(weights="imagenet", head="dense", **stated), 250)
        assert transfer == row["transfer"]
        assert row["size"] in reason
        assert row["similarity"] in reason
        assert reason.count("as stated") == 2

    @pytest.mark.parametrize(
        ("slices", "weights", "expected"),
        [
            (LARGE - 1, "run/best", ("small", "similar")),
            (LARGE - 1, "imagenet", ("small", "different")),
            (LARGE, "run/best", ("large", "similar")),
            (LARGE, "imagenet", ("large", "different")),
            (LARGE, "vgg16-397923af.pth", ("large", "different")),
        ],
    )
    def test_size_and_similarity_are_found_where_they_are_not_stated(
        self, train_config, slices, weights, expected, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        Path("run").mkdir()
        for name in ("run/best.json", "run/best.safetensors", "vgg16-397923af.pth"):
            Path(name).touch()
        transfer, reason = choose_transfer(train_config(weights=weights), slices)
        assert transfer == AUTO[expected]
        assert all(word in reason for word in (*expected, str(slices), str(LARGE)))

    def test_without_weights_it_is_scratch(self, train_config):
        assert choose_transfer(train_config(auto_size="large", auto_similarity="similar"), 10)[0] == "scratch"

    def test_a_frozen_base_asks_for_dense_layers(self, train_config):
        linear, dense = (
            choose_transfer(train_config(weights="imagenet", auto_similarity="similar", head=head), 9)[1]
            for head in ("linear", "dense")
        )
        assert "--head dense" in linear
        assert "--head dense" not in dense


@pytest.mark.parametrize(
    ("name", "value", "transfer"),
    [("auto_size", "large", "freeze"), ("unfreeze_epochs", 0, "finetune"), ("unfreeze_target", 0.5, "last-block")],
)
def test_a_setting_of_another_transfer_is_ignored_aloud(train_config, name, value, transfer):
    with pytest.warns(UserWarning, match="is ignored"):
        train_config(transfer=transfer, **{name: value})


class Silent:
    def on_step(self, step, values):
        pass

    def on_mark(self, step, model):
        return True


def steps(model, slices, config, strategy, count=3, extra=None):
    """Some steps of a fit; the parameters and buffers before and after."""
    before = copy.deepcopy(model.state_dict())
    transfer, extra = Transfer(model, strategy), extra or {}
    batches = SliceBatches(slices, 8, False, Augmentation("none"), 0)
    plan = LoopPlan(total_steps=count, mark_every=count, rate=lambda step: config.learning_rate)
    objective = classifier_objective(transfer, lambda: extra)
    fit(
        model, classifier_optimizer(config, transfer), make_fabric("cpu", "32-true"), plan, batches.draw, objective,
        Silent(), LoopState(), None,
    )  # fmt: skip
    return before, model.state_dict()


def names_of(model, modules):
    wanted = {id(value) for module in modules for value in (*module.parameters(), *module.buffers())}
    return {name for name, value in model.state_dict(keep_vars=True).items() if id(value) in wanted}


@pytest.fixture
def slices(open_set):
    return open_set()


class TestFreeze:
    @pytest.mark.parametrize("name", MODELS)
    @pytest.mark.parametrize("head", ["linear", "dense"])
    def test_the_base_keeps_every_bit_and_the_head_moves(self, slices, train_config, name, head):
        model = build_classifier(name, 1, 2, seed=0, head=head, image_size=16)
        before, after = steps(model, slices, train_config(weight_decay=0.1), "freeze")
        in_head = names_of(model, model.head_modules)
        for key, value in before.items():
            assert torch.equal(value, after[key]) != (key in in_head), key
        assert any("running_mean" in key for key in before)

    @pytest.mark.parametrize("name", MODELS)
    def test_without_it_all_parameters_move(self, slices, train_config, name):
        model = build_classifier(name, 1, 2, seed=0, image_size=16)
        before, after = steps(model, slices, train_config(), "finetune")
        assert [key for key in before if torch.equal(before[key], after[key])] == []

    @pytest.mark.parametrize("released", [0, 1, 2])
    def test_gradually_the_last_blocks_move_first(self, slices, train_config, released):
        model = build_classifier("2d-cnn", 1, 2, seed=0, image_size=16)
        blocks = [modules for _, modules in model.blocks]
        free = [*model.head_modules, *(module for block in blocks[len(blocks) - released :] for module in block)]
        before, after = steps(model, slices, train_config(), "gradual-unfreeze", extra={"released": released})
        in_free = names_of(model, free)
        assert {key for key in before if not torch.equal(before[key], after[key])} == in_free


LAST_BLOCKS = {
    "vgg16": ("conv5", "fully-connected"), "xception": ("exit",), "resnet50": ("layer4",), "mobilenetv2": ("last",),
    "alexnet": ("conv5", "fully-connected"), "resnet101": ("layer4",), "efficientnet-b0": ("last",),
    "lau-cnn": ("conv3", "dense"), "2d-cnn": ("conv3",),
}  # fmt: skip


class TestLastBlock:
    @pytest.mark.parametrize("name", LAST_BLOCKS)
    def test_trains_the_last_convolutional_block_and_the_head_alone(self, name):
        with torch.device("meta"):
            model = rebuild_classifier(name, 1, 2, {})
        model.train()
        transfer = Transfer(model, "last-block")
        transfer.apply({})
        named = dict(model.blocks)
        assert list(named)[-transfer.released({}) :] == list(LAST_BLOCKS[name])
        free = [*model.head_modules, *(part for block in LAST_BLOCKS[name] for part in named[block])]
        wanted = {id(value) for module in free for value in module.parameters()}
        assert {id(value) for value in model.parameters() if value.requires_grad} == wanted
        # Batch normalisation goes by the batch, and its statistics move, where its block learns; nowhere else.
        learning = {id(module) for top in free for module in top.modules()}
        for module in model.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.training == (id(module) in learning)

    @pytest.mark.parametrize("name", MODELS)
    @pytest.mark.parametrize("head", ["linear", "dense"])
    def test_the_rest_keeps_every_bit_batch_statistics_included(self, slices, train_config, name, head):
        model = build_classifier(name, 1, 2, seed=0, head=head, image_size=16)
        before, after = steps(model, slices, train_config(weight_decay=0.1), "last-block")
        free = [part for block in LAST_BLOCKS[name] for part in dict(model.blocks)[block]]
        in_free = names_of(model, [*model.head_modules, *free])
        assert {key for key in before if not torch.equal(before[key], after[key])} == in_free
        assert any("running_mean" in key for key in in_free)

    @pytest.mark.parametrize("name", ["vit_b_16", "timm:mixer_s32_224"])
    def test_a_network_without_one_is_refused(self, name):
        with torch.device("meta"):
            model = rebuild_classifier(name, 1, 2, {"image_size": 224})
        with pytest.raises(UsageError, match="no last convolutional block"):
            Transfer(model, "last-block")


class TestStages:
    @pytest.mark.parametrize(
        ("total", "stage", "expected"),
        [
            (40, 0, (10, 20, 30)),  # evenly
            (41, 0, (10, 20, 31)),
            (40, 5, (5, 10, 15)),  # the last takes what is left
            (40, 15, (15, 30)),  # and the last block is never let go
            (10, 10, ()),
            (2, 0, (1,)),  # fewer steps than stages
        ],
    )
    def test_share_the_steps_of_the_training(self, total, stage, expected):
        transfer = Transfer(build_classifier("2d-cnn", 1, 2, image_size=16), "gradual-unfreeze")
        assert transfer.stage_ends(total, stage) == expected

    @pytest.mark.parametrize("name", ["freeze", "finetune", "last-block", "scratch"])
    def test_others_have_one(self, name):
        assert Transfer(build_classifier("2d-cnn", 1, 2, image_size=16), name).stage_ends(40, 5) == ()

    @pytest.mark.parametrize("name", ["freeze", "last-block", "gradual-unfreeze", "finetune", "scratch"])
    @pytest.mark.parametrize("unfreeze_epochs", [0, 1, 5])
    def test_all_ways_of_transfer_have_as_many_steps(self, train_config, name, unfreeze_epochs):
        transfer = Transfer(build_classifier("2d-cnn", 1, 2, image_size=16), name)
        config = replace(train_config(epochs=7), unfreeze_epochs=unfreeze_epochs)
        plan = train._plan(config, transfer, steps_per_epoch=3)
        assert plan.total_steps == 21
        assert plan.is_mark(21)
        assert not any(plan.is_mark(step) for step in range(22, 200))


class TestRates:
    @pytest.mark.parametrize("name", MODELS)
    @pytest.mark.parametrize("head", ["linear", "dense"])
    def test_every_parameter_is_in_one_group(self, name, head):
        model = build_classifier(name, 1, 3, seed=0, head=head, image_size=16)
        grouped = [id(one) for group in Transfer(model, "finetune").parameter_groups(3, 2) for one in group["params"]]
        assert sorted(grouped) == sorted(id(one) for one in model.parameters())

    def one_step(self, slices, config):
        model = build_classifier("lau-cnn", 1, 2, seed=0, image_size=16)
        before, after = steps(model, slices, config, "finetune", count=1)
        in_head = names_of(model, model.head_modules)
        return {name: after[name] - before[name] for name, _ in model.named_parameters()}, in_head

    def test_biases_move_twice_as_far(self, slices, train_config):
        plain = {"optimizer": "sgd", "momentum": 0, "weight_decay": 0, "clip_norm": 0}
        once, _ = self.one_step(slices, train_config(**plain))
        twice, _ = self.one_step(slices, train_config(**plain, bias_factor=2))
        for name, way in once.items():
            factor = 2 if name.endswith(".bias") else 1
            assert way.abs().max() > 0, name
            assert torch.allclose(twice[name], factor * way, rtol=1e-3, atol=1e-7), name

    def test_the_head_moves_faster(self, slices, train_config):
        plain = {"optimizer": "sgd", "momentum": 0, "weight_decay": 0, "clip_norm": 0}
        once, in_head = self.one_step(slices, train_config(**plain))
        faster, _ = self.one_step(slices, train_config(**plain, head_factor=5, bias_factor=2))
        for name, way in once.items():
            factor = (5 if name in in_head else 1) * (2 if name.endswith(".bias") else 1)
            assert torch.allclose(faster[name], factor * way, rtol=1e-3, atol=1e-7), name


@pytest.fixture(scope="session")
def source(common, tmp_path_factory):
    """A classifier from whose weights others begin."""
    from metaseg.config.classification import ClassifyTrainConfig
    from metaseg.config.io import load_config

    out = tmp_path_factory.mktemp("source") / "run"
    result = run_classify_train(
        load_config(ClassifyTrainConfig, None, common | {"out": out, "epochs": 1, "test": False, "model": "2d-cnn"})
    )
    return str(result.run)


class TestStrategies:
    def test_freeze_keeps_the_base_of_the_run_it_begins_from(self, train_config, source, images):
        result = run_classify_train(train_config(model="2d-cnn", weights=source, transfer="freeze"))
        old, new = (load_classifier_network(run, "last").model for run in (source, result.run))
        in_head = names_of(new, new.head_modules)
        for key, value in new.state_dict().items():
            # The best weights of the source, which it began from, may be other than its last.
            best = load_classifier_network(source).model.state_dict()[key]
            assert torch.equal(value, best) != (key in in_head), key
        assert result.strategy == "freeze"
        assert old.name == new.name

    def test_auto_says_what_it_chose_and_why(self, train_config, source, capsys):
        assert run_classify_train(train_config(model="2d-cnn", weights=source, epochs=1)).strategy == "freeze"
        assert "training slices are a small set (large from 1000 on), similar" in capsys.readouterr().out

    def test_patients_of_the_weights_are_no_test_patients(self, train_config, source, parts_of, capsys):
        # Another seed divides otherwise: what the weights have seen must not be tested on.
        seen = set(parts_of().train.patients)

        def classes_left(seed):
            test = parts_of(seed=seed).test
            return set(test.labels[[patient not in seen for patient in test.patients]])

        seed = next(seed for seed in range(1, 60) if len(classes_left(seed)) == 2)
        wanted = set(parts_of(seed=seed).test.patients)
        result = run_classify_train(train_config(model="2d-cnn", weights=source, epochs=1, seed=seed))
        tested = {row.split(",")[1] for row in (result.run / "test" / "predictions.csv").read_text().split()[1:]}
        assert wanted & seen
        assert tested == wanted - seen
        assert "left out" in capsys.readouterr().out

    def released(self, run):
        rows = [row.split(",") for row in (run / "metrics.csv").read_text().splitlines()]
        return [int(float(value)) for _, _, name, value in rows if name == "blocks/released"]

    @pytest.fixture
    def never_good(self, monkeypatch):
        metrics = {f"{name}/val": 0.5 for name in ("auc", "accuracy", "balanced_accuracy", "f1")}
        monkeypatch.setattr("metaseg.classify.train.part_metrics", lambda model, slices, part, fabric=None: metrics)

    @pytest.mark.usefixtures("never_good")
    @pytest.mark.parametrize(("unfreeze_epochs", "validate_every"), [(2, 1), (2, 3), (0, 2)])
    def test_gradual_unfreezing_lets_a_block_go_at_the_end_of_each_stage(
        self, train_config, source, capsys, unfreeze_epochs, validate_every
    ):
        config = train_config(
            model="2d-cnn", weights=source, transfer="gradual-unfreeze", unfreeze_epochs=unfreeze_epochs, epochs=8,
            validate_every=validate_every, test=False,
        )  # fmt: skip
        run = run_classify_train(config).run
        blocks = Transfer(load_classifier_network(run).model, "gradual-unfreeze").num_blocks
        state = load_training_state(run / "checkpoints" / "last.state.pt")
        assert state["extra"]["released"] == blocks
        assert sorted(set(self.released(run)) - {0}) == list(range(1, blocks + 1))
        assert "3 of 3 blocks were let go: conv1, conv2, conv3" in capsys.readouterr().out

    def test_from_the_acceptable_metric_on_no_block_is_let_go_and_training_goes_on(self, train_config, source, capsys):
        config = train_config(
            model="2d-cnn", weights=source, transfer="gradual-unfreeze", unfreeze_epochs=1, unfreeze_target=0.01,
            epochs=3, test=False,
        )  # fmt: skip
        done = run_classify_train(config)
        assert self.released(done.run) == [0, 0, 0]
        assert "0 of 3 blocks were let go: none" in capsys.readouterr().out
        assert done.steps == 3 * len(self.released(done.run))

    def test_too_few_epochs_for_all_blocks_are_told(self, train_config, source):
        config = train_config(
            model="2d-cnn", weights=source, transfer="gradual-unfreeze", unfreeze_epochs=1, epochs=2, test=False
        )
        with pytest.warns(UserWarning, match="2 epochs reach 1 of the 3 blocks of '2d-cnn'"):
            run_classify_train(config)

    @pytest.mark.usefixtures("never_good")
    @pytest.mark.parametrize("stop_at", [1, 2, 3])
    def test_gradual_unfreezing_goes_on_after_an_interruption(
        self, train_config, source, tmp_path, monkeypatch, stop_at
    ):
        settings = {
            "model": "2d-cnn", "weights": source, "transfer": "gradual-unfreeze", "unfreeze_epochs": 1,
            "epochs": 4, "test": False,
        }  # fmt: skip
        whole = run_classify_train(train_config(**settings, out=tmp_path / "whole")).run
        real, calls = Transfer.apply, []

        def interrupt(self, extra):
            calls.append(1)
            if len(calls) == 3 * stop_at + 1:
                raise KeyboardInterrupt
            real(self, extra)

        monkeypatch.setattr(Transfer, "apply", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_classify_train(train_config(**settings))
        monkeypatch.setattr(Transfer, "apply", real)
        cut = run_classify_train(train_config(**settings, resume=True)).run
        assert (cut / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
        one, other = (load_classifier_network(run, "last").model.state_dict() for run in (whole, cut))
        assert all(torch.equal(value, other[name]) for name, value in one.items())

    @pytest.mark.parametrize("strategy", ["freeze", "last-block", "gradual-unfreeze"])
    def test_without_weights_there_is_nothing_to_keep(self, train_config, tmp_path, strategy):
        with pytest.raises(UsageError, match="without --weights"):
            run_classify_train(train_config(transfer=strategy))
        assert not (tmp_path / "run").exists()

    def test_scratch_takes_no_weights(self, train_config, source, tmp_path):
        with pytest.raises(UsageError, match="--transfer scratch with --weights"):
            run_classify_train(train_config(model="2d-cnn", weights=source, transfer="scratch"))
        assert not (tmp_path / "run").exists()
