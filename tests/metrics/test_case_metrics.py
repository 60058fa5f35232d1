import math

import numpy as np
import pandas as pd
import pytest

from metaseg.cases.labels import SUBREGIONS, WHOLE_LESION, region_mask
from metaseg.errors import DataError, UsageError
from metaseg.metrics.case_metrics import case_metrics, common_regions
from metaseg.metrics.cohort_metrics import apply_policy
from metaseg.metrics.lesionwise import lesionwise
from metaseg.metrics.surface import hd95

SPACING = (2.0, 1.0, 1.5)


@pytest.fixture
def tumour():
    """A nested tumour (edema around necrosis around a rim) and a prediction that lies a voxel off."""
    label = np.zeros((12, 24, 24), dtype=np.uint8)
    label[2:10, 4:18, 4:18] = 2
    label[4:8, 7:15, 7:15] = 3
    label[5:7, 9:13, 9:13] = 1
    return label, np.roll(label, 1, 2)


def by_target(rows):
    return {row["target"]: row for row in rows}


def test_regions_then_remaining_classes(tumour):
    rows = case_metrics(*tumour, SUBREGIONS, SUBREGIONS, SPACING)
    # ET is a region and a class: it has one row.
    assert [row["target"] for row in rows] == ["WT", "TC", "ET", "NCR", "ED"]
    assert {row["status"] for row in rows} == {"valid"}


@pytest.mark.parametrize("region", ["WT", "TC", "ET"])
def test_metrics_of_a_region_equal_its_masks(tumour, region):
    label, prediction = (region_mask(array, SUBREGIONS, region) for array in tumour)
    row = by_target(case_metrics(*tumour, SUBREGIONS, SUBREGIONS, SPACING))[region]
    assert row["dice"] == pytest.approx(2 * (label & prediction).sum() / (label.sum() + prediction.sum()))
    assert (row["tp"], row["fp"], row["fn"]) == (
        (label & prediction).sum(),
        (prediction & ~label).sum(),
        (label & ~prediction).sum(),
    )
    assert row["hd95"] == hd95(label, prediction, SPACING)
    # 2 x 1 x 1.5 mm voxels are 0.003 ml.
    assert row["label_ml"] == pytest.approx(0.003 * label.sum())
    assert row["predicted_ml"] == pytest.approx(0.003 * prediction.sum())
    for preset, score, count in (("brats2023-mets", "lesionwise", ""), ("mist", "mist", "mist_")):
        result = lesionwise(label, prediction, SPACING, preset)
        assert row[f"{score}_dice"] == result.dice
        assert row[f"{score}_hd95"] == result.hd95
        assert row[f"{score}_f1"] == result.f1
        assert row[f"{count}n_lesions"] == result.n_lesions
        assert (row[f"{count}n_tp"], row[f"{count}n_fp"], row[f"{count}n_fn"]) == (result.tp, result.fp, result.fn)


def test_dice_can_be_derived_from_the_voxels(tumour):
    for row in case_metrics(*tumour, SUBREGIONS, SUBREGIONS, SPACING):
        assert row["dice"] == pytest.approx(2 * row["tp"] / (2 * row["tp"] + row["fp"] + row["fn"]))


def test_whole_lesion_label_against_subregions(tumour):
    label, prediction = (tumour[0] > 0).astype(np.uint8), tumour[1]
    rows = case_metrics(label, prediction, WHOLE_LESION, SUBREGIONS, SPACING)
    assert [row["target"] for row in rows] == ["WT"]
    assert rows[0]["dice"] == by_target(case_metrics(*tumour, SUBREGIONS, SUBREGIONS, SPACING))["WT"]["dice"]
    assert common_regions(SUBREGIONS, WHOLE_LESION) == ("WT",)
    # The only class is the region: no second row.
    assert [row["target"] for row in case_metrics(label, label, WHOLE_LESION, WHOLE_LESION, SPACING)] == ["WT"]


def test_statuses_and_undefined_metrics(tumour):
    label, prediction = tumour[0].copy(), tumour[1].copy()
    prediction[prediction == 3] = 2  # ET missed
    label[label == 1] = 2  # NCR false
    rows = by_target(case_metrics(label, prediction, SUBREGIONS, SUBREGIONS, SPACING))
    diagonal = math.hypot(24.0, 24.0, 36.0)
    assert (rows["ET"]["status"], rows["ET"]["dice"]) == ("missed", 0.0)
    assert rows["ET"]["hd95"] == pytest.approx(diagonal)
    assert (rows["NCR"]["status"], rows["NCR"]["dice"]) == ("false", 0.0)
    assert rows["NCR"]["hd95"] == pytest.approx(diagonal)
    nothing = np.zeros_like(label)
    row = by_target(case_metrics(nothing, nothing, SUBREGIONS, SUBREGIONS, SPACING))["ET"]
    assert row["status"] == "empty-both"
    assert math.isnan(row["dice"])
    assert math.isnan(row["hd95"])
    brats = case_metrics(label, prediction, SUBREGIONS, SUBREGIONS, SPACING, policy="brats")
    assert by_target(brats)["ET"]["hd95"] == 374.0


