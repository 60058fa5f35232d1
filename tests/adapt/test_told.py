"""An adapted run gives either network: the adapted one, and to the bit the one from before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import metaseg
from metaseg.errors import RunError, UsageError
from metaseg.runs.networks import load_network, load_source

SMALL = {"shots": 2, "slices": 6, "budget": 24, "marks": 1}


@pytest.fixture(scope="module")
def adapted(pretrained, tmp_path_factory) -> tuple[Path, Path]:
    """A pretrained network of its own and a run that was tuned from it at a rate that changes much."""
    root = tmp_path_factory.mktemp("told")
    parent = root / "parent"
    shutil.copytree(pretrained["from_run"], parent)
    given = pretrained | {"from_run": parent}
    return parent, metaseg.naivetune(**given, **SMALL, learning_rate=0.05, out=root / "run").run


def voxels(folder: Path) -> dict[str, np.ndarray]:
    return {file.name: np.asarray(nib.load(file).dataobj) for file in folder.glob("*.nii.gz")}


def test_told_source_is_the_parent_to_the_bit_also_when_the_parent_is_gone(adapted, pretrained, tmp_path):
    parent, run = adapted
    given = {"cases": pretrained["data"], "probabilities": True, "pictures": False}
    metaseg.predict(parent, **given, out=tmp_path / "parent")
    metaseg.predict(run, **given, out=tmp_path / "adapted")
    away = parent.rename(tmp_path / "away")
    try:
        metaseg.predict(run, **given, as_disease="source", out=tmp_path / "source")
        metaseg.predict(run, **given, as_disease="target", out=tmp_path / "target")
        evaluated = metaseg.evaluate(run, data=pretrained["data"], surface=False, pictures=0, cache=pretrained["cache"])
    finally:
        away.rename(parent)
    by_folder = {name: voxels(tmp_path / name) for name in ("parent", "adapted", "source", "target")}
    assert by_folder["parent"].keys() == by_folder["source"].keys() != set()
    for name, before in by_folder["parent"].items():
        assert np.array_equal(before, by_folder["source"][name])
        assert np.array_equal(by_folder["adapted"][name], by_folder["target"][name])
    assert any(not np.array_equal(before, by_folder["target"][name]) for name, before in by_folder["parent"].items())
    assert len(evaluated.changes), "the forgetting is computed with the network that the run keeps"


def test_evaluation_of_either_network_has_a_folder_of_its_own(adapted, pretrained, tmp_path):
    parent, run = adapted
    given = {"data": pretrained["data"], "surface": False, "pictures": 0, "cache": pretrained["cache"]}
    of_parent = metaseg.evaluate(parent, **given, out=tmp_path / "parent")
    source = metaseg.evaluate(run, **given, as_disease="source")
    target = metaseg.evaluate(run, **given, as_disease="target")
    assert (source.out, target.out) == (run / "evaluation-source", run / "evaluation-target")
    compared = ["case", "target", "dice"]
    kept = of_parent.cases[of_parent.cases["case"].isin(source.cases["case"])]
    assert source.cases[compared].to_dict("list") == kept[compared].to_dict("list")
    assert set(source.cases["network"]) == {"after"}
    assert set(target.cases["network"]) == {"before", "after"}


def test_the_network_from_before_has_not_seen_the_shots(adapted):
    parent, run = adapted
    network = load_network(run)
    source = load_source(network)
    assert source.trained_patients == load_network(parent).trained_patients < network.trained_patients
    assert source.patients_known


def test_a_run_that_keeps_no_source_takes_its_parent_while_that_is_there(adapted, tmp_path):
    parent, run = adapted
    old = Path(shutil.copytree(run, tmp_path / "old"))
    for file in (old / "checkpoints").glob("source.*"):
        file.unlink()
    assert load_source(load_network(old)).run == parent
    away = parent.rename(tmp_path / "away")
    try:
        with pytest.raises(RunError, match="keeps no network from before") as caught:
            load_source(load_network(old))
    finally:
        away.rename(parent)
    assert str(parent) in str(caught.value)


def test_auto_gives_each_case_to_the_network_that_the_gate_chose(adapted, pretrained, tmp_path):
    _, run = adapted
    gate = json.loads((run / "gate.json").read_text())
    assert len(gate["target_cases"]) == SMALL["shots"]
    assert {row["domain"] for row in gate["watched"]} == {"source", "target"}
    assert not set(gate["source_cases"]) & {row["case"] for row in gate["watched"]}
    # Half of the cases on either side, whatever the gate has learned.
    named = {"cases": pretrained["data"], "pictures": False}
    odds = {
        case.case: case.decision.probability
        for case in metaseg.predict(run, **named, as_disease="auto", out=tmp_path / "a").cases
    }
    middle = float(np.median([np.log(p / (1 - p)) for p in odds.values()]))
    halved = Path(shutil.copytree(run, tmp_path / "halved", ignore=shutil.ignore_patterns("evaluation*")))
    (halved / "gate.json").write_text(json.dumps(gate | {"bias": gate["bias"] - middle + 1e-9}))
    result = metaseg.predict(halved, **named, as_disease="auto", out=tmp_path / "auto")
    chosen = {case.case: case.decision.domain for case in result.cases}
    assert set(chosen.values()) == {"source", "target"}
    for domain in ("source", "target"):
        metaseg.predict(run, **named, as_disease=domain, out=tmp_path / domain)
    for case, domain in chosen.items():
        name = f"{case}_pred.nii.gz"
        assert np.array_equal(voxels(tmp_path / "auto")[name], voxels(tmp_path / domain)[name])
        assert json.loads((tmp_path / "auto" / f"{case}.json").read_text())["decision"]["domain"] == domain
    again = metaseg.predict(halved, **named, as_disease="auto", out=tmp_path / "auto", resume=True)
    assert {case.case: case.decision.domain for case in again.cases} == chosen
    judged = {"data": pretrained["data"], "surface": False, "pictures": 0, "cache": pretrained["cache"]}
    auto = metaseg.evaluate(halved, **judged, as_disease="auto").cases
    dice = auto.set_index(["network", "case", "target"])["dice"]
    either = {"source": "before", "target": "after"}
    told = metaseg.evaluate(halved, **judged, as_disease="target").cases.set_index(["network", "case", "target"])[
        "dice"
    ]
    assert set(auto.loc[auto["network"] == "after", "decided"]) <= {"source", "target"}
    for _, case, region in (key for key in dice.index if key[0] == "after"):
        of_chosen = told[either[chosen[case]], case, region]
        assert dice["after", case, region] == of_chosen or np.isnan(of_chosen)


def test_without_a_gate_auto_says_so(adapted, pretrained, tmp_path, capsys):
    parent, _ = adapted
    given = pretrained | SMALL | {"from_run": parent, "budget": 4}
    run = metaseg.naivetune(**given, gate=False, out=tmp_path / "run").run
    with pytest.raises(RunError, match="has no gate"):
        metaseg.predict(run, pretrained["data"], as_disease="auto", out=tmp_path / "p")
    with pytest.raises(RunError, match="has no gate"):
        metaseg.evaluate(run, data=pretrained["data"], as_disease="auto", cache=pretrained["cache"])
    alone = shutil.copytree(parent / "checkpoints", tmp_path / "alone") / "best"
    run = metaseg.naivetune(**(given | {"from_run": alone}), out=tmp_path / "no-source").run
    assert "No gate for --as auto: there are no source training cases" in capsys.readouterr().err
    assert not (run / "gate.json").exists()


def test_what_was_never_adapted_has_no_second_network(adapted, pretrained, tmp_path):
    parent, run = adapted
    with pytest.raises(UsageError, match="adapted no network"):
        metaseg.predict(parent, pretrained["data"], as_disease="source", out=tmp_path / "p")
    with pytest.raises(UsageError, match="adapted no network"):
        metaseg.evaluate(parent, data=pretrained["data"], as_disease="target")
    with pytest.raises(UsageError, match="--as and --parent"):
        metaseg.evaluate(run, data=pretrained["data"], as_disease="source", parent=str(parent))
    alone = tmp_path / "alone"
    for file in (run / "checkpoints").glob("last.[js]*"):
        shutil.copy(file, alone.with_suffix(file.suffix))
    with pytest.raises(UsageError, match="lies in no run"):
        metaseg.predict(alone, pretrained["data"], as_disease="source", out=tmp_path / "q")
    assert not (tmp_path / "p").exists()
