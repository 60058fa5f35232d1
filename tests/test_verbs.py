from __future__ import annotations

from importlib import import_module

import pytest

from metaseg.adapt.methods import method_names
from metaseg.cases.readers import READERS
from metaseg.config.classification import ACQUISITIONS
from metaseg.config.fields import config_verb
from metaseg.config.options import FORMATS, Choice
from metaseg.config.segmentation import META_METHODS, ORDERS, PLAIN_METHODS, SEGMENTERS, MetatuneConfig, TuneConfig
from metaseg.models import SEGMENTERS as NETWORKS
from metaseg.sampling import ORDERS as ALL_ORDERS
from metaseg.sampling import STRATEGIES
from metaseg.verbs import ADAPTATION, CLASSIFIER, VERBS, family_of, verb_of, verb_of_family, verbs_of


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_functions_and_results_of_verbs_are_there(verb):
    for reference in (verb.function, verb.result):
        module, _, name = reference.partition(":")
        assert callable(getattr(import_module(module), name))
    assert verb_of(verb.config) is verb
    assert config_verb(verb.config) == verb.name


def test_verbs_are_found_by_settings_kind_and_family():
    assert verb_of(MetatuneConfig()).name == "metatune"
    assert set(verbs_of(ADAPTATION)) == {"tune", "naivetune", "metatune"}
    assert verbs_of(CLASSIFIER)["classify-active"].words == "classify active"
    assert [verb_of_family(family).name for family in ("plain", "meta")] == ["naivetune", "metatune"]
    assert [family_of(name) for name in ("tune", "metatune", "pretrain", "none")] == ["plain", "meta", "", ""]
    assert TuneConfig().method == "rehearse"


@pytest.mark.parametrize(
    ("choice", "registered"),
    [
        (PLAIN_METHODS, method_names("plain")),
        (META_METHODS, method_names("meta")),
        (ORDERS, ALL_ORDERS.names()),
        (ACQUISITIONS, STRATEGIES.names()),
        (SEGMENTERS, NETWORKS.names()),
        (FORMATS, ("auto", *READERS.names())),
    ],
    ids=["plain methods", "meta methods", "orders", "strategies", "segmenters", "readers"],
)
def test_names_in_the_settings_are_those_of_the_registries(choice: Choice, registered):
    assert sorted(choice.names.split()) == sorted(registered)
