from __future__ import annotations

import csv
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from metaseg.config.classification import ClassifyActiveConfig, ClassifyTrainConfig
from metaseg.config.fields import command_words
from metaseg.config.io import Config, load_config, read_settings
from metaseg.config.segmentation import EvaluateConfig, MetatuneConfig, NaivetuneConfig, PredictConfig, PretrainConfig
from metaseg.config.studies import ClassifyCompareConfig, CompareConfig, named_after
from metaseg.sampling import ORDERS
from metaseg.studies.classifiers.plan import FROM, make_classifier_plan
from metaseg.studies.papers import papers
from metaseg.studies.plan import make_plan
from metaseg.verbs import VERBS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ZHOU_RATES = Path(__file__).parent / "golden" / "zhou2017_table3.csv"
FILES = sorted(CONFIGS.rglob("*.yaml"))
PAPERS = [path for path in FILES if path.parent.name == "paper"]
CLASSES = {verb.name: verb.config for verb in VERBS}
IN_A_FOLDER = ("compare", "classify-compare", "classify-search")
WITHOUT = ("report", "paper")  # they have no settings to speak of

pytestmark = pytest.mark.skipif(not CONFIGS.is_dir(), reason="needs the repository")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("METASEG_")]:
        monkeypatch.delenv(name)


def load(name: str) -> Any:
    path = CONFIGS / name
    verb = yaml.safe_load(path.read_text(encoding="utf-8"))["verb"]
    return load_config(CLASSES[verb], path)


def settings(config: Config) -> dict[str, Any]:
    return asdict(config)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_loads_by_its_verb(path: Path) -> None:
    verb = yaml.safe_load(path.read_text(encoding="utf-8"))["verb"]
    assert type(load(str(path.relative_to(CONFIGS)))) is CLASSES[verb]


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_papers_smoke_needs_neither_data_nor_downloads(path: Path) -> None:
    content = read_settings(path)
    study = load_config(CLASSES[content["verb"]], path, {"size": "smoke"})
    if isinstance(study, CompareConfig):
        plan = make_plan(named_after(study, path))
        folders = [target[key] for target in plan.targets.values() for key in ("data", "source")]
        assert all(folder.is_relative_to(plan.folder) for folder in folders)
        assert plan.pretrain is not None
        assert plan.pretrain.weights == "none"
        assert set(plan.entries) == set(content["methods"])
        return
    work = make_classifier_plan(named_after(study, path))
    assert set(work.entries) == set(content["entries"])
    for entry in (*work.entries.values(), *work.pretraining.values()):
        assert entry.data == ()
        assert entry.split is None
        assert entry.weights == "none" or entry.weights.startswith(FROM)


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_papers_small_study_needs_no_downloads(path: Path) -> None:
    content = read_settings(path)
    if "small" not in content["sizes"]:
        pytest.skip("the file has none")
    study = load_config(CLASSES[content["verb"]], path, {"size": "small"})
    if isinstance(study, CompareConfig):
        plan = make_plan(study)
        assert plan.pretrain is None or plan.pretrain.weights == "none"
        return
    work = make_classifier_plan(study)
    assert "imagenet" not in {entry.weights for entry in (*work.entries.values(), *work.pretraining.values())}


