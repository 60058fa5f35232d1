from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from metaseg.adapt.methods import METHODS

Call = Callable[..., tuple[int, str, str]]


def test_every_method_is_listed_with_what_it_needs(call: Call) -> None:
    entries = {entry["name"]: entry for entry in json.loads(call("methods", "--json")[1])}
    assert set(entries) == set(METHODS)
    assert next(iter(entries)) == "naive"
    assert entries["ewc"]["verb"] == "naivetune"
    assert entries["ewc"]["needs_source"] == "always"
    assert entries["maml"]["verb"] == "metatune"
    for entry in entries.values():
        assert set(entry) == {"name", "verb", "title", "needs_source", "cost", "paper"}
        assert all(entry.values())
        assert any(character.isdigit() for character in entry["paper"])


@pytest.mark.parametrize("columns", ["80", "180"])
def test_table_names_all_and_their_papers_on_any_terminal(
    call: Call, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    code, text, _ = call("methods")
    assert code == 0
    lines = text.splitlines()
    assert max(map(len, lines)) <= int(columns)
    for name, info in METHODS.entries().items():
        assert any(name in line for line in lines)
        assert info.paper.split()[0] in text
