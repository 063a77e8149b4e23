"""Measure the web interface on a large catalogue: its answers, and what it costs a conversion.

A catalogue of many groups is made up, the real command serves it, and so many requests a second come
to `status` and `groups` (pages all over the catalogue), at their times whether earlier ones were
answered or not: a request that waits for its turn counts its waiting. First for a while alone, then
beside conversions, which are timed with and without that load, in turn. Generator, web interface and
workers share the cores of the machine. Writes one JSON and one plot.

    PYTHONPATH=. .venv/bin/python benchmarks/api.py
    PYTHONPATH=. .venv/bin/python benchmarks/api.py --catalogued 100000 --rate 200 --seconds 20
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from convert import machine

from contimg_dask.catalogue import groups, jobs
from contimg_dask.catalogue.opening import open_catalogue
from contimg_dask.catalogue.records import Arriving
from contimg_dask.simulate import Observation, simulate
from tests.api.site import Site, serving
from tests.integration.catalogue.nouns import make_group
from tests.night import dispatched, followed, new_job, seen_nodes
from tests.services import COMMAND

HERE = Path(__file__).parent
CONNECTIONS = 32
PATIENCE_S = 60.0
SETTLE_S = 3.0


def fill(place: str, catalogued: int) -> None:
    """Months of live groups: most are published, one in a hundred has failed, some wait."""
    with open_catalogue(place) as catalogue:
        job = jobs.add_job(catalogue, new_job(live=True, label="live"))
        for first in range(0, catalogued, 1000):
            numbers = range(first, min(first + 1000, catalogued))
            groups.arrive(
                catalogue, job, [Arriving(group=make_group(n), whole=True) for n in numbers]
            )
        jobs.set_read(catalogue, job.id)
        with catalogue.writing() as connection:
            connection.exec_driver_sql(
                "UPDATE groups SET state = CASE WHEN key % 100 = 0 THEN 'failed' ELSE 'published' END, "
                "finished_s = ? - 309.24 * (? - key), complete_s = ? - 309.24 * (? - key) - 40, "
                "reason_code = CASE WHEN key % 100 = 0 THEN 'truncated' END, "
                "path = output_dir || '/science/' || id || '.ms', "
                """seconds = '{"wait":0.5,"rows":4,"parts":30,"reduce":1,"publish":2,"total":38}' """
                "WHERE key <= ?",
                (time.time(), catalogued, time.time(), catalogued, catalogued - 200),
            )
        dispatched(catalogue)
        followed(catalogue)
        seen_nodes(catalogue)


@dataclass
class Load:
    """Requests that come at a rate, until told to stop; bounded in number."""

    port: int
    rate: float
    most_key: int
    most: int
    taken_s: list[float] = field(default_factory=list)
    failed: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send them in a thread while the block lasts."""
        thread = threading.Thread(target=lambda: asyncio.run(self._send()))
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(timeout=PATIENCE_S)

    async def _send(self) -> None:
        free: asyncio.Queue[Any] = asyncio.Queue()
        for _ in range(CONNECTIONS):
            free.put_nowait(await asyncio.open_connection("127.0.0.1", self.port))
        began_s, chance, sent = time.perf_counter(), random.Random(1), set()  # noqa: S311 - which page
        for number in range(self.most):
            due_s = began_s + number / self.rate
            if self._stop.is_set():
                break
            if (wait_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            path = "/api/v1/status"
            if number % 2:
                path = f"/api/v1/groups?limit=50&after={chance.randrange(1, self.most_key)}"
            sent.add(task := asyncio.create_task(self._one(free, path, due_s)))
            task.add_done_callback(sent.discard)
        if sent:
            await asyncio.wait(sent, timeout=PATIENCE_S)

    async def _one(self, free: asyncio.Queue[Any], path: str, due_s: float) -> None:
        reader, writer = await free.get()
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            self.failed += not head.startswith(b"HTTP/1.1 200")
        finally:
            free.put_nowait((reader, writer))
        self.taken_s.append(time.perf_counter() - due_s)

    def summary(self) -> dict[str, Any]:
        """What came of it, in milliseconds."""
        cuts = statistics.quantiles(self.taken_s, n=100)
        return {
            "requests": len(self.taken_s),
            "failed": self.failed,
            "median_ms": 1e3 * cuts[49],
            "p95_ms": 1e3 * cuts[94],
            "p99_ms": 1e3 * cuts[98],
            "longest_ms": 1e3 * max(self.taken_s),
        }


def convert(incoming: Path, out: Path) -> float:
    """Seconds of the conversion itself: without start of Python, discovery and start of workers."""
    done = subprocess.run(
        [COMMAND, "convert", incoming, out, "--workers", "2", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = json.loads(done.stdout)["seconds"]
    shutil.rmtree(out)
    return float(seconds["total"] - seconds["discovery"] - seconds["startup"])


def beside(work: Path, new_load: Any, rounds: int) -> dict[str, Any]:
    """Time conversions with and without the load, in turn; the first round warms up."""
    incoming = work / "incoming"
    simulate(incoming, Observation(groups=8, antennas=32, name_jitter=False))
    seconds: dict[str, list[float]] = {"alone": [], "beside": []}
    loads: list[Load] = []
    for number in range(rounds + 1):
        for name in sorted(seconds, reverse=bool(number % 2)):
            out = work / f"out-{name}-{number}"
            if name == "alone":
                taken = convert(incoming, out)
            else:
                loads.append(new_load())
                with loads[-1].running():
                    taken = convert(incoming, out)
            print(f"round {number}  {name:7} {taken:6.2f} s", flush=True)
            if number:
                seconds[name].append(taken)
    together = new_load()
    for load in loads[1:]:
        together.taken_s += load.taken_s
        together.failed += load.failed
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "groups": 8,
        "seconds": seconds,
        "median_seconds": medians,
        "slowdown": medians["beside"] / medians["alone"],
        "answers": together.summary(),
        "taken_ms": [1e3 * value for value in together.taken_s],
    }


def cpu_seconds(site: Site) -> dict[str, float]:
    """What web interface and generator have used of the processors so far."""
    serving_it = psutil.Process(site.process.pid).cpu_times()
    return {"interface": serving_it.user + serving_it.system, "generator": time.process_time()}


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    for name, label, colour in (("alone", "nothing else runs", "#1b6ca8"),
                                ("conversion", "beside conversions", "#c8553d")):  # fmt: skip
        taken = sorted(results[name]["taken_ms"])
        share = [(i + 1) / len(taken) for i in range(len(taken))]
        left.plot(taken, share, color=colour, label=label)
    left.set_xscale("log")
    left.axhline(0.95, color="#999999", linewidth=0.8)
    left.set_xlabel("milliseconds from due to answered")
    left.set_ylabel("share of answers")
    left.legend(fontsize=8, loc="lower right")
    for row, name in enumerate(("alone", "beside")):
        seconds = results["conversion"]["seconds"][name]
        right.plot(seconds, [row] * len(seconds), "o", color="#1b6ca8", alpha=0.6)
        right.plot(statistics.median(seconds), row, "|", color="#c8553d", markersize=24)
    right.set_yticks([0, 1], ["no load", "under load"])
    right.set_ylim(-0.5, 1.5)
    right.set_xlim(left=0)
    right.set_xlabel("seconds to convert 8 groups")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def measured(chosen: argparse.Namespace) -> dict[str, Any]:
    place = str(chosen.work / "catalogue.sqlite")
    start_s = time.perf_counter()
    fill(place, chosen.catalogued)
    print(f"catalogue filled in {time.perf_counter() - start_s:.0f} s", flush=True)
    with serving(chosen.work / "site", place) as site:

        def new_load() -> Load:
            most = int(chosen.rate * 120)
            return Load(site.port, chosen.rate, chosen.catalogued, most)

        site.get("/api/v1/status")
        alone = new_load()
        used = cpu_seconds(site)
        with alone.running():
            time.sleep(chosen.seconds)
        cores = {
            name: (after - used[name]) / chosen.seconds for name, after in cpu_seconds(site).items()
        }
        print(f"alone: {alone.summary()}", flush=True)
        time.sleep(SETTLE_S)
        began_s = time.perf_counter()
        site.ask("GET", "/metrics")
        metrics_s = time.perf_counter() - began_s
        began_s = time.perf_counter()
        site.ask("GET", "/")
        page_s = time.perf_counter() - began_s
        return {
            "catalogued": chosen.catalogued,
            "rate_per_s": chosen.rate,
            "load_average": os.getloadavg(),
            "alone": alone.summary() | {"taken_ms": [1e3 * value for value in alone.taken_s]},
            "cores_alone": cores,
            "metrics_ms": 1e3 * metrics_s,
            "page_ms": 1e3 * page_s,
            "conversion": beside(chosen.work, new_load, chosen.rounds),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--catalogued", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="without a conversion")
    parser.add_argument("--rounds", type=int, default=3, help="after the warm-up")
    parser.add_argument("--work", type=Path, default=Path.cwd() / "contimg-bench-api")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "api.json")
    parser.add_argument("--plot", type=Path, default=HERE / "results" / "api.png")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.work, ignore_errors=True)
    chosen.work.mkdir(parents=True)
    try:
        results = {"machine": machine()} | measured(chosen)
    finally:
        shutil.rmtree(chosen.work, ignore_errors=True)
    plot(results, chosen.plot)
    for place in ("alone", "conversion"):
        results[place].pop("taken_ms")
    chosen.results.write_text(json.dumps(results, indent=1) + "\n")
    print(
        f"95 % of answers within {results['alone']['p95_ms']:.1f} ms alone, "
        f"{results['conversion']['answers']['p95_ms']:.1f} ms beside a conversion, which takes "
        f"{results['conversion']['slowdown']:.2f} times as long"
    )


if __name__ == "__main__":
    sys.exit(main())
