from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from reports.parsed_page import Page

import metaseg
from metaseg.config.io import load_config
from metaseg.config.studies import CompareConfig, ReportConfig
from metaseg.errors import MetasegError, RunError, UsageError, WriteError
from metaseg.reports.analysis import read_segmentation
from metaseg.reports.inputs import Reopener
from metaseg.reports.overlays import CaseDrawing, make_side_by_side, volume_text
from metaseg.reports.page import run_report
from metaseg.studies.compare import run_compare
from metaseg.studies.study_metrics import method_summary
from metaseg.studies.tables import read_study_table, write_table

if TYPE_CHECKING:
    from metaseg.store.stored_case import StoredCase

METHODS = ("naive", "active", "passive")


def report(tmp_path: Path, *runs: Path, **settings) -> Page:
    result = run_report(ReportConfig(runs=runs, out=tmp_path / "page.html", figures=False, overwrite=True, **settings))
    assert result.page == tmp_path / "page.html"
    return Page(result.page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(domains, tmp_path_factory) -> Path:
    meta = {"method": "maml", "first_order": True}
    settings = {
        "from": domains["from"], "cache": domains["cache"], "targets": {"met": domains["target"]},
        "shared": domains["shared"], "shots": [2], "seeds": [0, 1], "budget": 12, "marks": 2, "first_marks": 1,
        "resamples": 100,
        "methods": {"naive": {}, "active": {**meta, "order": "active"}, "passive": {**meta, "order": "passive"}},
        "threads": 1, "device": "cpu", "out": tmp_path_factory.mktemp("report") / "study",
    }  # fmt: skip
    return run_compare(load_config(CompareConfig, None, settings)).study


def cell(study: Path, method: str) -> Path:
    return study / "cells" / "met" / method / "shots-2" / "seed-0"


@pytest.fixture
def moved(whole, tmp_path):
    """Copies a cell to a run folder of any name."""

    def move(method: str, name: str) -> Path:
        return Path(shutil.copytree(cell(whole, method), tmp_path / name))

    return move


@pytest.fixture(scope="module")
def page(whole) -> Page:
    result = run_report(ReportConfig(runs=(whole,), worst=1))
    assert result.page == whole / "report.html"
    assert not result.synthetic
    return Page(result.page.read_text(encoding="utf-8"))


def test_first_steps_stand_beside_the_table_of_the_study(page, whole):
    steps = pd.read_csv(whole / "first_steps.csv")
    steps = steps[(steps["domain"] == "target") & (steps["method"] == "active")].set_index("update")
    table = next(table for table in page.tables if table[0][1:3] == ["before", "1"])
    shown = {row[0].split()[0]: row for row in table[1:]}
    for place, update in enumerate((0, 1), start=1):
        assert shown["active"][place].startswith(f"{steps.loc[update, 'dice']:.3f}")
    assert f"{abs(steps.loc[1, 'difference']):.3f}" in shown["active"][2]
    assert (whole / "figures" / "met-shots-2-first-steps.png").exists()
    assert "The first steps" in page.text


def test_two_patients_stand_side_by_side(page, whole):
    runs = [run for run in read_segmentation([whole]).tuned if run.seed == 0]
    table = read_study_table(whole / "results")
    table = table[table["region"] == "ET"]
    shown = make_side_by_side(runs, table, "ET", Reopener())
    assert shown.problem == ""
    assert shown.heated == "ET"
    assert [patient.title.split(":")[0] for patient in shown.patients] == ["training patient", "test patient"]
    trained, tested = (patient.title.split(": ")[1].split(",")[0] for patient in shown.patients)
    assert trained in {row.case for row in runs[0].patients["train"]}
    last = table[(table["domain"] == "target") & (table["case"] == tested) & (table["seed"] == 0)]
    for place, run in enumerate(runs, start=1):
        dice = last[(last["method"] == run.method) & (last["work"] == last["work"].max())]["dice"].item()
        told = f"Dice {dice:.2f}" if dice == dice else "no tumour"
        assert shown.patients[1].captions[place].startswith(f"{told}, FP ")
        assert shown.patients[1].captions[place].endswith(" ml")
    for patient in shown.patients:
        assert patient.names == ("ground truth", *(run.method for run in runs))
        assert len({picture.size for picture in (*patient.overlays, *patient.heat_maps)}) == 1
        # Heat maps are of the methods' own networks.
        assert len({picture.tobytes() for picture in patient.heat_maps}) == len(patient.names)
    assert (whole / "figures" / "met-side-by-side.pdf").exists()
    assert shown.patients[1].captions[1] in page.text


def test_page_of_a_study_needs_nothing_from_outside(page):
    sources = [value for tag, name, value in page.attributes if name in ("src", "href", "data", "srcset")]
    assert sources
    assert "SYNTHETIC" not in page.text
    assert all(value.startswith(("#", "data:image/")) for value in sources)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _, _ in page.attributes}
    assert not any(re.search(r"https?://|@import|url\((?!#)", value) for _, _, value in page.attributes)


