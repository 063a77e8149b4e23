"""The one line at the top of the page: what makes a night good, worth a look, or bad."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from contimg_dask.api.verdict import judge
from contimg_dask.catalogue.overview import JobLine, Overview, RunningLine, WaitingLine
from contimg_dask.catalogue.recent import RecentGroup
from contimg_dask.catalogue.records import Lease, NodeRow, Pause
from contimg_dask.model import Owner
from contimg_dask.status import Status

NOW_S = time.time()
OWNER = Owner(host="here", boot_id="b", pid_namespace=1, pid=11, start_ticks=5)


def lease(name: str = "dispatcher", **facts: Any) -> Lease:
    return Lease(
        name=name, holder="process 11", owner=OWNER, token="t", acquired_s=NOW_S - 100,  # noqa: S106 - made up
        expires_s=NOW_S + 30, facts={"state": "converting"} | facts,
    )  # fmt: skip


def overview(**about: Any) -> Overview:
    usual: dict[str, Any] = {
        "time_s": NOW_S, "counts": {"published": 90, "queued": 2}, "jobs": (),
        "published_hour": 11, "published_moment": 2, "moment_s": 600.0, "oldest_waiting": None,
        "running": (), "failures": (), "live_lag_s": 350.0,
    }  # fmt: skip
    return Overview(**usual | about)


def status(view: Overview | None = None, **about: Any) -> Status:
    usual: dict[str, Any] = {
        "place": "c.sqlite", "overview": view or overview(), "dispatcher": lease(), "pause": None,
        "nodes": (node(),), "job": None,
    }  # fmt: skip
    return Status(**usual | about)


def node(name: str = "10.0.0.1", *, ago_s: float = 3.0, free: int = 100) -> NodeRow:
    tier = {"name": "tmpfs", "root": "/x", "used_bytes": 50, "promised_bytes": 80,
            "free_bytes": free}  # fmt: skip
    return NodeRow(
        name=name, state="active", workers=4, first_seen_s=0.0, last_seen_s=NOW_S - ago_s,
        facts={"tiers": [tier]},
    )  # fmt: skip


def recent(state: str, *, ago_s: float = 100.0, reason: str | None = None) -> RecentGroup:
    return RecentGroup(
        key=1, id="g", state=state, finished_s=NOW_S - ago_s, start_s=0.0, live=True, node=None,  # type: ignore[arg-type]
        present=16, expected=16, attempts=1, reason=reason, bytes_in=1, latency_s=None, seconds={},
    )  # fmt: skip


GOOD = [recent("published") for _ in range(11)]
STREAMING = JobLine(
    id=1, label="stream", state="streaming", live=True, priority=0, files=0, files_read=0,
    candidates=0, submitted_s=0.0, counts={}, input_dir="/in",
)  # fmt: skip
FOLLOWED = lease("stream /in", input_dir="/in", state="watching")
WAITS = WaitingLine(key=1, id="g", since_s=NOW_S - 3600)
RUNS = RunningLine(
    key=2, id="r", node="10.0.0.1", attempt="a", since_s=NOW_S, attempts=0, cancel_requested=False
)


def test_a_night_without_trouble_is_good_and_says_what_is_done() -> None:
    verdict = judge(status(), GOOD)
    assert (verdict.level, verdict.headline, verdict.findings) == ("good", "Going well", ())
    assert verdict.text == "11 published within the last hour, 2 waiting."
    running = judge(status(overview(running=(RUNS,))), GOOD)
    assert running.text == "11 published within the last hour, 1 running, 2 waiting."
    idle = judge(status(overview(counts={})), [])
    assert idle.text == "11 published within the last hour, nothing is waiting."


@pytest.mark.parametrize(
    ("level", "words", "found", "groups"),
    [
        ("bad", "No dispatcher", status(dispatcher=None), GOOD),
        ("look", "No dispatcher", status(overview(counts={}), dispatcher=None), GOOD),
        ("look", "Paused by me: disk",
         status(pause=Pause(reason="disk", by="me", since_s=0.0)), GOOD),
        ("bad", "waiting: 3 GB", status(dispatcher=lease(state="waiting: 3 GB to use")), GOOD),
        ("look", "none was begun",
         status(overview(oldest_waiting=WAITS, published_moment=0)), GOOD),
        ("look", "13 min behind", status(overview(live_lag_s=800.0)), GOOD),
        ("bad", "1.6 h behind", status(overview(live_lag_s=3600.0 * 1.6)), GOOD),
        ("look", "1 group of the last hour's 12 failed (truncated)",
         status(), [*GOOD, recent("failed", reason="truncated")]),
        ("bad", "4 groups of the last hour's 15 failed",
         status(), [*GOOD, *[recent("quarantined", reason="worker-lost")] * 4]),
        ("look", "Node not seen for a minute: 10.0.0.2",
         status(nodes=(node(), node("10.0.0.2", ago_s=300))), GOOD),
        ("look", "Staging in tmpfs of node 10.0.0.1 is nearly full",
         status(nodes=(node(free=5),)), GOOD),
        ("bad", "No stream follows /in", status(overview(jobs=(STREAMING,))), GOOD),
        ("look", "The stream has trouble: input directory",
         status(overview(jobs=(STREAMING,)),
                streams=(replace(FOLLOWED, facts={"input_dir": "/in", "state": "input directory"}),)),
         GOOD),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_how_bad_it_is(
    level: str, words: str, found: Status, groups: list[RecentGroup]
) -> None:
    verdict = judge(found, groups)
    assert verdict.level == level
    assert words in verdict.text
    assert verdict.findings[0].text == verdict.text


def test_the_worst_comes_first() -> None:
    troubled = status(overview(live_lag_s=800.0), dispatcher=None)
    verdict = judge(troubled, [*GOOD, recent("failed", reason="no-space")])
    assert [finding.level for finding in verdict.findings] == ["bad", "look", "look"]
    assert verdict.headline == "Not going well"


@pytest.mark.parametrize(
    "found",
    [
        status(overview(jobs=(STREAMING,)), streams=(FOLLOWED,)),
        status(nodes=(node("10.0.0.9", ago_s=10 * 86400),)),  # gone for good
        status(overview(oldest_waiting=WAITS, running=(RUNS,), published_moment=0)),
    ],
)
def test_what_is_as_it_should_be_is_no_finding(found: Status) -> None:
    assert judge(found, [*GOOD, recent("failed", ago_s=7200, reason="truncated")]).level == "good"


def test_facts_of_another_version_are_passed_over() -> None:
    strange = replace(node(), facts={"tiers": [{"name": "x"}, 3]})
    assert judge(status(nodes=(strange,)), GOOD).level == "good"