@pytest.mark.parametrize("verb", sorted(set(CLASSES) - {*IN_A_FOLDER, *WITHOUT}))
def test_every_verb_has_a_file(verb: str) -> None:
    assert isinstance(load(f"{verb}.yaml"), CLASSES[verb])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_first_comment_names_how_the_file_is_used(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    if path.parent == CONFIGS:
        assert first.endswith(f"metaseg {command_words(path.stem)} --config configs/{path.name}")
    verb = yaml.safe_load(path.read_text(encoding="utf-8"))["verb"]
    if verb in IN_A_FOLDER:
        comment = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        assert any(f"metaseg {command_words(verb)} configs/{path.relative_to(CONFIGS)}" in line for line in comment)


def test_everyday_values() -> None:
    pretrain: PretrainConfig = load("pretrain.yaml")
    metatune: MetatuneConfig = load("metatune.yaml")
    evaluate: EvaluateConfig = load("evaluate.yaml")
    predict: PredictConfig = load("predict.yaml")
    assert pretrain.data == (Path("data/HGG"),)
    assert str(pretrain.out) == metatune.from_run == "runs/hgg"
    assert metatune.data == (Path("data/MET"),)
    assert (metatune.shots, metatune.slices, metatune.order, metatune.first_order) == (5, 25, "active", False)
    assert evaluate.run == predict.run == str(metatune.out)
    assert evaluate.data == (Path("data/MET"), Path("data/HGG"))
    assert predict.cases == (Path("data/new"),)


def test_everyday_files_only_restate_defaults() -> None:
    # Who starts without a file and who starts with one must get the same training: 200 epochs on patients' data.
    assert load("pretrain.yaml").epochs == 200
    for name, own in (
        ("pretrain.yaml", ("epochs",)),
        ("metatune.yaml", ("from_run",)),
        ("naivetune.yaml", ("from_run",)),
        ("tune.yaml", ("from_run", "source")),
        ("classify-train.yaml", ("weights",)),
        ("classify-active.yaml", ("weights",)),
    ):
        config = load(name)
        default = settings(type(config)())
        changed = {key for key, value in settings(config).items() if value != default[key]}
        assert changed == {"data", "out", *own}, name


def test_variables_replace_the_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METASEG_CHENG", "elsewhere/cheng")
    config: MetatuneConfig = load("cheng/metatune-active.yaml")
    assert config.data == config.source == (Path("elsewhere/cheng"),)


def test_command_line_wins_over_the_file() -> None:
    config = load_config(MetatuneConfig, CONFIGS / "metatune.yaml", {"order": "passive", "shots": "3"})
    assert (config.order, config.shots, config.budget) == ("passive", 3, 4800)


def test_cheng_methods_differ_in_the_method_alone() -> None:
    active: MetatuneConfig = load("cheng/metatune-active.yaml")
    passive: MetatuneConfig = load("cheng/metatune-passive.yaml")
    naive: NaivetuneConfig = load("cheng/naivetune.yaml")
    assert replace(active, order="passive", out=passive.out) == passive
    reference: MetatuneConfig = load("cheng/metatune-learn2learn.yaml")
    assert replace(active, engine="learn2learn", out=reference.out) == reference
    shared = settings(active).keys() & settings(naive).keys()
    assert {key for key in shared if settings(active)[key] != settings(naive)[key]} == {"method", "out"}
    assert {"shots", "slices", "budget", "seed", "split", "data", "source", "watch_cases"} <= shared


def test_cheng_parts_fit_together() -> None:
    pretrain: PretrainConfig = load("cheng/pretrain.yaml")
    active: MetatuneConfig = load("cheng/metatune-active.yaml")
    assert active.from_run == str(pretrain.out)
    assert (active.split, active.source_classes) == (pretrain.split, pretrain.classes)
    assert active.train_part != active.test_part


def test_brats_takes_high_grade_gliomas_in_four_sequences() -> None:
    config: PretrainConfig = load("brats/pretrain.yaml")
    assert config.classes == ("HGG",)
    assert config.modalities == ("flair", "t1", "t1ce", "t2")
    assert config.labels == "subregions"


def test_orders_are_in_the_registry() -> None:
    orders = [
        config.order
        for config in (load(str(path.relative_to(CONFIGS))) for path in FILES)
        if isinstance(config, MetatuneConfig)
    ]
    assert sorted(orders) == ["active", "active", "active", "passive"]
    for order in orders:
        assert order in (ORDERS.get(order).name, *ORDERS.get(order).aliases)


def entries_of(name: str) -> dict[str, ClassifyTrainConfig | ClassifyActiveConfig]:
    return dict(make_classifier_plan(named_after(load(name), CONFIGS / name)).entries)


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if isinstance(load(str(path.relative_to(CONFIGS))), ClassifyCompareConfig)],
    ids=lambda path: str(path.relative_to(CONFIGS)),
)
def test_entries_of_classifiers_are_settings(path: Path) -> None:
    # Loading the file does not look into the entries.
    config: ClassifyCompareConfig = load(str(path.relative_to(CONFIGS)))
    entries = entries_of(str(path.relative_to(CONFIGS)))
    assert list(entries) == list(config.entries)
    if path.parent.name == "paper":
        assert config.out == Path("studies", path.stem)
        assert len(config.seeds) == (10 if path.stem.startswith("hao") else 5)


def test_phantom_files_of_classifiers_need_no_data() -> None:
    assert all(not entry.data for entry in entries_of("classify/phantoms.yaml").values())
    assert "data" not in load("classify/search.yaml").shared


ZHOU = ("zhou2017", "zhou2017-polyps", "zhou2017-emboli")


@pytest.mark.parametrize("file", ZHOU)
def test_zhou_has_six_variants_two_controls_and_all_labels(file: str) -> None:
    entries = entries_of(f"paper/{file}.yaml")
    active = {name: one for name, one in entries.items() if isinstance(one, ClassifyActiveConfig)}
    random, scratch = active.pop("random"), active.pop("scratch")
    variants = {(one.acquisition, one.patch_fraction) for one in active.values()}
    assert variants == {(name, share) for name in ("aift", "aift-entropy", "aift-diversity") for share in (0.25, 1.0)}
    assert {(one.fit, one.weights, one.initial) for one in (*active.values(), random)} == {("continue", "imagenet", 0)}
    assert (random.acquisition, scratch.acquisition, scratch.fit, scratch.initial) == ("random", "random", "reset", 0)
    assert (entries["all-labels"].transfer, entries["all-labels"].weights) == ("finetune", "imagenet")
    for one in (scratch, entries["scratch-all"]):
        assert (one.transfer, one.weights) == ("scratch", "none")


