from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from reports.parsed_page import Page

from metaseg.classify.rounds import read_rounds
from metaseg.config.io import load_config
from metaseg.config.studies import ClassifyCompareConfig, ReportConfig
from metaseg.errors import RunError, UsageError
from metaseg.reports.page import run_report
from metaseg.studies.classifiers.compare import run_classify_compare
from metaseg.studies.papers import print_paper


def report(tmp_path: Path, *runs: Path, **settings) -> Page:
    result = run_report(
        ReportConfig(runs=runs, out=tmp_path / "page.html", **({"figures": False, "overwrite": True} | settings))
    )
    return Page(result.page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(write_cases, tmp_path_factory) -> Path:
    """A small comparison of two strategies of active learning and of training on all labels."""
    root = tmp_path_factory.mktemp("classified")
    data = [str(write_cases(name, 7, centre=centre)) for name, centre in (("HGG", 0.5), ("LGG", 0.35))]
    settings = {
        "shared": {
            "data": data, "model": "lau-cnn", "input_size": 32, "epochs": 1, "augment": "none", "slices_per_case": [3],
            "initial": 6, "batch": 6, "budget": 18,
        },
        "entries": {
            "random": {"verb": "active", "acquisition": "random"},
            "entropy": {"verb": "active", "acquisition": "entropy", "title": "by entropy"},
            "scratch": {"transfer": "scratch", "title": "<b>all & more"},
        },
        "seeds": [0, 1], "resamples": 100, "threads": 1, "device": "cpu", "paper": "hao2021",
        "cache": root / "cache", "out": root / "study",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        # Pictures take most of the time of runs as small as these.
        patch.setattr("metaseg.classify.active.write_curve", _table_alone)
        patch.setattr("metaseg.inference.classification_files._draw", lambda *parts: [])
        return run_classify_compare(load_config(ClassifyCompareConfig, None, settings)).study


def _table_alone(folder: Path, table: pd.DataFrame, *rest: object) -> None:
    table.to_csv(folder / "curve.csv", index=False)


@pytest.fixture(scope="module")
def page(whole) -> Page:
    return Page(run_report(ReportConfig(runs=(whole,))).page.read_text(encoding="utf-8"))


def cell(study: Path, label: str) -> Path:
    return study / "cells" / label / "seed-0"


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+\.\d+", text.replace("−", "-"))]


def test_page_holds_the_metrics_of_the_tables(page, whole):
    summary = pd.read_csv(whole / "summary.csv").set_index("entry")
    shown = page.table("macro F1")
    for label, name in (("random", "random"), ("entropy", "by"), ("scratch", "<b>all")):
        for metric, title in (("auc", "macro AUC"), ("accuracy", "accuracy"), ("f1", "macro F1")):
            wanted = summary.loc[label, [metric + end for end in ("", "_low", "_high", "_sd_seeds")]].dropna()
            assert numbers(shown[name][title]) == pytest.approx(wanted.to_numpy(float), abs=6e-4)
    labels = page.table("labels saved")
    assert set(labels) == {"random", "by"}
    assert labels["by"]["labels"] == "18"
    assert numbers(labels["by"]["area"])[0] == pytest.approx(summary.loc["entropy", "area"], abs=6e-4)
    pairs = pd.read_csv(whole / "pairwise.csv").set_index("entry")
    assert numbers(page.table("p (Holm)")["by"]["difference"]) == pytest.approx(
        [pairs.loc["entropy", "difference"]], abs=6e-4
    )


def test_page_needs_nothing_from_outside(page):
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "data", "srcset")]
    assert sources
    assert all(value.startswith(("#", "data:image/")) for value in sources)
    assert not {"script", "link", "iframe", "object", "b"} & {tag for tag, _, _ in page.attributes}
    assert not any(re.search(r"https?://|@import|url\((?!#)", value) for _, _, value in page.attributes)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    assert "SYNTHETIC" not in page.text


def test_finding_claims_nothing_that_its_test_does_not_carry(page):
    # A few patients can never give p < 0.05.
    finding = page.text.split("Contents")[0]
    assert "highest macro AUC" in finding
    assert "Fewer than 3 seeds" in finding
    assert "is higher by" not in finding


def test_paper_stands_beside_ours(page, whole, capsys):
    summary = pd.read_csv(whole / "summary.csv")
    rows = next(table for table in page.tables if "Hao et al. 2021" in table[0])
    ours = {(row[0], row[1]): row[2:] for row in rows[1:]}
    scratch = summary.set_index("entry").loc["scratch", ["auc", "auc_low", "auc_high"]].dropna()
    published, found = ours["from scratch, all labels", "AUC in %"]
    assert published == "71.93 (70.76 to 73.10)"
    assert numbers(found) == pytest.approx(100 * scratch.to_numpy(float), abs=0.06)
    assert ours["uncertainty sampling, 30 %", "AUC in %"] == ["82.89 (81.87 to 83.91)", "–"]
    print_paper("hao2021", summary, synthetic=False)
    assert "79.91" in capsys.readouterr().out


