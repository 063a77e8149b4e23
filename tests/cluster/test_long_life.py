"""What a scheduler and its workers keep of groups that are long done: nothing that grows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Client, Scheduler, Worker

from contimg_dask.execution.cluster import embedded_cluster
from contimg_dask.execution.keys import key_of
from tests.services import until

SUBBANDS = 4


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with embedded_cluster(2, "1GiB", "127.0.0.1:0") as cluster:
        yield cluster.client


def convert_in_name(client: Client, number: int) -> None:
    """Do tasks with the keys of a live group, and let the cluster come to rest."""
    attempt = f"2025-10-05T03:12:06.1.{number:08x}"
    parts = [
        client.submit(pow, subband, 2, key=key_of(attempt, f"part-sb{subband:02d}", live=True))
        for subband in range(SUBBANDS)
    ]
    reduced = client.submit(sum, parts, key=key_of(attempt, "reduce", live=True))
    assert reduced.result(timeout=30) == sum(subband**2 for subband in range(SUBBANDS))
    del parts, reduced
    until(lambda: client.run_on_scheduler(tasks_of) == 0, timeout_s=30, every_s=0.002)


def tasks_of(dask_scheduler: Scheduler) -> int:
    return len(dask_scheduler.tasks)


def kept_by_scheduler(dask_scheduler: Scheduler) -> dict[str, int]:
    spans = dask_scheduler.extensions["spans"]
    return {
        "spans": len(spans.spans),
        "task groups": len(dask_scheduler.task_groups),
        "prefixes": len(dask_scheduler.task_prefixes),
        "metrics": len(dask_scheduler.cumulative_worker_metrics),
    }


def kept_by_worker(dask_worker: Worker) -> dict[str, int]:
    return {"digests": len(dask_worker.digests_total), "tasks": len(dask_worker.state.tasks)}


def heard_s(dask_scheduler: Scheduler) -> list[float]:
    return [worker.last_seen for worker in dask_scheduler.workers.values()]


def test_nothing_is_kept_of_groups_that_are_done(client: Client) -> None:
    def kept() -> Any:
        # Figures of workers come with their heartbeats.
        began_s = time.time()
        until(lambda: min(client.run_on_scheduler(heard_s)) > began_s + 0.6, timeout_s=30)
        return client.run_on_scheduler(kept_by_scheduler), client.run(kept_by_worker)

    for number in range(20):
        convert_in_name(client, number)
    before = kept()
    for number in range(20, 60):
        convert_in_name(client, number)
    after = kept()
    assert after == before
    assert after[0]["spans"] == 0


def test_messages_of_the_past_are_few(client: Client) -> None:
    def logged(dask_scheduler: Scheduler) -> int | None:
        return dask_scheduler.transition_log.maxlen

    assert client.run_on_scheduler(logged) == 100
