"""A backlog on a real cluster whose processes are killed at random: what must be true at the end."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from contimg_dask.catalogue.groups import count_by_state
from contimg_dask.catalogue.jobs import is_job_done
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.catalogue.queue import running
from contimg_dask.catalogue.records import ProductRow
from contimg_dask.publishing.manifest import read_manifest
from contimg_dask.publishing.targets import fault_of_product, published_products
from tests.acceptance.conftest import COMMAND, make_groups
from tests.services import Deployment, Service, deployed, until

TINY = {"antennas": 4, "integrations": 2, "channels": 4, "subbands": 2}
FAULTS = {"truncated": "truncated", "wrong-antennas": "subbands-disagree"}
"""What is wrong with a file -> the reason its group fails with; one is found early, one late."""


@dataclass(kw_only=True)
class Backlog:
    """Simulated groups, some of them with a fault that nothing can be done about."""

    directory: Path
    groups: int
    faulty: frozenset[int]

    @property
    def whole(self) -> int:
        """Groups that must be published."""
        return self.groups - len(self.faulty)


def make_backlog(directory: Path, groups: int, every: int = 10) -> Backlog:
    """Simulate groups; every tenth or so has a file that cannot be read."""
    faulty = range(every // 2, groups, every)
    kinds = itertools.cycle(FAULTS)
    faults = [f"{next(kinds)}:{number}:1" for number in faulty]
    make_groups(directory, *faults, groups=groups, **TINY)
    return Backlog(directory=directory, groups=groups, faulty=frozenset(faulty))


def contimg(*arguments: str | Path, catalogue: str, check: bool = True) -> Any:
    """Run a command on the catalogue with --json, and return what it printed."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments), "--catalogue", catalogue, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    if check:
        assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@dataclass(kw_only=True)
class Killer:
    """Kills services and workers at random moments, a bounded number of times.

    What was killed before has to have published something since: a heap of processes that all just
    start would survive anything.
    """

    deployment: Deployment
    catalogue: Catalogue
    kills: int
    seed: int
    after_s: tuple[float, float] = (0.1, 2.0)
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _work(self) -> None:
        chance = random.Random(self.seed)
        published = 0
        while len(self.done) < self.kills:
            while not self._is_at_work(published):
                if self._stopped.wait(0.05):
                    return
            published = self._published()
            if self._stopped.wait(chance.uniform(*self.after_s)):
                return
            what = chance.choice(["dispatcher", "dispatcher", "scheduler", "worker", "workers"])
            if what == "worker":
                if self.deployment.workers.kill_child():
                    self.done.append(what)
                continue
            getattr(self.deployment, what).kill()
            self.done.append(what)

    def _published(self) -> int:
        return count_by_state(self.catalogue).get("published", 0)

    def _is_at_work(self, published: int) -> bool:
        return self._published() > published and bool(running(self.catalogue))


