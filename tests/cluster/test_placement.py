"""Groups whose files lie on the nodes that recorded them, and what the loss of a node costs.

On the test bed that all share, with a dispatcher: subband N lies on node N+1. Node 4 has role
"stage", so groups are reduced on nodes 1 to 3, on node 1 when all are idle. Steps are held where
a test wants them (`step_gates`), so that a node is lost in the middle of what the test says.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.testbed import Bed
from contimg_dask.catalogue import groups, jobs
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.catalogue.records import AttemptRow, GroupRow
from contimg_dask.geometry import part_of
from contimg_dask.publishing.manifest import geometry_in, read_manifest
from contimg_dask.quicklook.store import read_quicklook
from contimg_dask.verification import verify
from tests.acceptance.conftest import make_groups, tree
from tests.cluster.memory_limit import NoControlGroup, memory_limit
from tests.cluster.test_bed import COMMAND, MENDED, cut, freeze, kill, staging_of, until
from tests.reference import tile_files

Lose = Callable[[Bed, str], None]
GROUPS, SUBBANDS = 3, 4
MIB = 1 << 20
FIRST = ("--end", "2025-10-05T03:14:00")
"""Of the groups, the first one only."""

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl"),
]


@pytest.fixture(scope="module")
def incoming(running: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All files in one place, and each on its node as well."""
    directory = tmp_path_factory.mktemp("incoming")
    make_groups(directory, groups=GROUPS, subbands=SUBBANDS, antennas=20, integrations=3)
    for path in directory.glob("*.hdf5"):
        node = running.nodes[int(path.stem.rpartition("sb")[2])]
        shutil.copy2(path, running.directory / "disks" / node / "incoming")
    yield directory
    for path in (running.directory / "disks").glob("*/incoming/*"):
        path.unlink()


