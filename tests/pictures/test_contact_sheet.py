import numpy as np
import pytest

from metaseg.cases.labels import SUBREGIONS
from metaseg.errors import UsageError
from metaseg.pictures.contact_sheet import contact_sheet, informative_slices
from metaseg.pictures.overlay import AMBER, ERROR_COLOURS


@pytest.fixture
def case():
    grid = np.indices((20, 40, 40))
    head = ((grid[1] - 20) ** 2 + (grid[2] - 20) ** 2 < 17**2) & (grid[0] > 1) & (grid[0] < 18)
    image = np.where(head, 100.0 + grid[2], 0.0)
    label = np.zeros((20, 40, 40), dtype=np.uint8)
    label[6:12, 10:20, 8:18] = 2
    label[8:10, 12:16, 10:14] = 3
    return image, label, np.roll(label, 2, 2)


def share_of(picture, colour, tolerance=30):
    difference = np.abs(np.asarray(picture).astype(int) - np.array(colour)).max(-1)
    return np.mean(difference < tolerance)


def test_slices_with_all_classes_come_first(case):
    image, label, prediction = case
    chosen = informative_slices(image, label, prediction, 2)
    assert len(chosen) == 2
    assert set(chosen) & {8, 9}
    assert chosen == sorted(chosen)
    assert all(label[at].any() for at in informative_slices(image, label, prediction, 4))


def test_slices_without_tumour_spread_over_the_head(case):
    chosen = informative_slices(case[0], None, None, 4)
    assert len(chosen) == 4
    assert 2 <= chosen[0] < chosen[-1] <= 17
    assert informative_slices(np.zeros((5, 4, 4)), None, None, 2)


def test_false_positives_alone_are_shown(case):
    image, label, _ = case
    prediction = np.zeros_like(label)
    prediction[15, 20:23, 20:23] = 3
    assert informative_slices(image, np.zeros_like(label), prediction, 3) == [15]


def test_sheet_shows_only_what_there_is(case):
    image, label, _ = case
    full = contact_sheet(*case, SUBREGIONS, rows=2, panel=80)
    no_prediction = contact_sheet(image, label, None, SUBREGIONS, rows=2, panel=80)
    bare = contact_sheet(image, None, None, SUBREGIONS, rows=2, panel=80)
    assert full.mode == "RGB"
    assert full.width > no_prediction.width > bare.width
    assert share_of(full, ERROR_COLOURS["missed"]) > 0
    assert share_of(bare, ERROR_COLOURS["missed"]) == 0


def test_synthetic_pages_say_so(case):
    assert share_of(contact_sheet(*case, SUBREGIONS, synthetic=True, panel=80), AMBER, 3) > 0.001
    assert share_of(contact_sheet(*case, SUBREGIONS, panel=80), AMBER, 3) < 0.0005


def test_panels_keep_the_aspect_of_the_patient(case):
    image, *maps = case
    square = contact_sheet(image, *maps, SUBREGIONS, columns=["image"], slices=[8], panel=200)
    wide = contact_sheet(image, *maps, SUBREGIONS, columns=["image"], slices=[8], panel=200, spacing=(1, 1, 2))
    # The same width, half the height of the panel; text takes the rest.
    assert square.height - wide.height == pytest.approx(100, abs=20)


def test_planar_slices_are_not_mirrored(case):
    seen = np.zeros_like(case[0])
    seen[:, 5:35, 5:35] = 50.0
    seen[:, 5:35, 25:35] = 100.0
    sides = []
    for planar in (False, True):
        page = np.asarray(contact_sheet(seen, None, None, SUBREGIONS, slices=[8], panel=120, planar=planar))
        panel = page[40:120, :, 0].astype(float)
        sides.append(panel[:, panel.shape[1] // 2 :].mean() > panel[:, : panel.shape[1] // 2].mean())
    assert sides == [False, True]


def test_wrong_input_is_refused(case):
    with pytest.raises(UsageError, match="unknown column truth"):
        contact_sheet(*case, SUBREGIONS, columns=["truth"])
    with pytest.raises(UsageError, match="without slices"):
        contact_sheet(*case, SUBREGIONS, slices=[])
    with pytest.raises(ValueError, match="differ in shape"):
        contact_sheet(case[0], case[1][:3], None, SUBREGIONS)
