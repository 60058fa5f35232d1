import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metaseg.metrics.classification import classification_metrics, confusion_counts, patient_probabilities
from metaseg.metrics.probabilities import predicted_classes

CLASSES = ("glioma", "meningioma", "pituitary")


def sure(predicted, classes=3, confidence=0.7):
    """Probabilities whose highest is that of the class predicted."""
    chance = np.full((len(predicted), classes), (1 - confidence) / (classes - 1))
    chance[np.arange(len(predicted)), predicted] = confidence
    return chance


# Truth:            glioma x 4, meningioma x 3, pituitary x 3.
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 1, 0, 2, 2, 0])


def test_hand_worked_table():
    assert confusion_counts(PREDICTED, LABELS, 3).tolist() == [[3, 1, 0], [1, 2, 0], [1, 0, 2]]
    metrics = classification_metrics(sure(PREDICTED), LABELS, CLASSES)
    assert metrics["accuracy"] == pytest.approx(7 / 10)
    assert [metrics[f"recall/{name}"] for name in CLASSES] == pytest.approx([3 / 4, 2 / 3, 2 / 3])
    assert [metrics[f"precision/{name}"] for name in CLASSES] == pytest.approx([3 / 5, 2 / 3, 1])
    assert [metrics[f"f1/{name}"] for name in CLASSES] == pytest.approx([6 / 9, 4 / 6, 4 / 5])
    assert [metrics[f"support/{name}"] for name in CLASSES] == [4, 3, 3]
    assert metrics["balanced_accuracy"] == metrics["recall_macro"] == pytest.approx((3 / 4 + 4 / 3) / 3)
    assert metrics["precision_macro"] == pytest.approx((3 / 5 + 2 / 3 + 1) / 3)
    assert metrics["f1_macro"] == pytest.approx((2 / 3 + 2 / 3 + 4 / 5) / 3)
    assert metrics["ece"] == pytest.approx(0.0)
    assert metrics["brier"] == pytest.approx(0.7 * (0.3**2 + 2 * 0.15**2) + 0.3 * (0.7**2 + 0.85**2 + 0.15**2))
    assert "auc" not in metrics


def test_hand_worked_ranking():
    # Second class: scores 0.9, 0.6, 0.4 against 0.6, 0.3, 0.1: 7 pairs won, 1 tied, 1 lost of 9.
    score = np.array([0.9, 0.6, 0.4, 0.6, 0.3, 0.1])
    metrics = classification_metrics(np.stack([1 - score, score], 1), [1, 1, 1, 0, 0, 0], ("healthy", "tumour"))
    assert metrics["auc"] == metrics["auc_macro"] == metrics["auc/healthy"] == pytest.approx(7.5 / 9)
    # Thresholds 0.9, 0.6, 0.4: recall 1/3, 2/3, 1 at precision 1, 2/3, 3/4.
    assert metrics["average_precision/tumour"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(4, 30))
def test_auc_is_the_rank_sum_statistic(seed, classes, samples):
    generator = np.random.default_rng(seed)
    # Of few values, so that scores tie; with 1/8 all sums are exact.
    chance = generator.multinomial(8, np.full(classes, 1 / classes), samples) / 8
    labels = generator.integers(classes, size=samples)
    names = [f"class {one}" for one in range(classes)]
    metrics = classification_metrics(chance, labels, names)
    known = []
    for one, name in enumerate(names):
        inside, outside = chance[labels == one, one], chance[labels != one, one]
        if len(inside) and len(outside):
            known.append(stats.mannwhitneyu(inside, outside).statistic / (len(inside) * len(outside)))
            assert metrics[f"auc/{name}"] == pytest.approx(known[-1])
        else:
            assert math.isnan(metrics[f"auc/{name}"])
            assert math.isnan(metrics[f"average_precision/{name}"])
    assert metrics["auc_macro"] == pytest.approx(np.mean(known) if known else math.nan, nan_ok=True)
    assert metrics["accuracy"] == pytest.approx(np.mean(np.argmax(chance, 1) == labels))


def test_a_perfect_and_a_reversed_classifier():
    metrics = classification_metrics(sure(LABELS, confidence=1.0), LABELS, CLASSES)
    bounded = {name: value for name, value in metrics.items() if not name.startswith("support/")}
    assert bounded.pop("ece") == bounded.pop("brier") == 0.0
    assert set(bounded.values()) == {1.0}
    wrong = classification_metrics(sure([1, 0], 2, 1.0), [0, 1], ("a", "b"))
    assert (wrong["accuracy"], wrong["auc"], wrong["ece"], wrong["brier"]) == (0.0, 0.0, 1.0, 2.0)


