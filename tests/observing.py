"""A telescope that writes files as a real one does, faults and all, and what must become of them.

Files are simulated beforehand; here they arrive, sped up: renamed into place, cut short, copied
slowly, late, twice, or not at all. What each group has to become is worked out from that alone.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from contimg_dask.catalogue import groups
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.catalogue.records import GroupRow
from contimg_dask.naming import parse_file_name
from contimg_dask.publishing.manifest import read_manifest
from contimg_dask.publishing.targets import fault_of_product, published_products
from tests.acceptance.conftest import COMMAND, make_groups
from tests.backlog import contimg
from tests.services import Service, until

CADENCE_S = 309.24
START = "2025-10-05T03:12:06"
TINY = {"antennas": 4, "integrations": 24, "channels": 4}

Kind = Literal[
    "whole", "missing", "few", "corrected", "truncated", "late", "late-partial", "sent-again",
    "twice", "clock", "two-sb00", "slow", "unfinished",
]  # fmt: skip
How = Literal["rename", "spoil", "slow", "unfinished"]

USUAL: tuple[Kind, ...] = (
    "missing", "missing", "few", "corrected", "truncated", "late", "late-partial", "sent-again",
    "twice", "clock", "two-sb00", "slow", "unfinished",
)  # fmt: skip
"""What happens besides whole groups; an outage misses the same subbands of two groups."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A file that comes, so many cadences after the night has begun."""

    at: float
    source: Path
    name: str
    how: How = "rename"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a group has to become: its state, and how many subbands its product may have."""

    kind: Kind
    state: str
    present: frozenset[int]
    code: str | None = None


@dataclass(kw_only=True)
class Night:
    """Every file that comes, in order, and what has to become of every group."""

    subbands: int
    min_subbands: int
    deliveries: list[Delivery] = field(default_factory=list)
    expected: list[Expected] = field(default_factory=list)


def make_night(
    made: Path, count: int, subbands: int, troubles: Sequence[tuple[int, Kind]], **about: Any
) -> Night:
    """Simulate the files of a night, and lay down how they come.

    Parameters
    ----------
    made
        Where the files are made, to be brought from.
    count, subbands
        Groups, and subbands of each.
    troubles
        What happens to which group.
    about
        More of the simulation.
    """
    kinds: list[Kind] = ["whole"] * count
    for number, kind in troubles:
        kinds[number] = kind
    faults = [f"clock-{n}" for n, kind in enumerate(kinds) if kind == "clock"]
    wanted = [f"mjd-55000:{fault[6:]}:1" for fault in faults]
    make_groups(
        made, *wanted, **TINY | {"groups": count, "subbands": subbands, "start": START} | about
    )
    files = _files_by_group(made, count)
    night = Night(subbands=subbands, min_subbands=subbands - 1)
    for number, kind in enumerate(kinds):
        _deliver(night, number, kind, files[number])
    night.deliveries.sort(key=lambda one: one.at)
    return night


def _files_by_group(made: Path, count: int) -> list[list[Path]]:
    found: list[list[Path]] = [[] for _ in range(count)]
    began = datetime.fromisoformat(START).replace(tzinfo=UTC)
    for path in sorted(made.iterdir()):
        name = parse_file_name(path.name)
        assert name is not None
        stamp = datetime.fromisoformat(name.stamp).replace(tzinfo=UTC)
        # Names are late by up to 82 s.
        found[round(((stamp - began).total_seconds() - 41) / CADENCE_S)].append(path)
    return [sorted(files, key=lambda path: path.name[-9:]) for files in found]


def _deliver(night: Night, number: int, kind: Kind, files: list[Path]) -> None:
    """Lay down how the files of a group come, and what has to become of it."""
    chance = random.Random(number)
    plan = {
        path.name: Delivery(at=number + chance.uniform(0, 0.25), source=path, name=path.name)
        for path in files
    }
    gone = _absent(kind, files)
    _trouble(plan, plan[files[1].name], kind, number, gone)
    state, code = _FAILS.get(kind, ("published", None))
    # A late file is taken along when its group is still in the queue.
    least = night.subbands - len(gone) * (kind in ("missing", "late-partial"))
    least -= kind in ("truncated", "clock")
    most = night.subbands if kind == "late-partial" else least
    night.deliveries += plan.values()
    night.expected.append(
        Expected(kind=kind, state=state, present=frozenset((least, most)), code=code)
    )


_FAILS = {"few": ("failed", "missing-subbands"), "twice": ("failed", "duplicate-subband")}
_ABSENT = {"missing": 1, "late-partial": 1, "few": 3, "late": 3}


def _absent(kind: Kind, files: list[Path]) -> list[str]:
    """Return the files that do not come in time."""
    return [path.name for path in files[1 : 1 + _ABSENT.get(kind, 0)]]


def _trouble(
    plan: dict[str, Delivery], one: Delivery, kind: Kind, number: int, absent: list[str]
) -> None:
    for name in absent:
        late = replace(plan.pop(name), at=number + 9.0)
        if kind in ("late", "late-partial"):
            plan[name] = late
    hows: dict[Kind, How] = {
        "corrected": "spoil", "truncated": "spoil", "slow": "slow", "unfinished": "unfinished"
    }  # fmt: skip
    if kind in hows:
        plan[one.name] = replace(one, how=hows[kind])
    if kind == "two-sb00":
        plan[one.name] = replace(one, name=_second(one.name, "sb00"))
    if kind == "corrected":
        plan["again"] = replace(one, at=one.at + 1.0)
    if kind == "sent-again":
        plan["again"] = replace(one, at=number + 9.0)
    if kind == "twice":
        plan["twice"] = replace(one, at=number + 0.1, name=_second(one.name))


def _second(name: str, subband: str | None = None) -> str:
    """Return another name for a file: stamped a second or two later."""
    stamp, _, rest = name.partition("_")
    moment = datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp() + 2
    later = datetime.fromtimestamp(moment, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{later}_{rest if subband is None else f'{subband}.hdf5'}"


class Telescope:
    """Brings the files of a night into a directory, a cadence being so many seconds long."""

    def __init__(self, night: Night, incoming: Path, cadence_s: float) -> None:
        self._night = night
        self._incoming = incoming
        self._cadence_s = cadence_s
        self._later: list[tuple[float, Path, Path]] = []

    def observe(self) -> Iterator[float]:
        """Bring what is due; yield how many cadences have passed, until all is there."""
        began_s = time.monotonic()
        left = list(self._night.deliveries)
        while left or self._later:
            passed = (time.monotonic() - began_s) / self._cadence_s
            while left and left[0].at <= passed:
                self._bring(left.pop(0), passed)
            for one in [late for late in self._later if late[0] <= passed]:
                one[1].rename(one[2])
                self._later.remove(one)
            yield passed
            time.sleep(0.01)

    def _bring(self, one: Delivery, passed: float) -> None:
        target = self._incoming / one.name
        if one.how == "slow":
            content = one.source.read_bytes()
            with target.open("wb") as file:
                for start in range(0, len(content), max(1, len(content) // 4)):
                    file.write(content[start : start + max(1, len(content) // 4)])
                    file.flush()
                    time.sleep(0.02)
            return
        unfinished = target.with_name(target.name.replace(".hdf5", "_incomplete.hdf5"))
        if one.how == "unfinished":
            shutil.copyfile(one.source, unfinished)
            self._later.append((passed + 1.0, unfinished, target))
            return
        hidden = self._incoming / f".{target.name}.aBcDeF"
        if one.how == "spoil":
            hidden.write_bytes(one.source.read_bytes()[: one.source.stat().st_size // 2])
        else:
            shutil.copyfile(one.source, hidden)
        hidden.rename(target)


@dataclass(kw_only=True)
class Seen:
    """What a night has come to."""

    rows: list[GroupRow]
    kills: int
    seconds: float
    memory_bytes: list[int]
    descriptors: list[int]

    @property
    def latencies_s(self) -> list[float]:
        """Of the live groups that came whole."""
        return [row.latency_s for row in self.rows if row.latency_s is not None and row.live]


def observe_night(
    site: Path,
    night: Night,
    *,
    cadence_s: float,
    kill_at: Sequence[float] = (),
    workers: int = 2,
    arguments: Sequence[str] = (),
    timeout_s: float = 60.0,
) -> Seen:
    """Run the daemon through a night, killed and started again; hold the end to what must be true.

    Parameters
    ----------
    site
        Directory for everything.
    night
        What comes.
    cadence_s
        Seconds from group to group.
    kill_at
        When it is killed, in cadences.
    workers, arguments
        Worker processes, and more arguments of the daemon.
    timeout_s
        For the last groups to come to their end.
    """
    incoming, out = site / "incoming", site / "products"
    incoming.mkdir(parents=True)
    catalogue = str(site / "catalogue.sqlite")
    service = Service(
        name="stream",
        arguments=[
            COMMAND, "stream", "--input", incoming, "--output", out, "--catalogue", catalogue,
            "--expected-subbands", str(night.subbands), "--min-subbands", str(night.min_subbands),
            "--collecting-timeout", str(max(1, round(4 * cadence_s))),
            "--workers", str(workers), "--log-format", "json", *arguments,
        ],
        log=site / "stream.log",
        environment={"CONTIMG_DASK_RESCAN_S": "1", "CONTIMG_DASK_SETTLE_S": "1"},
    )  # fmt: skip
    began_s, kills, samples = time.monotonic(), list(kill_at), []
    with open_catalogue(catalogue) as opened:
        service.start()
        try:
            for passed in Telescope(night, incoming, cadence_s).observe():
                if kills and passed >= kills[0]:
                    kills.pop(0)
                    service.kill()
                samples.append(_sample(service))
            until(lambda: _is_over(opened, night), timeout_s, every_s=0.5)
        finally:
            stopped = service.stop(60)
        rows = groups.list_groups(opened)
    seconds = time.monotonic() - began_s
    assert stopped == 0, (site / "stream.log").read_text()[-3000:]
    assert_treated_by_rule(night, rows)
    assert_nothing_lost_or_left(site, rows, catalogue)
    found = [sample for sample in samples if sample is not None]
    return Seen(
        rows=rows,
        kills=len(kill_at),
        seconds=seconds,
        memory_bytes=[memory for memory, _ in found],
        descriptors=[count for _, count in found],
    )


def _sample(service: Service) -> tuple[int, int] | None:
    with suppress(psutil.Error, AttributeError):
        process = psutil.Process(service.process.pid)  # type: ignore[union-attr]
        return process.memory_info().rss, process.num_fds()
    return None


def _is_over(catalogue: Catalogue, night: Night) -> bool:
    wanted = Counter(one.state for one in night.expected)
    found = groups.count_by_state(catalogue)
    return {state: found.get(state, 0) for state in wanted} == wanted and not any(
        found.get(state, 0) for state in ("queued", "running", "collecting")
    )


def assert_treated_by_rule(night: Night, rows: Sequence[GroupRow]) -> None:
    """Every group is what it has to be, by its rule, and there is no other."""
    assert len(rows) == len(night.expected)
    for row, expected in zip(rows, night.expected, strict=True):
        code = None if row.reason is None else row.reason.code
        assert (row.state, code) == (expected.state, expected.code), (expected.kind, row)
        if row.state == "published":
            assert row.present in expected.present, (expected.kind, row)


def assert_nothing_lost_or_left(site: Path, rows: Sequence[GroupRow], catalogue: str) -> None:
    """Disk and catalogue agree; one whole product per published group, and no other byte."""
    out = site / "products"
    published = [row for row in rows if row.state == "published"]
    products = published_products(out)
    manifests = [read_manifest(path) for path in products]
    for path, manifest in zip(products, manifests, strict=True):
        assert manifest is not None, path
        assert fault_of_product(path, manifest) is None
    starts = sorted(manifest["start_mjd"] for manifest in manifests if manifest is not None)
    assert starts == sorted(row.start_mjd for row in published if row.start_mjd is not None)
    assert len(set(starts)) == len(starts)
    by_path = {str(path): manifest for path, manifest in zip(products, manifests, strict=True)}
    for row in published:
        manifest = by_path[str(row.path)]
        assert manifest is not None
        assert len(manifest["inputs"]) == row.present
    failed = [row for row in rows if row.state == "failed"]
    assert len(list((out / "failed").glob("*/*.json"))) == len(failed)
    assert not (out / ".contimg-staging").exists()
    assert contimg("reconcile", out, catalogue=catalogue)["differences"] == []
    log = (site / "stream.log").read_text()
    assert "Traceback" not in log, log[log.index("Traceback") :][:3000]
    assert len(os.listdir(site / "incoming")) >= len(published)
