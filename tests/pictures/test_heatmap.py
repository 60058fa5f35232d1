import numpy as np
import pytest

from metaseg.pictures.overlay import AMBER, blend_probability, probability_heatmap


def test_high_is_red_low_is_blue_nothing_is_grey():
    grey = np.full((1, 4), 90, dtype=np.uint8)
    none, low, middle, high = blend_probability(grey, np.array([[0.0, 0.2, 0.5, 1.0]]))[0].astype(int)
    assert none.tolist() == [90, 90, 90]
    assert low.argmax() == 2
    assert middle.argmax() == 1
    assert high.argmax() == 0
    assert high[0] > high[1:].max() + 80


def test_probable_side_is_shown_mirrored():
    image = np.full((40, 40), 10.0)
    image[0] = 0.0
    probability = np.zeros((40, 40))
    probability[:, 25:] = 1.0
    picture = np.asarray(probability_heatmap(image, probability, panel=120)).astype(int)
    # Columns ascend to the patient's right, which is shown on the left.
    redness = (picture[..., 0] - picture[..., 2])[20:100, 8:128]
    assert redness[:, :40].mean() > 60 > redness[:, 60:].mean()


def test_synthetic_pictures_say_so():
    image = np.arange(100.0).reshape(10, 10)
    marked = np.asarray(probability_heatmap(image, image / 100, synthetic=True))
    assert (marked == AMBER).all(-1).any()
    assert not (np.asarray(probability_heatmap(image, image / 100)) == AMBER).all(-1).any()


def test_aspect_follows_the_spacing():
    image = np.arange(400.0).reshape(20, 20)
    square = probability_heatmap(image, image / 400, panel=200)
    wide = probability_heatmap(image, image / 400, panel=200, spacing=(1, 2))
    assert square.height - wide.height == 100
    assert square.width == wide.width


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        probability_heatmap(np.zeros((3, 3)), np.zeros((3, 4)))
