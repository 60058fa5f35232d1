"""Predictions are looked at from outside: with nibabel, in world coordinates."""

from __future__ import annotations

import gzip
import json
import threading
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage

from metaseg.config.segmentation import PredictConfig
from metaseg.errors import DataError, UsageError, WriteError
from metaseg.inference import outputs as nifti_output
from metaseg.inference.predict import predict_cases, run_predict
from metaseg.pictures.overlay import AMBER


def config(out: Path, *cases: Path, **options) -> PredictConfig:
    values = {"out": out, "cases": cases, "device": "cpu", "tta": False, "pictures": False}
    return PredictConfig(**(values | options))


def oblique() -> np.ndarray:
    """Rotated about two axes, with voxels of 0.9 x 1.1 x 3 mm, the second axis pointing back."""
    tilt, turn = 0.3, -0.2
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([0.9, -1.1, 3.0])
    affine[:3, 3] = -31.5, 17.25, -40.0
    return affine


def permuted() -> np.ndarray:
    """Slices first: the first axis points down, the second to the front, the third to the left."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = -2.0, 1.0, -0.5, 1.0
    affine[:3, 3] = 9.0, -8.0, 7.0
    return affine


AFFINES = {
    "RAS": np.diag([1.0, 1.0, 2.0, 1.0]),
    "LPS": np.array([[-1.0, 0, 0, 20], [0, -1.0, 0, 239], [0, 0, 1.0, 0], [0, 0, 0, 1]]),
    "oblique": oblique(),
    "permuted": permuted(),
}


def world_centre(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return nib.affines.apply_affine(affine, ndimage.center_of_mass(mask))


@pytest.mark.parametrize("orientation", AFFINES)
@pytest.mark.parametrize(("qform", "sform"), [(1, 1), (1, 0), (0, 2), (0, 0), (2, 4)])
def test_prediction_overlays_its_input(workshop, orientation, qform, sform):
    folder = workshop.case("MET", "a_1", affine=AFFINES[orientation], label=False)
    for path in folder.iterdir():
        image = nib.load(path)
        # The quaternion cannot hold a shear, but these matrices have none.
        image.set_qform(AFFINES[orientation], code=qform)
        image.set_sform(AFFINES[orientation] if sform else None, code=sform)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    result = predict_cases(workshop.network(), config(workshop.root / "out", folder))
    source = nib.load(folder / "a_1_t1ce.nii.gz")
    found = nib.load(result.cases[0].files["label"])
    assert found.shape == source.shape
    np.testing.assert_array_equal(found.affine, nib.load(folder / "a_1_flair.nii.gz").affine)
    for field in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units", "dim"):
        np.testing.assert_array_equal(found.header[field], source.header[field], err_msg=field)
    np.testing.assert_array_equal(found.header["pixdim"][:4], source.header["pixdim"][:4])
    bright = np.asarray(source.dataobj) > 500
    predicted = np.asarray(found.dataobj)
    np.testing.assert_array_equal(predicted == 4, bright)
    np.testing.assert_allclose(world_centre(predicted == 4, found.affine), world_centre(bright, source.affine))


def test_every_kind_of_nifti_file_keeps_its_kind(workshop):
    folder = workshop.case("MET", "a_1", label=False, affine=oblique())
    second = workshop.case("MET", "b_1", label=False, suffix=".nii")
    third = workshop.case("MET", "c_1", label=False)
    for path in folder.iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti2Image(np.asarray(image.dataobj), image.affine), path)
    for path in third.iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header.as_byteswapped(">")), path)
    result = predict_cases(workshop.network(), config(workshop.root / "out", folder, second, third))
    kinds = [nib.load(case.files["label"]) for case in result.cases]
    assert [type(kind) for kind in kinds] == [nib.Nifti2Image, nib.Nifti1Image, nib.Nifti1Image]
    for kind, source in zip(kinds, (folder, second, third), strict=True):
        flair = nib.load(next(source.glob("*_flair*")))
        np.testing.assert_array_equal(kind.affine, flair.affine)
        np.testing.assert_array_equal(np.asarray(kind.dataobj) > 0, np.asarray(flair.dataobj) > 500)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_volumes_of_itk_give_nifti_on_their_grid(workshop, suffix):
    folder = workshop.case("MET", "a_1", label=False, affine=oblique())
    as_nifti = predict_cases(workshop.network(), config(workshop.root / "nifti", folder))
    for path in list(folder.iterdir()):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path).removesuffix(".nii.gz") + suffix)
        path.unlink()
    as_itk = predict_cases(workshop.network(), config(workshop.root / "itk", folder))
    found, wanted = (nib.load(result.cases[0].files["label"]) for result in (as_itk, as_nifti))
    np.testing.assert_array_equal(found.dataobj, wanted.dataobj)
    np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-4)
    assert np.count_nonzero(found.dataobj)


def test_header_says_what_the_file_holds(workshop):
    folder = workshop.case("MET", "a_1", label=False)
    for path in folder.iterdir():
        image = nib.load(path)
        image.header["descrip"], image.header["aux_file"] = b"Jane Doe", b"scan.par"
        image.header.set_xyzt_units("mm", "sec")
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
        nib.save(image, path)
    result = predict_cases(workshop.network(), config(workshop.root / "out", folder))
    raw = gzip.decompress(result.cases[0].files["label"].read_bytes())
    header = nib.Nifti1Header(raw[:348], check=False)
    assert header.get_data_dtype() == np.uint8
    assert (float(header["scl_slope"]), float(header["scl_inter"])) == (1.0, 0.0)
    assert float(header["cal_max"]) == 4.0
    assert header.get_intent()[0] == "label"
    assert header.get_xyzt_units() == ("mm", "sec")
    assert bytes(header["descrip"]).startswith(b"metaseg ")
    assert b"Jane" not in raw


def test_description_always_keeps_the_mark_of_phantoms():
    long = nifti_output.description("n" * 200 + "ü", synthetic=True)
    assert len(long) == 79
    assert long.endswith(" synthetic")
    assert "synthetic" not in nifti_output.description("net", synthetic=False)


def test_values_follow_the_convention(workshop):
    folder = workshop.case("MET", "a_1", label=False)
    network = workshop.network()
    for name, enhancing, edema in (("brats", 4, 2), ("brats2023", 3, 2), ("msd-brats", 3, 1)):
        result = predict_cases(network, config(workshop.root / name, folder, label_scheme=name))
        values = np.asarray(nib.load(result.cases[0].files["label"]).dataobj)
        assert values[9, 10, 5] == enhancing
        assert values[7, 8, 4] == edema
        record = json.loads(result.cases[0].files["summary"].read_text())
        assert record["label_values"]["ET"] == enhancing
    with pytest.raises(UsageError, match="other classes"):
        predict_cases(network, config(workshop.root / "x", folder, label_scheme="whole-lesion"))


def test_by_default_values_are_the_inputs_own(workshop):
    folder = workshop.case("MET", "BraTS-MET-00001-000", label=False)
    for path in folder.iterdir():
        path.rename(folder / path.name.replace("_flair", "-t2f").replace("_t1ce", "-t1c"))
    network = workshop.network(label_space="whole-lesion")
    subregions = predict_cases(workshop.network(), config(workshop.root / "a", folder))
    whole = predict_cases(network, config(workshop.root / "b", folder))
    assert set(np.unique(nib.load(subregions.cases[0].files["label"]).dataobj)) == {0, 2, 3}
    assert set(np.unique(nib.load(whole.cases[0].files["label"]).dataobj)) == {0, 1}


def test_label_does_not_influence_the_prediction(workshop):
    with_label = workshop.case("MET", "a_1", label=np.ones((24, 22, 12)))
    network = workshop.network()
    first = predict_cases(network, config(workshop.root / "a", with_label))
    (with_label / "a_1_seg.nii.gz").unlink()
    second = predict_cases(network, config(workshop.root / "b", with_label))
    assert first.cases[0].files["label"].read_bytes() == second.cases[0].files["label"].read_bytes()


def test_missing_modality_names_case_and_modality(workshop):
    workshop.case("MET", "a_1", label=False)
    folder = workshop.case("MET", "b_1", modalities=("flair",))
    with pytest.raises(DataError, match=r"case b_1 lacks modality t1ce"):
        predict_cases(workshop.network(), config(workshop.root / "out", folder.parent))
    assert {path.name for path in (workshop.root / "out").glob("*_pred.nii.gz")} == {"a_1_pred.nii.gz"}
    with pytest.raises(DataError, match=r"^case b_1 lacks modality t1ce"):
        predict_cases(workshop.network(), config(workshop.root / "alone", folder))
    assert not (workshop.root / "alone").exists()


def test_further_modalities_and_their_grid_do_not_matter(workshop):
    folder = workshop.case("MET", "a_1", modalities=("flair", "t1", "t1ce"), label=False)
    network = workshop.network(modalities=("t1ce",))
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), folder / "a_1_flair.nii.gz")
    result = predict_cases(network, config(workshop.root / "out", folder))
    found = nib.load(result.cases[0].files["label"])
    np.testing.assert_array_equal(found.affine, nib.load(folder / "a_1_t1ce.nii.gz").affine)
    assert np.asarray(found.dataobj)[9, 10, 5] == 4


def test_a_root_a_case_and_files_give_the_same(workshop):
    folder = workshop.case("MET", "a_1", label=False)
    network = workshop.network()
    arguments = {"case": [folder], "root": [folder.parent.parent], "files": sorted(folder.iterdir())}
    found = {
        name: predict_cases(network, config(workshop.root / name, *paths, label_scheme="brats"))
        for name, paths in arguments.items()
    }
    assert {tuple(case.case for case in result.cases) for result in found.values()} == {("a_1",)}
    assert len({result.cases[0].files["label"].read_bytes() for result in found.values()}) == 1


def test_two_cases_of_one_name_are_refused(workshop):
    folder = workshop.case("MET", "a_1", label=False)
    with pytest.raises(DataError, match="two cases are named a_1"):
        predict_cases(workshop.network(), config(workshop.root / "out", folder, folder))


def test_existing_files_are_refused_and_replaced_on_request(workshop):
    folder, network = workshop.case("MET", "a_1", label=False), workshop.network()
    out = workshop.root / "out"
    first = predict_cases(network, config(out, folder, probabilities=True, pictures=True))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match="exists already") as refused:
        predict_cases(network, config(out, folder, probabilities=True, pictures=True))
    assert str(refused.value.where) in {str(path) for path in first.cases[0].files.values()}
    predict_cases(network, config(out, folder, probabilities=True, pictures=True, overwrite=True))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    predict_cases(network, config(out, folder, overwrite=True))
    assert {path.name for path in out.iterdir()} == {"a_1_pred.nii.gz", "a_1.json"}


def test_nothing_half_written_stays(workshop, monkeypatch):
    folder, out = workshop.case("MET", "a_1", label=False), workshop.root / "out"

    def fail(self, stream):
        stream.write(b"some bytes")
        raise KeyboardInterrupt

    scratch = workshop.root / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr(nib.Nifti1Image, "to_stream", fail)
    other = workshop.case("MET", "b_1", label=False)
    with pytest.raises(KeyboardInterrupt):
        predict_cases(workshop.network(), config(out, folder, other))
    assert list(out.iterdir()) == []
    assert list(scratch.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("metaseg-read")]


def test_one_bad_case_does_not_stop_the_others(workshop, capsys):
    bad = workshop.case("MET", "a_1", label=False)
    workshop.case("MET", "b_1", label=False)
    damaged = bad / "a_1_flair.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(DataError, match="1 of 2 cases could not be predicted") as failure:
        predict_cases(workshop.network(), config(workshop.root / "out", bad.parent))
    assert failure.value.where == damaged
    names = {path.name for path in (workshop.root / "out").iterdir()}
    assert names == {"b_1_pred.nii.gz", "b_1.json", "metaseg-failed.json"}
    failed = json.loads((workshop.root / "out" / "metaseg-failed.json").read_text())["failed"]
    assert [(one["case"], one["where"]) for one in failed] == [("a_1", str(damaged))]
    assert "1 of 2 cases predicted" in capsys.readouterr().out


def test_a_full_disk_stops_the_batch_and_leaves_no_half_case(workshop, monkeypatch):
    folder = workshop.case("MET", "a_1", label=False)
    workshop.case("MET", "b_1", label=False)

    def full(*args: object) -> None:
        raise WriteError("this cannot be written: the disk is full")

    monkeypatch.setattr("metaseg.inference.predict.write_json", full)
    with pytest.raises(WriteError, match="the disk is full"):
        predict_cases(workshop.network(), config(workshop.root / "out", folder.parent))
    assert not list((workshop.root / "out").iterdir())


def test_summary_gives_volumes_in_ml(workshop):
    folder = workshop.case("MET", "a_1", affine=oblique(), label=False)
    result = predict_cases(workshop.network(), config(workshop.root / "out", folder))
    flair, enhanced = (np.asarray(nib.load(folder / f"a_1_{name}.nii.gz").dataobj) > 500 for name in ("flair", "t1ce"))
    ml = 0.9 * 1.1 * 3.0 / 1000
    record = json.loads(result.cases[0].files["summary"].read_text())
    assert record["volumes"]["WT"]["voxels"] == flair.sum()
    assert record["volumes"]["WT"]["ml"] == pytest.approx(flair.sum() * ml, abs=1e-6)
    assert record["volumes"]["ET"]["ml"] == pytest.approx(enhanced.sum() * ml, abs=1e-6)
    assert record["volumes"]["ED"]["ml"] == pytest.approx((flair & ~enhanced).sum() * ml, abs=1e-6)
    assert record["volumes"]["NCR"]["voxels"] == 0
    assert record["synthetic"] is False
    assert "not for clinical use" in record["notice"]
    assert str(workshop.root) not in json.dumps(record["files"])


def test_probabilities_are_a_4d_image_that_agrees_with_the_label(workshop):
    folder = workshop.case("MET", "a_1", affine=permuted(), label=False)
    result = predict_cases(workshop.network(), config(workshop.root / "out", folder, probabilities=True))
    chance = nib.load(result.cases[0].files["probabilities"])
    label = nib.load(result.cases[0].files["label"])
    assert chance.get_data_dtype() == np.float32
    assert chance.shape == (*label.shape, 4)
    np.testing.assert_array_equal(chance.affine, label.affine)
    values = np.asarray(chance.dataobj)
    np.testing.assert_allclose(values.sum(axis=-1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(np.array([0, 1, 2, 4])[values.argmax(axis=-1)], np.asarray(label.dataobj))


def test_four_dimensional_input_gives_a_three_dimensional_label(workshop):
    source = workshop.case("MET", "a_1", affine=oblique(), label=False)
    images = [np.asarray(nib.load(source / f"a_1_{name}.nii.gz").dataobj) for name in ("flair", "t1ce")]
    root = workshop.root / "Task01_Met"
    (root / "imagesTr").mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.stack(images, axis=-1), oblique()), root / "imagesTr" / "m_1.nii.gz")
    description = {
        "modality": {"0": "FLAIR", "1": "T1gd"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": [{"image": "./imagesTr/m_1.nii.gz"}],
    }
    (root / "dataset.json").write_text(json.dumps(description))
    result = predict_cases(workshop.network(), config(workshop.root / "out", root))
    label = nib.load(result.cases[0].files["label"])
    np.testing.assert_array_equal(label.affine, nib.load(root / "imagesTr" / "m_1.nii.gz").affine)
    # The Decathlon's values: edema 1, enhancing 3.
    expected = np.where(images[1] > 500, 3, np.where(images[0] > 500, 1, 0))
    np.testing.assert_array_equal(np.asarray(label.dataobj), expected)


def test_shrunken_slices_come_back_to_the_full_grid(workshop):
    folder = workshop.case("MET", "a_1", shape=(64, 60, 6), affine=permuted()[[0, 1, 2, 3]], label=False)
    network = workshop.network()
    small = replace(network, card=replace(network.card, normalisation={"image_size": 30}))
    result = predict_cases(small, config(workshop.root / "out", folder, pictures=True))
    label = nib.load(result.cases[0].files["label"])
    assert label.shape == (64, 60, 6)
    bright = np.asarray(nib.load(folder / "a_1_flair.nii.gz").dataobj) > 500
    predicted = np.asarray(label.dataobj) > 0
    assert 2 * (bright & predicted).sum() / (bright.sum() + predicted.sum()) > 0.6


def amber(path: Path) -> int:
    return int((np.asarray(Image.open(path).convert("RGB")) == AMBER).all(axis=-1).sum())


@pytest.mark.parametrize("origin", ["network", "case"])
def test_phantoms_mark_everything_that_is_made_from_them(workshop, capsys, origin):
    folder = workshop.case("MET", "a_1", label=False)
    real = predict_cases(workshop.network(), config(workshop.root / "real", folder, pictures=True))
    assert "SYNTHETIC" not in capsys.readouterr().out
    if origin == "case":
        (folder.parent / "metaseg-phantoms.json").write_text('{"cases": {"a_1": {}}}')
    network = workshop.network(synthetic=origin == "network")
    result = predict_cases(network, config(workshop.root / "out", folder, pictures=True))
    files = result.cases[0].files
    assert result.synthetic
    assert not real.synthetic
    assert json.loads(files["summary"].read_text())["synthetic"] is True
    assert bytes(nib.load(files["label"]).header["descrip"]).rstrip(b"\0").endswith(b"synthetic")
    for kind in ("overlay", "heatmap"):
        assert amber(files[kind]) > 100
        assert amber(real.cases[0].files[kind]) == 0
    assert "SYNTHETIC" in capsys.readouterr().out


def test_overlay_has_the_papers_colours_and_the_heat_map_is_warm_at_the_lesion(workshop):
    folder = workshop.case("MET", "a_1", shape=(48, 44, 10), edema=(slice(6, 17), slice(7, 18), slice(3, 8)))
    result = predict_cases(workshop.network(), config(workshop.root / "out", folder, pictures=True))
    overlay = np.asarray(Image.open(result.cases[0].files["overlay"])).astype(int)
    yellow = (overlay[..., 0] > 150) & (overlay[..., 1] > 120) & (overlay[..., 2] < 110)
    assert yellow.mean() > 0.005
    heat = np.asarray(Image.open(result.cases[0].files["heatmap"])).astype(int)[40:-40, :-80]
    warm = (heat[..., 0] > 150) & (heat[..., 2] < 120)
    # The lesion is left of the middle in x and behind the middle in y: on the right and low in radiological view.
    rows, columns = np.nonzero(warm)
    assert rows.mean() > heat.shape[0] / 2
    assert columns.mean() > heat.shape[1] / 2


def test_flips_are_averaged_on_request(workshop):
    folder, network = workshop.case("MET", "a_1", label=False), workshop.network()
    predict_cases(network, config(workshop.root / "plain", folder))
    plain = network.model.calls
    predict_cases(network, config(workshop.root / "flips", folder, tta=True))
    assert network.model.calls == plain + 4 * plain


def slice_folder(root: Path) -> tuple[Path, np.ndarray]:
    """Two images of one patient, bright in a corner, in ``index.csv``."""
    (root / "images").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(60, 70, size=(2, 40, 30)).astype(np.uint8)
    pixels[0, 4:9, 3:12] = 250
    pixels[1, 30:36, 20:25] = 250
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(root / "images" / f"s{number}.png")
    (root / "index.csv").write_text("patient_id,image,class\np1,images/s0.png,glioma\np1,images/s1.png,glioma\n")
    return root, pixels > 200


def test_slices_give_masks_named_and_turned_like_their_images(workshop):
    folder, bright = slice_folder(workshop.root / "slices")
    network = workshop.network(label_space="whole-lesion", modalities=("t1ce",))
    result = predict_cases(network, config(workshop.root / "out", folder, pictures=True, probabilities=True))
    masks = sorted((workshop.root / "out" / "p1_pred").iterdir())
    assert [mask.name for mask in masks] == ["s0.png", "s1.png"]
    for mask, expected in zip(masks, bright, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(mask)), np.where(expected, 255, 0))
    record = json.loads(result.cases[0].files["summary"].read_text())
    assert record["volumes"] == {"WT": {"voxels": int(bright.sum()), "ml": None}}
    assert record["label_values"] == {"background": 0, "lesion": 255}
    chance = np.load(result.cases[0].files["probabilities"])
    np.testing.assert_array_equal(chance.argmax(axis=0), bright)


def test_a_prepared_store_is_no_input(workshop):
    store = workshop.root / "store"
    store.mkdir()
    (store / "store.json").write_text("{}")
    with pytest.raises(UsageError, match="does not hold the headers"):
        predict_cases(workshop.network(), config(workshop.root / "out", store))


def test_a_checkpoint_on_disk_is_all_that_is_needed(workshop):
    folder = workshop.case("MET", "a_1", label=False)
    file = workshop.network().checkpoint
    result = run_predict(config(workshop.root / "out", folder, run=str(file)))
    label = nib.load(result.cases[0].files["label"])
    assert label.shape == (24, 22, 12)
    record = json.loads(result.cases[0].files["summary"].read_text())
    assert (
        record["network"]["checkpoint_digest"] == json.loads(file.with_suffix(".json").read_text())["weights_blake2b"]
    )
