from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from metaseg.config.io import load_config
from metaseg.config.studies import CompareConfig

StudyWriter = Callable[..., CompareConfig]


@pytest.fixture
def study(domains, tmp_path) -> StudyWriter:
    """The settings of a small study; keywords change them."""

    def make(**changes: Any) -> CompareConfig:
        settings: dict[str, Any] = {
            "from": domains["from"],
            "cache": domains["cache"],
            "targets": {"met": domains["target"]},
            "shared": domains["shared"],
            "methods": {"naive": {}, "maml-active": {"method": "maml", "order": "active"}},
            "shots": [2],
            "seeds": [0],
            "budget": 12,
            "marks": 2,
            "resamples": 100,
            "threads": 1,
            "device": "cpu",
            "out": tmp_path / "study",
        }
        return load_config(CompareConfig, None, settings | changes)

    return make
