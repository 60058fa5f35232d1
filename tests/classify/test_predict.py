from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

import metaseg
from metaseg.cases.phantoms import make_phantoms
from metaseg.classify.predict import run_classify_predict
from metaseg.classify.train import run_classify_train
from metaseg.config.classification import ClassifyPredictConfig, ClassifyTrainConfig
from metaseg.config.io import load_config
from metaseg.errors import DataError, MetasegError, RunError, UsageError

from .conftest import write_images


@pytest.fixture(scope="module")
def run(common, tmp_path_factory):
    config = common | {"out": tmp_path_factory.mktemp("trained") / "run", "epochs": 1, "test": False}
    return str(run_classify_train(load_config(ClassifyTrainConfig, None, config)).run)


@pytest.fixture(scope="module")
def volumes(write_cases, common, tmp_path_factory):
    """A classifier of cohorts of NIfTI cases, and the folders of these."""
    folders = [write_cases("HGG", 7), write_cases("LGG", 7, centre=0.4)]
    config = common | {
        "data": folders, "label": "cohort", "modalities": "t1ce,flair", "epochs": 1, "test": False,
        "slices_per_case": "3", "out": tmp_path_factory.mktemp("volumes") / "run",
    }  # fmt: skip
    return str(run_classify_train(load_config(ClassifyTrainConfig, None, config)).run), folders


@pytest.fixture
def predict(run, cache, tmp_path):
    def call(*cases, **changes):
        settings = {"run": run, "cases": cases, "out": tmp_path / "out", "cache": cache, "jobs": 1, "pictures": 0}
        return run_classify_predict(load_config(ClassifyPredictConfig, None, settings | changes))

    return call


def check(result, classes):
    columns = [f"prob_{name}" for name in classes]
    slices = pd.read_csv(result.folder / "slices.csv", dtype={"case": str})
    cases = pd.read_csv(result.folder / "cases.csv", dtype={"case": str}).set_index("case")
    assert np.allclose(slices[columns].sum(axis=1), 1, atol=2e-6)
    assert [columns[place].removeprefix("prob_") for place in slices[columns].to_numpy().argmax(1)] == list(
        slices["predicted"]
    )
    means = slices.groupby("case")[columns].mean()
    for case, row in cases.iterrows():
        assert row["slices"] == (slices["case"] == case).sum()
        assert np.allclose(row[columns].to_numpy(float), means.loc[case], atol=2e-6)
        assert row["predicted"] == means.loc[case].idxmax().removeprefix("prob_")
    return cases


class TestPictures:
    def test_one_image(self, predict, images):
        cases = check(predict(images / "left" / "left03.png"), ("left", "right"))
        assert cases.index.tolist() == ["left03"]

    def test_a_folder_of_images(self, predict, images):
        assert len(check(predict(images / "left"), ("left", "right"))) == 14

    def test_a_folder_of_classes(self, predict, images):
        assert len(check(predict(images), ("left", "right"))) == 28

    def test_a_table_of_slices(self, predict, patients):
        cases = check(predict(patients), ("left", "right"))
        assert set(cases["slices"]) == {3}

    def test_grad_cam_of_each_case(self, predict, images, tmp_path):
        predict(images / "left" / "left03.png", images / "left" / "left04.png", pictures=2)
        assert len(list((tmp_path / "out" / "grad_cam").iterdir())) == 2


