from __future__ import annotations

import csv
import shutil

import pytest
from PIL import Image

from metaseg.classify import annotator as annotator_module
from metaseg.classify.active import run_classify_active
from metaseg.classify.annotator import COLUMNS, asked_names, read_answers, thumbnail_folder
from metaseg.classify.rounds import read_rounds
from metaseg.classify.train import run_classify_train
from metaseg.errors import DataError, UsageError
from metaseg.runs.folder import RunFolder

from .conftest import SIDES, write_images


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def write(path, rows, columns=COLUMNS, delimiter=","):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, delimiter=delimiter, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def answer(path, **changes):
    """Fill the file as an annotator who knows the truth."""
    write(path, [row | {"label": row["slice"].partition("-")[0]} | changes for row in read(path)])


@pytest.fixture
def config(active_config, tmp_path):
    """Settings of a run that asks for 4, 4 and 4 labels."""
    settings = {"ask": tmp_path / "labels.csv", "classes": "left,right", "epochs": 1, "acquisition": "margin"}
    return lambda **changes: active_config(**settings | changes)


@pytest.fixture
def asked(config):
    """A run that waits for its first labels."""
    return run_classify_active(config()).waiting


class TestRoundTrip:
    def test_asks_waits_and_goes_on_as_if_the_labels_had_been_there(self, config, active_config, tmp_path):
        path = tmp_path / "labels.csv"
        labels = []
        for number in range(3):
            result = run_classify_active(config(resume=number > 0))
            assert result.waiting == path
            assert len(read(path)) == 4
            assert result.labels == 4 * number
            assert RunFolder.open(result.run).state.status == "stopped"
            labels += asked_names(path)
            answer(path)
        result = run_classify_active(config(resume=True))
        assert result.waiting is None
        assert RunFolder.open(result.run).finished
        known = run_classify_active(active_config(epochs=1, acquisition="margin", out=tmp_path / "known"))
        for one, other in zip(read_rounds(result.run), read_rounds(known.run), strict=True):
            assert (one.chosen, one.labels, one.metrics["test"]) == (other.chosen, other.labels, other.metrics["test"])
        assert labels == [name for one in read_rounds(result.run) for name in one.chosen]

    def test_shows_each_slice(self, asked):
        rows = read(asked)
        assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
        assert all(row["label"] == "" for row in rows)
        for row in rows:
            with Image.open(asked.parent / row["thumbnail"]) as picture:
                assert picture.size == (224, 224)

    def test_thumbnails_are_those_of_the_round(self, asked, config):
        answer(asked)
        run_classify_active(config(resume=True))
        there = {f"{path.parent.name}/{path.name}" for path in thumbnail_folder(asked).iterdir()}
        assert there == {row["thumbnail"] for row in read(asked)}

    def test_unlabelled_images_need_no_class(self, config, tmp_path):
        data = write_images(tmp_path / "set", {**dict.fromkeys(SIDES, 8), "unknown": 6})
        result = run_classify_active(config(data=data, initial=20, budget=20))
        assert {name.partition("-")[0] for name in asked_names(result.waiting)} == {*SIDES, "unknown"}

    def test_what_is_labelled_is_not_asked_again(self, config, tmp_path):
        settings = {"rank": "all", "batch": 20, "budget": 20}
        path = run_classify_active(config(**settings)).waiting
        first = asked_names(path)
        answer(path)
        run_classify_active(config(**settings, resume=True))
        assert len(asked_names(path)) == 16
        assert not set(first) & set(asked_names(path))

    def test_a_round_of_known_slices_asks_nothing(self, config):
        # Weights that do not change rank the same slices first, and they are labelled already.
        settings = {"rank": "all", "initial": 0, "learning_rate": 1e-30, "transfer": "freeze"}
        answer(run_classify_active(config(**settings)).waiting)
        result = run_classify_active(config(**settings, resume=True))
        rounds = read_rounds(result.run)
        assert result.waiting is None
        assert [(one.chosen, one.labels) for one in rounds] == [(rounds[0].chosen, rounds[0].labels)] * 3

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("filled", [False, True])
    def test_killed_while_asking(self, config, tmp_path, monkeypatch, moment, filled):
        real, path = annotator_module.write_questions, tmp_path / "labels.csv"

        def interrupted(*args):
            if moment == "after":
                real(*args)
            raise KeyboardInterrupt

        monkeypatch.setattr(annotator_module, "write_questions", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_classify_active(config())
        monkeypatch.setattr(annotator_module, "write_questions", real)
        if filled and moment == "after":
            answer(path)
        assert run_classify_active(config(resume=True)).waiting == path
        assert all(bool(row["label"]) == (filled and moment == "after") for row in read(path))


def drop(rows):
    return rows[1:]


def double(rows):
    return [*rows, rows[0]]


def stranger(rows):
    return [*rows, rows[0] | {"slice": "stranger"}]


def unknown_label(rows):
    return [rows[0] | {"label": "lfet"}, *rows[1:]]


def no_label(rows):
    return [rows[0] | {"label": " "}, *rows[1:]]


class TestEdits:
    @pytest.mark.parametrize(
        ("edit", "match"),
        [
            (drop, "lacks rows of slices that were asked for"),
            (double, "names slices twice"),
            (stranger, "names slices that were not asked for: stranger"),
            (unknown_label, "holds labels that are no class: .* 'lfet'"),
            (no_label, "still lacks labels"),
            (lambda rows: [], "lacks rows"),
        ],
    )
    def test_wrong_ones_are_told_and_can_be_mended(self, asked, config, edit, match):
        answer(asked)
        right = read(asked)
        write(asked, edit(right))
        with pytest.raises(DataError, match=match) as caught:
            run_classify_active(config(resume=True))
        assert caught.value.where == asked
        assert caught.value.remedy
        write(asked, right)
        assert len(read_rounds(run_classify_active(config(resume=True)).run)) == 2

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (b"", r"has \(none\)"),
            (b"slice,lable\na,left\n", "has slice, lable"),
            (b"\xff\xfe\x00", "cannot be read"),
            (None, "cannot be read: No such file"),
        ],
    )
    def test_files_of_another_kind_are_told(self, asked, config, content, match):
        asked.unlink() if content is None else asked.write_bytes(content)
        with pytest.raises(DataError, match=match):
            run_classify_active(config(resume=True))

    def test_without_answers_it_still_waits(self, asked, config):
        for _ in range(2):
            with pytest.raises(DataError, match="still lacks labels"):
                run_classify_active(config(resume=True))
        answer(asked)
        assert run_classify_active(config(resume=True)).labels == 4

    @pytest.mark.parametrize("delimiter", [",", ";"])
    def test_what_spreadsheets_do_is_no_harm(self, tmp_path, delimiter):
        rows = [
            {"slice": "b", "label": " Right "},
            {"slice": "a", "label": "LEFT"},
            {"slice": "", "label": ""},
        ]
        write(tmp_path / "t.csv", rows, ("label", "slice", "note"), delimiter)
        (tmp_path / "t.csv").write_text("\ufeff" + (tmp_path / "t.csv").read_text(), encoding="utf-8")
        assert read_answers(tmp_path / "t.csv", ["a", "b"], ["left", "right"]).tolist() == [0, 1]

    def test_classes_that_differ_in_capitals_alone(self, tmp_path):
        write(tmp_path / "t.csv", [{"slice": "a", "label": "A"}, {"slice": "b", "label": "a"}])
        assert read_answers(tmp_path / "t.csv", ["a", "b"], ["a", "A"]).tolist() == [1, 0]


