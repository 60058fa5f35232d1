import json
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from metaseg.inference.classification_files import write_classification_metrics
from metaseg.metrics.classification import classification_metrics, patient_probabilities


@dataclass(frozen=True)
class Table:
    labels: np.ndarray
    classes: tuple[str, ...]
    case_ids: list[str]
    patients: list[str]
    ids: list[str]


@pytest.fixture
def predictions():
    generator = np.random.default_rng(0)
    of_patient = np.repeat(np.arange(12), 4)
    labels = of_patient % 3
    chance = generator.dirichlet(np.ones(3), 48) + 0.5 * np.eye(3)[labels]
    table = Table(
        labels,
        ("glioma", "meningioma", "pituitary"),
        [f"case{one}" for one in of_patient],
        [f"p{one:02}" for one in of_patient],
        [f"case{one}#{number % 4}" for number, one in enumerate(of_patient)],
    )
    return chance / chance.sum(1, keepdims=True), table


def pictures(folder):
    return sorted(path.name for path in (folder / "pictures").iterdir())


def test_files_hold_both_levels(tmp_path, predictions):
    chance, table = predictions
    metrics = write_classification_metrics(tmp_path, chance, table, seed=3, resamples=200, record={"run": "x"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.csv",
        "metrics.json",
        "patients.csv",
        "pictures",
        "predictions.csv",
    ]
    assert pictures(tmp_path) == [
        f"{kind}-{level}.png" for kind in ("confusion", "reliability", "roc") for level in ("patient", "slice")
    ]
    rows = pd.read_csv(tmp_path / "metrics.csv")
    content = json.loads((tmp_path / "metrics.json").read_text())
    for level, count in (("slice", 48), ("patient", 12)):
        of_level = rows[rows.level == level].set_index("name")
        assert of_level.value.to_dict() == pytest.approx(metrics[level])
        assert of_level.value[of_level.index.str.startswith("support/")].sum() == count
        known = of_level[of_level.low.notna()]
        varying = [name for name in ("accuracy", "auc_macro", "recall/glioma", "ece") if 0 < of_level.value[name] < 1]
        assert varying
        assert set(varying) <= set(known.index)
        assert (known.low <= known.high).all()
        assert content["metrics"][level]["ece"]["high"] == pytest.approx(of_level.high["ece"])
        assert content["metrics"][level]["support/glioma"]["low"] is None
        assert np.sum(content["confusion"][level]) == count
    assert (content["slices"], content["patients"], content["evaluation"]) == (48, 12, {"run": "x"})
    assert content["synthetic"] is False
    assert all((tmp_path / name).is_file() for name in content["pictures"])


def test_metrics_can_be_computed_again_from_the_predictions(tmp_path, predictions):
    chance, table = predictions
    metrics = write_classification_metrics(tmp_path, chance, table, resamples=10)
    rows = pd.read_csv(tmp_path / "predictions.csv")
    assert list(rows.columns[:5]) == ["case", "patient", "slice", "truth", "predicted"]
    read = rows[[f"prob_{name}" for name in table.classes]].to_numpy()
    assert (read == chance).all()
    assert rows.slice.tolist() == table.ids
    labels = [table.classes.index(name) for name in rows.truth]
    assert classification_metrics(read, labels, table.classes) == metrics["slice"]
    assert (rows.predicted == np.array(table.classes)[read.argmax(1)]).all()
    patients = pd.read_csv(tmp_path / "patients.csv")
    means, of_patient, names = patient_probabilities(chance, table.labels, table.patients)
    assert patients.patient.tolist() == names.tolist()
    assert (patients.slices == 4).all()
    assert patients[[f"prob_{name}" for name in table.classes]].to_numpy() == pytest.approx(means)
    assert classification_metrics(means, of_patient, table.classes) == metrics["patient"]


def test_equal_input_gives_equal_tables(tmp_path, predictions):
    chance, table = predictions
    for name in ("a", "b"):
        write_classification_metrics(tmp_path / name, chance, table, seed=1, resamples=50)
    for file in ("predictions.csv", "patients.csv", "metrics.csv", "metrics.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_patients_of_several_classes_leave_slices_alone(tmp_path, predictions):
    chance, table = predictions
    write_classification_metrics(tmp_path, chance, table, resamples=10, synthetic=True)
    mixed = replace(table, labels=np.arange(48) % 3)
    metrics = write_classification_metrics(tmp_path, chance, mixed, resamples=10, synthetic=True)
    assert list(metrics) == ["slice"]
    assert not (tmp_path / "patients.csv").exists()
    assert pictures(tmp_path) == ["confusion-slice.png", "reliability-slice.png", "roc-slice.png"]
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert list(content["metrics"]) == ["slice"]
    assert content["synthetic"] is True


def test_an_absent_class_is_an_empty_cell(tmp_path, predictions):
    chance, table = predictions
    keep = np.flatnonzero(table.labels != 2)
    part = Table(
        table.labels[keep],
        table.classes,
        *([names[one] for one in keep] for names in (table.case_ids, table.patients, table.ids)),
    )
    write_classification_metrics(tmp_path, chance[keep], part, resamples=10)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["metrics"]["patient"]["auc/pituitary"] == {"value": None, "low": None, "high": None}
    assert "patient,auc/pituitary,,,\n" in (tmp_path / "metrics.csv").read_text()


def test_wrong_tables_write_nothing(tmp_path, predictions):
    chance, table = predictions
    with pytest.raises(ValueError, match="expected one for each"):
        write_classification_metrics(tmp_path, chance, replace(table, patients=table.patients[1:]))
    with pytest.raises(ValueError, match="class names"):
        write_classification_metrics(tmp_path, chance, replace(table, classes=("a", "b")))
    assert not list(tmp_path.iterdir())
