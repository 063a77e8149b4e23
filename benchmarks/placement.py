"""Compare the two placements on the test bed: bytes on the links, seconds, staging.

Simulates groups of 16 subbands of 15 MB each, lays every file on a node (subband placement) and in
one directory that all hosts see (group placement), and converts them in turns on the same hosts:
four nodes with a worker each, encrypted, as `cluster/testbed.py` brings them up. Bytes on the links
are those the kernel counts at each node's interface; staging is sampled twenty times a second.

What all hosts share (products, and the input of group placement) is a local directory in the bed,
so its bytes are on no link here. On a cluster they are, between file server and node; they are
counted from the sizes of files instead, and shown apart. Needs root and 2 GB of memory.

    PYTHONPATH=. .venv/bin/python benchmarks/placement.py --rounds 3
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convert import machine

from cluster.demo import COMMAND, dispatching
from cluster.testbed import Bed, bring_up
from contimg_dask.catalogue import groups, jobs
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.copying import allocated_bytes
from contimg_dask.simulate import Observation, simulate

HERE = Path(__file__).parent
SUBBANDS = 16
PLACEMENTS = ("group", "subband")
TMPFS = "640MiB"
SIZE = {"antennas": 64, "integrations": 6, "channels": 48}
SETTINGS = f"expected_subbands = {SUBBANDS}\nstage_to_tmpfs = true\ngroups_in_flight = 1"


def link_bytes(bed: Bed) -> dict[str, tuple[int, int]]:
    """Bytes each node has received and sent, as the kernel counts them at its interface."""
    found = {}
    for node in bed.nodes:
        files = [f"/sys/class/net/eth0/statistics/{way}_bytes" for way in ("rx", "tx")]
        done = subprocess.run(
            [*bed.network.inside(node), "cat", *files], capture_output=True, text=True, check=True
        )
        received, sent = map(int, done.stdout.split())
        found[node] = (received, sent)
    return found


@contextmanager
def staging_peaks(bed: Bed) -> Iterator[dict[str, int]]:
    """Sample what is staged on each node's own disks; yields the most there was."""
    peaks = dict.fromkeys(bed.nodes, 0)
    stopped = threading.Event()

    def sample() -> None:
        while not stopped.wait(0.05):
            for node in peaks:
                places = (bed.directory / "disks" / node).glob("*/.contimg-staging")
                peaks[node] = max(peaks[node], sum(allocated_bytes(str(p)) for p in places))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peaks
    finally:
        stopped.set()
        thread.join()


def convert(
    bed: Bed, catalogue: Catalogue, incoming: Path, placement: str, number: int
) -> dict[str, Any]:
    """Convert all groups once, and return what that took."""
    out = bed.directory / "products" / f"{placement}-{number}"
    before = link_bytes(bed)
    with staging_peaks(bed) as peaks:
        done = bed.run(
            COMMAND, "submit", incoming, out, "--placement", placement, "--json", timeout_s=60
        )
        job = json.loads(done.stdout)["job"]
        while not jobs.is_job_done(catalogue, job):
            time.sleep(0.1)
    after = link_bytes(bed)
    rows = groups.list_groups(catalogue, job=job)
    if {row.state for row in rows} != {"published"}:
        raise RuntimeError([row.reason for row in rows])
    attempts = [one for row in rows for one in groups.attempts_of(catalogue, row.key)]
    span_s = max(a.ended_s or 0.0 for a in attempts) - min(a.started_s for a in attempts)
    facts = {
        "seconds_per_group": span_s / len(rows),
        "seconds_of_a_group": statistics.median((row.seconds or {})["total"] for row in rows),
        "link_bytes_per_group": sum(after[n][0] - before[n][0] for n in bed.nodes) / len(rows),
        "input_bytes_per_group": sum(row.bytes_in for row in rows) / len(rows),
        "product_bytes_per_group": sum(map(allocated_bytes, map(str, out.glob("*/*/*.ms"))))
        / len(rows),
        "staging_peak_bytes": peaks,
    }
    shutil.rmtree(out)
    return facts


