from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import NormalizeIntensity
from PIL import Image

import metaseg.store.prepare as build_module
from metaseg.cases.labels import SUBREGIONS, WHOLE_LESION
from metaseg.cases.readers import read_cases
from metaseg.cases.volumes import volume_from_file
from metaseg.errors import DataError, UsageError, WriteError, recorded_warnings
from metaseg.store.prepare import build_store, common_modalities, open_data, prepare_store
from metaseg.store.prepare_case import PrepareOptions, lossless, read_unstored
from metaseg.store.store import check_store, open_store
from metaseg.store.stored_case import StoredCase

FOUR = ("flair", "t1", "t1ce", "t2")


@pytest.fixture
def cases(write_cases):
    return read_cases(write_cases(count=3))


@pytest.fixture
def store(cases, tmp_path):
    return build_store(cases, tmp_path / "store", PrepareOptions(FOUR), jobs=2)


class TestStoredCase:
    def test_intensities_come_back_as_they_are_in_the_file(self, cases, store):
        for case, stored in zip(cases, store, strict=True):
            (z0, z1), (y0, y1), (x0, x1) = stored.info.crop
            original = case.read_images(FOUR)[:, z0:z1, y0:y1, x0:x1].transpose(1, 0, 2, 3)
            assert stored.raw_images.dtype == np.int16
            np.testing.assert_array_equal(stored.raw_images, original)
            np.testing.assert_array_equal(stored.labels(slice(None)), case.read_label()[z0:z1, y0:y1, x0:x1])

    def test_crop_is_the_smallest_box_around_the_brain(self, cases, store):
        inside = np.any(cases[0].read_images(FOUR) != 0, axis=0)
        stored = store.cases[0]
        box = tuple(slice(start, stop) for start, stop in stored.info.crop)
        assert inside[box].sum() == inside.sum()
        for axis in range(3):
            edges = inside[box].any(axis=tuple(other for other in range(3) if other != axis))
            assert edges[0]
            assert edges[-1]

    def test_normalisation_equals_monai_on_the_whole_volume(self, cases, store):
        stored = store.cases[1]
        box = tuple(slice(start, stop) for start, stop in stored.info.crop)
        expected = NormalizeIntensity(nonzero=True, channel_wise=True)(cases[1].read_images(FOUR))
        expected = np.asarray(expected)[(slice(None), *box)].transpose(1, 0, 2, 3)
        np.testing.assert_allclose(stored.images(slice(None)), expected, atol=2e-5)

    def test_chosen_modalities_come_in_the_order_asked_for(self, store):
        stored = store.cases[0]
        swapped = stored.images([2, 0], ("t2", "flair"))
        np.testing.assert_array_equal(swapped, stored.images([2, 0])[:, [3, 0]])

    def test_missing_modality_names_case_and_modality(self, cases, tmp_path):
        stored = build_store(cases[:1], tmp_path / "one", PrepareOptions(("t1",))).cases[0]
        with pytest.raises(DataError, match=rf"{cases[0].id} lacks modality t2"):
            stored.images([0], ("t1", "t2"))

    def test_one_slice_with_all_modalities_is_one_contiguous_stretch(self, store):
        images = store.cases[0].raw_images
        assert images.flags.c_contiguous
        assert images.strides[0] == images[0].nbytes

    def test_areas_count_the_label(self, cases, store):
        label = store.cases[0].labels(slice(None))
        expected = np.stack([[(plane == value).sum() for value in range(4)] for plane in label])
        np.testing.assert_array_equal(store.cases[0].areas(), expected)
        whole = store.cases[0].areas(WHOLE_LESION)
        np.testing.assert_array_equal(whole, np.stack([expected[:, 0], expected[:, 1:].sum(axis=1)], axis=1))

    def test_subregions_unite_to_the_whole_lesion(self, store):
        stored = store.cases[0]
        np.testing.assert_array_equal(stored.labels([5], WHOLE_LESION), stored.labels([5], SUBREGIONS) > 0)

    def test_restore_is_the_inverse_of_the_crop(self, cases, store):
        stored = store.cases[0]
        one_hot = np.eye(4, dtype=np.float32)[stored.labels(slice(None))].transpose(3, 0, 1, 2)
        np.testing.assert_array_equal(stored.restore(one_hot).argmax(axis=0), cases[0].read_label())
        np.testing.assert_array_equal(stored.native_label(), cases[0].read_label())

    def test_float_files_stay_float(self, write_cases, tmp_path):
        case = read_cases(write_cases(count=1, dtype=np.float32))[0]
        path = case.images["t1"].files[0]
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + np.float32(0.25), image.affine), path)
        stored = build_store([case], tmp_path / "float", PrepareOptions(("t1",))).cases[0]
        assert stored.raw_images.dtype == np.float32
        assert np.all(np.asarray(stored.raw_images) % 1 == 0.25)


