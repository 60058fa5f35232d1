from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaseg.cases.splits import Split
from metaseg.classify.data import into_parts, open_slices
from metaseg.config.classification import ClassifyActiveConfig, ClassifyTrainConfig
from metaseg.config.io import load_config
from metaseg.errors import DataError, UsageError

from .conftest import write_images, write_patients


def write_table(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


class TestClasses:
    def test_are_sorted_by_name_or_as_asked(self, open_set):
        assert open_set().classes == ("left", "right")
        assert open_set(classes="right,left").classes == ("right", "left")

    def test_may_be_the_cohort(self, open_set):
        assert open_set(label="cohort").counts() == open_set().counts()

    def test_others_are_left_out(self, open_set, tmp_path):
        data = write_images(tmp_path / "set", {"left": 3, "middle": 3, "right": 3})
        slices = open_set(data=data, classes="left,right")
        assert slices.counts() == {"left": 3, "right": 3}
        assert len(slices.store) == 6

    @pytest.mark.parametrize(
        ("changes", "error", "match"),
        [
            ({"classes": "left,up"}, UsageError, "unknown class of --classes 'up'"),
            ({"classes": "left,left"}, UsageError, "each once"),
            ({"classes": "left"}, DataError, "all cases are of one class"),
            ({"label": "site"}, DataError, "28 of 28 cases have no site"),
            ({"label": "colour"}, UsageError, "--label colour"),
            ({"slices_per_case": "left=0"}, UsageError, "--slices-per-case"),
            ({"slices_per_case": "up=3"}, UsageError, "--slices-per-case"),
            ({"slices_per_case": "3,4"}, UsageError, "--slices-per-case"),
            ({"slices_per_case": "many"}, UsageError, "--slices-per-case"),
            ({"slices_per_case": "\N{SUPERSCRIPT TWO}"}, UsageError, "--slices-per-case"),
        ],
    )
    def test_wrong_settings_are_told(self, open_set, changes, error, match):
        with pytest.raises(error, match=match):
            open_set(**changes)

    def test_of_a_network_leave_other_cases_out_and_say_so(self, common, tmp_path, capsys):
        data = write_images(tmp_path / "set", {"left": 3, "middle": 2})
        config = load_config(ClassifyTrainConfig, None, common | {"data": data})
        slices = open_slices(config, ("right", "left"), ("image",))
        assert slices.counts() == {"right": 0, "left": 3}
        assert "2 cases are left out" in capsys.readouterr().out
        with pytest.raises(DataError, match="no case is of a class that the network knows"):
            open_slices(config, ("up", "down"), ("image",))


class TestCaseTable:
    @pytest.fixture
    def names(self, open_set):
        return open_set().case_ids.tolist()

    def test_gives_the_classes(self, open_set, names, tmp_path):
        rows = [(name, "odd" if number % 2 else "even") for number, name in enumerate(names)]
        table = write_table(tmp_path / "t.csv", [("case", "kind"), *rows])
        slices = open_set(case_table=table, label="kind")
        assert dict(zip(slices.case_ids, (slices.classes[label] for label in slices.labels), strict=True)) == dict(rows)

    def test_by_patient(self, open_set, patients, tmp_path):
        rows = [(f"{side}{number:02d}", f"{number % 2}") for side in ("left", "right") for number in range(8)]
        table = write_table(tmp_path / "t.csv", [("patient", "parity"), *rows])
        assert open_set(data=patients, case_table=table, label="parity").counts() == {"0": 24, "1": 24}

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda rows: [("case", "type"), *rows[1:]], "columns case, type"),
            (lambda rows: [("name", "kind"), *rows[1:]], "columns name, kind"),
            (lambda rows: rows[:-2], "2 of 28 cases have no class"),
            (lambda rows: [*rows[:-1], (rows[-1][0], "")], "1 of 28 cases have no class"),
            (lambda rows: [*rows, ("stranger", "a")], "1 rows of the table name a case .* stranger"),
            (lambda rows: [*rows, (rows[1][0], "other")], "twice, with the classes"),
            (lambda rows: rows[:1], r"\(none\)"),
            (lambda rows: [], r"\(none\)"),
        ],
    )
    def test_wrong_tables_are_told(self, open_set, names, tmp_path, change, match):
        rows = [("case", "kind"), *((name, name[0]) for name in names)]
        table = write_table(tmp_path / "t.csv", change(rows))
        with pytest.raises(DataError, match=match) as caught:
            open_set(case_table=table, label="kind")
        assert caught.value.where == table

    @pytest.mark.parametrize("content", [None, b"case,kind\n\xff\xfe,a\n"])
    def test_unreadable_tables_are_told(self, open_set, tmp_path, content):
        table = tmp_path / "t.csv"
        if content is not None:
            table.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            open_set(case_table=table, label="kind")


def cases_by_part(parts):
    return {
        name: set(part.case_ids) for name, part in (("train", parts.train), ("val", parts.val), ("test", parts.test))
    }