def test_links_and_ids_of_a_page_fit_together(page):
    ids = Counter(page.values("id"))
    assert ids.most_common(1)[0][1] == 1
    used = [value[1:] for value in page.values("href") if value.startswith("#")]
    used += re.findall(r"url\(#([^)]+)\)", " ".join(value for _, _, value in page.attributes))
    assert set(used) <= set(ids)


def test_table_holds_the_metrics_of_the_results(page, whole):
    results = read_study_table(whole / "results.csv")
    rows = results[results["region"] == "ET"]
    for method in METHODS:
        mine = rows[rows["method"] == method]
        after = mine[mine["work"] == mine.groupby("seed")["work"].transform("max")]
        cells = page.row(method)
        for domain in ("target", "source"):
            means = after[after["domain"] == domain].groupby(["seed", "patient"])["dice"].mean()
            assert float(cells[f"{domain} after"].split()[0]) == pytest.approx(means.mean(), abs=6e-4)
    expected = method_summary(results, "ET", resamples=100).set_index("method")
    for method in METHODS:
        told = page.row(method)["balanced mean"].replace("−", "-").split()
        wanted = [expected.loc[method, f"balanced_mean{end}"] for end in ("", "_low", "_high")]
        assert [float(told[0]), float(told[1]), float(told[3])] == pytest.approx(wanted, abs=6e-4)
    assert page.row("naive")["p target"] == "–"


def test_methods_are_sorted_by_balanced_mean(page):
    column = page.tables[0][0].index("balanced mean")
    means = [float(row[column].split()[0]) for row in page.tables[0][1:]]
    assert means == sorted(means, reverse=True)


def test_one_best_is_bold_in_each_column(page):
    for head, bold in zip((rows[0] for rows in page.tables), page.bold, strict=True):
        columns = [column for _, column in bold]
        assert len(set(columns)) == len(columns), head
    head, *rows = page.tables[0]
    column = head.index("balanced mean")
    assert (1, column) in page.bold[0]
    least = min(rows, key=lambda row: float(row[head.index("forgotten")].split()[0].replace("−", "-")))
    assert (1 + rows.index(least), head.index("forgotten")) in page.bold[0]


