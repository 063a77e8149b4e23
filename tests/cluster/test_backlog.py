"""Backlogs on a real cluster while dispatcher, scheduler and workers are killed at random."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backlog import make_backlog, survive
from tests.postgres import postgres as postgres  # the fixture


@pytest.mark.timeout(400)
def test_a_backlog_survives_kills_and_every_group_has_its_outcome_once(tmp_path: Path) -> None:
    backlog = make_backlog(tmp_path / "incoming", 100)
    survived = survive(
        tmp_path / "site", backlog, str(tmp_path / "catalogue.sqlite"),
        kills=9, seed=5, timeout_s=300,
    )  # fmt: skip
    assert survived.kills.total() > 0
