from __future__ import annotations

import math

import pytest

from metaseg.adapt.methods import METHODS
from metaseg.adapt.methods.registry import resolve_defaults
from metaseg.config.io import load_config
from metaseg.config.segmentation import MetatuneConfig, NaivetuneConfig
from metaseg.errors import UsageError
from metaseg.studies.search import Parameter, default_space, parse_space

FIELDS = frozenset(NaivetuneConfig.__dataclass_fields__)


def parse(space):
    return parse_space(space, NaivetuneConfig, FIELDS, "naive")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_default_spaces_hold_the_defaults_and_allowed_values_only(method):
    family = METHODS.get(method).family
    config = NaivetuneConfig if family == "plain" else MetatuneConfig
    space = parse_space(default_space(method, family), config, frozenset(config.__dataclass_fields__), method)
    assert space
    for name, parameter in space.items():
        default = getattr(resolve_defaults(config(method=method)), name)
        assert parameter.nearest(default) == default, "trial 0 is to be the default itself"
        for value in (*parameter.ends(), parameter.nearest(None)):
            load_config(config, None, {"method": method, name: value})


def test_ranges_and_lists_as_in_yaml():
    # YAML reads 1e-4, without a point, as a text.
    space = parse({"learning_rate": {"low": "1e-4", "high": 3e-3, "log": True}, "lora-rank": [2, 4, 8]})
    assert space["learning_rate"] == Parameter("learning_rate", 1e-4, 3e-3, log=True)
    assert space["lora_rank"].choices == (2, 4, 8)
    assert parse({"lora_rank": {"low": 1, "high": 8}})["lora_rank"].ends() == (1, 8)


def test_nearest_value_of_a_space():
    rate = Parameter("r", 1e-4, 1e-2, log=True)
    assert (rate.nearest(1.0), rate.nearest(0.0), rate.nearest(3e-4)) == (1e-2, 1e-4, 3e-4)
    assert math.isclose(float(rate.nearest(None)), 1e-3)
    assert Parameter("r", choices=(2, 4, 8)).nearest(5) == 4
    assert Parameter("r", choices=("adam", "sgd")).nearest("lion") == "adam"
    assert Parameter("r", 1, 8, whole=True).nearest(3) == 3


def test_optuna_draws_within_the_limits():
    optuna = pytest.importorskip("optuna")
    space = parse({"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "lora_rank": {"low": 2, "high": 4}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        drawn = study.ask({name: parameter.distribution() for name, parameter in space.items()}).params
        assert 1e-4 <= drawn["learning_rate"] <= 1e-2
        assert drawn["lora_rank"] in (2, 3, 4)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"learning_rate": {"low": 1e-2, "high": 1e-3}}, "low below high"),
        ({"learning_rate": {"low": 1e-2, "high": 1e-2}}, "low below high"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "above 0"),
        ({"learning_rate": {"low": "much", "high": 1}}, "'much'"),
        ({"learning_rate": {"low": 1e-4}}, "learning_rate"),
        ({"learning_rate": {"low": 1e-4, "high": 1e-3, "step": 2}}, "learning_rate"),
        ({"learning_rate": {"low": 1e-4, "high": 1e-3, "log": 1}}, "true or false"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": {"low": float("nan"), "high": 1}}, "a number"),
        ({"lora_rank": {"low": 1.5, "high": 3}}, "whole numbers"),
        ({"lora_rank": []}, "values that differ"),
        ({"lora_rank": [2, 2]}, "values that differ"),
        ({"optimizer": {"low": 0, "high": 1}}, "no number"),
        ({"lerning_rate": [1]}, "no setting to search"),
        ("fast", "a mapping"),
    ],
)
def test_wrong_spaces(space, named):
    with pytest.raises(UsageError) as caught:
        parse(space)
    assert named in str(caught.value)
    assert "naive" in str(caught.value)
