from __future__ import annotations

import pytest
from forked import start

from metaseg.adapt.engines import ENGINES, BatchedEngine, build_engine, slice_gradient_evaluations
from metaseg.errors import UsageError
from metaseg.version import __version__


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # The paper's step over one learned and one unlearned task, one slice each.
        ({"tasks": 2}, 6),
        ({"tasks": 2, "first_order": True}, 4),
        ({"tasks": 1, "inner_steps": 3}, 7),
        ({"tasks": 1, "inner_steps": 3, "first_order": True}, 4),
        ({"tasks": 4, "inner_steps": 2, "support_size": 3, "query_size": 5}, 68),
        ({"tasks": 0}, 0),
    ],
)
def test_cost_of_a_meta_step(arguments: dict, expected: int):
    assert slice_gradient_evaluations(**arguments) == expected


def test_an_unknown_engine_names_the_known_and_the_nearest():
    with pytest.raises(UsageError, match=r"(?s)unknown meta-step engine 'learn2lern'.*did you mean 'learn2learn'"):
        build_engine("learn2lern")
    assert "learn2learn" in ENGINES.names()


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="already"):
        ENGINES.register("learn2learn")(BatchedEngine)


IMPORTS_LEARN2LEARN = """
import sys, warnings
from metaseg.adapt.engines import build_engine
assert 'learn2learn' not in sys.modules
filters = list(warnings.filters)
build_engine('learn2learn')
assert 'learn2learn' in sys.modules and warnings.filters == filters
"""


def test_learn2learn_is_imported_late_and_without_a_word(tmp_path):
    process = start(["--version"], said=tmp_path / "said", first=IMPORTS_LEARN2LEARN)
    process.join(300)
    assert (process.exitcode, (tmp_path / "said").read_text()) == (0, f"metaseg {__version__}\n")
