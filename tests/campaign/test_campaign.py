"""Bad and borderline inputs, each with its outcome; ``scripts/campaign.py`` tries all of them, this a share of each kind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from campaign.bench import Assets
from campaign.collection import TRIALS, quick
from campaign.runner import faults
from campaign.trial import Trial

KINDS = "ABCDEFGHIJK"


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    return Assets(tmp_path_factory.mktemp("campaign"))


@pytest.mark.parametrize("trial", quick(), ids=str)
def test_outcome(trial: Trial, assets: Assets, tmp_path: Path) -> None:
    assert not (found := faults(trial, assets, tmp_path / "trial")), "\n".join(found)


def test_the_campaign_is_large_and_holds_every_kind() -> None:
    counts = Counter(trial.kind for trial in TRIALS)
    assert set(counts) == set(KINDS)
    assert counts.total() >= 400
    assert len({str(trial) for trial in TRIALS}) == counts.total()
    assert len(quick()) >= 300
