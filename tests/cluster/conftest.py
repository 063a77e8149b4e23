"""One test bed of several hosts for all tests that want it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from cluster.testbed import Bed, bring_up
from tests.cluster import step_gates


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """A scheduler's host and four nodes, a worker each; it may have been hurt by a test."""
    settings = "expected_subbands = 4\nstage_to_tmpfs = true"
    directory = tmp_path_factory.mktemp("bed")
    (directory / "gates").mkdir()
    environment = {
        step_gates.PLACE: str(directory / "gates"),
        # An environment variable of Dask takes the place of what its file says: all of it again.
        "DASK_DISTRIBUTED__WORKER__PRELOAD": repr(
            [
                "contimg_dask.deploy.worker_node",
                "contimg_dask.deploy.worker_metrics",
                step_gates.__file__,
            ]
        ),
    }
    # Dask looks every so many seconds for workers that were silent for as long, but at least for
    # 5 s. A lost node's nanny is asked to restart it first, and waited for as long as that.
    impatient = {
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "2s",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s",
    }
    with bring_up(
        directory, worker_ttl_s=5, settings=settings, roles={"node4": "stage"},
        environment=environment, scheduler_environment=impatient,
    ) as bed:  # fmt: skip
        if bed.word:
            warnings.warn(f"a test bed with less than it should have: {bed.word}", stacklevel=1)
        yield bed


@pytest.fixture
def bed(running: Bed) -> Bed:
    """The test bed, whole."""
    running.wait_for_all()
    return running