class TestLossless:
    def test_values_beyond_int16_stay_float(self):
        assert lossless(np.array([[[[40000.0]]]], np.float32)).dtype == np.float32
        assert lossless(np.array([[[[-32768.0, 32767.0]]]], np.float32)).dtype == np.int16


class TestWholeNumbers:
    def test_case_of_whole_numbers_is_prepared_as_the_same_case_in_floats(self, cases, write_cases, tmp_path):
        # int16 files never become float32 on the way; nothing that is stored may tell.
        floats = read_cases(write_cases(count=3, dtype=np.float32))
        for case, other in zip(cases, floats, strict=True):
            assert case.read_images(FOUR, whole=True).dtype == np.int16
            assert other.read_images(FOUR, whole=True).dtype == np.float32
        ours = build_store(cases, tmp_path / "whole", PrepareOptions(FOUR), jobs=1)
        theirs = build_store(floats, tmp_path / "floats", PrepareOptions(FOUR), jobs=1)
        small = [
            build_store(of, tmp_path / f"{number}", PrepareOptions(FOUR, 16), jobs=1)
            for number, of in enumerate((cases, floats))
        ]
        for one, other in [*zip(ours, theirs, strict=True), *zip(*small, strict=True)]:
            assert one.info == other.info
            np.testing.assert_array_equal(one.raw_images, other.raw_images)
            np.testing.assert_array_equal(one.raw_label, other.raw_label)

    def test_one_file_of_another_type_makes_all_floats(self, write_cases, tmp_path):
        case = read_cases(write_cases(count=1))[0]
        image = nib.load(case.images["t1ce"].files[0])
        path = tmp_path / "t1ce.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.float32) + 0.5, image.affine), path)
        mixed = replace(case, images={**case.images, "t1ce": volume_from_file(path)})
        images, expected = mixed.read_images(FOUR, whole=True), mixed.read_images(FOUR)
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images, expected)


def rewritten(cases, folder: Path, change, modalities=FOUR):
    """The cases with images changed by ``change(values, head)`` and written as float32."""
    folder.mkdir()
    for case in cases:
        images = dict(case.images)
        for name in modalities:
            image = nib.load(case.images[name].files[0])
            values = np.asarray(image.dataobj, np.float32)
            path = folder / f"{case.id}_{name}.nii.gz"
            nib.save(nib.Nifti1Image(change(values, values != 0).astype(np.float32), image.affine), path)
            images[name] = volume_from_file(path)
        yield replace(case, images=images)


NOISE = np.random.default_rng(0).standard_normal((2, 26, 22, 12))
BACKGROUNDS = {
    "noise of 1e-4": lambda values, head: np.where(head, values, 1e-4 * NOISE[0]),
    "-1024": lambda values, head: np.where(head, values, -1024),
    "1": lambda values, head: np.where(head, values, 1),
    "air": lambda values, head: np.where(head, values, np.hypot(*(4 * NOISE))),
    "z-scores": lambda values, head: (values - values.mean()) / values.std(),
}