@dataclass
class Site:
    """The test bed with a dispatcher and its catalogue."""

    bed: Bed
    catalogue: Catalogue
    incoming: Path

    def submit(
        self,
        name: str,
        *options: str,
        placement: str = "subband",
        wait_s: int = 100,
        incoming: Path | None = None,
    ) -> Backlog:
        out = self.bed.directory / "out" / name
        seen = incoming or self.incoming
        source = "/each/node/has/its/own" if placement == "subband" else seen
        done = self.bed.run(
            "env", f"CONTIMG_DASK_NODE_WAIT_S={wait_s}",
            COMMAND, "submit", source, out, "--placement", placement, "--json", *options,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return Backlog(self, json.loads(done.stdout)["job"], out, seen)

    @property
    def gates(self) -> Path:
        return self.bed.directory / "gates"

    @contextmanager
    def held(self, step: str) -> Iterator[Callable[[], list[str]]]:
        """Hold a step; yields what tells the nodes that are held."""
        gates = self.gates
        (gates / step).touch()

        def holders() -> list[str]:
            return [path.name.rpartition("-")[2] for path in gates.glob(f"{step}*.held-*")]

        try:
            yield holders
        finally:
            for path in (gates / step, *gates.glob(f"{step}*.*-*")):
                path.unlink()

    def staged(self, *but: str) -> list[str]:
        return [path for node in self.bed.nodes if node not in but
                for path in staging_of(self.bed, node)]  # fmt: skip

    def ip(self, node: str) -> str:
        return self.bed.hosts[node].ip


@dataclass
class Backlog:
    """A job, its groups and its output."""

    site: Site
    job: int
    out: Path
    incoming: Path

    @property
    def groups(self) -> list[GroupRow]:
        return groups.list_groups(self.site.catalogue, job=self.job)

    @property
    def attempts(self) -> list[AttemptRow]:
        return [
            attempt
            for group in self.groups
            for attempt in groups.attempts_of(self.site.catalogue, group.key)
        ]

    @property
    def products(self) -> list[Path]:
        return sorted(self.out.glob("science/*/*.ms"))

    @property
    def moved_bytes(self) -> Counter[str]:
        """Bytes by link, as `contimg-dask groups` tells them."""
        done = self.site.bed.run(COMMAND, "groups", "--job", str(self.job), "--json")
        assert done.returncode == 0, done.stderr
        moved: Counter[str] = Counter()
        for group in json.loads(done.stdout)["groups"]:
            for link in group["moved_bytes"]:
                moved[f"{link['from_node']}>{link['to_node']}"] += link["bytes"]
        return moved

    def is_done(self) -> bool:
        return jobs.is_job_done(self.site.catalogue, self.job)

    def states(self) -> list[str]:
        until(self.is_done, 120)
        return [group.state for group in self.groups]

    def assert_published_once(self, count: int) -> None:
        assert self.states() == ["published"] * count, [group.reason for group in self.groups]
        assert len(self.products) == count
        ended = Counter(attempt.state for attempt in self.attempts)
        assert ended["published"] == count
        assert verify(self.products[-1], self.incoming) == []

    def assert_nothing_is_left(self, *but: str) -> None:
        """Nothing is staged on any node but these, nor at the output."""
        until(lambda: not self.site.staged(*but), 60)
        until(lambda: not any("staging" in name for name in tree(self.out)), 60)
        hidden = [name for name in tree(self.out) if Path(name).name.startswith(".")]
        assert hidden == []


@pytest.fixture(scope="module")
def dispatching(running: Bed, incoming: Path) -> Iterator[Site]:
    running.wait_for_all()
    log = running.directory / "logs" / "dispatcher.log"
    with log.open("w") as file:
        process = running.popen(
            "env", "CONTIMG_DASK_RETRY_DELAY_S=1", COMMAND, "dispatch", stdout=file, stderr=file
        )
    try:
        until(log.read_text)
        with open_catalogue(f"{running.directory}/catalogue.sqlite") as catalogue:
            yield Site(running, catalogue, incoming)
    finally:
        process.terminate()
        process.wait(90)
    assert "Traceback" not in log.read_text()


@pytest.fixture
def site(bed: Bed, dispatching: Site) -> Site:
    """The site with all its nodes, and nothing held."""
    assert dispatching.bed is bed
    return dispatching


def moved_of(product: Path) -> dict[str, tuple[str, int]]:
    """Return, by subband, the node that made it, and the bytes that came from there."""
    manifest = read_manifest(product)
    assert manifest is not None
    return {
        name: (facts["node"], facts["moved_bytes"]) for name, facts in manifest["subbands"].items()
    }


@pytest.mark.parametrize("layout", [(), ("--spw", "single", "--imaging-columns", "copy")])
def test_products_equal_those_made_on_one_node_and_what_was_moved_is_known(
    site: Site, layout: tuple[str, ...]
) -> None:
    name = "-".join(("layout", *layout))
    spread = site.submit(f"spread{name}", *layout)
    whole = site.submit(f"group{name}", *layout, placement="group")
    spread.assert_published_once(GROUPS)
    assert whole.states() == ["published"] * GROUPS
    for one, other in zip(spread.products, whole.products, strict=True):
        assert one.name == other.name
        assert tile_files(one) == tile_files(other)
        assert read_quicklook(one).identical(read_quicklook(other))
    # Simulated files flag nothing, so FLAG is not moved; nor are imaging columns.
    expected: Counter[str] = Counter()
    for product, attempt in zip(spread.products, spread.attempts, strict=True):
        manifest = read_manifest(product)
        assert manifest is not None
        shape = geometry_in(manifest)
        assert shape is not None
        part = part_of(shape)
        size = sum(
            part.subband_rows * part.row_bits(column) // 8
            for column in part.columns
            if column.name in ("DATA", "WEIGHT_SPECTRUM", "WEIGHT", "SIGMA")
        )
        assert {moved for _, moved in moved_of(product).values()} == {size}
        homes = [site.ip(node) for node in site.bed.nodes]
        expected.update({f"{h}>{attempt.node}": size for h in homes if h != attempt.node})
    assert spread.moved_bytes == expected
    assert whole.moved_bytes == {}
    # Node 4 makes parts only.
    assert {attempt.node for attempt in spread.attempts} <= {
        site.ip(node) for node in site.bed.nodes[:3]
    }
    spread.assert_nothing_is_left()
    whole.assert_nothing_is_left()


SENDS = """
import collections, json, sys
from distributed import Client
from distributed.security import Security

def on_scheduler(dask_scheduler):
    return [key for key in dask_scheduler.tasks if str(key).startswith("send-")]

def on_worker(dask_worker):
    return [key for key, value in dask_worker.data.items() if type(value).__name__ == "Sent"]

with Client(sys.argv[1], set_as_default=False, security=Security()) as client:
    print(json.dumps([client.run_on_scheduler(on_scheduler), client.run(on_worker)]))
"""


def test_no_more_than_two_parts_are_on_their_way_to_a_worker(site: Site) -> None:
    def sent() -> tuple[list[str], dict[str, list[str]]]:
        done = site.bed.run(sys.executable, "-c", SENDS, site.bed.scheduler_address)
        assert done.returncode == 0, done.stderr
        known, by_worker = json.loads(done.stdout)
        return known, by_worker

    with site.held("place_part") as holders:
        backlog = site.submit("memory", *FIRST)
        until(holders)
        until(lambda: len(site.staged()) >= 2 * SUBBANDS)
        known, by_worker = sent()
        assert len(known) == 2, "of four parts that are ready"
        assert max(map(len, by_worker.values())) <= 2
    backlog.assert_published_once(1)
    known, by_worker = sent()
    assert known == []
    assert not any(by_worker.values())
    backlog.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("step", "node"),
    [
        ("write_part-sb02", "node3"),
        ("send_part-sb02", "node3"),
        ("place_part-sb03", "node1"),
        ("reduce-all", "node1"),
    ],
)
def test_a_group_waits_for_a_node_that_was_killed_and_is_published_once(
    site: Site, step: str, node: str
) -> None:
    try:
        with site.held(step) as holders:
            backlog = site.submit(f"kill-{step}", *FIRST)
            until(lambda: holders() == [node])
            site.bed.stop(node)
            until(lambda: backlog.attempts[0].ended_s)
        until(lambda: not site.staged(node))
        assert backlog.groups[0].state == "queued"
        assert backlog.products == []
    finally:
        site.bed.start(node)
    backlog.assert_published_once(1)
    assert [attempt.state for attempt in backlog.attempts] == ["lost", "published"]
    (group,) = backlog.groups
    assert (group.present, group.missing) == (SUBBANDS, ())
    site.bed.wait_for_all()
    backlog.assert_nothing_is_left()


