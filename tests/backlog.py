"""A backlog on a real cluster whose processes are killed at random: what must be true at the end."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contimg_dask.publishing.manifest import read_manifest
from contimg_dask.publishing.targets import fault_of_product, published_products
from tests.acceptance.conftest import COMMAND, make_groups
from tests.services import Deployment, deployed, until

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
    """Kills services and workers at random moments, a bounded number of times."""

    deployment: Deployment
    kills: int
    seed: int
    every_s: tuple[float, float] = (1.0, 3.0)
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
        while len(self.done) < self.kills:
            if self._stopped.wait(chance.uniform(*self.every_s)):
                return
            what = chance.choice(["dispatcher", "scheduler", "worker", "workers"])
            if what == "worker":
                if self.deployment.workers.kill_child():
                    self.done.append(what)
                continue
            getattr(self.deployment, what).kill()
            self.done.append(what)


@dataclass(frozen=True, kw_only=True)
class Survived:
    """What was found at the end of a campaign."""

    counts: dict[str, int]
    kills: Counter[str]
    seconds: float
    memory_bytes: dict[str, list[int]]


def survive(
    site: Path, backlog: Backlog, catalogue: str, *, kills: int, seed: int, timeout_s: float
) -> Survived:
    """Convert a backlog while things are killed, and hold the end to what was promised."""
    out = site / "products"
    (site / "scratch").mkdir(parents=True)
    begun_s = time.monotonic()
    memory: dict[str, list[int]] = {"scheduler": [], "dispatcher": []}
    with deployed(
        site / "services", catalogue, retry_delay_s=1, dispatcher_lease_s=5, stop_timeout_s=20
    ) as deployment:
        submitted = contimg(
            "submit", backlog.directory, out, "--expected-subbands", "2",
            "--scratch-dir", site / "scratch", catalogue=catalogue,
        )  # fmt: skip
        job = submitted["job"]

        def is_done() -> bool:
            for name, seen in memory.items():
                service = getattr(deployment, name)
                if service.process is not None and service.process.poll() is None:
                    seen.append(service.memory_bytes())
            state = contimg("status", str(job), catalogue=catalogue)["job"]
            counts = state["counts"]
            open_groups = sum(counts.get(s, 0) for s in ("collecting", "queued", "running"))
            return state["state"] == "read" and not open_groups

        with Killer(deployment=deployment, kills=kills, seed=seed) as killer:
            until(is_done, timeout_s, every_s=1.0)
        seconds = time.monotonic() - begun_s
        # Whoever was killed last comes back once more, and clears up what it finds.
        until(lambda: is_quiet(deployment, catalogue), 60)
        assert deployment.dispatcher.stop() == 0
        counts = contimg("status", str(job), catalogue=catalogue)["job"]["counts"]
        assert_all_accounted_for(backlog, out, catalogue, counts)
    assert_nothing_left(site, out, catalogue)
    return Survived(counts=counts, kills=Counter(killer.done), seconds=seconds, memory_bytes=memory)


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