class TestBackground:
    @pytest.mark.parametrize("modalities", [FOUR, ("t1",)])
    @pytest.mark.parametrize("name", BACKGROUNDS)
    def test_network_sees_the_same_case(self, name, modalities, cases, store, tmp_path):
        changed = list(rewritten(cases, tmp_path / "changed", BACKGROUNDS[name], modalities))
        for number, case in enumerate(build_store(changed, tmp_path / "other", PrepareOptions(FOUR), jobs=1)):
            assert case.info.crop == store.cases[number].info.crop
            expected = store.cases[number].images(slice(None))
            assert np.mean(np.abs(case.images(slice(None)) - expected) > 1e-3) < 0.001
            assert {finding[0] for finding in case.info.findings} == {"background"}

    def test_zero_backgrounds_are_stored_as_ever(self, store):
        # Digests of what release 0.1 stored, whose values trained networks know.
        digests = [hashlib.blake2b(case.raw_images.tobytes(), digest_size=4).hexdigest() for case in store]
        assert digests == ["2779c00c", "54da308d", "59edc18a"]
        assert [case.info.findings for case in store] == [(), (), ()]

    def test_what_cannot_be_told_apart_is_refused(self, cases, tmp_path):
        def noisy(values, head):
            wide = np.where(head & (np.indices(values.shape)[0] < 8), values, 0)
            return np.hypot(wide + 3 * NOISE[0], 3 * NOISE[1])

        case = next(rewritten(cases, tmp_path / "noisy", noisy, ("t2",)))
        with pytest.raises(DataError, match=rf"{case.id}: t2: head and background cannot be distinguished") as error:
            build_store([case], tmp_path / "other", PrepareOptions(FOUR))
        assert error.value.where == case.images["t2"].files[0]


class TestFindings:
    @pytest.mark.parametrize(
        ("change", "modalities", "kind", "sentence"),
        [
            (lambda values, head: 0 * values, ("t1",), "constant", "t1 is 0 everywhere"),
            (lambda values, head: 0 * values + 7, ("t1",), "constant", "t1 is 7 everywhere"),
            (lambda values, head: np.where(head, 5, 0), ("t1",), "constant", "t1 is 5 everywhere in the head"),
            (lambda values, head: values * (np.cumsum(head, axis=0) == 1), ("t2",), "coverage", "t2 shows"),
        ],
    )
    def test_doubtful_images(self, change, modalities, kind, sentence, cases, tmp_path):
        changed = list(rewritten(cases[:1], tmp_path / "changed", change, modalities))
        (case,) = build_store(changed, tmp_path / "other", PrepareOptions(FOUR))
        (finding,) = (finding for finding in case.info.findings if finding[0] == kind)
        assert finding[1].startswith(sentence)
        assert finding[2] == changed[0].images[modalities[0]].files[0].name

    @pytest.mark.parametrize("factor", [1, 3])
    def test_one_image_under_two_names(self, factor, cases, tmp_path):
        t1 = np.asarray(nib.load(cases[0].images["t1"].files[0]).dataobj)
        changed = list(
            rewritten(cases[:1], tmp_path / "changed", lambda values, head: factor * t1 + (factor - 1) * head, ("t2",))
        )
        (case,) = build_store(changed, tmp_path / "other", PrepareOptions(FOUR))
        assert [finding[:2] for finding in case.info.findings] == [("same-modality", "t1 and t2 are the same image")]

    def test_outline_beside_the_head(self, cases, tmp_path):
        label = nib.load(cases[0].label.files[0])
        values = np.roll(np.asarray(label.dataobj), 13, axis=0)
        nib.save(nib.Nifti1Image(values, label.affine), tmp_path / "label.nii.gz")
        case = replace(cases[0], label=volume_from_file(tmp_path / "label.nii.gz"))
        (stored,) = build_store([case], tmp_path / "other", PrepareOptions(FOUR))
        assert [finding[0] for finding in stored.info.findings] == ["label-outside"]

    @pytest.mark.parametrize(
        ("sizes", "kind"),
        [((50, 50, 50), "spacing"), ((0.001, 0.001, 0.002), "spacing"), ((1, 3, 2), "anisotropic")],
    )
    def test_doubtful_grids(self, sizes, kind, cases, tmp_path):
        path = tmp_path / "t1.nii.gz"
        image = nib.load(cases[0].images["t1"].files[0])
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.diag([*sizes, 1])), path)
        case = replace(cases[0], images={"t1": volume_from_file(path)}, label=None)
        (stored,) = build_store([case], tmp_path / "other", PrepareOptions(("t1",)))
        assert [finding[0] for finding in stored.info.findings] == [kind]
        with recorded_warnings() as heard:
            read_unstored(case, PrepareOptions(("t1",)))
        assert case.id in heard[0]

    def test_every_opening_warns_and_an_earlier_preparation_is_made_anew(self, cases, tmp_path):
        changed = list(rewritten(cases, tmp_path / "changed", BACKGROUNDS["-1024"], ("t1",)))
        for _ in range(2):
            built = build_store(changed, tmp_path / "store", PrepareOptions(FOUR))
            with recorded_warnings() as heard:
                open_data([tmp_path / "store"])
            assert heard[0].count("t1 holds -1024 outside the head") == 3
        file = built.cases[0].folder / "case.json"
        values = json.loads(file.read_text())
        del values["findings"], values["checksum"], values["checksums"]
        file.write_text(json.dumps(values))
        assert StoredCase(file.parent).info.findings is None
        assert build_store(changed, tmp_path / "store", PrepareOptions(FOUR)).cases[0].info == built.cases[0].info