def test_a_group_waits_for_nodes_that_were_cut_off_or_frozen(site: Site) -> None:
    lost = {"node3": cut if site.bed.network.isolated else kill, "node4": freeze}
    try:
        with site.held("write_part-sb02") as cut_off, site.held("send_part-sb03") as frozen:
            backlog = site.submit("cut-and-freeze", *FIRST)
            until(lambda: (cut_off(), frozen()) == (["node3"], ["node4"]))
            for node, lose in lost.items():
                lose(site.bed, node)
            site.bed.wait_until(lambda there: set(there) == {"node1", "node2"})
            until(lambda: backlog.attempts[0].ended_s)
        until(lambda: not site.staged(*lost))
        assert backlog.products == []
    finally:
        for node, lose in lost.items():
            MENDED[lose](site.bed, node)
    backlog.assert_published_once(1)
    assert backlog.groups[0].missing == ()
    # The frozen step went on in the middle; it found its attempt given up.
    site.bed.wait_for_all()
    backlog.assert_nothing_is_left()


def test_a_node_whose_parts_have_arrived_may_go(site: Site) -> None:
    try:
        with site.held("reduce-all") as holders:
            backlog = site.submit("arrived", *FIRST)
            until(holders)
            site.bed.stop("node3")
            site.bed.wait_until(lambda there: "node3" not in there)
        backlog.assert_published_once(1)
        backlog.assert_nothing_is_left("node3")
    finally:
        site.bed.start("node3")
    assert len(backlog.attempts) == 1
    # What is asked for again of the node that is back would be parts that nobody takes.
    site.bed.wait_for_all()
    backlog.assert_nothing_is_left()


