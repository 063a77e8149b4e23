"""Backlogs on a real cluster while dispatcher, scheduler and workers are killed at random.

What must be true at the end stands in `tests.backlog`: every group published once or failed with a
reason, nothing staged, nothing to reconcile.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backlog import make_backlog, survive
from tests.postgres import Server
from tests.postgres import postgres as postgres  # the fixture

MB = 1_000_000


@pytest.mark.timeout(400)
def test_a_backlog_survives_kills_at_random_moments(tmp_path: Path) -> None:
    backlog = make_backlog(tmp_path / "incoming", 100)
    place = str(tmp_path / "catalogue.sqlite")
    survived = survive(tmp_path / "site", backlog, place, kills=9, seed=5, timeout_s=300)
    assert survived.kills.total() > 0


@pytest.mark.timeout(300)
def test_a_backlog_in_postgresql_survives_them_too(tmp_path: Path, postgres: Server) -> None:
    backlog = make_backlog(tmp_path / "incoming", 30)
    place = postgres.catalogue_database()
    survived = survive(tmp_path / "site", backlog, place, kills=5, seed=7, timeout_s=200)
    assert survived.kills.total() > 0


@pytest.mark.soak
@pytest.mark.timeout(2 * 3600)
def test_thousands_of_groups_survive_dozens_of_kills_and_memory_stays_flat(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    backlog = make_backlog(tmp_path / "incoming", 2000)
    place = str(tmp_path / "catalogue.sqlite")
    survived = survive(
        tmp_path / "site", backlog, place,
        kills=60, seed=11, timeout_s=5400, after_s=(2.0, 12.0),
    )  # fmt: skip
    growth = {name: memory.growth(at_least=25) for name, memory in survived.memory.items()}
    for name, value in {
        "kills": dict(survived.kills), "seconds": survived.seconds, "growth_bytes": growth,
    }.items():  # fmt: skip
        record_property(name, value)
    # An idle machine may be done before the last of them.
    assert survived.kills.total() >= 40
    assert all(growth.values()), "no life was long enough to tell"
    assert max(max(some) for some in growth.values()) < 30 * MB, growth
