"""One dispatcher on a real cluster of two nodes: what it does with a queue, and what can be done to it.

The nodes are two addresses of the loopback, with a worker each. Tests share them, and the
catalogue; each has an output directory of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client

from contimg_dask.catalogue import groups, jobs, leases, nodes, products, queue
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.catalogue.records import AttemptRow, GroupRow, ProductRow
from contimg_dask.copying import allocated_bytes
from contimg_dask.execution.cluster import hosts, silent_hosts
from contimg_dask.reconciling import reconcile
from contimg_dask.settings import Settings
from contimg_dask.submitting import Backlog, submit
from contimg_dask.verification import verify
from tests.acceptance.conftest import Ran, make_groups, run
from tests.backlog import is_as_its_manifest
from tests.cluster import gates
from tests.integration.test_tiers import mounted
from tests.services import Deployment, deployed, until

TINY = {"subbands": 2, "antennas": 4, "integrations": 2, "channels": 4}
IDS = ("2025-10-05T03:12:06", "2025-10-05T03:17:15", "2025-10-05T03:22:24")
NODES = ("127.0.0.1", "127.0.0.2")
PATIENCE_S = 60.0
MIB = 1 << 20

pytestmark = pytest.mark.timeout(180)


@dataclass(kw_only=True)
class Site:
    """The services, their catalogue, and what tests do with them again and again."""

    deployment: Deployment
    catalogue: Catalogue
    directory: Path

    # ---------------------------------------------------------------------------- jobs and groups

    def submit(self, incoming: Path, out: Path, *, priority: int = 0, **settings: Any) -> int:
        """Submit a directory; return the number of the job."""
        backlog = Backlog(
            input_dir=incoming,
            output_dir=out,
            settings=Settings(**{"expected_subbands": 2} | settings),
            priority=priority,
        )
        return submit(self.catalogue, backlog).id

    def command(self, *arguments: str | Path) -> Ran:
        return run(*arguments, "--catalogue", self.deployment.catalogue)

    def rows(self, job: int) -> list[GroupRow]:
        return groups.list_groups(self.catalogue, job=job)

    def states(self, job: int) -> list[str]:
        return [row.state for row in self.rows(job)]

    def until_read(self, job: int) -> list[GroupRow]:
        until(lambda: jobs.get_job(self.catalogue, job).state == "read", PATIENCE_S, 0.05)
        return self.rows(job)

    def until_state(self, job: int, *wanted: str, number: int = 0) -> GroupRow:
        """Wait until one group of a job is in one of these states; return it."""

        def there() -> GroupRow | None:
            rows = self.rows(job)
            found = rows[number] if len(rows) > number else None
            return found if found is not None and found.state in wanted else None

        row: GroupRow = until(there, PATIENCE_S, 0.05)
        return row

    def until_done(self, job: int) -> list[GroupRow]:
        until(lambda: jobs.is_job_done(self.catalogue, job), PATIENCE_S, 0.05)
        return self.rows(job)

    def attempts(self, row: GroupRow) -> list[AttemptRow]:
        return groups.attempts_of(self.catalogue, row.key)

    def product(self, row: GroupRow) -> ProductRow:
        assert row.path is not None
        found = products.get_product(self.catalogue, row.path)
        assert found is not None
        return found

    def handed_over(self, path: str | None) -> int:
        """How often the command was run for a product."""
        file = self.directory / "handed-over"
        lines = file.read_text().splitlines() if file.exists() else []
        return sum(json.loads(line)["path"] == path for line in lines)

    # ------------------------------------------------------------------------------ the dispatcher

    @property
    def doing(self) -> str:
        """What the dispatcher says it does."""
        lease = leases.current(self.catalogue, "dispatcher")
        return "" if lease is None else str(lease.facts.get("state"))

    def until_doing(self, text: str) -> None:
        until(lambda: text in self.doing, PATIENCE_S, 0.05)

    def until_it_has_looked(self) -> None:
        """Wait until the dispatcher has looked for people's wishes."""
        since_s = time.time()

        def looked() -> bool:
            seen = nodes.list_nodes(self.catalogue)
            return all(node.last_seen_s > since_s for node in seen) and bool(seen)

        until(looked, PATIENCE_S, 0.05)
        time.sleep(0.5)

    def dispatcher_process(self) -> subprocess.Popen[bytes]:
        process = self.deployment.dispatcher.process
        assert process is not None
        return process

    def until_started_again(self, before: subprocess.Popen[bytes]) -> None:
        """Wait until another dispatcher has the lease."""

        def another() -> bool:
            lease = leases.current(self.catalogue, "dispatcher")
            return lease is not None and lease.owner.pid not in (0, before.pid)

        until(another, PATIENCE_S, 0.05)

    # -------------------------------------------------------------------------------------- gates

    @contextmanager
    def gate(self, kind: str, out: Path) -> Iterator[Path]:
        """Hold the groups of an output (`tests.cluster.gates`) while the block runs."""
        place = self.directory / "gates" / f"{kind}-{out.name}"
        place.touch()
        try:
            yield place
        finally:
            place.unlink(missing_ok=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Have nothing begun while the block runs."""
        leases.set_paused(self.catalogue, by="a test", reason="a test")
        try:
            yield
        finally:
            leases.set_resumed(self.catalogue)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    (directory / "gates").mkdir()
    hand_over = directory / "hand-over"
    hand_over.write_text(f"#!/bin/sh\nexec cat >> {directory / 'handed-over'}\n")
    hand_over.chmod(0o755)
    place = directory / "catalogue.sqlite"
    with (
        pytest.MonkeyPatch.context() as patch,
        open_catalogue(str(place)) as catalogue,
    ):
        patch.setenv(gates.PLACE, str(directory / "gates"))
        with deployed(
            directory / "services", str(place), "--on-published", str(hand_over),
            workers=1, nodes=NODES, preload=[gates.__file__],
            retry_delay_s=0, dispatcher_lease_s=5, stop_timeout_s=30,
        ) as deployment:  # fmt: skip
            found = Site(deployment=deployment, catalogue=catalogue, directory=directory)
            until(lambda: len(nodes.list_nodes(catalogue)) == 2, PATIENCE_S)
            yield found
            assert deployment.dispatcher.stop() == 0
            log = (directory / "services" / "dispatcher.log").read_text()
            assert "Traceback" not in log, log[log.index("Traceback") - 500 :]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three groups of two subbands, which nobody changes."""
    directory = tmp_path_factory.mktemp("simulated")
    make_groups(directory, groups=3, **TINY)
    return directory


@pytest.fixture
def incoming(simulated: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    shutil.copytree(simulated, tmp_path / "incoming")
    return tmp_path / "incoming"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output directory whose name is no other test's."""
    return tmp_path / f"out-{tmp_path.name}"


def only_group(incoming: Path, number: int = 0) -> Path:
    """Leave one group in a directory."""
    for path in incoming.iterdir():
        if not path.name.startswith(IDS[number]):
            path.unlink()
    return incoming


def send_again(incoming: Path, **observation: Any) -> None:
    """Write the same group anew, with other values."""
    make_groups(incoming, groups=1, **TINY | {"noise_jy": 1.0} | observation)


def stamp_of(path: str | None) -> tuple[int, int]:
    """What tells a product from one that has taken its place, and whether it was written to."""
    assert path is not None
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns


def nothing_is_staged(out: Path) -> bool:
    return not (out / ".contimg-staging").exists()


# ----------------------------------------------------------------------------------- what it is for


def test_a_backlog_is_published_in_order_of_time_and_the_index_is_as_the_manifests(
    site: Site, simulated: Path, out: Path
) -> None:
    with site.paused():
        job = site.submit(simulated, out)
        site.until_read(job)
    rows = site.until_done(job)
    assert [(row.id, row.state, row.attempts) for row in rows] == [
        (group_id, "published", 1) for group_id in IDS
    ]
    begun = [site.attempts(row)[0].started_s for row in rows]
    assert begun == sorted(begun)
    for row in rows:
        index = site.product(row)
        assert is_as_its_manifest(index)
        assert index.bytes == allocated_bytes(row.path or "")
        assert row.path == str(out / "science" / row.id[:10] / f"{row.id}.ms")
        assert verify(Path(row.path), simulated) == []
    assert reconcile(site.catalogue, out) == []
    until(lambda: [site.handed_over(row.path) for row in rows] == [1, 1, 1], PATIENCE_S)
    assert nothing_is_staged(out)
    assert not (out / "failed").exists()


def test_a_job_of_higher_priority_goes_first(site: Site, simulated: Path, out: Path) -> None:
    with site.paused():
        usual = site.submit(simulated, out / "usual")
        urgent = site.submit(simulated, out / "urgent", priority=5)
        late = site.submit(simulated, out / "late", priority=-5)
        for job in (usual, urgent, late):
            site.until_read(job)
    first, middle, last = (
        [site.attempts(row)[0].started_s for row in site.until_done(job)]
        for job in (urgent, usual, late)
    )
    assert max(first) < min(middle)
    assert max(middle) < min(last)


def test_a_group_that_fails_does_not_keep_the_others(site: Site, incoming: Path, out: Path) -> None:
    path = incoming / f"{IDS[1]}_sb01.hdf5"
    os.truncate(path, path.stat().st_size // 2)
    rows = site.until_done(site.submit(incoming, out))
    assert [row.state for row in rows] == ["published", "failed", "published"]
    assert rows[1].reason is not None
    assert rows[1].reason.code == "truncated"
    assert (out / "failed" / IDS[1][:10] / f"{IDS[1]}.json").exists()
    # It is sent again: submitted once more, it is converted, and the others stay.
    before = [stamp_of(rows[number].path) for number in (0, 2)]
    make_groups(incoming, groups=3, **TINY)
    again = site.until_done(site.submit(incoming, out))
    assert [row.state for row in again] == ["published"] * 3
    assert [stamp_of(again[number].path) for number in (0, 2)] == before
    assert not (out / "failed").exists()


def test_a_failed_group_can_be_retried_when_its_file_is_there_again(
    site: Site, incoming: Path, out: Path
) -> None:
    only_group(incoming)
    away = incoming / "away"
    with site.paused():
        job = site.submit(incoming, out)
        site.until_read(job)
        (incoming / f"{IDS[0]}_sb00.hdf5").rename(away)
    row = site.until_state(job, "failed")
    assert row.reason is not None
    assert (row.reason.code, row.attempts) == ("unreadable-input", 0)
    assert f"{IDS[0]}_sb00.hdf5: No such file" in row.reason.text
    away.rename(incoming / f"{IDS[0]}_sb00.hdf5")
    done = site.command("retry", str(row.key), "--json")
    assert (done.code, done.report["queued"]) == (0, 1)
    assert site.until_state(job, "published").reason is None


# ------------------------------------------------------------------------------ files sent again


def test_a_file_that_was_sent_again_since_it_was_read_is_converted_as_it_is_now(
    site: Site, incoming: Path, out: Path
) -> None:
    only_group(incoming)
    with site.paused():
        job = site.submit(incoming, out)
        site.until_read(job)
        send_again(incoming)
    row = site.until_state(job, "published")
    assert row.attempts == 1
    assert verify(Path(row.path or ""), incoming) == []


def test_a_file_that_is_sent_again_while_its_group_waits_for_a_node_is_read_again(
    site: Site, incoming: Path, out: Path
) -> None:
    only_group(incoming)
    # One group alone per node leaves no room: attempts after the first have a node for themselves.
    busy = out / f"busy-{out.name}"
    with site.gate("open", busy):
        blocking = site.submit(incoming, busy)
        others = [site.submit(incoming, busy.parent / f"{n}" / busy.name) for n in range(3)]
        for job in (blocking, *others):
            site.until_state(job, "running")
        job = site.submit(incoming, out)
        site.until_state(job, "queued")
        time.sleep(1.5)  # it is planned by now, and waits
        send_again(incoming)
    row = site.until_state(job, "published")
    assert row.attempts == 1
    assert verify(Path(row.path or ""), incoming) == []
    for job in (blocking, *others):
        site.until_done(job)


def test_a_file_that_is_sent_again_never_moves_a_published_group_back(
    site: Site, incoming: Path, out: Path
) -> None:
    only_group(incoming)
    (first,) = site.until_done(site.submit(incoming, out))
    before = stamp_of(first.path)
    send_again(incoming)
    again = site.submit(incoming, out)
    site.until_read(again)
    (row,) = site.until_done(again)
    assert (row.key, row.state, row.state_since_s) == (
        first.key, "published", first.state_since_s
    )  # fmt: skip
    assert stamp_of(row.path) == before
    assert len(site.attempts(row)) == 1


def test_a_job_that_asks_for_replacement_makes_a_product_again(
    site: Site, incoming: Path, out: Path
) -> None:
    only_group(incoming)
    (first,) = site.until_done(site.submit(incoming, out))
    before = stamp_of(first.path)
    send_again(incoming)
    (row,) = site.until_done(site.submit(incoming, out, on_existing="replace"))
    assert (row.key, row.path) == (first.key, first.path)
    assert stamp_of(row.path) != before
    assert len(site.attempts(row)) == 2
    assert verify(Path(row.path or ""), incoming) == []
    assert site.product(row).attempt == site.attempts(row)[-1].name
    until(lambda: site.handed_over(row.path) == 2, PATIENCE_S)


# ------------------------------------------------------------------------- what stands at the target


def test_a_product_of_a_plain_conversion_is_taken_as_published(
    site: Site, incoming: Path, out: Path
) -> None:
    only_group(incoming)
    done = run("convert", incoming, out, "--expected-subbands", "2", "--json",
               "--scheduler", site.deployment.address)  # fmt: skip
    assert done.code == 0, done.err
    path = done.report["groups"][0]["path"]
    before = stamp_of(path)
    (row,) = site.until_done(site.submit(incoming, out))
    assert (row.state, row.path, row.attempts) == ("published", path, 0)
    assert stamp_of(path) == before
    assert is_as_its_manifest(site.product(row))
    assert site.attempts(row) == []
    assert site.handed_over(path) == 0, "it is not one of this queue"


def test_something_else_at_the_target_sets_a_group_aside_at_once_until_it_is_gone(
    site: Site, incoming: Path, out: Path
) -> None:
    only_group(incoming)
    target = out / "science" / IDS[0][:10] / f"{IDS[0]}.ms"
    target.mkdir(parents=True)
    (target / "notes.txt").write_text("mine")
    job = site.submit(incoming, out)
    (row,) = site.until_done(job)
    assert row.reason is not None
    assert (row.state, row.reason.code, row.attempts) == ("quarantined", "target-occupied", 0)
    assert str(target) in row.reason.text
    assert (target / "notes.txt").read_text() == "mine"
    target.rename(out / "set aside")
    assert site.command("retry", IDS[0]).code == 2, "several outputs have this id"
    assert site.command("retry", str(row.key)).code == 0
    (row,) = site.until_done(job)
    assert (row.state, row.path) == ("published", str(target))


# ---------------------------------------------------------------------------------- steering


def test_a_pause_begins_nothing_and_ends_with_resume(site: Site, incoming: Path, out: Path) -> None:
    only_group(incoming)
    assert site.command("pause", "--reason", "disk is exchanged").code == 0
    try:
        job = site.submit(incoming, out)
        site.until_read(job)
        site.until_doing("paused: disk is exchanged")
        assert site.states(job) == ["queued"]
        shown = site.command("status").out
        assert "PAUSED by" in shown
        assert "disk is exchanged" in shown
    finally:
        assert site.command("resume").code == 0
    assert site.until_state(job, "published").attempts == 1


def test_a_node_that_is_drained_gets_nothing_more_until_it_is_undrained(
    site: Site, simulated: Path, out: Path
) -> None:
    assert site.command("drain", NODES[0]).code == 0
    try:
        site.until_it_has_looked()
        rows = site.until_done(site.submit(simulated, out / "one"))
        assert {site.attempts(row)[0].node for row in rows} == {NODES[1]}
        assert site.command("drain", NODES[1]).code == 0
        site.until_it_has_looked()
        job = site.submit(simulated, out / "none")
        site.until_read(job)
        site.until_doing("every node is being drained")
        assert site.states(job) == ["queued"] * 3
    finally:
        for node in NODES:
            nodes.set_draining(site.catalogue, node, False)
    rows = site.until_done(job)
    assert [row.state for row in rows] == ["published"] * 3


def test_a_node_that_is_not_heard_of_is_given_nothing(
    site: Site, incoming: Path, out: Path
) -> None:
    frozen = site.deployment.pools[NODES[0]].process
    assert frozen is not None
    everything = [psutil.Process(frozen.pid), *psutil.Process(frozen.pid).children(recursive=True)]
    try:
        for process in everything:
            process.suspend()
        with Client(site.deployment.address, set_as_default=False) as client:
            until(lambda: silent_hosts(client) == {NODES[0]}, PATIENCE_S, 0.1)
            # Dask still takes it for a worker like any other; this one has a name before the other's.
            assert hosts(client) == dict.fromkeys(NODES, 1)
            (row,) = site.until_done(site.submit(only_group(incoming), out))
            assert silent_hosts(client) == {NODES[0]}
    finally:
        for process in everything:
            process.resume()
    assert row.state == "published"
    assert [attempt.node for attempt in site.attempts(row)] == [NODES[1]]


def test_what_waits_is_cancelled_at_once(site: Site, simulated: Path, out: Path) -> None:
    with site.paused():
        one = site.submit(simulated, out / "one")
        all_of_it = site.submit(simulated, out / "all")
        row = site.until_read(one)[1]
        site.until_read(all_of_it)
        done = site.command("cancel", "--group", str(row.key), "--json")
        assert (done.report["cancelled"], done.report["requested"]) == (1, 0)
        done = site.command("cancel", str(all_of_it), "--json")
        assert (done.report["cancelled"], done.report["requested"]) == (3, 0)
    assert [row.state for row in site.until_done(one)] == ["published", "cancelled", "published"]
    assert site.states(all_of_it) == ["cancelled"] * 3
    assert not (out / "all").exists()


def test_a_running_group_is_stopped_and_leaves_nothing(
    site: Site, incoming: Path, out: Path
) -> None:
    only_group(incoming)
    with site.gate("open", out):
        job = site.submit(incoming, out)
        row = site.until_state(job, "running")
        done = site.command("cancel", "--group", str(row.key), "--json")
        assert (done.report["cancelled"], done.report["requested"]) == (0, 1)
        assert "being stopped" in site.command("status", str(job)).out
        site.until_it_has_looked()
    # The step that was held goes on now, and makes its directory: that has to go, too.
    row = site.until_state(job, "cancelled")
    until(lambda: nothing_is_staged(out), PATIENCE_S)
    assert list(out.glob("science/*/*")) == []
    assert [attempt.state for attempt in site.attempts(row)] == ["cancelled"]
    assert (row.attempts, row.interruptions) == (0, 0)


# ------------------------------------------------------------------------- outputs that cannot be used


def test_a_full_output_holds_the_queue_without_using_an_attempt_up(
    site: Site, simulated: Path, out: Path
) -> None:
    with mounted(out, 24 * MIB):
        filler = out / "filler"
        filler.write_bytes(b"\1" * (22 * MIB))
        job = site.submit(simulated, out)
        site.until_read(job)
        site.until_doing("waiting: ")
        assert "needed" in site.doing
        assert "dispatcher:" in (shown := site.command("status").out)
        assert "waiting: " in shown
        time.sleep(1.0)
        assert [(row.state, row.attempts) for row in site.rows(job)] == [("queued", 0)] * 3
        filler.unlink()
        rows = site.until_done(job)
        assert [(row.state, row.attempts) for row in rows] == [("published", 1)] * 3


def test_an_output_that_cannot_be_written_holds_the_queue_too(
    site: Site, incoming: Path, out: Path
) -> None:
    only_group(incoming)
    with mounted(out, 24 * MIB):
        subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True)
        job = site.submit(incoming, out)
        site.until_read(job)
        site.until_doing("cannot be written")
        assert [(row.state, row.attempts) for row in site.rows(job)] == [("queued", 0)]
        subprocess.run(["mount", "-o", "remount,rw", str(out)], check=True)
        (row,) = site.until_done(job)
        assert (row.state, row.attempts) == ("published", 1)


# ------------------------------------------------------------------------------- what dies meanwhile


def test_a_group_that_kills_its_workers_is_set_aside_after_four_attempts_and_the_others_go_on(
    site: Site, incoming: Path, simulated: Path, out: Path
) -> None:
    only_group(incoming)
    with site.gate("deadly", out):
        deadly = site.submit(incoming, out)
        site.until_state(deadly, "running")
        others = site.submit(simulated, out / "others")
        row = site.until_state(deadly, "quarantined")
    assert row.reason is not None
    assert (row.reason.code, row.attempts, row.interruptions) == ("worker-lost", 4, 0)
    tries = site.attempts(row)
    assert [(one.number, one.state, one.counted) for one in tries] == [
        (number, "lost", True) for number in (1, 2, 3, 4)
    ]
    # The other node is there then; later ones find whichever is back first.
    assert tries[0].node != tries[1].node
    rows = site.until_done(others)
    assert [row.state for row in rows] == ["published"] * 3
    assert (out / "failed" / IDS[0][:10] / f"{IDS[0]}.json").exists()
    assert site.command("retry", str(row.key)).code == 0
    row = site.until_state(deadly, "published")
    assert row.attempts == 1
    assert not (out / "failed").exists()
    until(lambda: nothing_is_staged(out), PATIENCE_S)


def test_a_second_dispatcher_is_refused_and_told_who_is_there(site: Site) -> None:
    lease = leases.current(site.catalogue, "dispatcher")
    assert lease is not None
    refused = site.command("dispatch", "--scheduler", site.deployment.address)
    assert refused.code == 1
    assert lease.holder in refused.err
    assert str(site.dispatcher_process().pid) in refused.err
    assert len(refused.err.splitlines()) == 1
    after = leases.current(site.catalogue, "dispatcher")
    assert after is not None
    assert after.token == lease.token


def test_a_dispatcher_that_is_stopped_finishes_what_runs(
    site: Site, incoming: Path, out: Path
) -> None:
    only_group(incoming)
    process = site.dispatcher_process()
    with site.gate("open", out):
        job = site.submit(incoming, out)
        site.until_state(job, "running")
        process.send_signal(signal.SIGTERM)
        site.until_doing("stopping")
        late = site.submit(incoming, out / "late")
        time.sleep(1.0)
        assert process.poll() is None
    row = site.until_state(job, "published")
    assert process.wait(PATIENCE_S) == 0
    assert [(one.state, one.counted) for one in site.attempts(row)] == [("published", True)]
    site.until_started_again(process)
    assert site.until_state(late, "published").attempts == 1


def test_a_dispatcher_that_is_told_twice_gives_back_what_runs(
    site: Site, incoming: Path, out: Path
) -> None:
    only_group(incoming)
    process = site.dispatcher_process()
    with site.gate("open", out):
        job = site.submit(incoming, out)
        site.until_state(job, "running")
        process.send_signal(signal.SIGTERM)
        site.until_doing("stopping")
        process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
    assert process.wait(PATIENCE_S) == 0
    site.until_started_again(process)
    row = site.until_state(job, "published")
    assert [(one.state, one.counted) for one in site.attempts(row)] == [
        ("given-back", False), ("published", True)
    ]  # fmt: skip
    assert (row.attempts, row.interruptions) == (1, 1)
    until(lambda: nothing_is_staged(out), PATIENCE_S)
    until(lambda: site.handed_over(row.path) == 1, PATIENCE_S)


@pytest.mark.parametrize("on_existing", ["skip", "replace", "fail"])
def test_a_dispatcher_killed_between_publication_and_record_leaves_a_product_that_is_found(
    site: Site, incoming: Path, out: Path, on_existing: str
) -> None:
    only_group(incoming)
    process = site.dispatcher_process()
    target = out / "science" / IDS[0][:10] / f"{IDS[0]}.ms"
    with site.gate("reduced", out):
        job = site.submit(incoming, out, on_existing=on_existing)
        until(target.exists, PATIENCE_S, 0.01)
        process.kill()
        before = stamp_of(str(target))
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    site.until_started_again(process)
    row = site.until_state(job, "published", "quarantined")
    assert (row.state, row.path) == ("published", str(target))
    assert stamp_of(row.path) == before
    assert [(one.state, one.counted) for one in site.attempts(row)] == [("published", True)]
    assert is_as_its_manifest(site.product(row))
    until(lambda: site.handed_over(row.path) == 1, PATIENCE_S)
    until(lambda: nothing_is_staged(out), PATIENCE_S)


def test_a_group_that_is_being_cancelled_when_the_dispatcher_is_killed_leaves_nothing(
    site: Site, incoming: Path, out: Path
) -> None:
    only_group(incoming)
    process = site.dispatcher_process()
    with site.gate("open", out):
        job = site.submit(incoming, out)
        row = site.until_state(job, "running")
        queue.cancel_groups(site.catalogue, [row.key])
        process.kill()
        process.wait(PATIENCE_S)
    site.until_started_again(process)
    row = site.until_state(job, "cancelled")
    until(lambda: nothing_is_staged(out), PATIENCE_S)
    assert list(out.glob("science/*/*.ms")) == []


def test_a_scheduler_that_is_killed_costs_no_attempt(site: Site, incoming: Path, out: Path) -> None:
    only_group(incoming)
    with site.gate("open", out):
        job = site.submit(incoming, out)
        site.until_state(job, "running")
        site.deployment.scheduler.kill()
        site.until_state(job, "queued")
    row = site.until_state(job, "published")
    assert (row.attempts, row.interruptions) == (1, 1)
    assert row.reason is None
    until(lambda: nothing_is_staged(out), PATIENCE_S)


# ------------------------------------------------------------------------------- after all of this


def test_at_the_end_every_product_of_this_queue_was_handed_over_once(site: Site) -> None:
    made = Counter[str]()
    for row in groups.list_groups(site.catalogue, states=["published"]):
        made[row.path or ""] += sum(one.state == "published" for one in site.attempts(row))
    wanted = {path: count for path, count in made.items() if count}
    until(lambda: {path: site.handed_over(path) for path in wanted} == wanted, PATIENCE_S)