class TestDivide:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(seed=st.integers(0, 10_000))
    def test_patients_are_on_one_side_and_classes_on_all(self, open_set, common, patients, seed):
        slices = open_set(data=patients)
        parts = into_parts(slices, load_config(ClassifyTrainConfig, None, common | {"seed": seed}))
        groups = [set(part.patients) for part in (parts.train, parts.val, parts.test)]
        assert set.union(*groups) == set(slices.patients)
        assert sum(map(len, groups)) == len(set(slices.patients))
        # Eight patients of each class, three slices each: 70, 15 and 15 % of them, give or take one.
        for part, share in ((parts.train, 0.7), (parts.val, 0.15), (parts.test, 0.15)):
            assert all(count > 0 and abs(count / 3 - 8 * share) <= 1 for count in part.counts().values())

    def test_copies_are_one_patient(self, parts_of, tmp_path):
        data = write_images(tmp_path / "set", {"left": 6, "right": 6})
        for number in range(4):
            (data / "left" / f"copy{number}.png").write_bytes((data / "left" / f"left{number:02d}.png").read_bytes())
        for seed in range(5):
            parts = parts_of(data=data, seed=seed)
            groups = cases_by_part(parts)
            for number in range(4):
                pair = {f"left-left{number:02d}", f"left-copy{number}"}
                assert any(pair <= group for group in groups.values())

    def test_the_saved_split_gives_the_same_parts(self, parts_of, tmp_path):
        parts = parts_of(seed=3)
        parts.split.save(tmp_path / "split.json")
        assert cases_by_part(parts_of(split=tmp_path / "split.json", seed=8)) == cases_by_part(parts)

    def test_a_fold_tests_and_the_next_validates(self, parts_of, open_set, tmp_path):
        names = open_set().case_ids.tolist()
        folds = {f"fold-{number}": tuple(names[number::4]) for number in range(4)}
        Split(0, None, folds, {name: name for name in names}).save(tmp_path / "split.json")
        for fold in range(4):
            parts = cases_by_part(parts_of(split=tmp_path / "split.json", fold=fold))
            assert parts["test"] == set(folds[f"fold-{fold}"])
            assert parts["val"] == set(folds[f"fold-{(fold + 1) % 4}"])
            assert parts["train"] == set(names) - parts["test"] - parts["val"]
        with pytest.raises(UsageError, match="no fold 4"):
            parts_of(split=tmp_path / "split.json", fold=4)

    def test_a_fold_needs_a_split(self, parts_of):
        with pytest.raises(UsageError, match="--fold without --split"):
            parts_of(fold=0)

    @pytest.fixture
    def split(self, parts_of, tmp_path):
        parts_of().split.save(tmp_path / "split.json")
        return tmp_path / "split.json"

    @pytest.mark.parametrize("name", ["train_part", "val_part", "test_part"])
    def test_a_part_that_is_not_there_is_told(self, parts_of, split, name):
        with pytest.raises(UsageError, match="unknown part of the split 'tset'"):
            parts_of(split=split, **{name: "tset"})

    def test_a_split_may_do_without_validation(self, parts_of, split):
        content = json.loads(split.read_text())
        content["parts"]["train"] += content["parts"].pop("val")
        split.write_text(json.dumps(content))
        assert not len(parts_of(split=split).val)

    def test_a_split_of_other_data_is_told(self, parts_of, split, patients):
        with pytest.raises(UsageError, match="holds none of the cases"):
            parts_of(data=patients, split=split)

    @pytest.mark.parametrize("part", ["train", "val", "test"])
    def test_a_part_without_a_class_is_told(self, parts_of, split, part):
        content = json.loads(split.read_text())
        content["parts"][part] = [name for name in content["parts"][part] if name.startswith("left")]
        split.write_text(json.dumps(content))
        with pytest.raises(DataError, match=f"part '{part}' has no slice of class right"):
            parts_of(split=split)

    def test_a_class_with_one_image_is_told(self, parts_of, tmp_path):
        data = write_images(tmp_path / "set", {"left": 10, "right": 1})
        with pytest.raises(DataError, match="has no slice of class right") as caught:
            parts_of(data=data)
        assert caught.value.remedy


class TestAnnotator:
    @pytest.fixture
    def divided(self, common, tmp_path):
        """Patients with known classes, and three that nobody classified."""
        write_patients(tmp_path / "set", 6, 2)
        write_patients(tmp_path / "new", 3, 4, sides=("unknown",))
        config = load_config(
            ClassifyActiveConfig,
            None,
            common | {"data": [tmp_path / "set", tmp_path / "new"], "classes": "left,right", "slices_per_case": "2"},
        )
        slices = open_slices(config, annotator=True)
        return into_parts(slices, config, annotator=True)

    def test_those_of_unknown_class_are_to_train_on(self, divided):
        unknown = divided.train.labels < 0
        assert set(divided.train.patients[unknown]) == {"unknown00", "unknown01", "unknown02"}
        assert (divided.val.labels >= 0).all()
        assert (divided.test.labels >= 0).all()
        assert len(divided.val) > 0

    def test_the_number_of_slices_counts_for_them_too(self, divided):
        assert (divided.train.labels < 0).sum() == 3 * 2
