"""Measure what the queue costs: per group beyond its conversion, per header, and for a look at it.

One run makes a backlog of small groups and converts it twice on the same scheduler and workers,
with `convert` and with `submit` and `dispatch`; the difference per group is what queue and dispatch
cost. Both orders alternate over the rounds. Then it reads the headers of a job, cold and
remembered, and times `status` on a catalogue of many groups. Writes one JSON and one plot.

    PYTHONPATH=. .venv/bin/python benchmarks/backlog.py
    PYTHONPATH=. .venv/bin/python benchmarks/backlog.py --groups 200 --rounds 3 --catalogued 100000
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from convert import machine

from contimg_dask.catalogue import groups, jobs
from contimg_dask.catalogue.opening import open_catalogue
from contimg_dask.catalogue.records import Arriving, NewJob
from contimg_dask.dispatching.reading import read_job
from contimg_dask.model import Group
from contimg_dask.python_api import find_groups
from contimg_dask.simulate import Observation, simulate
from tests.services import COMMAND, Deployment, deployed, until

HERE = Path(__file__).parent
SUBBANDS = 2
WAYS = {"convert": "convert", "queue": "submit and dispatch"}
CADENCE_S = 309.24


def run(*arguments: str | Path) -> Any:
    done = subprocess.run(
        [COMMAND, *map(str, arguments), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    return json.loads(done.stdout)


def is_connected(deployment: Deployment) -> bool:
    found = run("status", "--catalogue", deployment.catalogue)
    return bool(found["dispatcher"] and found["dispatcher"]["facts"]["state"] == "idle")


def by_convert(incoming: Path, out: Path, deployment: Deployment) -> float:
    """Seconds of the conversion alone: without start of Python, discovery and connecting."""
    report = run(
        "convert", incoming, out, "--expected-subbands", str(SUBBANDS),
        "--scheduler", deployment.address,
    )  # fmt: skip
    seconds = report["seconds"]
    return float(seconds["total"] - seconds["discovery"] - seconds["startup"])


def by_queue(incoming: Path, out: Path, deployment: Deployment) -> float:
    """Seconds from the submission to the last group's outcome, with reading of headers."""
    submitted = run(
        "submit", incoming, out, "--expected-subbands", str(SUBBANDS),
        "--catalogue", deployment.catalogue,
    )  # fmt: skip
    with open_catalogue(deployment.catalogue) as catalogue:
        while not jobs.is_job_done(catalogue, submitted["job"]):
            time.sleep(0.05)
        rows = groups.list_groups(catalogue, job=submitted["job"], limit=100_000)
        job = jobs.get_job(catalogue, submitted["job"])
    if {row.state for row in rows} != {"published"}:
        raise RuntimeError("not every group was published")
    return max(row.finished_s or 0.0 for row in rows) - job.submitted_s


def overhead(work: Path, count: int, rounds: int) -> dict[str, Any]:
    incoming = work / "incoming"
    simulate(
        incoming,
        Observation(
            groups=count, subbands=SUBBANDS, antennas=6, integrations=2, channels=4,
            name_jitter=False,
        ),
    )  # fmt: skip
    seconds: dict[str, list[float]] = {"convert": [], "queue": []}
    ways = {"convert": by_convert, "queue": by_queue}
    place = str(work / "catalogue.sqlite")
    open_catalogue(place).close()
    with deployed(work / "services", place) as deployment:
        until(lambda: is_connected(deployment), timeout_s=60)
        for number in range(rounds + 1):
            for name in sorted(ways, reverse=bool(number % 2)):
                out = work / f"out-{name}-{number}"
                taken = ways[name](incoming, out, deployment)
                print(f"round {number}  {name:8} {taken:7.2f} s", flush=True)
                shutil.rmtree(out)
                if number:
                    seconds[name].append(taken)
    extra = [
        1e3 * (queue - convert) / count
        for queue, convert in zip(seconds["queue"], seconds["convert"], strict=True)
    ]
    return {
        "groups": count,
        "seconds": seconds,
        "overhead_ms_per_group": extra,
        "median_overhead_ms_per_group": statistics.median(extra),
    }


