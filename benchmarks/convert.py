"""Measure one full-scale group, beside the usual ways and the physical floor.

Makes one group (16 × 145 MB) on tmpfs and measures every way in the same run, one after the other
in each round, after a warm-up round that is thrown away (the first touch of fresh memory costs
seconds). Writes one JSON and one plot. Needs 14 GB of memory, tmpfs included; a run takes ten
minutes. Seconds drift with the machine: the ratios are what matters.

    .venv/bin/python benchmarks/convert.py --rounds 5
    .venv/bin/python benchmarks/convert.py --casa-python /path/to/casa/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from contimg_dask import convert_subband_groups_to_ms
from contimg_dask.execution.cluster import Cluster, embedded_cluster
from contimg_dask.simulate import Observation, simulate

HERE = Path(__file__).parent
OURS = "ours, 2 workers"
FLOOR = "copy of the input, 1 process"


class Bench:
    """One group, a place for products, and what was measured."""

    def __init__(self, work: Path, disk: Path, casa_python: str | None) -> None:
        self.incoming = work / "incoming"
        self.out = work / "out"
        self.disk = disk / "contimg-bench"
        self.casa_python = casa_python
        self.rounds: dict[str, list[dict[str, Any]]] = {}
        if not self.incoming.exists():
            simulate(self.incoming, Observation(name_jitter=False))
        self.files = sorted(map(str, self.incoming.glob("*.hdf5")))

    def clean(self) -> None:
        for directory in (self.out, self.disk):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)

    def note(self, way: str, round_number: int, facts: dict[str, Any]) -> None:
        print(f"round {round_number}  {way:40s} {facts['seconds']:8.2f} s", flush=True)
        if round_number > 0:
            self.rounds.setdefault(way, []).append(facts)


def workers_of(cluster: Cluster) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in cluster.client.run(os.getpid).values()]


def counters(process: psutil.Process) -> tuple[int, int]:
    """Bytes read and written by system calls, page cache included (/proc/PID/io)."""
    io = process.io_counters()
    return io.read_chars, io.write_chars


def peak_mb(process: psutil.Process) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM")


def ours(bench: Bench, cluster: Cluster, out: Path, **options: Any) -> dict[str, Any]:
    """Convert the group on workers that are up; resident memory is the peak since they started."""
    workers = workers_of(cluster)
    before = [counters(process) for process in workers]
    start_s = time.perf_counter()
    record = convert_subband_groups_to_ms(bench.incoming, out, client=cluster.client, **options)[0]
    seconds = time.perf_counter() - start_s
    if record["outcome"] != "published":
        raise RuntimeError(record["reason"])
    after = [counters(process) for process in workers]
    return {
        "seconds": seconds,
        "steps": record["seconds"],
        "peak_mb_per_worker": [round(peak_mb(process)) for process in workers],
        "bytes_read": sum(b[0] - a[0] for a, b in zip(before, after, strict=True)),
        "bytes_written": sum(b[1] - a[1] for a, b in zip(before, after, strict=True)),
        "bytes_in": record["bytes_in"],
        "bytes_out": record["bytes_out"],
    }


def peer(python: str, way: str, out: Path, files: list[str]) -> dict[str, Any]:
    """Run one of the peers; its seconds are its own, without the start of Python."""
    done = subprocess.run(
        [python, HERE / "peers.py", way, out, *files],
        capture_output=True, text=True, check=False, cwd=out.parent,
    )  # fmt: skip
    line = next((text for text in done.stdout.splitlines() if text.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"{way}: {done.stderr[-500:]}")
    facts: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return facts


def parts_and_concat(bench: Bench) -> dict[str, Any]:
    assert bench.casa_python is not None
    parts = bench.out / "parts"
    parts.mkdir()
    first = peer(sys.executable, "parts", parts, bench.files)
    paths = sorted(map(str, parts.glob("*.ms")))
    second = peer(bench.casa_python, "concat", bench.out / "joined.ms", paths)
    return {
        "seconds": first["seconds"] + second["seconds"],
        "steps": {"parts": first["seconds"], "concat": second["seconds"]},
        "peak_mb": max(first["peak_mb"], second["peak_mb"]),
    }


def fast_ways(bench: Bench, two: Cluster, one: Cluster) -> dict[str, Callable[[], dict[str, Any]]]:
    disk = bench.disk
    return {
        FLOOR: lambda: peer(sys.executable, "copy", bench.out, bench.files),
        OURS: lambda: ours(bench, two, bench.out),
        "ours, 1 worker": lambda: ours(bench, one, bench.out),
        "ours, CORRECTED_DATA copied": lambda: ours(bench, two, bench.out, imaging_columns="copy"),
        "ours, parts (--no-direct-ms)": lambda: ours(bench, two, bench.out, direct_ms=False),
        "ours, single window (--spw single)": lambda: ours(bench, two, bench.out, spw="single"),
        "ours, product on disk": lambda: ours(bench, two, disk),
        "ours, disk, staged on tmpfs": lambda: ours(bench, two, disk, stage_to_tmpfs=True),
    }


def slow_ways(bench: Bench) -> dict[str, Callable[[], dict[str, Any]]]:
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "pyuvdata, one object": lambda: peer(
            sys.executable, "one-object", bench.out / "one.ms", bench.files
        )
    }
    if bench.casa_python is not None:
        ways["pyuvdata parts + CASA concat"] = lambda: parts_and_concat(bench)
    return ways


def cold_start(bench: Bench) -> dict[str, Any]:
    """First group of a fresh cluster, the input on disk and out of the page cache where allowed."""
    cold = bench.disk.parent / "contimg-bench-input"
    shutil.rmtree(cold, ignore_errors=True)
    shutil.copytree(bench.incoming, cold)
    os.sync()
    try:
        dropped = True
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        dropped = False
    start_s = time.perf_counter()
    with embedded_cluster(2, "4GiB", "127.0.0.1:0") as cluster:
        up_s = time.perf_counter() - start_s
        begin_s = time.perf_counter()
        record = convert_subband_groups_to_ms(cold, bench.out, client=cluster.client)[0]
        seconds = time.perf_counter() - begin_s
    shutil.rmtree(cold)
    return {
        "page_cache_dropped": dropped, "workers_up_s": up_s, "first_group_s": seconds,
        "steps": record["seconds"],
    }  # fmt: skip


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [facts["seconds"] for facts in rounds]
    return {
        "median_s": statistics.median(seconds),
        "least_s": min(seconds),
        "most_s": max(seconds),
        "rounds": len(seconds),
        "last_round": rounds[-1],
    }


def machine() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE
    )
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    names = ("contimg-dask", "pyuvdata", "python-casacore", "numpy", "h5py", "dask", "distributed")
    return {
        "cores": os.cpu_count(),
        "processor": model[0] if model else platform.processor(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "commit": commit.stdout.strip(),
    }


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ways = sorted(results["ways"], key=lambda way: -results["ways"][way]["median_s"])
    medians = [results["ways"][way]["median_s"] for way in ways]
    spread = [
        [results["ways"][w]["median_s"] - results["ways"][w]["least_s"] for w in ways],
        [results["ways"][w]["most_s"] - results["ways"][w]["median_s"] for w in ways],
    ]
    colours = [
        "#1b6ca8" if w.startswith("ours") else "#7a7a7a" if w == FLOOR else "#c8553d" for w in ways
    ]
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(ways) + 1.2), layout="constrained")
    axes.barh(ways, medians, xerr=spread, color=colours, capsize=3)
    for index, (way, value) in enumerate(zip(ways, medians, strict=True)):
        axes.text(
            results["ways"][way]["most_s"] * 1.06, index, f"{value:.2f} s", va="center", fontsize=9
        )
    axes.set_xscale("log")
    axes.set_xlim(0.4, max(medians) * 2.2)
    axes.set_xlabel("seconds per full-scale group (2.33 GB), logarithmic; median, least and most")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="after the warm-up")
    parser.add_argument("--slow-rounds", type=int, default=2, help="of the peers")
    parser.add_argument("--work", type=Path, default=Path("/dev/shm/contimg-bench"))  # noqa: S108
    parser.add_argument("--disk", type=Path, default=Path.cwd(), help="on an ordinary file system")
    parser.add_argument("--casa-python", help="a Python that has casatasks")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "convert.json")
    parser.add_argument("--plot", type=Path, default=HERE / "results" / "convert.png")
    chosen = parser.parse_args()
    bench = Bench(chosen.work, chosen.disk, chosen.casa_python)
    try:
        with (
            embedded_cluster(2, "4GiB", "127.0.0.1:0") as two,
            embedded_cluster(1, "4GiB", "127.0.0.1:0") as one,
        ):
            fast, slow = fast_ways(bench, two, one), slow_ways(bench)
            for number in range(chosen.rounds + 1):
                usual = slow if 0 < number <= chosen.slow_rounds else {}
                for way, run in (fast | usual).items():
                    bench.clean()
                    bench.note(way, number, run())
        bench.clean()
        cold = cold_start(bench)
    finally:
        shutil.rmtree(chosen.work, ignore_errors=True)
        shutil.rmtree(bench.disk, ignore_errors=True)
    ways = {way: summary(rounds) for way, rounds in bench.rounds.items()}
    peers = [ways[way]["median_s"] for way in slow]
    results = {
        "machine": machine(),
        "ways": ways,
        "cold_start": cold,
        "times_faster_than_fastest_peer": min(peers) / ways[OURS]["median_s"],
        "times_the_floor": ways[OURS]["median_s"] / ways[FLOOR]["median_s"],
    }
    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    chosen.results.write_text(json.dumps(results, indent=1) + "\n")
    plot(results, chosen.plot)
    print(
        json.dumps(
            {k: v for k, v in results.items() if "times" in k or k == "cold_start"}, indent=1
        )
    )


if __name__ == "__main__":
    main()