class TestBuild:
    def test_reopened_store_is_the_same(self, store, tmp_path):
        again = open_store(tmp_path / "store")
        assert [case.info for case in again] == [case.info for case in store]
        table = again.table()
        assert len(table) == sum(case.num_slices for case in store)
        assert table["area_ET"].sum() == sum(case.areas()[:, 3].sum() for case in store)

    def test_continues_where_it_was_cut_off(self, cases, tmp_path, monkeypatch):
        real, prepared = build_module.prepare_case, []

        def failing(case, options, folder):
            if case.id == cases[2].id and not prepared.count("retry"):
                raise DataError("cut off")
            prepared.append(case.id)
            real(case, options, folder)

        monkeypatch.setattr(build_module, "prepare_case", failing)
        with pytest.raises(DataError, match="cut off"):
            build_store(cases, tmp_path / "store", PrepareOptions(FOUR), jobs=1)
        assert sorted(prepared) == sorted(case.id for case in cases[:2])
        assert not (tmp_path / "store" / "store.json").exists()
        prepared.append("retry")
        build_store(cases, tmp_path / "store", PrepareOptions(FOUR), jobs=1)
        assert prepared[-1] == cases[2].id
        assert len(prepared) == 4

    def test_failed_write_leaves_nothing_behind(self, cases, tmp_path, monkeypatch):
        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", full)
        with pytest.raises(WriteError, match="the disk is full"):
            build_store(cases[:1], tmp_path / "store", PrepareOptions(FOUR))
        assert list((tmp_path / "store" / "cases").iterdir()) == []

    def test_two_builders_of_one_case_agree(self, cases, tmp_path):
        errors: list[BaseException] = []

        def run():
            try:
                build_store(cases, tmp_path / "store", PrepareOptions(FOUR), jobs=1, publish=False)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len(list((tmp_path / "store" / "cases").iterdir())) == len(cases)

    def test_changed_file_is_prepared_anew(self, write_cases, tmp_path):
        root = write_cases(cohort="LGG", count=1)
        first = build_store(read_cases(root), tmp_path / "store", PrepareOptions(("t2",))).cases[0]
        path = read_cases(root)[0].images["t2"].files[0]
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * 2, image.affine), path)
        second = build_store(read_cases(root), tmp_path / "store", PrepareOptions(("t2",))).cases[0]
        assert first.folder != second.folder
        assert second.info.mean[0] == pytest.approx(2 * first.info.mean[0])

    def test_progress_counts_every_case(self, cases, tmp_path):
        seen = []
        build_store(
            cases,
            tmp_path / "s",
            PrepareOptions(FOUR),
            jobs=2,
            progress=lambda done, total: seen.append((done, total)),
        )
        assert sorted(seen) == [(1, 3), (2, 3), (3, 3)]

    def test_ids_standing_twice_are_refused(self, cases, tmp_path):
        with pytest.raises(DataError, match="occur twice"):
            build_store([cases[0], cases[0]], tmp_path / "s", PrepareOptions(FOUR))

    def test_empty_images_are_refused(self, write_cases, tmp_path):
        case = read_cases(write_cases(cohort="MET", count=1))[0]
        path = case.images["t1"].files[0]
        nib.save(nib.Nifti1Image(np.zeros((26, 22, 12), np.int16), np.diag([-1.0, -1, 2, 1])), path)
        with pytest.raises(DataError, match="empty"):
            build_store([case], tmp_path / "s", PrepareOptions(("t1",)))

    def test_common_modalities_come_in_brats_order(self, cases):
        assert common_modalities(cases) == FOUR
        with pytest.raises(DataError, match="no cases"):
            common_modalities([])


