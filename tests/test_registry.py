"""Registries, and plug-ins as pip installs them: a folder on the path with metadata beside a module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from metaseg.errors import DataWarning, MetasegError, UsageError
from metaseg.registry import PluginError, Registry, import_object, plugin_names

GROUP = "metaseg.shapes"


@dataclass(frozen=True)
class Shape:
    corners: int


@pytest.fixture
def shapes() -> Registry[Shape]:
    registry = Registry("shape", GROUP, Shape)
    registry.add("square", Shape(4))
    return registry


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lays out a distribution of one module, and its entry points ``name=object``."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def lay_out(distribution: str, source: str, **points: str) -> None:
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        lines = [f"{name.replace('_', '-')} = {module}{target}" for name, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))

    yield lay_out
    for name in set(sys.modules) - before:
        if name.startswith("metaseg_test"):
            del sys.modules[name]


SOURCE = "from tests_registry_shape import Shape\n"


@pytest.fixture(autouse=True)
def _shape_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tests_registry_shape", sys.modules[__name__])


def test_entries_are_registered_once_and_found_by_name(shapes):
    @shapes.register("triangle")
    def triangle() -> None: ...

    assert shapes.names() == ("square", "triangle") == tuple(shapes)
    assert len(shapes) == 2
    assert shapes.get("triangle") is triangle
    assert "triangle" in shapes
    assert "circle" not in shapes
    assert shapes.origin("square") is None
    assert shapes.origin("circle") is None
    with pytest.raises(ValueError, match="already a registered shape 'square'"):
        shapes.add("square", Shape(5))
    assert shapes.get("square") == Shape(4)


def test_unknown_names_are_answered_with_the_nearest(shapes):
    with pytest.raises(UsageError) as caught:
        shapes.get("sqare", where="config.yaml")
    assert str(caught.value) == (
        "unknown shape 'sqare'\n  in:       config.yaml\n  expected: one of square\n  to do:    did you mean 'square'?"
    )
    with pytest.raises(UsageError, match=r"install the plug-in that it is from: my-shapes 2\.0"):
        shapes.get("star", plugin="my-shapes 2.0")


def test_a_plugin_is_listed_without_import_and_imported_on_demand(shapes, install):
    install("metaseg-test-star", SOURCE + "STAR = Shape(10)\n", star=":STAR")
    assert shapes.names() == ("square", "star")
    assert plugin_names(GROUP) == ("square", "star")
    assert shapes.origin("star") == "metaseg-test-star 1.2"
    assert "metaseg_test_star" not in sys.modules
    assert shapes.get("star") == Shape(10)
    assert shapes.origin("star") == "metaseg-test-star 1.2"
    assert shapes.entries() == {"square": Shape(4), "star": Shape(10)}


def test_a_plugin_may_register_itself_when_imported(shapes, install, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SHAPES", shapes, raising=False)
    source = "from tests_registry_shape import SHAPES, Shape\nSHAPES.add('star', Shape(10))\n"
    install("metaseg-test-self", source, star="")
    assert shapes.get("star") == Shape(10)
    assert shapes.origin("star") == "metaseg-test-self 1.2"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module_anywhere\n", "cannot be imported \\(ModuleNotFoundError: No module named"),
        ("raise RuntimeError('no licence')\n", "cannot be imported \\(RuntimeError: no licence\\)"),
        ("", "cannot be imported \\(AttributeError: "),
        ("STAR = 'ten corners'\n", "promises a shape 'star' and registers none"),
    ],
)
def test_a_broken_plugin_is_named_and_stops_nobody_else(shapes, install, source, message):
    install("metaseg-test-broken", source, star=":STAR")
    with pytest.raises(PluginError, match=message) as caught:
        shapes.get("star")
    assert "metaseg-test-broken 1.2" in caught.value.found
    assert caught.value.where == "metaseg_test_broken:STAR"
    with pytest.warns(DataWarning, match="metaseg-test-broken 1.2"):
        assert shapes.entries() == {"square": Shape(4)}
    assert shapes.get("square") == Shape(4)


def test_two_plugins_of_one_name_are_both_named(shapes, install):
    install("metaseg-test-one", SOURCE + "STAR = Shape(10)\n", star=":STAR")
    install("metaseg-test-two", SOURCE + "STAR = Shape(12)\n", star=":STAR")
    with pytest.raises(PluginError, match=r"offer a shape 'star': metaseg-test-.* 1.2 and metaseg-test-.* 1.2"):
        shapes.get("star")


def test_ours_come_before_a_plugin_of_the_same_name(shapes, install):
    install("metaseg-test-square", SOURCE + "SQUARE = Shape(5)\n", square=":SQUARE")
    assert shapes.names() == ("square",)
    assert shapes.get("square") == Shape(4)
    assert shapes.origin("square") is None


def test_references_are_imported_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "metaseg_test_reference.py").write_text("class Nets:\n    def small(): return 3\nbroken = 1\n")
    assert import_object("metaseg_test_reference:Nets.small", "network")() == 3
    with pytest.raises(UsageError, match="did you mean 'Nets'"):
        import_object("metaseg_test_reference:Net", "network")
    with pytest.raises(UsageError, match="there is no module 'metaseg_test_absent'"):
        import_object("metaseg_test_absent:Nets", "network")
    with pytest.raises(UsageError, match=r"expected: package.module:name"):
        import_object("not/a/module", "network")
    (tmp_path / "metaseg_test_failing.py").write_text("import metaseg_test_lacking\n")
    with pytest.raises(MetasegError, match=r"cannot be imported .*metaseg_test_lacking"):
        import_object("metaseg_test_failing:make", "network")
    del sys.modules["metaseg_test_reference"]