def headers(work: Path) -> dict[str, Any]:
    incoming = work / "many"
    simulate(incoming, Observation(groups=100, antennas=6, integrations=2, channels=4))
    found = {}
    with open_catalogue(str(work / "headers.sqlite")) as catalogue:
        for name in ("cold", "remembered"):
            job = jobs.add_job(catalogue, new_job(incoming, work / "out"))
            start_s = time.perf_counter()
            count = read_job(catalogue, job)
            seconds = time.perf_counter() - start_s
            found[name] = {"files": 16 * (count or 0), "per_second": 16 * (count or 0) / seconds}
            print(f"headers {name}: {found[name]['per_second']:.0f} a second", flush=True)
    return found


def new_job(incoming: Path, out: Path) -> NewJob:
    return NewJob(
        input_dir=str(incoming),
        output_dir=str(out),
        expected_subbands=16,
        options_hash="0" * 64,
    )


def shifted(group: Group, number: int) -> Group:
    """The same group, so many cadences later."""
    later_d = number * CADENCE_S / 86400.0
    assert group.start_jd is not None
    start_jd = group.start_jd + later_d
    subbands = tuple(
        replace(s, header=replace(s.header, start_jd=start_jd, path=f"{s.header.path}.{number}"))
        for s in group.subbands
    )
    return replace(group, start_jd=start_jd, subbands=subbands, id=f"g{number}")


def look(work: Path, catalogued: int) -> dict[str, Any]:
    """Seconds of whole `status` commands on a large catalogue, most of its groups done."""
    place = str(work / "large.sqlite")
    (group,) = find_groups(work / "one", 16)
    start_s = time.perf_counter()
    with open_catalogue(place) as catalogue:
        job = jobs.add_job(catalogue, new_job(work / "one", work / "out"))
        for first in range(0, catalogued, 1000):
            numbers = range(first, min(first + 1000, catalogued))
            arriving = [Arriving(group=shifted(group, n), whole=True) for n in numbers]
            groups.arrive(catalogue, job, arriving)
        jobs.set_read(catalogue, job.id)
        with catalogue.writing() as connection:
            # Stands for months of outcomes.
            connection.exec_driver_sql(
                "UPDATE groups SET state = 'published', finished_s = state_since_s WHERE key % 50 > 0"
            )
    filled_s = time.perf_counter() - start_s
    taken = []
    for _ in range(5):
        start_s = time.perf_counter()
        run("status", "--catalogue", place)
        taken.append(time.perf_counter() - start_s)
    print(f"status on {catalogued} groups: {statistics.median(taken):.2f} s", flush=True)
    return {
        "groups": catalogued,
        "fill_seconds": filled_s,
        "seconds": taken,
        "median_seconds": statistics.median(taken),
    }


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = results["overhead"]
    each = {name: [1e3 * s / found["groups"] for s in found["seconds"][name]] for name in WAYS}
    figure, axes = pyplot.subplots(figsize=(7, 2.4), layout="constrained")
    for row, (name, label) in enumerate(WAYS.items()):
        axes.plot(each[name], [row] * len(each[name]), "o", color="#1b6ca8", alpha=0.6)
        axes.plot(statistics.median(each[name]), row, "|", color="#c8553d", markersize=24)
        axes.text(min(each[name]), row + 0.22, label, fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(-0.4, len(WAYS) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds per small group; each round, and the median")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="after the warm-up")
    parser.add_argument("--catalogued", type=int, default=100_000)
    parser.add_argument("--work", type=Path, default=Path.cwd() / "contimg-bench-backlog")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "backlog.json")
    parser.add_argument("--plot", type=Path, default=HERE / "results" / "backlog.png")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.work, ignore_errors=True)
    chosen.work.mkdir(parents=True)
    try:
        simulate(chosen.work / "one", Observation(antennas=4, integrations=1, channels=2))
        results = {
            "machine": machine(),
            "overhead": overhead(chosen.work, chosen.groups, chosen.rounds),
            "headers": headers(chosen.work),
            "status": look(chosen.work, chosen.catalogued),
        }
    finally:
        shutil.rmtree(chosen.work, ignore_errors=True)
    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    chosen.results.write_text(json.dumps(results, indent=1) + "\n")
    plot(results, chosen.plot)
    print(
        f"queue and dispatch: {results['overhead']['median_overhead_ms_per_group']:.1f} ms a group"
    )


if __name__ == "__main__":
    main()
