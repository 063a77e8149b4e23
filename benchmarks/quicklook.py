"""Measure what the quick-look costs: one full-scale group, converted with it and without, in turns.

Makes one group (16 × 145 MB) on tmpfs and converts it on two workers that are up, in several ways,
each with and without a quick-look one right after the other; who goes first changes from round to
round, and a warm-up round is thrown away. Then a tenth of the input's values is flagged, and the
usual way measured again. A difference of a tenth of a second is small beside what other programs on
the machine do to one conversion: a round in which they used more than a few per cent of its
processors is measured again, up to a bound, and how many were is in the result. Writes one JSON and
one plot. Needs 10 GB of memory, tmpfs included.

    PYTHONPATH=. .venv/bin/python benchmarks/quicklook.py --rounds 7
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
from convert import machine, workers_of

from contimg_dask import convert_subband_groups_to_ms
from contimg_dask.execution.cluster import Cluster, embedded_cluster
from contimg_dask.quicklook.writing import QUICKLOOK_NAME
from contimg_dask.simulate import Observation, simulate

HERE = Path(__file__).parent
Pair = dict[str, dict[str, float]]
WAYS: dict[str, dict[str, Any]] = {
    "direct": {},
    "parts (--no-direct-ms)": {"direct_ms": False},
    "single window (--spw single)": {"spw": "single"},
}
FLAGGED = "direct, a tenth flagged"
ALLOWED_S, ALLOWED_SHARE = 0.3, 0.1
MOST_BY_OTHERS = 0.06
"""Share of the machine's processors that others may use during a conversion that counts."""
TRIES = 8


def cpu_s(cluster: Cluster) -> float:
    """Processor seconds the workers have used so far."""
    return sum(sum(process.cpu_times()[:2]) for process in workers_of(cluster))


def busy_s() -> float:
    """Processor seconds the whole machine has used so far."""
    times = psutil.cpu_times()
    return times.user + times.system + times.nice + times.irq + times.softirq


def own_s() -> float:
    """Processor seconds of this process, the workers and those that watch them."""
    us = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (us, *us.children(recursive=True)))


def convert(cluster: Cluster, incoming: Path, out: Path, **options: Any) -> dict[str, float]:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    begin_cpu_s, begin_others_s = cpu_s(cluster), busy_s() - own_s()
    begin_s = time.perf_counter()
    (record,) = convert_subband_groups_to_ms(incoming, out, client=cluster.client, **options)
    seconds = time.perf_counter() - begin_s
    if record["outcome"] != "published":
        raise RuntimeError(record["reason"])
    kept = Path(record["path"], QUICKLOOK_NAME)
    if kept.is_dir() != options["quicklook"]:
        raise RuntimeError(f"{kept}: {record['notes']}")
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    others_s = busy_s() - own_s() - begin_others_s
    return {
        "seconds": seconds,
        "cpu_s": cpu_s(cluster) - begin_cpu_s,
        "others_share": others_s / (time.perf_counter() - begin_s) / (os.cpu_count() or 1),
        "kept_bytes": size,
    }


def in_turns(
    cluster: Cluster, incoming: Path, out: Path, ways: dict[str, dict[str, Any]], rounds: int
) -> dict[str, dict[str, Any]]:
    """Return, per way, what was measured with and without a quick-look."""
    quiet: dict[str, list[Pair]] = {way: [] for way in ways}
    tried = dict.fromkeys(ways, -1)  # the first one is thrown away
    while any(wants_more(quiet[way], tried[way], rounds) for way in ways):
        for way, options in ways.items():
            if not wants_more(quiet[way], tried[way], rounds):
                continue
            order = (True, False) if tried[way] % 2 else (False, True)
            pair = {
                "with" if wanted else "without": convert(
                    cluster, incoming, out, quicklook=wanted, **options
                )
                for wanted in order
            }
            tried[way] += 1
            others = max(facts["others_share"] for facts in pair.values())
            seconds = {which: round(facts["seconds"], 2) for which, facts in pair.items()}
            print(f"{tried[way]:3d}  {way:32s} {seconds}  others {others:.0%}", flush=True)
            if tried[way] > 0 and others <= MOST_BY_OTHERS:
                quiet[way].append(pair)
    return {way: {"tried": tried[way], **summary(quiet[way])} for way in ways if quiet[way]}