def test_steps_are_not_told_where_the_target_fell(whole, tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    shutil.copy(whole / "study.yaml", study)
    results = read_study_table(whole / "results.csv")
    fallen = (results["method"] == "active") & (results["domain"] == "target") & (results["work"] > 0)
    results.loc[fallen, "dice"] = 0.0
    rises = (results["method"] == "naive") & (results["domain"] == "target") & (results["work"] > 0)
    results.loc[rises, "dice"] = 1.0
    write_table(results, study / "results")
    page = report(tmp_path, study, worst=0)
    assert page.row("active")["steps to 90\u00a0%"] == "–"
    assert page.row("naive")["steps to 90\u00a0%"] != "–"


def test_paper_stands_beside_ours(page):
    table = next(number for number, rows in enumerate(page.tables) if "Han et al. 2018" in rows[0])
    assert [page.row(name, table)["Han et al. 2018"] for name in METHODS] == [
        "0.33 ± 0.3413",
        "0.45 ± 0.2317",
        "0.41 ± 0.2752",
    ]


def test_pictures_show_truth_before_and_every_method(page):
    alts = [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]
    assert all(alts)
    for shown in ("ground truth", "prediction before", *(f"prediction {method}" for method in METHODS)):
        assert sum(shown in alt for alt in alts) == 2, shown  # one case of each domain
    assert any("learned, support" in alt for alt in alts)
    assert "no longer" not in page.text
    assert "made anew differ" not in page.text


def test_finding_claims_no_difference_that_its_test_does_not_carry(page):
    # Two patients can never give p < 0.05.
    finding = page.text.split("Contents")[0]
    assert "highest balanced mean" in finding
    assert "is higher by" not in finding
    assert "is smaller by" not in finding


def test_figures_are_written_for_a_paper(whole, page):
    files = {path.name for path in (whole / "figures").iterdir()}
    for name in ("met-shots-2-retention", "met-shots-2-trajectory", "met-shots-2-paired-target-active"):
        assert {f"{name}.png", f"{name}.pdf"} <= files
    with Image.open(whole / "figures" / "met-shots-2-retention.png") as picture:
        assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)


def test_one_run_is_reported_by_itself(whole, tmp_path):
    page = report(tmp_path, cell(whole, "active"), worst=1)
    result = json.loads((cell(whole, "active") / "result.json").read_text())
    cells = page.row("seed-0")
    assert float(cells["target after"].split()[0]) == pytest.approx(result["after"]["dice/target/ET"], abs=6e-4)
    assert float(cells["source before"].split()[0]) == pytest.approx(result["before"]["dice/source/ET"], abs=6e-4)
    assert "p target" not in cells
    assert not (tmp_path / "figures").exists()


def test_several_runs_stand_side_by_side_and_names_stay_names(moved, tmp_path):
    page = report(tmp_path, moved("naive", "<b>one"), moved("active", "$two&"), worst=0)
    assert {row[0].split()[0] for row in page.tables[0][1:]} == {"<b>one", "$two&"}
    assert not any(tag == "b" for tag, _, _ in page.attributes)
    assert "b" not in page.open
    assert "p against <b>one" in page.text