def test_confusion_counts_all_test_slices_of_all_seeds(page, whole):
    predictions = [
        pd.read_csv(whole / "cells" / "entropy" / f"seed-{seed}" / "test" / "predictions.csv") for seed in (0, 1)
    ]
    both = pd.concat(predictions)
    counts = pd.crosstab(both["truth"], both["predicted"]).to_numpy().ravel()
    assert {str(count) for count in counts} <= set(page.words)
    recalls = page.table("HGG")["by"]
    for name in ("HGG", "LGG"):
        hits = [(one[one["truth"] == name]["predicted"] == name).mean() for one in predictions]
        assert numbers(recalls[name])[0] == pytest.approx(np.mean(hits), abs=6e-4)


def test_figures_are_written_for_a_paper(page, whole):
    files = {path.name for path in (whole / "figures").iterdir()}
    names = ("label-curves.png", "label-curves.pdf", "metrics.pdf", "class-fractions.png", "confusion-scratch.png")
    assert set(names) <= files


def test_training_is_reported_with_mistakes_and_grad_cam(whole, tmp_path):
    run = Path(shutil.copytree(cell(whole, "scratch"), tmp_path / "run"))
    (run / "evaluation" / "grad_cam").mkdir(parents=True)
    Image.new("RGB", (744, 426)).save(run / "evaluation" / "grad_cam" / "001-case_07.png")
    page = report(tmp_path, run, worst=2)
    content = json.loads((run / "test" / "metrics.json").read_text())["metrics"]["slice"]
    assert numbers(page.table("ECE")["run"]["ECE"])[0] == pytest.approx(
        json.loads((run / "test" / "metrics.json").read_text())["metrics"]["patient"]["ece"]["value"], abs=6e-4
    )
    assert numbers(page.table("recall")["LGG"]["recall"])[0] == pytest.approx(content["recall/LGG"]["value"], abs=6e-4)
    table = pd.read_csv(run / "test" / "predictions.csv")
    wrong = table[table["truth"] != table["predicted"]]
    assert len(page.pictures("taken for")) == min(2, len(wrong))
    assert page.pictures("Grad-CAM of case_07")
    assert "Training loss" in page.text
    assert "scratch: as asked for" in page.text


def test_active_learning_is_reported_with_what_it_chose(whole, tmp_path):
    run = cell(whole, "entropy")
    page = report(tmp_path, run)
    rounds = read_rounds(run)
    for one in (rounds[0], rounds[-1]):
        assert all(page.pictures(name) for name in one.chosen)
    score = rounds[-1].scores[0]
    assert score is not None
    assert f"score {score:.3g}" in page.text
    assert "Classes of what was chosen" in page.text
    assert report(tmp_path, run, worst=0).pictures("Slice") == []


def test_several_runs_stand_side_by_side(whole, tmp_path):
    page = report(tmp_path, cell(whole, "random"), cell(whole, "scratch"), worst=0)
    assert {row[0].split()[0] for row in page.tables[0][1:]} == {"random/seed-0", "scratch/seed-0"}


def test_lost_data_cost_the_pictures_only(whole, tmp_path):
    run = Path(shutil.copytree(cell(whole, "random"), tmp_path / "lost"))
    settings = run / "config.yaml"
    changed = yaml.safe_load(settings.read_text()) | {"data": ["gone/elsewhere"]}
    settings.write_text(yaml.safe_dump(changed, sort_keys=False))
    page = report(tmp_path, run)
    assert "No thumbnails" in page.text
    assert "gone/elsewhere" in page.text
    assert page.table("ECE")


def test_synthetic_data_are_marked(whole, tmp_path):
    run = Path(shutil.copytree(cell(whole, "random"), tmp_path / "phantoms"))
    manifest = run / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"synthetic": True}))
    assert "SYNTHETIC" in report(tmp_path, run, worst=0).text


def test_unfinished_study_is_reported_as_far_as_it_came(whole, tmp_path):
    study = Path(shutil.copytree(whole, tmp_path / "study"))
    shutil.rmtree(study / "cells" / "entropy" / "seed-1")
    (study / "summary.csv").unlink()
    page = report(tmp_path, study, worst=0)
    assert "5 of 6 cells are done" in page.text
    assert "1 seed" in page.table("macro F1")["by"]["entry"]


def test_bad_input_gets_one_clear_error(whole, tmp_path):
    search = tmp_path / "search"
    search.mkdir()
    (search / "study.yaml").write_text("verb: classify-search\n")
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(whole / "study.yaml", begun)
    segmented = Path(shutil.copytree(cell(whole, "random"), tmp_path / "segmented"))
    state = json.loads((segmented / "state.json").read_text()) | {"verb": "pretrain"}
    (segmented / "state.json").write_text(json.dumps(state))
    for runs, settings, error, words in (
        ((segmented, cell(whole, "random")), {}, UsageError, "segmentation and classification in one report"),
        ((whole, cell(whole, "random")), {}, UsageError, "by itself"),
        ((cell(whole, "random"),) * 2, {}, UsageError, "named twice"),
        ((search,), {}, UsageError, "a study of 'metaseg classify search'"),
        ((begun,), {}, RunError, "no results yet"),
        ((whole,), {"region": "ET"}, UsageError, "--region ET"),
    ):
        with pytest.raises(error, match=words):
            report(tmp_path, *runs, **settings)
    assert not (tmp_path / "page.html").exists()