class TestOpen:
    def test_damaged_stores_say_so(self, store, tmp_path):
        with pytest.raises(DataError, match="not a slice store"):
            open_store(tmp_path)
        (tmp_path / "store" / "store.json").write_text("{")
        with pytest.raises(DataError, match="no JSON"):
            open_store(tmp_path / "store")
        (tmp_path / "store" / "store.json").write_text(json.dumps({"version": 99, "cases": []}))
        with pytest.raises(DataError, match="version 99"):
            open_store(tmp_path / "store")

    def test_case_without_its_description_is_not_opened(self, store, tmp_path):
        (store.cases[0].folder / "case.json").unlink()
        with pytest.raises(DataError, match="cannot be read"):
            open_store(tmp_path / "store")

    def test_open_data_pools_raw_folders_and_stores(self, write_cases, store, tmp_path):
        pooled = open_data([tmp_path / "store", write_cases("MET", 2, centre=0.4)], cache=tmp_path / "cache")
        assert sorted({case.cohort for case in pooled}) == ["HGG", "MET"]
        with pytest.raises(DataError, match="two cases are named"):
            open_data([tmp_path / "store", tmp_path / "store"])
        with pytest.raises(DataError, match="no cases of class met"):
            open_data([tmp_path / "store"], classes=("met",))

    def test_prepare_store_refuses_a_folder_with_other_files(self, write_cases, tmp_path):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "thesis.txt").write_text("mine")
        with pytest.raises(UsageError, match="holds other files"):
            prepare_store(write_cases(count=3), tmp_path / "other")


class TestPlanar:
    def test_slices_shrink_and_come_back(self, tmp_path: Path):
        rng = np.random.default_rng(0)
        root = tmp_path / "set"
        root.mkdir()
        rows = ["patient_id,image,mask,class"]
        for number in range(3):
            image = np.zeros((64, 48), np.uint8)
            image[8:60, 4:44] = rng.integers(60, 90, (52, 40))
            mask = np.zeros((64, 48), bool)
            mask[20:36, 12:28] = True
            image[mask] = 220
            Image.fromarray(image).save(root / f"{number}.png")
            Image.fromarray(mask).save(root / f"{number}_mask.png")
            rows.append(f"p1,{number}.png,{number}_mask.png,glioma")
        (root / "index.csv").write_text("\n".join(rows) + "\n")
        stored = open_data([root], image_size=32, cache=tmp_path / "cache").cases[0]
        assert stored.num_slices == 3
        assert max(stored.info.shape[1:]) <= 32
        assert stored.native_label().sum() == 3 * 16 * 16
        # A quarter of the pixels carry a quarter of the mask.
        assert stored.areas()[:, 1].sum() == pytest.approx(3 * 16 * 16 / 4, rel=0.05)
        probabilities = np.eye(2, dtype=np.float32)[stored.labels(slice(None))].transpose(3, 0, 1, 2)
        back = stored.restore(probabilities).argmax(axis=0)
        overlap = 2 * (back & stored.native_label()).sum() / (back.sum() + stored.native_label().sum())
        assert overlap > 0.93


