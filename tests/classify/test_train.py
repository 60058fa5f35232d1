from __future__ import annotations

import numpy as np
import pytest

from metaseg.classify import train
from metaseg.classify.train import without_inherited

from .conftest import write_patients


@pytest.fixture
def parts(parts_of, tmp_path):
    return parts_of(data=write_patients(tmp_path / "set", 14, 1))


def left_out(parts, monkeypatch, patients):
    monkeypatch.setattr(train, "run_of_checkpoint", lambda path: path)
    monkeypatch.setattr(train, "trained_patients", lambda run: frozenset(patients))
    return without_inherited(parts, "none")


def test_patients_of_the_weights_are_neither_validated_nor_tested_on(parts, monkeypatch, capsys):
    of_class = parts.test.patients[parts.test.labels == 0]
    gone = sorted(set(of_class))[0]
    left = left_out(parts, monkeypatch, [gone])
    assert gone not in left.test.patients
    assert len(left.test) == np.sum(parts.test.patients != gone)
    assert len(left.val) == len(parts.val)
    assert len(left.train) == len(parts.train)
    assert "left out" in capsys.readouterr().out


def test_a_part_that_loses_a_class_by_that_is_left_out(parts, monkeypatch, capsys):
    gone = set(parts.test.patients[parts.test.labels == 0])
    assert not len(left_out(parts, monkeypatch, gone).test)
    assert "the test part has no slice of class left: it is left out whole" in capsys.readouterr().out


def test_a_part_that_is_left_empty_is_no_error(parts, monkeypatch):
    assert not len(left_out(parts, monkeypatch, set(parts.test.patients)).test)
