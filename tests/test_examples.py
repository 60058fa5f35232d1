"""The ``>>>`` examples of the package give what they say."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import metaseg

PACKAGE = Path(metaseg.__file__).parent
MODULES = [
    ".".join(("metaseg", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METASEG_CACHE", str(tmp_path / "cache"))
    done = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert done.attempted
    assert not done.failed


def test_public_modules_have_examples() -> None:
    assert {"metaseg.api", "metaseg.errors", "metaseg.registry"} <= set(MODULES)