class TestNothingIsLost:
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_file_that_is_there_is_refused(self, config, tmp_path, overwrite):
        (tmp_path / "labels.csv").write_text("mine")
        with pytest.raises(UsageError, match="is there already"):
            run_classify_active(config(overwrite=overwrite))
        assert (tmp_path / "labels.csv").read_text() == "mine"
        assert not (tmp_path / "run").exists()

    def test_pictures_that_are_there_are_refused(self, config, tmp_path):
        (tmp_path / "labels_thumbnails").mkdir()
        (tmp_path / "labels_thumbnails" / "0001-mine.png").write_text("mine")
        with pytest.raises(UsageError, match="is there already"):
            run_classify_active(config())
        assert (tmp_path / "labels_thumbnails" / "0001-mine.png").read_text() == "mine"

    def test_the_labels_of_a_run_are_not_overwritten(self, asked, config, tmp_path):
        answer(asked)
        run_classify_active(config(resume=True))
        asked.unlink()
        shutil.rmtree(thumbnail_folder(asked))
        with pytest.raises(UsageError, match="would delete 4 labels that an annotator gave"):
            run_classify_active(config(overwrite=True))
        assert read_rounds(tmp_path / "run")[0].labels

    def test_nor_by_a_run_that_asks_nobody(self, asked, config, active_config, train_config):
        answer(asked)
        run_classify_active(config(resume=True))
        for run, settings in ((run_classify_active, active_config), (run_classify_train, train_config)):
            with pytest.raises(UsageError, match="would delete 4 labels that an annotator gave"):
                run(settings(overwrite=True))

    def test_a_stranger_file_between_rounds_is_refused(self, asked, config, monkeypatch):
        answer(asked)
        real = annotator_module.Annotator.labels

        def swapped(self, number, *args):
            if number == 2:
                asked.write_text("slice,label\nsomething,else\n")
            return real(self, number, *args)

        monkeypatch.setattr(annotator_module.Annotator, "labels", swapped)
        with pytest.raises(UsageError, match="what this run did not ask for: something"):
            run_classify_active(config(resume=True))
        assert asked.read_text() == "slice,label\nsomething,else\n"
