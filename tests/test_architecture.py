"""The rooms of docs/architecture.md: imports run down the house only, and the lower rooms stay free of torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import metaseg

PACKAGE = Path(metaseg.__file__).resolve().parent
DOCUMENT = PACKAGE.parent / "docs" / "architecture.md"

pytestmark = pytest.mark.skipif(not DOCUMENT.is_file(), reason="needs the repository")


def documented_order() -> tuple[str, ...]:
    """The rooms as docs/architecture.md orders them, from the lowest up."""
    block = DOCUMENT.read_text(encoding="utf-8").split("## Import order")[1].split("```text\n")[1].split("```")[0]
    return tuple(block.replace("<", " ").split())


ORDER = documented_order() if DOCUMENT.is_file() else ()
"""A room may import itself and the rooms before it."""

WITHOUT_TORCH = ("cases", "metrics", "store", "sampling")
TORCH_FAMILY = {"torch", "torchvision", "monai", "lightning_fabric", "lightning", "learn2learn", "safetensors"}
"""torch, and what imports it."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "__pycache__")


@dataclass(frozen=True)
class Import:
    """An import statement: the module that it is for, as an absolute name."""

    name: str
    line: int


def imports(source: str, package: str) -> Iterator[Import]:
    """All imports of a module, those inside functions and under TYPE_CHECKING too.

    ``from metaseg import x`` is taken as ``metaseg.x``, since ``x`` may be a room.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            if base == "metaseg":
                yield from (Import(f"{base}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield Import(base, node.lineno)
        elif isinstance(node, ast.Call) and _name(node.func).rpartition(".")[2] in ("import_module", "__import__"):
            literal = node.args[0] if node.args else None
            if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                yield Import(literal.value, node.lineno)


def _name(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def room(path: Path) -> str:
    """The room that a file of the package lies in; its own name for the modules at the top."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def room_of_import(name: str) -> str | None:
    """The room that an imported name lies in: ``__init__`` for the package itself; None for other packages."""
    head, _, rest = name.partition(".")
    return (rest.partition(".")[0] or "__init__") if head == "metaseg" else None


def package_of(path: Path) -> str:
    return ".".join(("metaseg", *path.relative_to(PACKAGE).parent.parts))


@cache
def found_imports(path: Path) -> list[Import]:
    return list(imports(path.read_text(encoding="utf-8"), package_of(path)))


def broken_rules(path: Path) -> list[str]:
    """Imports of a file that run up the house."""
    own = room(path)
    if own in ("__init__", "__main__"):
        return []
    broken = []
    for found in found_imports(path):
        other = room_of_import(found.name)
        if other is not None and (other not in ORDER or ORDER.index(other) > ORDER.index(own)):
            broken.append(f"{path.relative_to(PACKAGE.parent)}:{found.line} imports {found.name}")
    return broken


def test_every_room_has_its_place() -> None:
    entries = [path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert {room(path) for path in entries} - {"__init__", "__main__"} == set(ORDER)


def test_imports_run_down_the_house() -> None:
    assert [line for path in MODULES for line in broken_rules(path)] == []


def test_package_itself_imports_rooms_only_inside_functions() -> None:
    # ``import metaseg`` must stay cheap.
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [name.name for node in top for name in imports(ast.unparse(node), "metaseg") if room_of_import(name.name)]
    assert names == ["metaseg.version"]


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_lower_rooms_never_import_torch(name: str) -> None:
    found = {
        (str(path.relative_to(PACKAGE)), one.name)
        for path in MODULES
        if room(path) == name
        for one in found_imports(path)
        if one.name.partition(".")[0] in TORCH_FAMILY
    }
    assert found == set()


def test_lower_rooms_load_without_torch() -> None:
    # Also what libraries import behind their backs.
    names = [
        ".".join(("metaseg", *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in MODULES
        if room(path) in WITHOUT_TORCH and path.stem != "__init__"
    ]
    # ``metaseg runs`` and ``--resume`` look runs up before anything is trained.
    names.append("metaseg.runs.folder")
    code = f"import sys, importlib; [importlib.import_module(n) for n in {names!r}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_sampling_knows_neither_data_nor_networks() -> None:
    rooms = {
        room_of_import(one.name) for path in MODULES if room(path) == "sampling" for one in found_imports(path)
    } - {None}
    assert rooms <= {"sampling", "errors", "registry", "metrics"}


def test_settings_need_the_standard_library_alone() -> None:
    # ``--help`` reads these, and must answer at once.
    allowed = {*sys.stdlib_module_names, "annotated_types", "metaseg"}
    for path in MODULES:
        if room(path) in ("config", "verbs", "version") and path.stem != "io":
            assert {found.name.partition(".")[0] for found in found_imports(path)} <= allowed, path.stem


def test_learn2learn_is_imported_by_its_engine_alone() -> None:
    users = {
        path.name for path in MODULES if any(one.name.partition(".")[0] == "learn2learn" for one in found_imports(path))
    }
    assert users == {"learn2learn.py"}


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if path.read_text(encoding="utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


# The walk itself: each way to write an import is seen, so that an empty list above means something.


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import metaseg.cli.main", ["metaseg.cli.main"]),
        ("from metaseg.cli import main", ["metaseg.cli"]),
        ("from metaseg import cli", ["metaseg.cli"]),
        ("def f():\n    from metaseg.cli.main import run", ["metaseg.cli.main"]),
        ("if TYPE_CHECKING:\n    import metaseg.adapt as a, torch", ["metaseg.adapt", "torch"]),
        ("from . import scores", ["metaseg.sampling"]),
        ("from ..adapt.setup import AdaptationResult", ["metaseg.adapt.setup"]),
        ("from .. import cli", ["metaseg.cli"]),
        ("importlib.import_module('metaseg.cli')", ["metaseg.cli"]),
    ],
)
def test_walk_sees_every_kind_of_import(source: str, names: list[str]) -> None:
    assert [one.name for one in imports(source, "metaseg.sampling")] == names


def test_walk_tells_rooms() -> None:
    assert room_of_import("metaseg.adapt.engines") == "adapt"
    assert room_of_import("metaseg.config.segmentation") == "config"
    assert room_of_import("metaseg.__version__") not in ORDER
    assert room_of_import("metaseg") == "__init__"
    assert room_of_import("numpy.random") is None
    assert room(PACKAGE / "config" / "io.py") == "config"
    assert room(PACKAGE / "adapt" / "engines" / "base.py") == "adapt"


def test_import_up_the_house_is_found() -> None:
    path = PACKAGE / "sampling" / "orders.py"
    climbing = next(imports("from metaseg.adapt import metatune", package_of(path)))
    other = room_of_import(climbing.name)
    assert other is not None
    assert ORDER.index(other) > ORDER.index(room(path))