@pytest.mark.parametrize("file", ZHOU)
def test_zhou_learns_by_table_3(file: str) -> None:
    lines = [line for line in ZHOU_RATES.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    table = {row["method"]: row for row in csv.DictReader(lines) if row["application"] == file}
    for name, one in entries_of(f"paper/{file}.yaml").items():
        assert (one.optimizer, one.schedule, one.bias_factor) == ("sgd", "exponential", 2.0), name
        anew = name in ("scratch", "scratch-all")
        checked = {
            table["scratch" if anew else "first"]["method"]: (one.learning_rate, one.head_factor, one.gamma, one.epochs)
        }
        if isinstance(one, ClassifyActiveConfig) and not anew:
            checked[name if name in table else "later"] = (
                one.later_learning_rate or one.learning_rate,
                one.later_head_factor or one.head_factor,
                one.later_gamma or one.gamma,
                one.later_epochs,
            )
            assert one.gamma_every == one.patches, name
        for method, (rate, head_factor, gamma, epochs) in checked.items():
            row = {key: float(value) for key, value in table[method].items() if key not in ("application", "method")}
            found = [one.momentum, rate, rate * head_factor, gamma, epochs / one.gamma_every]
            assert found == pytest.approx(list(row.values())), (name, method)


@pytest.mark.parametrize("name", ["hao2021", "hao2021-balanced"])
def test_hao_chooses_by_a_committee(name: str) -> None:
    entries = entries_of(f"paper/{name}.yaml")
    for label, one in entries.items():
        assert (one.optimizer, one.momentum, one.learning_rate, one.weight_decay) == ("sgd", 0.8, 1e-3, 1e-4), label
        assert (one.batch_size, one.epochs) == (16, 80 if label == "scratch" else 30), label
        assert (one.classes, one.modalities) == (("LGG", "HGG"), ("t1", "t1ce", "t2")), label
    committee = entries["committee"]
    assert (committee.initial, committee.batch, committee.rounds, committee.rank) == (0.3, 0.3, 2, "all")
    assert (committee.drop_top, committee.drop_bottom, committee.draw) == (0.1, 0.1, "random")
    assert (committee.fit, committee.fit_on, committee.keep) == ("reset", "chosen", "best")
    assert committee.committee_rates == (1e-3, 5e-4, 1e-4)
    assert entries["random"].initial == committee.batch
    balanced = name.endswith("balanced")
    assert entries["all"].slices_per_case == (("HGG=10", "LGG=30") if balanced else ("20",))
    assert ("scratch" in entries) != balanced


def test_lau_and_al_janabi_compare_their_networks() -> None:
    lau, janabi = entries_of("paper/lau2021.yaml"), entries_of("paper/aljanabi.yaml")
    assert {one.model for one in lau.values()} == {"lau-cnn", "resnet50", "resnet101", "efficientnet-b0", "vgg16"}
    assert {one.model for one in janabi.values()} == {"vgg16", "mobilenetv2", "xception", "resnet50", "2d-cnn"}
    # As many steps for all: those of the paper's 18 epochs over 1,442 pictures, of three of five folds of its 251.
    steps = {one.epochs * round(251 * 3 / 5 / one.batch_size + 0.5) for one in janabi.values()}
    assert {(one.batch_size, one.optimizer) for one in janabi.values()} == {(18, "adam")}
    assert max(steps) - min(steps) == 0
    assert steps.pop() == pytest.approx(18 * 1442 / 18, rel=0.01)
    frozen = [one for one in janabi.values() if one.transfer == "freeze"]
    assert {(one.learning_rate, one.head, one.weights) for one in frozen} == {(1e-3, "dense", "imagenet")}
    assert {name: (one.transfer, one.weights) for name, one in janabi.items() if name.endswith("finetuned")} == {
        "xception-finetuned": ("last-block", "imagenet"),
        "vgg16-finetuned": ("last-block", "from:vgg16"),
    }
    assert {row.entry for row in papers()["aljanabi"].rows} <= set(janabi)
    assert len(frozen) == 4


@pytest.mark.parametrize("size", ["full", "small", "smoke"])
def test_lau_tunes_her_network_and_augments_nothing(size: str) -> None:
    config = load_config(ClassifyCompareConfig, CONFIGS / "paper" / "lau2021.yaml", {"size": size})
    plan = make_classifier_plan(config)
    assert {entry.augment for entry in plan.entries.values()} == {"none"}
    assert list(plan.searches) == ["lau-cnn", "lau-cnn-layers"]
    # Of the first the layers of the paper's table stay: what is searched changes the number of no parameter.
    kept, searched = (set(plan.spaces[label]) for label in plan.searches)
    assert {name for name in kept if name.startswith("model_options")} == {"model_options.dropout"}
    layers = ("filters1", "filters2", "filters3", "units1", "units2", "kernel_size", "dropout")
    assert {f"model_options.{name}" for name in layers} | {"learning_rate", "optimizer"} == searched
    assert len(plan.entries) == 6
