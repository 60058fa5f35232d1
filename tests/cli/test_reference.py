from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from metaseg.verbs import VERBS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not (ROOT / "scripts").is_dir(), reason="needs the repository")
def test_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "make_reference.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not (ROOT / "docs" / "reference.md").exists(), reason="needs the repository")
def test_reference_names_every_setting() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    for verb in VERBS:
        part = text.split(f"## metaseg {verb.words}\n")[1].split("\n## ")[0]
        for field in verb.fields:
            assert f"| `{field.flag}`" in part
