"""Judge what was found out about a cluster: node by node what is wrong, and what to do.

Pure: facts of `contimg_dask.deploy.probing` in, findings out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from contimg_dask.deploy.inventory import Inventory, NodeEntry
from contimg_dask.deploy.probing import ClusterFacts, NodeFacts, Place, WorkerSaid
from contimg_dask.doctor import Finding
from contimg_dask.settings import size_bytes

CLOCK_LIMIT_S = 2.0
"""Products and attempts carry time stamps of several nodes; NTP keeps clocks far closer."""

EXPIRES_SOON_D = 30.0


def judge_cluster(inventory: Inventory, facts: ClusterFacts) -> list[Finding]:
    """Return a finding for everything that is wrong, and ``ok`` for each host without any."""
    scheduler = inventory.cluster.scheduler_name
    subject = f"scheduler {scheduler}"
    found = [*_judge_scheduler(inventory, facts, subject)]
    findings = found or [_ok(subject, f"answers at {inventory.cluster.scheduler_address}")]
    for node in inventory.nodes:
        found = [*_judge_node(inventory, node, facts.nodes[node.name], facts)]
        workers = len(facts.nodes[node.name].workers)
        findings += found or [_ok(node.name, f"{workers} worker(s) at {node.ip}")]
    findings += [
        _fail(
            "strangers",
            f"{address} is a worker at no address of the inventory, and gets work too",
            "stop it, or add its node to the inventory",
        )
        for address in facts.strangers
    ]
    return findings


def _ok(subject: str, text: str) -> Finding:
    return Finding(level="ok", subject=subject, text=text)


def _warn(subject: str, text: str, advice: str) -> Finding:
    return Finding(level="warn", subject=subject, text=text, advice=advice)


def _fail(subject: str, text: str, advice: str) -> Finding:
    return Finding(level="fail", subject=subject, text=text, advice=advice)


def _judge_scheduler(inventory: Inventory, facts: ClusterFacts, subject: str) -> Iterator[Finding]:
    name = inventory.cluster.scheduler_name
    if facts.fault is not None:
        yield _fail(subject, facts.fault, "see 'systemctl status dask-scheduler' there")
        return
    yield from _judge_versions(subject, facts.versions, facts.scheduler_versions)
    if facts.allowed_failures != 0:
        yield _fail(
            subject,
            f"other settings: it gives a task {facts.allowed_failures} times more when a worker "
            f"dies, 0 wanted",
            "copy what is rendered for it, and restart dask-scheduler",
        )
    renewed = {"the client's certificate": "--renew client", "its certificate": f"--renew {name}"}
    for whose, days in facts.days_left.items():
        what = renewed.get(whose, "in a new directory, for all hosts")
        yield from _judge_days(subject, days, what, whose)


def _judge_node(
    inventory: Inventory, node: NodeEntry, facts: NodeFacts, of_all: ClusterFacts
) -> Iterator[Finding]:
    status = f"see 'systemctl status dask-worker@{node.name}' there"
    if not facts.answers:
        text = f"unreachable: nothing answers at {node.ip} within 3 s"
        yield _fail(
            node.name,
            text,
            "is it up, and is its link? A firewall that drops packets looks the same from here: "
            "open TCP 22 and all ports above 1024 between the hosts",
        )
        return
    if of_all.fault is not None:
        yield _warn(node.name, "answers; its workers are not known without the scheduler", status)
        return
    if not facts.workers and not facts.unusable:
        yield _fail(node.name, f"no worker at {node.ip}, {node.workers} wanted", status)
        return
    for line in facts.unusable:
        yield _fail(node.name, f"a worker cannot be asked: {line}", "install contimg-dask there")
    if not facts.workers:
        return
    count = len(facts.workers) + len(facts.unusable)
    if count != node.workers:
        judge = _fail if count < node.workers else _warn
        yield judge(node.name, f"{count} worker(s) at {node.ip}, {node.workers} wanted", status)
    yield from _judge_workers(inventory, node, facts.workers, of_all.versions)
    yield from _judge_places(node, facts.workers[0])
    yield from _judge_clock(node, facts)
    yield from _judge_security(inventory, node, facts)


def _judge_workers(
    inventory: Inventory,
    node: NodeEntry,
    workers: tuple[WorkerSaid, ...],
    versions: Mapping[str, str],
) -> Iterator[Finding]:
    restart = f"copy what is rendered for it, and restart dask-worker@{node.name}"
    wanted_bytes = size_bytes(node.memory_limit)
    told: set[str] = set()
    for worker in workers:
        found = [*_judge_versions(node.name, versions, worker.versions)]
        if worker.digest is None:
            text = "other settings: its workers know no inventory"
            found.append(_fail(node.name, text, restart))
        elif worker.digest != inventory.digest_of(node):
            text = "other settings: its workers started with another nodes.toml than this one"
            found.append(_fail(node.name, text, restart))
        if worker.threads != 1:
            text = f"{worker.threads} threads per worker, 1 wanted: only one of them will work"
            found.append(_warn(node.name, text, restart))
        # The limit goes through a text with units on the way.
        if abs(worker.memory_limit_bytes - wanted_bytes) > 0.01 * wanted_bytes:
            text = (
                f"a worker may take {_size(worker.memory_limit_bytes)}, memory_limit is "
                f"{node.memory_limit}"
            )
            found.append(_fail(node.name, text, restart))
        # Workers of a node are alike: what is wrong with all is told once.
        yield from (finding for finding in found if finding.text not in told)
        told |= {finding.text for finding in found}
    taken_bytes = node.memory_bytes + node.tmpfs_bytes
    if taken_bytes > workers[0].memory_bytes:
        yield _fail(
            node.name,
            f"workers and tmpfs may take {_size(taken_bytes)} together, the machine has "
            f"{_size(workers[0].memory_bytes)}",
            "lower workers, memory_limit or tmpfs_budget",
        )


def _judge_versions(
    subject: str, ours: Mapping[str, str], theirs: Mapping[str, str]
) -> Iterator[Finding]:
    other = [
        f"{name} {theirs.get(name, 'unknown')} (here {ours[name]})"
        for name in ours
        if theirs.get(name) != ours[name]
    ]
    if other:
        text = f"other versions: {', '.join(other)}"
        yield _fail(subject, text, "install the same on every host, and restart what runs there")


def _judge_places(node: NodeEntry, worker: WorkerSaid) -> Iterator[Finding]:
    for key, place in (
        ("tmpfs_path", worker.tmpfs),
        ("scratch_dir", worker.scratch),
        ("output_dir", worker.output),
    ):
        yield from _judge_place(node, key, place, "make it, and give it to the user of the workers")
    if worker.input is not None:
        yield from _judge_place(node, "input_dir", worker.input, "is its disk mounted?")
    if worker.tmpfs.fault is None and worker.tmpfs.total_bytes < node.tmpfs_bytes:
        yield _fail(
            node.name,
            f"tmpfs too small: {node.tmpfs_path} has {_size(worker.tmpfs.total_bytes)}, "
            f"tmpfs_budget is {node.tmpfs_budget}",
            f"mount it with size={node.tmpfs_budget.removesuffix('iB')}, or lower the budget",
        )


def _judge_place(node: NodeEntry, key: str, place: Place, advice: str) -> Iterator[Finding]:
    if place.fault is not None:
        yield _fail(node.name, f"{key} {place.path} cannot be used: {place.fault}", advice)


def _judge_clock(node: NodeEntry, facts: NodeFacts) -> Iterator[Finding]:
    # What the way there took may be all of the difference.
    if abs(facts.offset_s) - facts.uncertainty_s > CLOCK_LIMIT_S:
        side = "ahead of" if facts.offset_s > 0 else "behind"
        yield _fail(
            node.name,
            f"its clock is {abs(facts.offset_s):.1f} s {side} this one "
            f"(±{facts.uncertainty_s:.1f} s, allowed {CLOCK_LIMIT_S:.0f} s)",
            "set up NTP on both",
        )


def _judge_security(inventory: Inventory, node: NodeEntry, facts: NodeFacts) -> Iterator[Finding]:
    plain = [w.address for w in facts.workers if not w.address.startswith("tls://")]
    if inventory.cluster.tls_dir is None:
        return
    if plain:
        text = f"plain TCP where TLS was asked for: {plain[0]}"
        yield _fail(node.name, text, "copy what is rendered for it, and restart its workers")
    yield from _judge_days(node.name, facts.days_left, f"--renew {node.name}", "its certificate")


def _judge_days(subject: str, days: float | None, what: str, whose: str) -> Iterator[Finding]:
    advice = f"cluster/make-certificates DIR {what}, copy and restart"
    if days is not None and days <= 0:
        yield _fail(subject, f"{whose} has expired", advice)
    elif days is not None and days < EXPIRES_SOON_D:
        yield _warn(subject, f"{whose} expires in {days:.0f} days", advice)


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
