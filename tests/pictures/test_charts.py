import sys

import numpy as np
import pytest
from PIL import Image

from metaseg.pictures import charts
from metaseg.pictures.charts import LIGHT, write_confusion_plot, write_reliability_plot, write_roc_plot

NAMES = ("glioma", "a rather long name of a tumour", "x" * 40, "$IDH$_wildtype", "e", "f")


def example(classes, samples=60):
    generator = np.random.default_rng(classes)
    return generator.dirichlet(np.ones(classes), samples), np.arange(samples) % classes


def written(folder, classes, **options):
    chance, labels = example(classes)
    names, counts = NAMES[:classes], np.arange(classes**2).reshape(classes, classes)
    return [
        write_confusion_plot(folder / "c.png", counts, names, **options),
        write_reliability_plot(folder / "r.png", chance, labels, **options),
        write_roc_plot(folder / "o.png", chance, labels, names, **options),
    ]


@pytest.mark.parametrize("classes", [2, 4, 6])
def test_nothing_touches_the_edge(tmp_path, classes):
    for path in written(tmp_path, classes, title="A heading " * 12, synthetic=True):
        picture = np.asarray(Image.open(path).convert("RGB"))
        edge = np.concatenate(
            [picture[:2].ravel(), picture[-2:].ravel(), picture[:, :2].ravel(), picture[:, -2:].ravel()]
        )
        assert (edge == 255).all(), path.name
        assert picture.min() < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.png", "o.png", "r.png"]


@pytest.fixture
def drawn(monkeypatch):
    """The texts of the pictures that are drawn."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    texts, save = [], Figure.savefig

    def keep(figure, *args, **options):
        texts.extend((one.get_text(), one.get_color()) for one in figure.findobj(Text) if one.get_text())
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return texts


def test_cells_show_counts_and_shares_in_a_colour_that_is_seen(tmp_path, drawn):
    write_confusion_plot(tmp_path / "c.png", [[9, 1], [0, 0]], ("a", "b"), "Heading", synthetic=True)
    cells = dict(drawn)
    assert cells["9\n90 %"] == LIGHT["paper"]
    assert cells["1\n10 %"] != LIGHT["paper"]
    # No share of no sample.
    assert "0" in cells
    assert "0\n0 %" not in cells
    assert "Heading (synthetic data)" in cells


def test_legend_of_curves_gives_the_auc(tmp_path, drawn):
    score = np.array([0.9, 0.6, 0.4, 0.6, 0.3, 0.1])
    write_roc_plot(tmp_path / "o.png", np.stack([1 - score, score], 1), [1, 1, 1, 0, 0, 0], ("healthy", "tumour"))
    named = [text for text, _ in drawn if "AUC" in text]
    assert named == ["tumour: AUC 0.833"]


def test_a_class_without_curve_is_named(tmp_path, drawn):
    chance, _ = example(3)
    write_roc_plot(tmp_path / "o.png", chance, np.arange(60) % 2, ("a", "b", "c"))
    assert "c: AUC -" in [text for text, _ in drawn]


def test_no_global_state_is_left(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    written(tmp_path, 3)
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in vars(charts)
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_wrong_counts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="square"):
        write_confusion_plot(tmp_path / "c.png", np.zeros((2, 3)), ("a", "b"))
    with pytest.raises(ValueError, match="class names"):
        write_confusion_plot(tmp_path / "c.png", np.zeros((2, 2)), ("a",))
    assert not list(tmp_path.iterdir())