def test_without_surface_distances_are_left_out(tumour):
    rows = case_metrics(*tumour, SUBREGIONS, SUBREGIONS, SPACING, with_surface=False)
    assert all(math.isnan(row["hd95"]) for row in rows)
    assert math.isnan(rows[0]["lesionwise_hd95"])
    assert rows[0]["lesionwise_dice"] > 0


def test_presets_choose_the_columns(tumour):
    rows = case_metrics(*tumour, SUBREGIONS, SUBREGIONS, SPACING, presets=())
    assert not any("lesion" in key for key in rows[0])
    rows = case_metrics(*tumour, SUBREGIONS, SUBREGIONS, SPACING, presets=("mist", "brats2023-gli"))
    assert {"lesionwise_f1", "brats2023_gli_f1", "brats2023_gli_n_lesions"} <= set(rows[0])


def test_planar_stack_has_pixels_and_no_volume(tumour):
    row = case_metrics(*tumour, SUBREGIONS, SUBREGIONS, (1.0, 1.0, 1.0), "pixel", planar=True)[0]
    assert row["unit"] == "pixel"
    assert math.isnan(row["label_ml"])
    # One lesion in each of the eight slices that hold tumour.
    assert row["n_lesions"] == 8
    assert row["hd95"] == hd95(tumour[0] > 0, tumour[1] > 0, (1.0, 1.0, 1.0), planar=True)
    # A pixel size makes areas, but slices without thickness have no volume.
    row = case_metrics(*tumour, SUBREGIONS, SUBREGIONS, (0.5, 0.5, 0.5), "mm", planar=True)[0]
    assert math.isnan(row["predicted_ml"])


def test_wrong_input_is_refused(tumour):
    with pytest.raises(DataError, match="differ in shape"):
        case_metrics(tumour[0], tumour[1][:4], SUBREGIONS, SUBREGIONS, SPACING)
    with pytest.raises(UsageError, match="lesion-wise preset 'met'"):
        case_metrics(*tumour, SUBREGIONS, SUBREGIONS, SPACING, presets=("met",))


class TestPartialOutlines:
    OUTLINED = np.array([3, 5, 8])

    def test_nothing_elsewhere_plays_a_part(self, tumour):
        label, prediction = tumour
        rows = case_metrics(label, prediction, SUBREGIONS, SUBREGIONS, SPACING, outlined=self.OUTLINED)
        rng = np.random.default_rng(0)
        for spoiled in (0, 1):
            maps = [label.copy(), prediction.copy()]
            maps[spoiled][np.delete(np.arange(12), self.OUTLINED)] = rng.integers(4, size=(9, 24, 24))
            again = case_metrics(*maps, SUBREGIONS, SUBREGIONS, SPACING, outlined=self.OUTLINED)
            assert str(again) == str(rows)
        for row in rows:
            wanted, found = (
                region_mask(array, SUBREGIONS, row["target"])[self.OUTLINED]
                if row["target"] in SUBREGIONS.regions
                else array[self.OUTLINED] == SUBREGIONS.classes.index(row["target"])
                for array in tumour
            )
            assert row["dice"] == pytest.approx(2 * (wanted & found).sum() / (wanted.sum() + found.sum()))

    def test_what_needs_all_slices_is_left_empty_with_the_reason(self, tumour):
        for row in case_metrics(*tumour, SUBREGIONS, SUBREGIONS, SPACING, outlined=self.OUTLINED):
            assert all(math.isnan(row[name]) for name in ("hd95", "label_ml", "predicted_ml"))
            assert row["undefined"] == "HD95, lesion-wise metrics, volumes: 3 of 12 slices are outlined"
            assert not [name for name in row if "lesionwise" in name or name.startswith("mist")]

    @pytest.mark.parametrize("policy", ["exclude", "brats", "mist"])
    def test_no_policy_gives_a_distance(self, tumour, policy):
        nothing = np.zeros_like(tumour[0])
        rows = case_metrics(*tumour, SUBREGIONS, SUBREGIONS, SPACING)
        for label in (nothing, tumour[0]):
            rows += case_metrics(label, nothing, SUBREGIONS, SUBREGIONS, SPACING, outlined=self.OUTLINED)
        frame = apply_policy(pd.DataFrame(rows), policy)
        assert frame.loc[frame["undefined"].notna(), "hd95"].isna().all()
        assert frame.loc[frame["undefined"].isna(), "hd95"].notna().all()

    def test_separate_images_have_all_metrics(self, tumour):
        rows = case_metrics(*tumour, SUBREGIONS, SUBREGIONS, SPACING, planar=True, outlined=self.OUTLINED)
        cut = case_metrics(*(array[self.OUTLINED] for array in tumour), SUBREGIONS, SUBREGIONS, SPACING, planar=True)
        for row, whole in zip(rows, cut, strict=True):
            assert (row.pop("outlined_slices"), row.pop("undefined")) == (3, "")
            assert str(row) == str(whole)