def test_a_class_without_samples_is_in_no_mean():
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    metrics = classification_metrics(sure(predicted), labels, CLASSES)
    assert math.isnan(metrics["recall/pituitary"])
    assert (metrics["precision/pituitary"], metrics["f1/pituitary"], metrics["support/pituitary"]) == (0.0, 0.0, 0.0)
    assert math.isnan(metrics["auc/pituitary"])
    assert metrics["balanced_accuracy"] == pytest.approx(3 / 4)
    assert metrics["precision_macro"] == pytest.approx(1.0)
    assert metrics["f1_macro"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["auc_macro"] == pytest.approx((3 / 4 + 1) / 2)


def test_neither_held_nor_predicted_is_unknown():
    metrics = classification_metrics(sure([0, 1]), [0, 1], CLASSES)
    assert all(math.isnan(metrics[f"{name}/pituitary"]) for name in ("precision", "recall", "f1"))
    assert metrics["precision_macro"] == 1.0


def test_a_class_that_was_never_predicted_counts_as_nothing_found():
    metrics = classification_metrics(sure([0, 0, 0], 2), [0, 0, 1], ("a", "b"))
    assert [metrics[f"{name}/b"] for name in ("precision", "recall", "f1")] == [0.0, 0.0, 0.0]
    assert metrics["precision_macro"] == pytest.approx((2 / 3 + 0) / 2)


def test_a_single_class_has_no_auc():
    metrics = classification_metrics(sure([0, 1], 2), [0, 0], ("a", "b"))
    assert math.isnan(metrics["auc"])
    assert math.isnan(metrics["auc_macro"])
    assert math.isnan(metrics["average_precision_macro"])
    assert metrics["accuracy"] == metrics["balanced_accuracy"] == 0.5


def test_the_first_of_equal_classes_is_predicted():
    assert predicted_classes(np.array([[0.2, 0.4, 0.4], [1 / 3, 1 / 3, 1 / 3]])).tolist() == [1, 0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_confusion_counts_every_pair(pairs):
    counts = confusion_counts([given for given, _ in pairs], [truth for _, truth in pairs], 4)
    assert counts.shape == (4, 4)
    for truth in range(4):
        for given_class in range(4):
            assert counts[truth, given_class] == pairs.count((given_class, truth))


def test_patients_have_the_mean_of_their_slices():
    chance = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.1, 0.9]])
    means, labels, names = patient_probabilities(chance, [0, 1, 0, 0], ["b", "a", "b", "b"])
    assert names.tolist() == ["a", "b"]
    assert labels.tolist() == [1, 0]
    assert means == pytest.approx(np.array([[0.2, 0.8], [0.5, 0.5]]))


def test_patients_of_two_classes_are_refused():
    with pytest.raises(ValueError, match="patient b has slices"):
        patient_probabilities(sure([0, 1, 1], 2), [0, 0, 1], ["a", "b", "b"])
    with pytest.raises(ValueError, match="one for each"):
        patient_probabilities(sure([0, 1], 2), [0, 0], ["a"])


@pytest.mark.parametrize(
    ("chance", "labels", "message"),
    [
        ([[0.5, 0.5]], [0, 1], "expected"),
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "expected"),
        ([[1.0]], [0], "expected"),
        ([[0.5, 0.4]], [0], "sum to 1"),
        ([[1.2, -0.2]], [0], "outside"),
        ([[np.inf, 0.0]], [0], "finite"),
        ([[0.5, 0.5]], [2], "class indices"),
        ([[0.5, 0.5]], [-1], "class indices"),
        ([[0.5, 0.5]], [0.0], "whole numbers"),
    ],
)
def test_wrong_input_is_refused(chance, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(np.array(chance), np.array(labels), ("a", "b"))


@pytest.mark.parametrize("classes", [("a",), ("a", "a"), ("a", "b", "c")])
def test_wrong_names_are_refused(classes):
    with pytest.raises(ValueError, match="class names"):
        classification_metrics(np.array([[0.5, 0.5]]), [0], classes)


def test_half_precision_is_accepted():
    chance = np.random.default_rng(0).dirichlet(np.ones(4), 30).astype(np.float16)
    assert classification_metrics(chance, np.arange(30) % 4, "abcd")["accuracy"] >= 0.0
