"""``metaseg paper``: the studies of a paper by name, and reports of them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from metaseg.config.studies import PaperConfig
from metaseg.errors import RunError, UsageError
from metaseg.reports import paper
from metaseg.reports.paper import PACKAGE, PLACES, files_named, paper_files, run_paper, verb_of_file
from metaseg.verbs import Verb

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def trial(tmp_path, write_cases, monkeypatch):
    """Settings files of a paper: two studies of one small classifier, and one whose data are not there."""
    data = [str(write_cases(name, 7, centre=centre)) for name, centre in (("HGG", 0.5), ("LGG", 0.35))]
    shared = {"model": "2d-cnn", "input_size": 16, "epochs": 1, "augment": "none", "slices_per_case": [2]}
    study = {"verb": "classify-compare", "out": "elsewhere", "entries": {"cnn": {"transfer": "scratch"}},
             "shared": shared | {"data": "gone"}, "resamples": 100,
             "sizes": {"smoke": {"shared": {"data": data}, "seeds": 1}}}  # fmt: skip
    place = tmp_path / "papers"
    place.mkdir()
    (place / "trial2020.yaml").write_text(yaml.safe_dump(study))
    more = study["sizes"] | {"small": {"seeds": 1}}
    (place / "trial2020-second.yaml").write_text(yaml.safe_dump(study | {"sizes": more, "jobs": 2}))
    (place / "trial2020-first.yaml").write_text(yaml.safe_dump(study | {"sizes": {"smoke": {"seeds": 1}}}))
    monkeypatch.setattr(paper, "PLACES", (tmp_path / "none", place))
    monkeypatch.setattr("metaseg.inference.classification_files._draw", lambda *parts: [])
    return lambda **given: run_paper(
        PaperConfig(**({"out": tmp_path / "out", "device": "cpu", "threads": 1, "cache": tmp_path / "cache"} | given))
    )


def test_a_paper_is_run_reported_and_continued(trial, tmp_path, capsys):
    result = trial(name="trial2020.yaml")
    study = tmp_path / "out" / "trial2020-smoke"
    assert result.studies == (study,)
    assert result.pages == (study / "report.html",)
    before = (study / "cells" / "cnn" / "seed-0" / "manifest.json").read_bytes()
    assert trial(name="trial2020.yaml").studies == (study,)
    assert (study / "cells" / "cnn" / "seed-0" / "manifest.json").read_bytes() == before
    capsys.readouterr()
    trial()
    listed = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if "trial" in line}
    assert listed["trial2020"][-3:] == ["done", "–", "–"]
    assert listed["trial2020-first"][-3:] == ["–", "–", "–"]


def test_a_study_that_fails_does_not_keep_the_others(trial, capsys):
    with pytest.raises(
        RunError, match=r"(?s)1 of 3 studies failed: trial2020-first: .*not exist \(.*mend .*same command"
    ):
        trial(name="trial2020", dry_run=True)
    told = capsys.readouterr().out
    assert told.count("cnn: 1 cells") == 2
    assert told.index("trial2020-first failed") < told.index("trial2020-second, smoke")


def test_files_without_the_size_are_passed_over_unless_named_alone(trial, capsys):
    with pytest.raises(RunError, match=r"1 of 1 studies failed: trial2020-second: .*does not exist"):
        trial(name="trial2020", size="small", dry_run=True)
    assert "passed over, without a size 'small': trial2020, trial2020-first" in capsys.readouterr().out
    with pytest.raises(UsageError, match="no size 'small'"):
        trial(name="trial2020.yaml", size="small")


def test_what_is_not_asked_for_is_as_the_file_has_it(trial, monkeypatch):
    seen = []
    monkeypatch.setattr(Verb, "run", lambda self, study: seen.append(study))
    trial(name="trial2020-second", dry_run=True)
    trial(name="trial2020-second", dry_run=True, jobs=1)
    assert [(study.jobs, study.threads, study.dry_run) for study in seen] == [(2, 1, True), (1, 1, True)]


def test_a_dry_run_writes_nothing(trial, tmp_path):
    assert trial(name="trial2020.yaml", dry_run=True).pages == ()
    assert not (tmp_path / "out").exists()


def test_names_stand_for_papers_files_or_all():
    stems = [path.stem for path in files_named("hao2021")]
    assert {"hao2021", "hao2021-balanced"} <= set(stems)
    assert all(stem.startswith("hao2021") for stem in stems)
    assert [path.stem for path in files_named("hao2021-balanced")] == ["hao2021-balanced"]
    assert [path.stem for path in files_named("hao2021.yaml")] == ["hao2021"]
    assert {path.stem for path in files_named("all")} == set(paper_files())
    with pytest.raises(UsageError, match=r"(?s)unknown paper 'hao2012'.*did you mean 'hao2021'"):
        files_named("hao2012")


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the repository")
def test_a_wheel_brings_the_papers_along_where_they_are_looked_for():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["force-include"] == {"configs/paper": f"metaseg/{PLACES[0].relative_to(PACKAGE)}"}
    assert "configs" in build["targets"]["sdist"]["include"]
    assert all(verb_of_file(path).file_argument for path in paper_files().values())
