"""Replay a day of the telescope to the daemon, with every trouble, and count what became of it.

One run makes the files of a day (279 groups of 16 small subbands, names jittered as real ones are),
lets them arrive in time order with outages, faults, late, doubled and re-sent files at the rates of
real days, sped up, and kills the daemon with SIGKILL on the way. At the end every complete group
must be published once, every other be what its rule says, and nothing be lost or left: the same
assertions as tests/acceptance/test_stream.py. Then full-scale groups arrive as fast as the daemon
can take them. Then a restart on a directory of many old files. Writes one JSON and one plot; parts
that are left out keep their figures.

    PYTHONPATH=. .venv/bin/python benchmarks/stream.py
    PYTHONPATH=. .venv/bin/python benchmarks/stream.py --groups 40 --full 2 --old-files 10000
    PYTHONPATH=. .venv/bin/python benchmarks/stream.py --groups 0 --full 0
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
from convert import machine

from contimg_dask.catalogue import groups
from contimg_dask.catalogue.opening import open_catalogue
from contimg_dask.simulate import Observation, simulate
from tests.backlog import Memory
from tests.observing import Kind, Night, Seen, make_night, observe_night
from tests.services import COMMAND, Service, until

HERE = Path(__file__).parent
CADENCE_S = 309.24
# Parts of all groups. An outage takes two groups at once; the rest are a few times as frequent as
# in real days, so that each happens at least once in one.
RATES: dict[Kind, float] = {
    "missing": 0.010, "few": 0.004, "corrected": 0.007, "truncated": 0.007, "late": 0.004,
    "late-partial": 0.007, "sent-again": 0.011, "twice": 0.004, "clock": 0.007, "two-sb00": 0.011,
    "slow": 0.011, "unfinished": 0.050,
}  # fmt: skip


def troubles(count: int, seed: int) -> list[tuple[int, Kind]]:
    """Say what happens to which group: at least one of each kind, bursts of missing subbands."""
    chance = random.Random(seed)  # noqa: S311
    free = list(range(3, count - 12))
    chance.shuffle(free)
    found: list[tuple[int, Kind]] = []
    for kind, rate in RATES.items():
        for _ in range(max(1, round(rate * count))):
            found.append((free.pop(), kind))
    return found


def day(site: Path, count: int, subbands: int, cadence_s: float, kills: int) -> dict[str, Any]:
    """Replay a day; return what was counted."""
    began_s = time.monotonic()
    wrong = troubles(count, seed=7)
    night = make_night(site / "made", count, subbands, wrong, name_jitter=True)
    print(f"{len(night.deliveries)} files made in {time.monotonic() - began_s:.0f} s", flush=True)
    chance = random.Random(3)  # noqa: S311
    kill_at = sorted(chance.uniform(2, count - 12) for _ in range(kills))
    seen = observe_night(site / "day", night, cadence_s=cadence_s, kill_at=kill_at, timeout_s=300.0)
    return counted(night, seen, cadence_s, kill_at)


def counted(night: Night, seen: Seen, cadence_s: float, kill_at: list[float]) -> dict[str, Any]:
    """Return the figures of a night that has come to its end as it must."""
    latencies_s = sorted(seen.latencies_s)
    quarter = len(seen.memory_bytes) // 4
    return {
        "groups": len(night.expected),
        "subbands": night.subbands,
        "files": len(night.deliveries),
        "cadence_s": cadence_s,
        "sped_up": CADENCE_S / cadence_s,
        "kinds": dict(Counter(one.kind for one in night.expected)),
        "states": dict(Counter(row.state for row in seen.rows)),
        "partial": sum(
            row.state == "published" and row.present < row.expected for row in seen.rows
        ),
        "interrupted": sum(row.interruptions > 0 for row in seen.rows),
        "kills": seen.kills,
        "kill_at": kill_at,
        "seconds": seen.seconds,
        "latencies_s": latencies_s,
        "latency_median_s": statistics.median(latencies_s),
        "latency_p95_s": latencies_s[int(0.95 * (len(latencies_s) - 1))],
        "memory_mb": [round(size / 1e6) for size in seen.memory_bytes[:: max(1, quarter // 50)]],
        "descriptors_most": max(seen.descriptors),
    }


def started(site: Path, incoming: Path, *arguments: str) -> Service:
    return Service(
        name="stream",
        arguments=[
            COMMAND, "stream", "--input", incoming, "--output", site / "products",
            "--catalogue", site / "catalogue.sqlite", *arguments,
        ],
        log=site / "stream.log",
    ).start()  # fmt: skip


def has_said(site: Path, text: str) -> bool:
    log = site / "stream.log"
    return log.exists() and text in log.read_text()


def full_scale(site: Path, count: int) -> dict[str, Any]:
    """Let full-scale groups arrive all at once; return how long each took from then on."""
    made, incoming = site / "made", site / "incoming"
    incoming.mkdir(parents=True)
    simulate(made, Observation(groups=count, noise_jy=1.0))
    service = started(site, incoming)
    with open_catalogue(str(site / "catalogue.sqlite")) as catalogue:
        until(lambda: has_said(site, "connected to the cluster"), 120)
        began_s = time.time()
        for path in sorted(made.iterdir()):
            os.link(path, incoming / f".{path.name}.aBcDeF")
            (incoming / f".{path.name}.aBcDeF").rename(incoming / path.name)
        until(lambda: groups.count_by_state(catalogue).get("published") == count, 600)
        rows = groups.list_groups(catalogue)
        service.stop(60)
    ends_s = sorted(row.finished_s or 0.0 for row in rows)
    per_group_s = (ends_s[-1] - began_s) / count
    return {
        "groups": count,
        "bytes_per_group": sum(p.stat().st_size for p in made.iterdir()) / count,
        "seconds": ends_s[-1] - began_s,
        "published_after_s": [end_s - began_s for end_s in ends_s],
        "seconds_per_group": per_group_s,
        "times_faster_than_the_telescope": CADENCE_S / per_group_s,
    }


def copies(path: Path, incoming: Path, count: int) -> None:
    """Write a file again and again, as that of one group after the other: only times differ."""
    with h5py.File(path, "r+") as file:
        first = file["Header/time_array"][()]
        del file["Header/time_array"]
        # In one piece, so that its place in the file is known.
        file["Header/time_array"] = first
        file.flush()
        offset = file["Header/time_array"].id.get_offset()
    content = bytearray(path.read_bytes())
    began = datetime.fromisoformat(path.name[:19]).replace(tzinfo=UTC)
    for number in range(count):
        later = timedelta(seconds=number * CADENCE_S)
        moved = (first + later.total_seconds() / 86400.0).tobytes()
        content[offset : offset + len(moved)] = moved
        name = (began + later).strftime("%Y-%m-%dT%H:%M:%S") + path.name[19:]
        (incoming / name).write_bytes(content)


def restart(site: Path, files: int) -> dict[str, Any]:
    """Start on a directory of many old files, twice; return the seconds until it is looked through.

    The groups are set aside between the two, so that nothing is converted.
    """
    made, incoming = site / "made", site / "incoming"
    incoming.mkdir(parents=True)
    count = files // 16
    simulate(made, Observation(antennas=2, integrations=2, channels=1, name_jitter=False))
    for path in made.iterdir():
        copies(path, incoming, count)
    memory, seconds = Memory(), []
    for _ in range(2):
        (site / "stream.log").unlink(missing_ok=True)
        began_s = time.monotonic()
        service = started(site, incoming, "--scheduler", "tcp://127.0.0.1:1")
        with open_catalogue(str(site / "catalogue.sqlite")) as catalogue:
            until(
                lambda: (
                    sum(groups.count_by_state(catalogue).values()) == count
                    and has_said(site, "dispatching")
                ),
                1200,
                every_s=0.5,
            )
        seconds.append(time.monotonic() - began_s)
        memory.look(service)
        service.stop(60)
    sizes = [life[-1] for life in memory.lives.values()]
    return {
        "files": count * 16,
        "first_start_s": seconds[0],
        "restart_s": seconds[1],
        "memory_mb": [round(size / 1e6) for size in sizes],
    }


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    found = results["day"]
    latencies = found["latencies_s"]
    left.step(latencies, [n / len(latencies) for n in range(1, len(latencies) + 1)], where="post")
    left.set_xscale("log")
    left.set_xticks([0.3, 1, 3, 10, 30], ["0.3", "1", "3", "10", "30"])
    left.minorticks_off()
    left.set_xlabel("from the last file to the product [s]")
    left.set_ylabel("part of the live groups")
    left.grid(alpha=0.3)
    left.set_title(
        f"{found['groups']} groups, one every {found['cadence_s']:.2g} s, {found['kills']} kills",
        fontsize="medium",
    )
    right.plot(found["memory_mb"])
    right.set_ylim(bottom=0)
    right.set_xlabel("through the day")
    right.set_ylabel("memory of the daemon [MB]")
    right.grid(alpha=0.3)
    right.set_title("a step down is a kill", fontsize="medium")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--groups", type=int, default=279, help="0: no day")
    parser.add_argument("--subbands", type=int, default=16)
    parser.add_argument("--cadence", type=float, default=1.5, help="seconds from group to group")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--full", type=int, default=4, help="full-scale groups; 0: none")
    parser.add_argument("--old-files", type=int, default=100_000, help="0: no restart")
    parser.add_argument("--directory", type=Path, default=Path("contimg-bench-stream"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    chosen = parser.parse_args()
    site: Path = chosen.directory.absolute()
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    stored = chosen.results / "stream.json"
    results: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
    try:
        for name, figures in measured(site, chosen):
            results[name] = figures | {"machine": machine()}
            print({k: v for k, v in figures.items() if not isinstance(v, list)}, flush=True)
    finally:
        shutil.rmtree(site, ignore_errors=True)
    chosen.results.mkdir(parents=True, exist_ok=True)
    stored.write_text(json.dumps(results, indent=1) + "\n")
    plot(results, chosen.results / "stream.png")


def measured(site: Path, chosen: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Do the parts that were chosen; what they leave on disk is gone before the next."""
    if chosen.groups:
        yield "day", day(site, chosen.groups, chosen.subbands, chosen.cadence, chosen.kills)
        shutil.rmtree(site / "made")
    if chosen.full:
        yield "full_scale", full_scale(site / "full", chosen.full)
        shutil.rmtree(site / "full")
    if chosen.old_files:
        yield "restart", restart(site / "old", chosen.old_files)


if __name__ == "__main__":
    main()