def wants_more(quiet: list[Pair], tried: int, rounds: int) -> bool:
    return len(quiet) < rounds and tried < TRIES * rounds


def flag_a_tenth(incoming: Path) -> None:
    chance = np.random.default_rng(1)
    for path in sorted(incoming.glob("*.hdf5")):
        with h5py.File(path, "r+") as file:
            flags = file["Data/flags"]
            flags[...] = chance.random(flags.shape, dtype=np.float32) < 0.1


def summary(pairs: list[Pair]) -> dict[str, Any]:
    def of(which: str, what: str) -> list[float]:
        return [pair[which][what] for pair in pairs]

    added = [w - o for w, o in zip(of("with", "seconds"), of("without", "seconds"), strict=True)]
    added_cpu = [w - o for w, o in zip(of("with", "cpu_s"), of("without", "cpu_s"), strict=True)]
    without_s, added_s = statistics.median(of("without", "seconds")), statistics.median(added)
    return {
        "rounds": len(pairs),
        "with_s": statistics.median(of("with", "seconds")),
        "without_s": without_s,
        "added_s": added_s,
        "added_least_s": min(added),
        "added_most_s": max(added),
        "added_cpu_s": statistics.median(added_cpu),
        "added_share": added_s / without_s,
        "kept_bytes": pairs[-1]["with"]["kept_bytes"],
        "within_what_is_allowed": added_s <= max(ALLOWED_S, ALLOWED_SHARE * without_s),
        "each": pairs,
    }


def plot(ways: dict[str, dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    names = list(reversed(ways))
    figure = Figure(figsize=(8, 0.8 * len(names) + 1.3), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(names):
        facts = ways[name]
        axes.barh(index + 0.19, facts["without_s"], height=0.36, color="#7a7a7a")
        axes.barh(index - 0.19, facts["with_s"], height=0.36, color="#1b6ca8")
        axes.text(
            max(facts["with_s"], facts["without_s"]) * 1.02, index,
            f"{facts['added_s']:+.2f} s ({facts['added_least_s']:+.2f} … "
            f"{facts['added_most_s']:+.2f})",
            va="center", fontsize=9,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, max(facts["with_s"] for facts in ways.values()) * 1.5)
    axes.set_xlabel(
        "seconds per full-scale group, median; grey without, blue with a quick-look\n"
        "at the right the difference within a round: median, least and most"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="after the warm-up")
    parser.add_argument("--work", type=Path, default=Path("/dev/shm/contimg-bench-quicklook"))  # noqa: S108
    parser.add_argument("--results", type=Path, default=HERE / "results" / "quicklook.json")
    parser.add_argument("--plot", type=Path, default=HERE / "results" / "quicklook.png")
    parser.add_argument("--ways", nargs="*", default=[*WAYS, FLAGGED], help="only these")
    chosen = parser.parse_args()
    incoming, out = chosen.work / "incoming", chosen.work / "out"
    try:
        simulate(incoming, Observation(name_jitter=False))
        with embedded_cluster(2, "4GiB", "127.0.0.1:0") as cluster:
            plain = {way: options for way, options in WAYS.items() if way in chosen.ways}
            found = in_turns(cluster, incoming, out, plain, chosen.rounds)
            if FLAGGED in chosen.ways:
                flag_a_tenth(incoming)
                found |= in_turns(cluster, incoming, out, {FLAGGED: {}}, chosen.rounds)
    finally:
        shutil.rmtree(chosen.work, ignore_errors=True)
    results = {
        "machine": machine(),
        "allowed": {"seconds": ALLOWED_S, "share": ALLOWED_SHARE},
        "most_by_others": MOST_BY_OTHERS,
        "ways": found,
    }
    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    chosen.results.write_text(json.dumps(results, indent=1) + "\n")
    plot(results["ways"], chosen.plot)
    shown = {
        way: {k: v for k, v in facts.items() if k != "each"}
        for way, facts in results["ways"].items()
    }
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
