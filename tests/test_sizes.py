"""One settings file holds a study in several sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from metaseg.config.io import dump_config, load_config
from metaseg.config.studies import ClassifyCompareConfig
from metaseg.errors import UsageError
from metaseg.verbs import verb_of

STUDY = {
    "verb": "classify-compare",
    "out": "studies/trial",
    "shared": {"data": "data/pictures", "epochs": 80, "committee_rates": [1, 2, 3]},
    "entries": {"scratch": {"transfer": "scratch", "epochs": 90}, "frozen": {"transfer": "freeze"}},
    "seeds": 5,
    "metric": "f1",
    "sizes": {
        "smoke": {
            "shared": {"data": None, "epochs": 2, "committee_rates": [4]},
            "entries": {"scratch": {"epochs": 3}},
            "seeds": 1,
        },
        "small": {"out": "studies/few", "metric": None},
    },
}


@pytest.fixture
def study(tmp_path):
    def write(**changes):
        file = tmp_path / "trial.yaml"
        file.write_text(yaml.safe_dump(STUDY | changes))
        return file

    return write


def read(file: Path, **given) -> ClassifyCompareConfig:
    return verb_of(ClassifyCompareConfig).settings(file, given)


def test_an_overlay_is_merged_at_every_depth(study):
    smoke = read(study(), size="smoke")
    assert smoke.shared == {"epochs": 2, "committee_rates": [4]}
    assert smoke.entries == {"scratch": {"transfer": "scratch", "epochs": 3}, "frozen": {"transfer": "freeze"}}
    assert (smoke.seeds, smoke.metric, smoke.size) == ((0,), "f1", "smoke")


def test_without_a_size_the_file_is_what_it_is_without_its_overlays(study):
    plain = study(sizes={})
    full = read(plain)
    assert read(study()) == read(study(), size="full") == full
    assert full.shared == STUDY["shared"]


def test_sizes_have_study_folders_of_their_own(study, tmp_path):
    assert read(study(), size="smoke").out == Path("studies/trial-smoke")
    assert read(study(), size="small").out == Path("studies/few")
    assert read(study(), size="smoke", out="mine").out == Path("mine")
    nameless = tmp_path / "trial.yaml"
    nameless.write_text(yaml.safe_dump({key: value for key, value in STUDY.items() if key != "out"}))
    assert read(nameless).out == Path("studies/trial")
    assert read(nameless, size="smoke").out == Path("studies/trial-smoke")


def test_a_null_takes_the_default(study):
    assert read(study(), size="small").metric == "auc"


def test_a_file_is_merged_over_the_one_that_it_extends(study, tmp_path):
    study()
    above = {
        "extends": "trial.yaml", "out": "studies/second", "seeds": 2, "shared": {"epochs": 7, "label": None},
        "entries": {"frozen": None, "whole": {"transfer": "finetune"}},
        "sizes": {"smoke": {"seeds": 4, "entries": {"whole": None}}, "small": None},
    }  # fmt: skip
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(above))
    (tmp_path / "third.yaml").write_text("extends: second.yaml\nseeds: 3\n")
    second, third = (read(tmp_path / f"{name}.yaml") for name in ("second", "third"))
    assert second.shared == {"data": "data/pictures", "epochs": 7, "committee_rates": [1, 2, 3], "label": None}
    assert second.entries == {"scratch": {"transfer": "scratch", "epochs": 90}, "whole": {"transfer": "finetune"}}
    assert (second.out, len(second.seeds), second.metric) == (Path("studies/second"), 2, "f1")
    assert (third.entries, len(third.seeds)) == (second.entries, 3)
    smoke = read(tmp_path / "second.yaml", size="smoke")
    assert smoke.entries == {"scratch": {"transfer": "scratch", "epochs": 3}}
    assert (smoke.shared["committee_rates"], len(smoke.seeds)) == ([4], 4)
    with pytest.raises(UsageError, match="no size 'small'"):
        read(tmp_path / "second.yaml", size="small")


def test_a_file_that_extends_itself_or_nothing_is_refused(tmp_path):
    for name, other in (("one", "two"), ("two", "one"), ("three", "missing")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {other}.yaml\n")
    with pytest.raises(UsageError, match=r"(?s)extends one\.yaml, which extends it.*two\.yaml"):
        read(tmp_path / "one.yaml")
    with pytest.raises(UsageError, match=r"missing\.yaml"):
        read(tmp_path / "three.yaml")


def test_what_a_study_wrote_down_is_read_again(study, tmp_path):
    smoke = read(study(), size="smoke")
    dump_config(smoke, tmp_path / "study.yaml")
    assert load_config(ClassifyCompareConfig, tmp_path / "study.yaml") == smoke


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({"sizes": {"smoke": {"seedz": 1}}}, "smoke", r"(?s)unknown setting 'seedz'.*trial\.yaml, sizes: smoke"),
        ({"sizes": {"smoke": {"seeds": 0.5}}}, "smoke", r"(?s)'seeds' is 0\.5.*trial\.yaml, sizes: smoke"),
        (
            {"sizes": {"smoke": {"entries": {"scratch": {"epoch": None}}}}},
            "smoke",
            r"(?s)'entries: scratch: epoch' is to be removed.*trial\.yaml, sizes: smoke",
        ),
        ({"sizes": {"smoke": {}}}, "small", r"(?s)no size 'small'.*trial\.yaml.*it has smoke, full"),
        ({"sizes": None}, "smoke", r"no size 'smoke'"),
        ({"sizes": {"tiny": {}}}, None, r"(?s)holds a size 'tiny'.*under smoke, under small"),
        ({"sizes": [1]}, None, r"'sizes' holds '\[1\]'"),
        ({"sizes": {"smoke": 3}}, "smoke", r"(?s)no size 'smoke'.*mapping"),
        ({"sizes": {"smoke": None}}, "smoke", r"(?s)no size 'smoke'.*make 'smoke' a mapping"),
        ({}, "tiny", r"(?s)'size' is 'tiny'.*smoke, small, full"),
    ],
)
def test_wrong_sizes_are_refused(study, changes, size, message):
    with pytest.raises(UsageError, match=message):
        read(study(**changes), **({} if size is None else {"size": size}))


def test_other_verbs_have_no_sizes(tmp_path):
    from metaseg.config.segmentation import PretrainConfig

    file = tmp_path / "pretrain.yaml"
    file.write_text("sizes: {smoke: {epochs: 1}}")
    with pytest.raises(UsageError, match="unknown setting 'sizes'"):
        load_config(PretrainConfig, file)