class TestUnequalBudgets:
    def run(self, moved, method, name, budget, last):
        """A run that ended at a mark before its last, as if its budget had been smaller."""
        run = moved(method, name)
        settings = yaml.safe_load((run / "config.yaml").read_text()) | {"budget": budget}
        (run / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        for table in ("marks.csv", "timing.csv"):
            head, *rows = (run / table).read_text().splitlines()
            kept = [row for row in rows if int(row.partition(",")[0]) <= last]
            (run / table).write_text("\n".join([head, *kept, ""]))
        return run

    def test_compared_where_both_were_evaluated(self, moved, tmp_path):
        short, long = self.run(moved, "active", "short", 8, 8), moved("naive", "long")
        page = report(tmp_path, short, long, worst=0)
        assert "The budgets differ (short 8, long 12): compared after 8 slice gradients, where all" in page.text
        assert "at the end of each run's own budget (short 8, long 12), which is not equal work" in page.text
        marks = pd.read_csv(long / "marks.csv")
        target = marks[(marks["domain"] == "target") & (marks["region"] == "ET")].groupby("step")["dice"].mean()
        own = next(number for number, table in enumerate(page.tables) if number and "steps to 90" in str(table[0]))
        assert float(page.row("long")["target after"].split()[0]) == pytest.approx(target[8], abs=6e-4)
        assert float(page.row("long", own)["target after"].split()[0]) == pytest.approx(target[12], abs=6e-4)
        assert "p target" not in page.row("long", own)

    def test_nothing_is_compared_where_they_never_were(self, moved, tmp_path):
        short, long = self.run(moved, "active", "short", 5, 4), self.run(moved, "naive", "long", 12, 12)
        head, *rows = (long / "marks.csv").read_text().splitlines()
        kept = [row for row in rows if row.partition(",")[0] in ("0", "12")]
        (long / "marks.csv").write_text("\n".join([head, *kept, ""]))
        page = report(tmp_path, short, long, worst=0)
        assert "The budgets differ (short 5, long 12), and no two runs were evaluated at the same work" in page.text
        assert "p target" not in page.row("short")
        assert "at equal work" not in " ".join(str(row) for table in page.tables for row in table)

    def test_equal_budgets_are_not_mentioned(self, page):
        assert "budgets differ" not in page.text


@pytest.fixture(scope="module")
def folded(domains, tmp_path_factory) -> list[Path]:
    """Two runs tuned on all patients there are, cross-validated."""
    root = tmp_path_factory.mktemp("folded")
    settings = {**domains["target"], "from_run": domains["from"], "cache": domains["cache"], "slices": 4, "budget": 12}
    settings |= {"source": domains["shared"]["source"], "shots": "all", "folds": 3, "marks": 1, "jobs": 1}
    meta = {"verify_engine": False, "first_order": True}
    return [
        metaseg.naivetune(**settings, out=root / "naive").run,
        metaseg.metatune(**settings, **meta, out=root / "meta").run,
    ]


def test_folds_stand_in_for_watched_patients_and_say_so(folded, tmp_path):
    page = report(tmp_path, *folded, worst=1)
    assert "Cross-validated: naive (3 folds), meta (3 folds)" in page.text
    assert "6 labelled patients, cross-validated: Dice ET at equal work" in page.text
    assert "6 labelled patients, cross-validated: of 2 methods" in page.text
    for run in folded:
        table = pd.read_csv(run / "cross_validation.csv")
        table = table[table["region"] == "ET"].fillna(1.0)
        for domain in ("target", "source"):
            mean = table[table["domain"] == domain].groupby("patient")["after"].mean().mean()
            assert float(page.row(run.name)[f"{domain} after"].split()[0]) == pytest.approx(mean, abs=6e-4)
    judged = [rows for rows in page.tables if "after, cross-validated" in rows[0]]
    assert [len(rows) for rows in judged] == [1 + 6 + 1] * 2
    # Pictures are of the runs' own networks, which were tuned on all target patients.
    assert "made anew differ" not in page.text
    alts = [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]
    assert any("prediction naive" in alt for alt in alts)


def test_synthetic_data_are_marked(moved, tmp_path):
    run = moved("naive", "phantoms")
    manifest = run / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"synthetic": True}))
    page = report(tmp_path, run, worst=0)
    assert "SYNTHETIC" in page.text
    # Never beside results of patients.
    assert not any("Han et al. 2018" in rows[0] for rows in page.tables)


def test_lost_data_cost_the_pictures_only(moved, tmp_path):
    run = moved("naive", "lost")
    settings = run / "config.yaml"
    changed = yaml.safe_load(settings.read_text()) | {"data": ["gone/elsewhere"]}
    settings.write_text(yaml.safe_dump(changed, sort_keys=False))
    page = report(tmp_path, run)
    assert "No pictures of MET" in page.text
    assert "gone/elsewhere" in page.text
    assert float(page.row("lost")["target after"].split()[0]) >= 0.0


def test_unfinished_run_says_so(moved, tmp_path):
    run = moved("naive", "half")
    state = run / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"status": "stopped"}))
    assert "Not finished, reported as far as it came: half (stopped)" in report(tmp_path, run, worst=0).text


