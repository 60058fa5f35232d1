from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from metaseg.cli.verbs import VERBS
from metaseg.config import EvaluateConfig, MetatuneConfig, NaivetuneConfig, PredictConfig, PretrainConfig
from metaseg.config_io import Config, load_config
from metaseg.sampling import find_order

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
CLASSES = {verb.name: verb.config for verb in VERBS}
VARIABLES = ("METASEG_SOURCE", "METASEG_TARGET", "METASEG_CHENG", "METASEG_BRATS")

pytestmark = pytest.mark.skipif(not CONFIGS.is_dir(), reason="needs the repository")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def load(name: str) -> Any:
    path = CONFIGS / name
    verb = yaml.safe_load(path.read_text(encoding="utf-8"))["verb"]
    return load_config(CLASSES[verb], path)


def settings(config: Config) -> dict[str, Any]:
    return asdict(config)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_loads_by_its_verb(path: Path) -> None:
    config = load(str(path.relative_to(CONFIGS)))
    assert type(config).__name__.lower().startswith(yaml.safe_load(path.read_text(encoding="utf-8"))["verb"])


@pytest.mark.parametrize(
    "verb", sorted(set(CLASSES) - {"compare", "report"})
)  # the one has a folder, the other no settings
def test_every_verb_has_a_file(verb: str) -> None:
    assert isinstance(load(f"{verb}.yaml"), CLASSES[verb])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_first_comment_names_how_the_file_is_used(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    if path.parent == CONFIGS:
        verb = path.stem
        assert first.endswith(f"metaseg {verb} --config configs/{path.name}")


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
    assert (config.order, config.shots, config.budget) == ("passive", 3, 600)


def test_cheng_methods_differ_in_the_method_alone() -> None:
    active: MetatuneConfig = load("cheng/metatune-active.yaml")
    passive: MetatuneConfig = load("cheng/metatune-passive.yaml")
    naive: NaivetuneConfig = load("cheng/naivetune.yaml")
    assert replace(active, order="passive", out=passive.out) == passive
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
    assert sorted(orders) == ["active", "active", "passive"]
    for order in orders:
        assert order in (find_order(order).name, *find_order(order).aliases)