def test_without_a_node_that_stays_away_a_group_is_partial_or_fails_and_others_go_on(
    site: Site,
) -> None:
    try:
        assert site.bed.run(COMMAND, "pause").returncode == 0
        partial = site.submit("partial", *FIRST, "--min-subbands", "3", wait_s=4)
        strict = site.submit("strict", *FIRST, wait_s=4)
        until(lambda: partial.groups and strict.groups)
        with site.held("write_part-sb02") as holders:
            assert site.bed.run(COMMAND, "resume").returncode == 0
            until(holders)
            site.bed.stop("node3")
        others = site.submit("others", placement="group")
        others.assert_published_once(GROUPS)
        assert partial.states() == ["published"]
        assert strict.states() == ["failed"]
        (product,) = partial.products
        manifest = read_manifest(product)
        assert manifest is not None
        assert set(manifest["subbands"]) == {"sb00", "sb01", "sb03"}
        (note,) = [note for note in manifest["notes"] if "left out" in note]
        assert note.startswith(f"sb02 left out: on node {site.ip('node3')}, which had been gone")
        reason = strict.groups[0].reason
        assert reason is not None
        assert reason.code == "missing-subbands"
        assert f"on node {site.ip('node3')}, which had been gone for" in reason.text
        assert strict.products == []
        for backlog in (partial, strict, others):
            backlog.assert_nothing_is_left("node3")
    finally:
        site.bed.start("node3")
    site.bed.wait_for_all()
    until(lambda: not site.staged())
    # Its files are back with it.
    assert site.bed.run(COMMAND, "retry", str(strict.groups[0].key)).returncode == 0
    strict.assert_published_once(1)
    assert moved_of(strict.products[0]).keys() == {"sb00", "sb01", "sb02", "sb03"}


def test_groups_on_one_node_each_are_published_elsewhere_when_those_are_lost(site: Site) -> None:
    losses: tuple[Lose, ...] = (kill, cut if site.bed.network.isolated else kill, freeze)
    with site.held("group_part") as writing, site.held("reduce") as reducing:
        backlog = site.submit("three-lost", placement="group")
        until(lambda: len(set(writing())) == GROUPS)
        lost = dict(zip(sorted(set(writing())), losses, strict=True))
        # The last of them is lost in its last step.
        last = list(lost)[-1]
        for number in range(SUBBANDS):
            (site.gates / f"group_part-sb{number:02d}.let-{last}").touch()
        until(lambda: reducing() == [last])
        for node, lose in lost.items():
            lose(site.bed, node)
        site.bed.wait_until(lambda there: not set(there) & set(lost))
    try:
        backlog.assert_published_once(GROUPS)
        backlog.assert_nothing_is_left(*lost)
    finally:
        for node, lose in lost.items():
            MENDED[lose](site.bed, node)
    ended = Counter(attempt.state for attempt in backlog.attempts)
    assert ended == {"lost": GROUPS, "published": GROUPS}
    (other,) = set(site.bed.nodes) - set(lost)
    assert {a.node for a in backlog.attempts if a.state == "published"} == {site.ip(other)}
    site.bed.wait_for_all()
    backlog.assert_nothing_is_left()
    assert len(backlog.products) == GROUPS


def test_a_group_whose_worker_the_kernel_kills_for_memory_is_published_once_elsewhere(
    site: Site, tmp_path: Path
) -> None:
    size_bytes = 8 * MIB
    make_groups(tmp_path, groups=1, subbands=SUBBANDS, antennas=48, integrations=8, channels=48)
    # A step reads more than twice of what it gets, and writes as much into the node's tmpfs.
    assert min(path.stat().st_size for path in tmp_path.iterdir()) > size_bytes
    with ExitStack() as stack:
        try:
            limit = stack.enter_context(memory_limit())
        except NoControlGroup as error:
            pytest.skip(str(error))
        with site.held("group_part") as holders:
            backlog = site.submit("oom", placement="group", incoming=tmp_path)
            until(holders)
            (node,) = set(holders())
            limit.hold(site.bed.pids(node), size_bytes)
        until(lambda: limit.kills)
        limit.lift()
        backlog.assert_published_once(1)
    lost, published = backlog.attempts
    assert (lost.node, lost.state) == (site.ip(node), "lost")
    assert lost.reason is not None
    assert lost.reason.code == "worker-lost"
    assert "killed, or out of memory" in lost.reason.text
    assert published.node != lost.node
    # The nanny has started another one: nothing stays on the node either.
    site.bed.wait_for_all()
    backlog.assert_nothing_is_left()