def measure(work: Path, rounds: int, group_count: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rounds of each placement; the first round is thrown away."""
    incoming = work / "incoming"
    observation: Any = SIZE | {"groups": group_count, "name_jitter": False}
    simulate(incoming, Observation(**observation))
    found: dict[str, list[dict[str, Any]]] = {placement: [] for placement in PLACEMENTS}
    with bring_up(work / "bed", tmpfs=TMPFS, worker_ttl_s=60, settings=SETTINGS) as bed:
        if not bed.network.isolated:
            raise SystemExit(f"there are no links to count here: {bed.word}")
        for index, path in enumerate(sorted(incoming.glob("*.hdf5"))):
            node = bed.nodes[index % len(bed.nodes)]
            shutil.copy2(path, bed.directory / "disks" / node / "incoming")
        with (
            dispatching(bed),
            open_catalogue(f"{bed.directory}/catalogue.sqlite") as catalogue,
        ):
            for number in range(rounds + 1):
                for placement in PLACEMENTS if number % 2 else reversed(PLACEMENTS):
                    facts = convert(bed, catalogue, incoming, placement, number)
                    said = f"{facts['seconds_per_group']:6.2f} s per group"
                    moved = f"{facts['link_bytes_per_group'] / 1e6:7.1f} MB on the links"
                    print(f"round {number}  {placement:8s} {said} {moved}", flush=True)
                    if number:
                        found[placement].append(facts)
    return found


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return medians by placement, and the ratios of subband to group placement."""
    names = [name for name in found["group"][0] if name != "staging_peak_bytes"]
    medians: dict[str, dict[str, Any]] = {}
    for placement, facts in found.items():
        medians[placement] = {name: statistics.median(f[name] for f in facts) for name in names}
        peaks = [sorted(f["staging_peak_bytes"].values()) for f in facts]
        medians[placement]["staging_peak_bytes_of_the_fullest_node"] = max(p[-1] for p in peaks)
        medians[placement]["staging_peak_bytes_of_the_emptiest_node"] = max(p[0] for p in peaks)
    group, subband = medians["group"], medians["subband"]
    ratios = {name: round(subband[name] / group[name], 3) for name in group if group[name]}
    ratios["link_bytes_to_product_bytes"] = round(
        subband["link_bytes_per_group"] / subband["product_bytes_per_group"], 3
    )
    return {"medians": medians, "ratios_subband_to_group": ratios}


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    medians = results["medians"]
    figure, panels = pyplot.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    shown = (
        ("seconds_per_group", 1, "seconds per group"),
        ("link_bytes_per_group", 1e6, "MB on the nodes' links, per group"),
        ("staging_peak_bytes_of_the_fullest_node", 1e6, "MB staged at most on a node"),
    )
    for axes, (name, unit, label) in zip(panels, shown, strict=True):
        values = [medians[placement][name] / unit for placement in PLACEMENTS]
        bars = axes.bar(PLACEMENTS, values, color=["#7a7a7a", "#1b6ca8"], width=0.6)
        axes.bar_label(bars, fmt="%.3g", fontsize=9)
        axes.set_title(label, fontsize=9)
        axes.margins(y=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="after the warm-up")
    parser.add_argument("--groups", type=int, default=4, help="in each round")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "placement.json")
    parser.add_argument("--plot", type=Path, default=HERE / "results" / "placement.png")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="contimg-placement-") as work:
        found = measure(Path(work), chosen.rounds, chosen.groups)
    results = {
        "command": f"benchmarks/placement.py --rounds {chosen.rounds} --groups {chosen.groups}",
        "machine": machine(),
        "group": SIZE | {"subbands": SUBBANDS, "nodes": 4, "workers_per_node": 1},
        **summary(found),
        "rounds": found,
    }
    chosen.results.write_text(json.dumps(results, indent=2) + "\n")
    plot(results, chosen.plot)
    print(json.dumps(results["ratios_subband_to_group"], indent=2))


if __name__ == "__main__":
    main()
