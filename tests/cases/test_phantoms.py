"""Phantoms: checked from the written files, with labelled components and plain voxel counts."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from metaseg.cases.check import check_dataset
from metaseg.cases.phantoms import MARKER, SIZES, PhantomSize, build_phantom, make_phantoms, make_pictures, write
from metaseg.cases.phantoms.anatomy import Grid, capsule_distance, ellipsoid_depth, smooth_noise
from metaseg.cases.phantoms.phantom import thick_slices
from metaseg.cases.readers import read_cases
from metaseg.errors import DataError, UsageError

COUNTS = {"hgg": 4, "lgg": 5, "met": 8}
VOXEL_MM3 = math.prod(SIZES["small"].spacing)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "out"
    for cohort, count in COUNTS.items():
        make_phantoms(out, cohort, cases=count)
    return out


@pytest.fixture(scope="module")
def patients(folder) -> dict[str, list[dict]]:
    """Per cohort, each patient's arrays in the files' own frame and its entry in the marker."""
    marker = json.loads((folder / MARKER).read_text())
    return {
        cohort: [
            {kind: values(case, kind) for kind in ("t1", "t1ce", "t2", "flair", "seg")} | marker["cases"][case.name]
            for case in sorted((folder / cohort.upper()).iterdir())
        ]
        for cohort in COUNTS
    }


def load(case: Path, kind: str) -> nib.Nifti1Image:
    return nib.load(case / f"{case.name}_{kind}.nii.gz")


def values(case: Path, kind: str) -> np.ndarray:
    return np.asarray(load(case, kind).dataobj)


def pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    return ndimage.label(mask, np.ones((3, 3, 3)))


def diameter(voxels: int) -> float:
    """Diameter in mm of the ball of as many voxels."""
    return (6 * voxels * VOXEL_MM3 / math.pi) ** (1 / 3)


def every(patients: dict[str, list[dict]]) -> list[dict]:
    return list(itertools.chain.from_iterable(patients.values()))


class TestFiles:
    def test_names_types_and_grid(self, folder):
        for case in folder.glob("*/*"):
            assert re.fullmatch(r"Phantom_(HGG|LGG|MET)_00[1-8]", case.name)
            assert len(list(case.iterdir())) == 5
            for kind in ("t1", "t1ce", "t2", "flair", "seg"):
                image = load(case, kind)
                assert image.shape == (96, 112, 48)
                assert image.get_data_dtype() == (np.uint8 if kind == "seg" else np.int16)
                assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
                np.testing.assert_allclose(image.header.get_zooms(), (1.9, 1.9, 3.0))
                assert bytes(image.header["descrip"]).startswith(b"synthetic (metaseg phantom)")

    def test_labels_are_those_of_brats_2018(self, patients):
        for patient in every(patients):
            assert set(np.unique(patient["seg"])) <= {0, 1, 2, 4}

    def test_intensities_are_positive_and_scaled_by_patient(self, patients):
        maxima = [patient[kind].max() for patient in every(patients) for kind in ("t1", "t1ce", "t2", "flair")]
        assert min(maxima) >= 150
        assert max(maxima) <= 10_000
        assert max(maxima) > 5 * min(maxima)
        assert all(patient["t1"].min() == 0 for patient in every(patients))

    def test_readers_and_check_take_them_for_marked_brats_cases(self, folder):
        cases = read_cases(folder)
        assert {(case.cohort, case.grade, case.synthetic, case.format) for case in cases} == {
            ("HGG", "HGG", True, "brats"),
            ("LGG", "LGG", True, "brats"),
            ("MET", None, True, "brats"),
        }
        assert len(cases) == sum(COUNTS.values())
        assert [str(finding) for finding in check_dataset(folder).findings if finding.level == "error"] == []

    def test_full_size_is_brats_grid_and_shows_the_same_patient(self, patients, tmp_path):
        (case,) = make_phantoms(tmp_path, "hgg", cases=1, size="full")
        image = load(case, "t1ce")
        assert image.shape == (240, 240, 155)
        np.testing.assert_array_equal(image.affine, [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
        small = patients["hgg"][0]
        assert np.count_nonzero(image.dataobj) == pytest.approx(np.count_nonzero(small["t1"]) * VOXEL_MM3, rel=0.02)
        outline = values(case, "seg")
        for label in (1, 2, 4):
            fine, coarse = np.sum(outline == label), np.sum(small["seg"] == label) * VOXEL_MM3
            assert fine == pytest.approx(coarse, rel=0.15)
        assert ndimage.label(np.isin(outline, (1, 4)))[1] == 1


class TestHead:
    def test_brain_volume_is_an_adults_and_the_skull_adds_to_it(self, patients):
        for patient in every(patients):
            litres = np.count_nonzero(patient["t2"]) * VOXEL_MM3 / 1e6
            assert (2.0 < litres < 2.7) if patient["skull"] else (1.1 < litres < 1.7)
        skulls = [patient["skull"] for patient in patients["met"]]
        assert any(skulls)
        assert not all(skulls)
        assert not any(patient["skull"] for patient in patients["hgg"] + patients["lgg"])

    def test_all_sequences_show_the_same_voxels(self, patients):
        for patient in every(patients):
            for kind in ("t1ce", "t2", "flair"):
                np.testing.assert_array_equal(patient[kind] > 0, patient["t1"] > 0)

    def test_fluid_is_bright_in_t2_and_dark_in_flair_and_t1(self, patients):
        for patient in patients["hgg"] + patients["lgg"]:
            healthy = (patient["t1"] > 0) & ~ndimage.binary_dilation(patient["seg"] > 0, iterations=2)
            fluid = healthy & (patient["t2"] > np.quantile(patient["t2"][healthy], 0.97))
            for kind in ("t1", "flair"):
                assert np.median(patient[kind][fluid]) < np.quantile(patient[kind][healthy], 0.25)

    def test_grey_and_white_matter_change_places_between_t1_and_t2(self, patients):
        for patient in every(patients):
            healthy = ndimage.binary_erosion(patient["t1"] > 0, iterations=10 if patient["skull"] else 2)
            healthy &= ~ndimage.binary_dilation(patient["seg"] > 0, iterations=2)
            assert np.corrcoef(patient["t1"][healthy], patient["t2"][healthy])[0, 1] < -0.2


class TestTumours:
    def test_lies_in_the_brain(self, patients):
        for patient in every(patients):
            assert np.all(patient["t1"][patient["seg"] > 0] > 0)
            if patient["skull"]:
                # Bone and scalp are at least 11 mm thick.
                assert np.all(ndimage.distance_transform_edt(patient["t1"] > 0, (1.9, 1.9, 3))[patient["seg"] > 0] > 8)

    def test_glioma_is_one_large_core(self, patients):
        for patient in patients["hgg"] + patients["lgg"]:
            core = np.isin(patient["seg"], (1, 4))
            assert ndimage.label(core)[1] == patient["lesions"] == 1
            assert 24 < diameter(core.sum()) < 60
            assert np.sum(patient["seg"] == 2) > 0

    def test_necrosis_of_high_grade_glioma_lies_inside_the_rim(self, patients):
        for patient in patients["hgg"]:
            necrosis, rim = patient["seg"] == 1, patient["seg"] == 4
            neighbours = ndimage.binary_dilation(necrosis) & ~necrosis
            assert necrosis.sum() > 100
            assert rim[neighbours].mean() > 0.9

    def test_low_grade_glioma_hardly_enhances(self, patients):
        enhancing = [np.sum(patient["seg"] == 4) / np.sum(patient["seg"] > 0) for patient in patients["lgg"]]
        assert max(enhancing) < 0.1
        assert min(enhancing) == 0

    def test_metastases_are_few_to_twelve_and_of_their_size(self, patients):
        counts = []
        for patient in patients["met"]:
            labelled, count = pieces(np.isin(patient["seg"], (1, 4)))
            counts.append(count)
            assert count == patient["lesions"]
            sizes = np.bincount(labelled.ravel())[1:]
            assert diameter(sizes.min()) >= diameter(1)
            assert diameter(sizes.max()) <= 25 * 1.1
        assert 1 <= min(counts) < max(counts) <= 12

    def test_metastases_are_round_and_gliomas_are_not(self, patients):
        def fill(patient: dict) -> float:
            """Share of the bounding box that the largest core fills; pi / 6 for an ellipsoid along the axes."""
            labelled, _ = pieces(np.isin(patient["seg"], (1, 4)))
            largest = labelled == 1 + np.argmax(np.bincount(labelled.ravel())[1:])
            box = largest[ndimage.find_objects(largest.astype(np.uint8))[0]]
            return box.sum() / box.size

        assert np.mean([fill(patient) for patient in patients["met"]]) == pytest.approx(math.pi / 6, abs=0.07)
        assert np.mean([fill(patient) for patient in patients["hgg"]]) < 0.48

    def test_enhancing_tumour_is_brighter_than_its_surroundings_in_t1ce(self, patients):
        for patient in patients["hgg"] + patients["met"]:
            labelled, count = pieces(np.isin(patient["seg"], (1, 4)))
            for lesion in range(1, count + 1):
                core = labelled == lesion
                if diameter(core.sum()) < 8:
                    continue
                shell = ndimage.binary_dilation(core, iterations=3) & ~ndimage.binary_dilation(core)
                enhancing = patient["t1ce"][core & (patient["seg"] == 4)]
                assert np.median(enhancing) > 1.1 * np.median(patient["t1ce"][shell & (patient["t1"] > 0)])

    def test_edema_is_bright_in_flair(self, patients):
        for patient in every(patients):
            edema = patient["seg"] == 2
            brain = ndimage.binary_erosion(patient["t1"] > 0, iterations=10 if patient["skull"] else 2)
            if edema.sum() > 50:
                assert np.median(patient["flair"][edema]) > 1.2 * np.median(patient["flair"][brain & ~edema])

    def test_edema_of_metastases_is_out_of_proportion(self, patients):
        ratios = [np.sum(p["seg"] == 2) / np.sum(np.isin(p["seg"], (1, 4))) for p in patients["met"]]
        assert max(ratios) > 5 * min(ratios)


class TestWriting:
    def test_same_seed_gives_the_same_bytes(self, folder, tmp_path):
        (case,) = make_phantoms(tmp_path, "HGG", cases=1)
        for file in case.iterdir():
            assert file.read_bytes() == (folder / "HGG" / case.name / file.name).read_bytes()

    def test_two_that_want_the_same_folder_share_it(self, tmp_path, monkeypatch):
        coarse = PhantomSize((24, 56, 48), (24, 56, 48), (6.0, 3.8, 3.8))
        monkeypatch.setattr(write, "SIZES", {"small": coarse})
        made = []
        monkeypatch.setattr(write, "build_phantom", lambda *which: (made.append(which), build_phantom(*which))[1])
        with ThreadPoolExecutor(3) as pool:
            folders = list(pool.map(lambda cases: make_phantoms(tmp_path, "HGG", cases=cases), (3, 2, 3)))
        assert [len(found) for found in folders] == [3, 2, 3]
        assert sorted(number for _, _, number, _ in made) == [1, 2, 3]

    def test_seed_number_and_cohort_change_the_patient(self):
        coarse = PhantomSize((24, 56, 48), (24, 56, 48), (6.0, 3.8, 3.8))
        first, again, *others = (
            build_phantom(*which, coarse).label
            for which in (("HGG", 0, 1), ("HGG", 0, 1), ("HGG", 1, 1), ("HGG", 0, 2), ("LGG", 0, 1))
        )
        np.testing.assert_array_equal(first, again)
        assert all(np.any(first != other) for other in others)

    def test_marker_tells_all_cohorts(self, folder):
        marker = json.loads((folder / MARKER).read_text())
        assert (marker["synthetic"], marker["version"], marker["size"]) == (True, 1, "small")
        assert len(marker["cases"]) == sum(COUNTS.values())
        entry = marker["cases"]["Phantom_HGG_002"]
        assert entry == {"cohort": "HGG", "grade": "HGG", "seed": 0, "number": 2, "lesions": 1, "skull": False}

    def test_continues_where_it_was_cut_off(self, folder, tmp_path):
        out, told = tmp_path / "out", []
        make_phantoms(out, cases=1)
        first = out / "HGG" / "Phantom_HGG_001"
        before = {file: file.stat().st_mtime_ns for file in first.iterdir()}
        (out / "HGG" / ".Phantom_HGG_002.part").mkdir()
        shutil.copytree(first, out / "HGG" / "Phantom_HGG_002")
        made = make_phantoms(out, cases=2, progress=lambda done, wanted: told.append((done, wanted)))
        assert told == [(1, 2), (2, 2)]
        assert made == [first, out / "HGG" / "Phantom_HGG_002"]
        assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == before
        assert sorted(entry.name for entry in (out / "HGG").iterdir()) == [case.name for case in made]
        for file in made[1].iterdir():
            assert file.read_bytes() == (folder / "HGG" / "Phantom_HGG_002" / file.name).read_bytes()
        (first / "Phantom_HGG_001_t2.nii.gz").unlink()
        make_phantoms(out, cases=1)
        assert (first / "Phantom_HGG_001_t2.nii.gz").is_file()

    def test_nothing_of_others_is_touched(self, tmp_path):
        (tmp_path / "HGG" / "Brats18_1").mkdir(parents=True)
        with pytest.raises(DataError, match="other things than phantoms") as caught:
            make_phantoms(tmp_path, cases=1)
        assert "name another folder" in str(caught.value)
        assert [path.name for path in tmp_path.rglob("*")] == ["HGG", "Brats18_1"]
        with pytest.raises(DataError, match="a file stands where"):
            make_phantoms(Path(__file__), cases=1)

    @pytest.mark.parametrize(
        ("marker", "message"),
        [
            ('{"version": 1, "size": "full", "cases": {}}', "size 'full'"),
            ('{"version": 0, "size": "small", "cases": {}}', "version 0"),
            ('{"version": 1, "size": "small", "cases": {"Phantom_HGG_001": {"seed": 5}}}', "made with seed 5"),
            ("{", "no JSON"),
            ("[]", "damaged"),
        ],
    )
    def test_other_phantoms_are_not_mixed_in(self, tmp_path, marker, message):
        (tmp_path / MARKER).write_text(marker)
        with pytest.raises(DataError, match=message):
            make_phantoms(tmp_path, cases=1)
        assert (tmp_path / MARKER).read_text() == marker

    @pytest.mark.parametrize("wrong", [{"cohort": "glioma"}, {"size": "huge"}, {"cases": 0}, {"seed": -1}])
    def test_wrong_arguments(self, tmp_path, wrong):
        with pytest.raises(UsageError, match=re.escape(str(next(iter(wrong.values()))))):
            make_phantoms(tmp_path / "out", **wrong)
        assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures") / "set", "yes-no", 1)


class TestPictures:
    def test_readers_take_them_for_marked_classified_images(self, pictures):
        cases = read_cases(pictures)
        assert [(case.format, case.grade, case.synthetic) for case in cases] == [
            ("image-folder", "no", True),
            ("image-folder", "yes", True),
        ]

    def test_one_shows_the_largest_tumour_slice_and_the_other_a_slice_without(self, pictures):
        for name, cohort, number in (("yes", "HGG", 1), ("no", "LGG", 2)):
            phantom = build_phantom(cohort, 0, number, SIZES["small"])
            picture = np.asarray(Image.open(pictures / name / f"{name}_001.png")) > 0
            fits = [int((picture == (plane > 0)).sum()) for plane in phantom.images["t1ce"]]
            shown = (phantom.label[int(np.argmax(fits))] > 0).sum()
            assert shown == ((phantom.label > 0).sum(axis=(1, 2)).max() if name == "yes" else 0)

    def test_what_is_there_is_kept_and_made_anew_is_the_same(self, pictures, tmp_path):
        file = pictures / "no" / "no_001.png"
        before = file.stat().st_mtime_ns
        assert make_pictures(pictures, "yes-no", 1) == pictures
        assert file.stat().st_mtime_ns == before
        again = make_pictures(tmp_path / "again", "yes-no", 1)
        assert (again / "no" / "no_001.png").read_bytes() == file.read_bytes()


class TestFields:
    def test_noise_is_a_cubic_spline_of_its_lattice(self):
        grid = Grid((7, 9, 11), (5.0, 3.0, 2.0))
        found = smooth_noise(np.random.default_rng(3), grid, 20)
        lattice = np.random.default_rng(3).standard_normal((16, 16, 16), dtype=np.float32)
        places = np.meshgrid(*[(grid.axis(axis) + 120) / 20 + 1 for axis in range(3)], indexing="ij")
        expected = ndimage.map_coordinates(lattice, places, order=3, prefilter=False) * (315 / 151) ** 1.5
        np.testing.assert_allclose(found, expected, atol=1e-4)

    def test_noise_has_unit_deviation_and_does_not_depend_on_the_grid(self):
        fine, coarse = Grid((41, 41, 41), (5.0, 5.0, 5.0)), Grid((21, 21, 21), (10.0, 10.0, 10.0))
        field = smooth_noise(np.random.default_rng(0), fine, 9)
        assert field.mean() == pytest.approx(0, abs=0.1)
        assert field.std() == pytest.approx(1, abs=0.05)
        np.testing.assert_allclose(field[::2, ::2, ::2], smooth_noise(np.random.default_rng(0), coarse, 9), atol=1e-4)

    def test_depth_and_distance_are_exact_for_balls(self):
        grid = Grid((20, 20, 20), (1.0, 1.0, 1.0))
        z, y, x = grid.coordinates
        radius = np.sqrt(z**2 + y**2 + x**2)
        np.testing.assert_allclose(ellipsoid_depth((z, y, x), (6, 6, 6)), 6 - radius, atol=1e-4)
        rod = capsule_distance((z, y, x), (0, 0, -100), (0, 0, 100), (3, 3))
        np.testing.assert_allclose(rod, np.broadcast_to(np.hypot(z, y) - 3, rod.shape), atol=1e-4)

    def test_thick_slices_average_over_their_thickness(self):
        grid = Grid((48, 2, 2), (1.0, 1.0, 1.0))
        mask = np.ones(grid.shape, bool)
        height = np.broadcast_to(grid.coordinates[0], grid.shape)
        step = (height > 0).astype(np.float32)
        np.testing.assert_allclose(thick_slices(np.ones(mask.sum(), np.float32), 5.0, grid, mask), 1, atol=1e-5)
        ramp = thick_slices(height[mask].copy(), 4.0, grid, mask).reshape(grid.shape)
        np.testing.assert_allclose(ramp[6:-6], height[6:-6], atol=1e-4)
        edge = thick_slices(step[mask], 6.0, grid, mask).reshape(grid.shape)[:, 0, 0]
        # A sharp border becomes a ramp that is as wide as the slices are thick, either side of half.
        assert np.count_nonzero((edge > 0.01) & (edge < 0.99)) in (6, 12)
        assert np.all(np.diff(edge) >= -1e-6)