def test_unfinished_study_says_how_much_is_done(whole, tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    shutil.copy(whole / "study.yaml", study)
    results = read_study_table(whole / "results.csv")
    write_table(results[(results["method"] != "passive") | (results["seed"] == 0)], study / "results")
    page = report(tmp_path, study, worst=0)
    assert "5 of 6 cells are done" in page.text
    assert "No metrics at equal seconds" in page.text
    assert "1 seed" in page.row("passive")["method"]
    assert "not finished" not in report(tmp_path, whole, worst=0).text


def test_pretraining_is_reported_with_its_curves(domains, tmp_path):
    page = report(tmp_path, Path(domains["from"]))
    assert "training loss" in page.text
    assert not page.row("pre")["labels used"].startswith("–")


def test_region_is_chosen_among_those_evaluated(whole, tmp_path):
    page = report(tmp_path, whole, region="WT", worst=0)
    after = method_summary(read_study_table(whole / "results.csv"), "WT", resamples=100).set_index("method")[
        "target_after"
    ]
    assert float(page.row("naive")["target after"].split()[0]) == pytest.approx(after["naive"], abs=6e-4)
    with pytest.raises(UsageError, match="'lesion'"):
        report(tmp_path, whole, region="lesion")


def test_bad_input_gets_one_clear_error(whole, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "study.yaml").write_text("budget: 12\n")
    for runs, error, words in (
        ((empty,), RunError, "neither a run nor a study"),
        ((tmp_path / "nowhere",), RunError, "no such run or study"),
        ((tmp_path / "begun",), RunError, "no results yet"),
        ((whole, cell(whole, "naive")), UsageError, "by itself"),
        ((cell(whole, "naive"), cell(whole, "naive")), UsageError, "named twice"),
        ((), MetasegError, "nothing to report on"),
    ):
        with pytest.raises(error, match=words):
            report(tmp_path, *runs)
    assert not (tmp_path / "page.html").exists()


def test_page_is_never_half_written(whole, tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text("earlier")
    monkeypatch.setattr("metaseg.files.os.replace", lambda *names: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(WriteError, match="cannot be written: the disk is full"):
        report(tmp_path, cell(whole, "naive"), worst=0)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "earlier"


def test_false_positives_are_the_painted_voxels_outside_the_tumour(whole):
    run = read_segmentation([cell(whole, "naive")]).runs[0]
    setting = Reopener().setup(run)
    case = setting.target.cases[0]
    drawing = CaseDrawing(case, setting.space, setting.modalities, "ET")
    painted = drawing.label.copy()
    outside = np.argwhere(drawing.label == 0)[:70]
    painted[tuple(outside.T)] = 2
    drawing.add("exact", drawing.label)
    drawing.add("false", painted)
    exact, false = drawing.errors
    # Voxels of the test's cases are 1 mm x 1 mm x 2 mm.
    assert (exact["false_positive"], exact["dice"]) == ("0.00 ml", 1.0)
    assert false["false_positive"] == "0.14 ml"
    assert false["dice"] == 1.0


def test_volume_of_images_without_thickness_is_an_area(whole):
    case = Reopener().setup(read_segmentation([cell(whole, "naive")]).runs[0]).target.cases[0]

    def text_of(**changes: object) -> str:
        info = replace(case.info, geometry=replace(case.info.geometry, **changes))
        return volume_text(cast("StoredCase", SimpleNamespace(info=info)), 1500)

    assert text_of() == "3.00 ml"
    assert text_of(planar=True) == "1,500 mm²"
    assert text_of(unit="pixel") == "1,500 pixels"


def test_moved_study_finds_its_network(whole, domains, tmp_path):
    study = tmp_path / "elsewhere"
    shutil.copytree(cell(whole, "naive"), study / "cells" / "run")
    shutil.copytree(domains["from"], study / "pretrain")
    settings = study / "cells" / "run" / "config.yaml"
    changed = yaml.safe_load(settings.read_text()) | {"from": "studies/old-name/pretrain"}
    settings.write_text(yaml.safe_dump(changed, sort_keys=False))
    run = read_segmentation([study / "cells" / "run"]).runs[0]
    network = Reopener().setup(run).network
    assert network.run is not None
    assert network.run.resolve() == (study / "pretrain").resolve()
