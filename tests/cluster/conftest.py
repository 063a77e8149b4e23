"""One test bed of several hosts for all tests that want it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from cluster.testbed import Bed, bring_up


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """A scheduler's host and four nodes, a worker each; it may have been hurt by a test."""
    settings = "expected_subbands = 4\nstage_to_tmpfs = true"
    with bring_up(tmp_path_factory.mktemp("bed"), worker_ttl_s=5, settings=settings) as bed:
        if bed.word:
            warnings.warn(f"a test bed with less than it should have: {bed.word}", stacklevel=1)
        yield bed


@pytest.fixture
def bed(running: Bed) -> Bed:
    """The test bed, whole."""
    running.wait_for_all()
    return running