def test_open_data_passes_on_what_counts_as_one_patient(tmp_path):
    for number, quality in enumerate((95, 60)):
        noise = np.random.default_rng(0).integers(0, 200, (10, 12), dtype=np.uint8)
        (tmp_path / "pictures" / "yes").mkdir(parents=True, exist_ok=True)
        file = tmp_path / "pictures" / "yes" / f"{number}.jpg"
        Image.fromarray(noise).resize((96, 80), Image.Resampling.BICUBIC).save(file, quality=quality)
    data, cache = [tmp_path / "pictures"], tmp_path / "cache"
    assert {case.patient for case in open_data(data, cache=cache)} == {"yes-0"}
    # What is in the cache for one choice does not serve the other.
    assert {case.patient for case in open_data(data, cache=cache, group_copies="none")} == {"yes-0", "yes-1"}


class TestPartialOutlines:
    @pytest.fixture
    def partial(self, cases):
        return replace(cases[0], outlined=(3, 6, 7))

    def test_only_outlined_slices_have_classes(self, cases, partial, tmp_path):
        whole, stored = (
            build_store([case], tmp_path, PrepareOptions(FOUR), publish=False).cases[0] for case in (cases[0], partial)
        )
        start = stored.info.crop[0][0]
        assert [stored.native_slice(place) for place in stored.outlined] == [3, 6, 7]
        np.testing.assert_array_equal(stored.native_outlined, [3, 6, 7])
        np.testing.assert_array_equal(stored.areas()[stored.outlined], whole.areas()[[3 - start, 6 - start, 7 - start]])
        assert stored.areas().sum() == stored.areas()[stored.outlined].sum()
        np.testing.assert_array_equal(stored.labels(stored.outlined), whole.labels(stored.outlined))
        for others in (slice(None), [0], stored.outlined + 1):
            with pytest.raises(ValueError, match="nobody outlined"):
                stored.labels(others)
        assert (whole.partial, whole.native_outlined) == (False, None)
        assert whole.outlined.tolist() == list(range(whole.num_slices))

    def test_earlier_releases_refuse_what_they_would_take_for_background(self, cases, partial, tmp_path):
        folders = [build_store([case], tmp_path, PrepareOptions(FOUR)).cases[0].folder for case in (cases[0], partial)]
        assert folders[0] != folders[1]
        records = [json.loads((folder / "case.json").read_text()) for folder in folders]
        assert [record["version"] for record in records] == [1, 2]
        assert set(records[0]) == set(records[1])

    def test_a_slice_that_loses_its_classes_is_damage(self, store):
        path = store.cases[0].folder / "case.json"
        record = json.loads(path.read_text())
        record["areas"][2] = [0] * len(record["areas"][2])
        del record["checksum"]
        path.write_text(json.dumps(record))
        with pytest.raises(DataError, match="slices are of no class"):
            StoredCase(store.cases[0].folder)

    def test_a_case_without_outlines_has_no_label(self, cases, tmp_path):
        # Slice 0 shows no head.
        case = replace(cases[0], outlined=(0,))
        stored = build_store([case], tmp_path, PrepareOptions(FOUR)).cases[0]
        assert not stored.labelled
        assert [kind for kind, *_ in stored.info.findings] == ["label-missing"]

    def test_opening_says_how_many_slices_count(self, write_cases, tmp_path, capsys):
        folder = write_cases(count=3)
        names = sorted(path.name for path in folder.iterdir())
        table = tmp_path / "outlined.csv"
        table.write_text(f"case,slice\n{names[0]},4-6\n{names[1]},all\n{names[2]},2 5\n")
        store = open_data([folder], cache=tmp_path, outlined_slices=table)
        assert "slices are outlined in 2 of 3 cases" in capsys.readouterr().out
        assert [case.partial for case in store] == [True, False, True]
        prepare_store(folder, tmp_path / "store", outlined_slices=table)
        kinds = [finding.kind for finding in check_store(tmp_path / "store").findings]
        assert kinds == ["label-partial"] * 2
        # A store keeps its own slices: the list may say them again, not others.
        assert len(open_data([tmp_path / "store"], outlined_slices=table)) == 3
        table.write_text(f"case,slice\n{names[0]},4-5\n")
        with pytest.raises(DataError, match="prepared with 3 outlined slices"):
            open_data([tmp_path / "store"], outlined_slices=table)
