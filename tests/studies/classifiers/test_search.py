from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from metaseg.cases.splits import Split
from metaseg.classify import slices as slices_module
from metaseg.config.classification import ClassifyTrainConfig
from metaseg.config.io import load_config
from metaseg.config.studies import ClassifySearchConfig
from metaseg.errors import DataError, RunError, TrainingError, UsageError
from metaseg.runs.folder import RunLock
from metaseg.runs.state import RunState
from metaseg.studies import search as module
from metaseg.studies.classifiers.search import TrainingSearch, run_classify_search
from metaseg.training import fitted_run as fit_listener

EPOCHS = 4


def height(rate: float) -> float:
    """An AUC that is best, 0.9, at a learning rate of 1e-3."""
    return 0.9 - 0.1 * abs(math.log10(rate / 1e-3))


@dataclass
class Fits:
    """Trainings that are computed from their learning rate, epoch by epoch; killed when their turn comes."""

    kill_at: set[tuple[int, int]] = field(default_factory=set)
    diverge_above: float = math.inf
    broken: bool = False
    begun: list[float] = field(default_factory=list)

    def __call__(self, folder: Path, config: ClassifyTrainConfig, study: Path) -> None:
        assert not config.test
        self.begun.append(config.learning_rate)
        state = RunState.create(folder / "state.json", "classify-train")
        (folder / "checkpoints").mkdir(exist_ok=True)
        if self.broken:
            raise DataError("a case is damaged")
        if config.learning_rate > self.diverge_above:
            raise TrainingError("the loss became non-finite")
        for epoch in range(1, EPOCHS + 1):
            if (len(self.begun), epoch) in self.kill_at:
                raise KeyboardInterrupt
            watcher = fit_listener._WATCHER.get()
            assert watcher is not None
            watcher(epoch, {"auc/val": height(config.learning_rate) - 0.02 * (EPOCHS - epoch)})
        result = {"metrics": {"auc/val": height(config.learning_rate)}, "steps": 1, "best_step": 1}
        (folder / "result.json").write_text(json.dumps(result))
        state.set_status("finished")