class TestVolumes:
    def test_a_case_folder(self, predict, volumes):
        run, (hgg, _) = volumes
        case = sorted(hgg.iterdir())[0]
        cases = check(predict(case, run=run), ("HGG", "LGG"))
        assert cases.index.tolist() == [case.name]
        assert cases["slices"].iloc[0] > 6

    def test_tumour_slices_are_fewer(self, predict, volumes, tmp_path):
        run, (hgg, _) = volumes
        brain = check(predict(hgg, run=run), ("HGG", "LGG"))
        tumour = check(predict(hgg, run=run, slices="tumour", out=tmp_path / "tumour"), ("HGG", "LGG"))
        assert (tumour["slices"] < brain["slices"]).all()

    def test_needs_no_label(self, predict, volumes, tmp_path):
        run, (hgg, _) = volumes
        case = shutil.copytree(sorted(hgg.iterdir())[0], tmp_path / "Brats18_HGG77_1_1")
        for file in case.glob("*_seg.nii.gz"):
            file.unlink()
        for file in case.iterdir():
            file.rename(case / file.name.replace("HGG00", "HGG77"))
        check(predict(case, run=run), ("HGG", "LGG"))
        with pytest.raises(DataError, match="has no outline"):
            predict(case, run=run, slices="tumour", out=tmp_path / "other")
        assert not (tmp_path / "other").exists()

    def test_a_phantom(self, predict, volumes, tmp_path):
        make_phantoms(tmp_path / "phantoms", "hgg", 1)
        run, _ = volumes
        check(predict(tmp_path / "phantoms", run=run), ("HGG", "LGG"))

    def test_a_missing_modality_is_told(self, predict, volumes, tmp_path):
        run, (hgg, _) = volumes
        case = shutil.copytree(sorted(hgg.iterdir())[0], tmp_path / sorted(hgg.iterdir())[0].name)
        next(case.glob("*_t1ce.nii.gz")).unlink()
        with pytest.raises(DataError, match="t1ce"):
            predict(case, run=run)
        assert not (tmp_path / "out").exists()


class TestErrors:
    def test_what_is_there_stays(self, predict, images, tmp_path):
        predict(images / "left")
        before = (tmp_path / "out" / "cases.csv").read_bytes()
        with pytest.raises(UsageError, match="exists already"):
            predict(images / "right")
        assert (tmp_path / "out" / "cases.csv").read_bytes() == before
        predict(images / "right", overwrite=True)
        assert (tmp_path / "out" / "cases.csv").read_bytes() != before

    def test_a_truncated_image_is_told(self, predict, tmp_path):
        data = write_images(tmp_path / "set", {"left": 3})
        broken = data / "left" / "left01.png"
        broken.write_bytes(broken.read_bytes()[:120])
        with pytest.raises(DataError, match=r"left01\.png"):
            predict(data / "left")
        assert "left01" in (tmp_path / "out" / "metaseg-failed.json").read_text()
        assert set(pd.read_csv(tmp_path / "out" / "cases.csv")["case"]) == {"left00", "left02"}

    def test_two_images_of_one_name_are_told(self, predict, images, tmp_path):
        shutil.copy(images / "left" / "left03.png", tmp_path / "left03.png")
        with pytest.raises(DataError, match="two cases are named left03"):
            predict(images / "left" / "left03.png", tmp_path / "left03.png")

    @pytest.mark.parametrize("name", ["nowhere", "nothing.png", "nothing.nii.gz"])
    def test_what_is_not_there_is_told(self, predict, tmp_path, name):
        with pytest.raises(MetasegError, match=name):
            predict(tmp_path / name)
        assert not (tmp_path / "out").exists()

    def test_an_empty_folder_is_told(self, predict, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError):
            predict(tmp_path / "empty")

    def test_a_segmentation_network_is_told(self, predict, images, write_cases, tmp_path, cache):
        run = metaseg.pretrain(
            data=write_cases("HGG", 7), cache=cache, out=tmp_path / "pre", epochs=1, slices_per_epoch=8, jobs=1,
            model_options={"channels": [4, 8], "strides": [2]},
        ).run  # fmt: skip
        with pytest.raises(RunError, match="segmentation"):
            predict(images / "left", run=str(run))

    def test_one_volume_file(self, predict, volumes, tmp_path):
        run, (hgg, _) = volumes
        file = next(sorted(hgg.iterdir())[0].glob("*_t1ce.nii.gz"))
        with pytest.raises(MetasegError, match="flair"):
            predict(file, run=run)