class Memory:
    """Resident memory of a service, once a second: a list per process that it was [bytes]."""

    def __init__(self) -> None:
        self.lives: dict[int, list[int]] = {}

    def look(self, service: Service) -> None:
        """Add a sample, if the service runs just now."""
        process = service.process
        if process is not None and process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                self.lives.setdefault(process.pid, []).append(service.memory_bytes())

    def growth(self, at_least: int) -> list[int]:
        """By how much the last quarter of each life exceeds its second one, in the median [bytes].

        Lives of fewer samples are passed over: what a process loads at first is no leak.
        """
        return [
            int(median(life[-(len(life) // 4) :]) - median(life[len(life) // 4 : len(life) // 2]))
            for life in self.lives.values()
            if len(life) >= at_least
        ]


@dataclass(frozen=True, kw_only=True)
class Survived:
    """What was found at the end of a campaign."""

    counts: dict[str, int]
    kills: Counter[str]
    seconds: float
    memory: dict[str, Memory]


def survive(
    site: Path,
    backlog: Backlog,
    catalogue: str,
    *,
    kills: int,
    seed: int,
    timeout_s: float,
    after_s: tuple[float, float] = (0.1, 2.0),
) -> Survived:
    """Convert a backlog while things are killed, and hold the end to what was promised."""
    out = site / "products"
    (site / "scratch").mkdir(parents=True)
    begun_s = time.monotonic()
    memory = {"scheduler": Memory(), "dispatcher": Memory()}
    with (
        deployed(
            site / "services", catalogue, retry_delay_s=1, dispatcher_lease_s=5, stop_timeout_s=20
        ) as deployment,
        open_catalogue(catalogue) as opened,
    ):
        submitted = contimg(
            "submit", backlog.directory, out, "--expected-subbands", "2",
            "--scratch-dir", site / "scratch", catalogue=catalogue,
        )  # fmt: skip
        job = submitted["job"]

        def is_done() -> bool:
            for name, seen in memory.items():
                seen.look(getattr(deployment, name))
            return is_job_done(opened, job)

        with Killer(
            deployment=deployment, catalogue=opened, kills=kills, seed=seed, after_s=after_s
        ) as killer:
            until(is_done, timeout_s, every_s=1.0)
        seconds = time.monotonic() - begun_s
        # Whoever was killed last comes back once more, and clears up what it finds.
        until(lambda: is_quiet(deployment, catalogue), 60)
        assert deployment.dispatcher.stop() == 0
        counts = contimg("status", str(job), catalogue=catalogue)["job"]["counts"]
        assert_all_accounted_for(backlog, out, catalogue, counts)
    assert_nothing_left(site, out, catalogue)
    # A dispatcher ends because it is killed or stopped, and for no other reason.
    log = (site / "services" / "dispatcher.log").read_text()
    assert "Traceback" not in log, log[log.index("Traceback") :][:3000]
    return Survived(counts=counts, kills=Counter(killer.done), seconds=seconds, memory=memory)


def is_quiet(deployment: Deployment, catalogue: str) -> bool:
    """Tell whether the dispatcher is up, connected, and has nothing to do."""
    dispatcher = contimg("status", catalogue=catalogue)["dispatcher"]
    return dispatcher is not None and dispatcher["facts"].get("state") == "idle"


def assert_all_accounted_for(
    backlog: Backlog, out: Path, catalogue: str, counts: dict[str, int]
) -> None:
    """Every whole group published once, every other failed with its reason; disk and rows agree."""
    assert counts == {"published": backlog.whole, "failed": len(backlog.faulty)}
    products = published_products(out)
    manifests = [read_manifest(path) for path in products]
    assert all(
        fault_of_product(path, manifest) is None
        for path, manifest in zip(products, manifests, strict=True)
    )
    starts = [manifest["start_mjd"] for manifest in manifests if manifest is not None]
    assert len(starts) == len(set(starts)) == backlog.whole
    failed = contimg("groups", "--state", "failed", catalogue=catalogue)["groups"]
    assert {group["reason"]["code"] for group in failed} == set(FAULTS.values())
    assert len(list((out / "failed").glob("*/*.json"))) == len(backlog.faulty)
    assert contimg("reconcile", out, catalogue=catalogue)["differences"] == []


def assert_nothing_left(site: Path, out: Path, catalogue: str) -> None:
    """No staging byte anywhere, and not one file beside products and failed records."""
    assert not (out / ".contimg-staging").exists()
    assert list((site / "scratch").iterdir()) == []
    strange = [
        path
        for kind in ("science", "calibrators")
        for path in (out / kind).glob("*/*")
        if path.suffix != ".ms" or path.name.startswith(".")
    ]
    assert strange == []


def is_as_its_manifest(row: ProductRow) -> bool:
    """Tell whether a row of the index says what the manifest of its product says."""
    manifest = read_manifest(Path(row.path))
    assert manifest is not None
    said = manifest | manifest["pointing"]
    names = {"group_id": "group"}
    compared = (
        "group_id", "kind", "start_mjd", "plan_hash", "attempt", "begin_mjd", "middle_mjd",
        "end_mjd", "ra_deg", "dec_deg", "declination_deg",
    )  # fmt: skip
    return all(getattr(row, name) == said[names.get(name, name)] for name in compared)