@pytest.fixture
def settings(tmp_path):
    def make(name: str = "study", **changes) -> ClassifySearchConfig:
        values = {
            "shared": {"model": "lau-cnn", "epochs": EPOCHS},
            "space": {"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}},
            "trials": 11, "threads": 1, "device": "cpu", "out": tmp_path / name,
        }  # fmt: skip
        return load_config(ClassifySearchConfig, None, values | changes)

    return make


@pytest.fixture
def searched(monkeypatch):
    """Runs a search with trainings that cost nothing, as often as it is killed and begun again."""
    monkeypatch.setattr(TrainingSearch, "check_validation", lambda search: None)
    monkeypatch.setattr(TrainingSearch, "with_split", lambda search: search)

    def run(config: ClassifySearchConfig, fits: Fits):
        monkeypatch.setattr(module, "run_unit", fits)
        for _ in range(len(fits.kill_at)):
            with pytest.raises(KeyboardInterrupt):
                run_classify_search(config)
        return run_classify_search(config)

    return run


def test_killed_search_goes_on_and_ends_the_same(searched, settings):
    left_alone, killed = Fits(), Fits(kill_at={(2, 1), (5, 3), (11, 2)})
    whole, cut = searched(settings("whole"), left_alone), searched(settings("cut"), killed)
    assert len(killed.begun) == len(left_alone.begun) + 3
    columns = ["trial", "learning_rate", "value", "epochs", "state"]
    pd.testing.assert_frame_equal(whole.trials[columns], cut.trials[columns])
    assert whole.best == cut.best
    # All is done: nothing is repeated, and nothing is left of the locks.
    again = Fits()
    pd.testing.assert_frame_equal(searched(settings("cut"), again).trials, cut.trials)
    assert again.begun == []
    assert not (cut.study / "claims").exists()


def test_first_trial_is_as_given_and_the_best_makes_a_settings_file(searched, settings):
    result = searched(settings(), Fits())
    assert result.trials["learning_rate"][0] == ClassifyTrainConfig().learning_rate
    whole = result.trials[result.trials["state"] == "complete"]
    best = whole.loc[whole["value"].idxmax()]
    assert result.best == {"learning_rate": best["learning_rate"]}
    assert result.value == pytest.approx(height(best["learning_rate"]))
    config = load_config(ClassifyTrainConfig, result.study / "best.yaml")
    assert (config.learning_rate, config.model, config.test, config.out) == (
        best["learning_rate"], "lau-cnn", True, None,
    )  # fmt: skip
    written = pd.read_csv(result.study / "trials.csv")
    assert written["learning_rate"].tolist() == result.trials["learning_rate"].tolist()


def test_trials_below_the_median_end_early_and_say_so(searched, settings):
    result = searched(settings(), Fits())
    pruned = result.trials[result.trials["state"] == "pruned"]
    assert len(pruned)
    assert (pruned["epochs"] == 2).all()
    for number in pruned["trial"]:
        run = result.study / "trials" / f"{number:03d}"
        state = RunState.open(run / "state.json")
        assert state.status == "stopped"
        assert str(state.reason).startswith("pruned after epoch 2")
        assert not (run / "checkpoints").exists()
    untouched = searched(settings("all", pruning=False), Fits())
    assert set(untouched.trials["state"]) == {"complete"}


def test_more_trials_can_be_asked_for_later(searched, settings):
    first = searched(settings(trials=3), Fits())
    more = Fits()
    second = searched(settings(trials=6), more)
    assert len(more.begun) == 3
    assert second.trials["learning_rate"].tolist()[:3] == first.trials["learning_rate"].tolist()


def test_diverged_trial_counts_as_the_worst(searched, settings):
    result = searched(settings(trials=8), Fits(diverge_above=5e-3))
    lost = result.trials[result.trials["learning_rate"] > 5e-3]
    assert len(lost)
    assert set(lost["state"]) == {"diverged"}
    assert set(lost["value"]) == {0.0}


def test_several_folders_share_a_database(searched, settings, tmp_path):
    storage = f"sqlite:///{tmp_path}/shared.db"
    one = searched(settings("one", storage=storage, trials=2), Fits())
    other = Fits()
    both = searched(settings("other", storage=storage, trials=4), other)
    assert len(other.begun) == 2
    assert len(both.trials) == 4
    assert not (both.study / "trials" / "000").exists()
    assert set(one.trials["learning_rate"]) < set(both.trials["learning_rate"])


def test_trial_of_a_living_process_is_left_to_it(searched, settings, monkeypatch):
    monkeypatch.setattr(module, "run_unit", Fits(kill_at={(1, 2)}))
    with pytest.raises(KeyboardInterrupt):
        run_classify_search(settings(trials=3))
    study = settings().out
    lock = RunLock(study / "claims" / "000")
    waits = []
    # Its process comes to an end while we wait.
    monkeypatch.setattr("time.sleep", lambda seconds: (waits.append(seconds), lock.release()))
    fits = Fits()
    assert len(searched(settings(trials=3), fits).trials) == 3
    assert waits
    assert fits.begun[-1] == ClassifyTrainConfig().learning_rate


def test_failing_trial_is_told_once(searched, settings):
    with pytest.raises(RunError, match="1 of 11 units failed") as caught:
        searched(settings(), Fits(broken=True))
    assert "a case is damaged" in str(caught.value)


def test_dry_run_writes_nothing(settings, capsys):
    run_classify_search(settings(dry_run=True, space={}))
    assert not settings().out.exists()
    told = capsys.readouterr().out
    assert "learning_rate from 1e-05 to 0.01; first 0.0003" in told
    assert "batch_size of 8, 16, 32; first 16" in told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": {"monitor": ["auc", "f1"]}}, "'monitor' is no setting to search"),
        ({"space": {"batch_size": [8, 0]}}, "'batch_size' is 0"),
        ({"shared": {"verb": "active"}}, "verb active"),
        ({"shared": {"seed": 3}}, "the study's own"),
        ({"shared": {"modle": "vgg16"}}, "unknown setting 'modle'"),
        ({"storage": "nosuch://x"}, "cannot be opened"),
    ],
)
def test_wrong_settings_are_told_before_anything_runs(searched, settings, changes, words):
    fits = Fits()
    with pytest.raises(UsageError, match=words):
        searched(settings(**changes), fits)
    assert fits.begun == []


def test_other_search_in_the_same_folder_is_refused(searched, settings):
    searched(settings(trials=1), Fits())
    with pytest.raises(UsageError, match="a search with other settings"):
        searched(settings(space={"batch_size": [8, 16]}), Fits())


def test_search_never_opens_the_test_part(write_cases, settings, tmp_path, monkeypatch):
    read: set[str] = set()
    square_images = slices_module.square_images

    def watched(case, *rest):
        read.add(case.id)
        return square_images(case, *rest)

    monkeypatch.setattr(slices_module, "square_images", watched)
    data = [str(write_cases(name, 7, centre=centre)) for name, centre in (("HGG", 0.5), ("LGG", 0.35))]
    shared = {
        "data": data, "model": "lau-cnn", "input_size": 32, "epochs": 2, "augment": "none", "slices_per_case": [3],
    }  # fmt: skip
    result = run_classify_search(settings(shared=shared, trials=2, cache=tmp_path / "cache"))
    split = Split.load(result.study / "split.json")
    assert read == {*split.parts["train"], *split.parts["val"]}
    assert split.parts["test"]
    best = yaml.safe_load((result.study / "best.yaml").read_text())
    assert best["split"] == str(result.study / "split.json")
    run = result.study / "trials" / "000"
    assert not (run / "test").exists()
    recorded = json.loads((run / "result.json").read_text())["metrics"]["auc/val"]
    assert result.trials["value"][0] == pytest.approx(recorded)
    assert np.isfinite(result.trials["seconds"]).all()
