"""Several hosts on one machine: who gets in, and what the loss of a node, link or scheduler costs.

One test bed (`conftest.py`) for all: a scheduler's host and four nodes with a worker each, rendered
configuration, TLS with certificates. Every test leaves it whole.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.hosts import MARK, can_isolate, namespaces, remove_dead_beds
from cluster.testbed import Bed
from contimg_dask.deploy.node_lookup import EXIT_REFUSED
from contimg_dask.verification import verify
from tests.acceptance.conftest import make_groups, tree

COMMAND = str(Path(sys.executable).with_name("contimg-dask"))
DASK = str(Path(sys.executable).with_name("dask"))
MAKE_CERTIFICATES = Path(__file__).parents[2] / "cluster" / "make-certificates"
GROUPS = 6

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl"),
]


@pytest.fixture
def out(bed: Bed) -> Iterator[Path]:
    """The output that the inventory names, empty."""
    output = Path(bed.inventory.cluster.output_dir)
    yield output
    for entry in output.iterdir():
        shutil.rmtree(entry)


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Groups that take about a second each, so that something can happen to them meanwhile."""
    directory = tmp_path_factory.mktemp("incoming")
    make_groups(directory, groups=GROUPS, subbands=4, antennas=24, integrations=4, channels=48)
    return directory


@dataclass(frozen=True)
class Done:
    code: int
    report: dict[str, Any]
    err: str

    @property
    def outcomes(self) -> list[str]:
        return [group["outcome"] for group in self.report["groups"]]


class Conversion:
    """A conversion on the bed, from the scheduler's host, that tests can wait for."""

    def __init__(self, bed: Bed, incoming: Path, out: Path) -> None:
        self._log = out.parent / f"{out.name}.err"
        with self._log.open("w") as log:
            self._process = bed.popen(
                COMMAND, "convert", incoming, out, "--json",
                stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip

    def wait(self) -> Done:
        try:
            out, _ = self._process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        return Done(self._process.returncode, json.loads(out), self._log.read_text())


def staging_of(bed: Bed, node: str) -> list[str]:
    """What attempts have on a node's own disks."""
    disks = bed.directory / "disks" / node
    return [str(path) for path in disks.glob("*/.contimg-staging/*") if path.name != ".lock"]


def until(true: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.02)


def half_made(out: Path) -> list[str]:
    """What is in the output that is neither a product nor above one."""
    return [name for name in tree(out) if "staging" in name or Path(name).name.startswith(".")]


def assert_all_published_once(done: Done, out: Path, incoming: Path) -> None:
    assert done.code == 0, done.err
    assert done.outcomes == ["published"] * GROUPS, done.err
    products = sorted(out.glob("science/*/*.ms"))
    assert len(products) == GROUPS
    attempts = {group["path"]: group["attempts"] for group in done.report["groups"]}
    longest = max(products, key=lambda product: attempts[str(product)])
    assert verify(longest, incoming) == []


def test_groups_are_converted_over_tls_each_on_its_nodes_own_tmpfs(
    bed: Bed, incoming: Path, out: Path
) -> None:
    assert bed.scheduler_address.startswith("tls://")
    done = Conversion(bed, incoming, out).wait()
    assert_all_published_once(done, out, incoming)
    assert half_made(out) == []
    assert {group["tier"] for group in done.report["groups"]} == {"tmpfs"}
    assert [staging_of(bed, node) for node in bed.nodes] == [[]] * 4


def kill(bed: Bed, node: str) -> None:
    bed.stop(node)


def cut(bed: Bed, node: str) -> None:
    bed.cut(node)


def freeze(bed: Bed, node: str) -> None:
    bed.freeze(node)


MENDED: dict[Any, Callable[[Bed, str], None]] = {
    kill: lambda bed, node: bed.start(node),
    cut: lambda bed, node: bed.restore(node),
    freeze: lambda bed, node: bed.thaw(node),
}


@pytest.mark.parametrize(("lose", "node"), [(kill, "node2"), (cut, "node3"), (freeze, "node4")])
def test_the_groups_of_a_node_that_is_lost_are_published_elsewhere(
    bed: Bed, incoming: Path, out: Path, lose: Callable[[Bed, str], None], node: str
) -> None:
    if lose is cut and not bed.network.isolated:
        pytest.skip(bed.word)
    conversion = Conversion(bed, incoming, out)
    until(lambda: staging_of(bed, node))
    lose(bed, node)
    try:
        done = conversion.wait()
    finally:
        MENDED[lose](bed, node)
    assert_all_published_once(done, out, incoming)
    survivors = [name for name in bed.nodes if name != node]
    assert [staging_of(bed, name) for name in survivors] == [[]] * 3
    assert sum(group["attempts"] for group in done.report["groups"]) > GROUPS
    # The node comes back by itself, and removes what its own attempts had left.
    bed.wait_for_all()
    assert staging_of(bed, node) == []
    assert half_made(out) == []
    assert len(list(out.glob("science/*/*.ms"))) == GROUPS


def test_a_scheduler_that_is_restarted_ends_the_conversion_in_order(
    bed: Bed, incoming: Path, out: Path
) -> None:
    gate = bed.directory / "gates" / "reduce"
    gate.touch()
    try:
        conversion = Conversion(bed, incoming, out)
        until(lambda: list(gate.parent.glob("reduce-*.held-*")))
        bed.restart_scheduler()
    finally:
        for path in gate.parent.glob("reduce*"):
            path.unlink()
    done = conversion.wait()
    assert done.code == 1
    lost = [group for group in done.report["groups"] if group["outcome"] == "failed"]
    assert {group["reason"]["code"] for group in lost} == {"scheduler-lost"}
    assert done.outcomes.count("published") + len(lost) == GROUPS
    bed.wait_for_all()
    again = Conversion(bed, incoming, out).wait()
    assert again.code == 0, again.err
    assert set(again.outcomes) <= {"published", "skipped"}
    assert len(list(out.glob("science/*/*.ms"))) == GROUPS
    assert [staging_of(bed, name) for name in bed.nodes] == [[]] * 4


def refusal(bed: Bed, incoming: Path, out: Path, **changes: str) -> str:
    """Return the one line with which a conversion with other certificates ends."""
    words = [COMMAND, "convert", incoming, out]
    for name, value in changes.items():
        words += [f"--{name.replace('_', '-')}", value]
    done = bed.run(*words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not list(out.glob("science/*/*.ms"))
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("contimg-dask:")]
    return line


def test_who_has_no_certificate_of_the_cluster_gets_nowhere(
    bed: Bed, incoming: Path, out: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    subprocess.run(
        [str(MAKE_CERTIFICATES), str(other), "x=10.77.0.1"], check=True, capture_output=True
    )
    theirs = {"tls_cert": f"{other}/client.pem", "tls_key": f"{other}/client-key.pem"}
    assert "the scheduler refuses" in refusal(bed, incoming, out, **theirs)
    said = refusal(bed, incoming, out, tls_ca=f"{other}/ca.pem", **theirs)
    assert "the scheduler's certificate is not of" in said


def test_plain_tcp_gets_nowhere(bed: Bed, incoming: Path, out: Path) -> None:
    plain = bed.scheduler_address.replace("tls://", "tcp://")
    said = refusal(bed, incoming, out, scheduler=plain)
    assert "configuration requires encryption" in said
    # Somebody whose configuration does not, on the same network.
    words = [COMMAND, "convert", incoming, out, "--expected-subbands", "4"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DASK_", "CONTIMG_"))}
    lines = []
    for more in ((), ("--allow-plain-tcp",)):
        done = subprocess.run(
            [*bed.network.inside("node1"), *map(str, words), "--scheduler", plain, *more],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        lines += [line for line in done.stderr.splitlines() if line.startswith("contimg-dask:")]
    if bed.network.isolated:
        assert "--allow-plain-tcp if that network is trusted" in lines[0]
    assert "as a scheduler with encryption does" in lines[1]


def test_a_worker_that_is_not_in_the_inventory_is_refused(bed: Bed) -> None:
    stranger = bed.network.addresses["scheduler"]
    words = [DASK, "worker", bed.scheduler_address, "--host", stranger, "--nthreads", "1"]
    # As node1 is configured, with its certificate; only the address is another one.
    environment = bed.environment("node1")
    for more in ((), ("--no-nanny",)):
        preload = () if more else ("--preload-nanny", "contimg_dask.deploy.nanny_node")
        done = subprocess.run(
            [*bed.network.inside("scheduler"), *words, *preload, *more],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == EXIT_REFUSED
        (line,) = [line for line in done.stderr.splitlines() if "worker refused" in line]
        assert f"no node has the address {stranger}" in line
        assert "Traceback" not in done.stderr
    assert set(bed.workers()) == set(bed.nodes)


def check(bed: Bed, inventory: Path | str) -> tuple[int, list[str]]:
    done = bed.run(COMMAND, "cluster", "check", "--inventory", inventory)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines()


def test_the_check_finds_a_cluster_well_and_says_what_another_inventory_would_not(
    bed: Bed, tmp_path: Path
) -> None:
    code, lines = check(bed, bed.inventory.path)
    assert code == 0, lines
    assert [line.partition(":")[0] for line in lines] == [
        "ok   scheduler scheduler", *(f"ok   {node}" for node in bed.nodes)
    ]  # fmt: skip
    text = Path(bed.inventory.path).read_text()
    other = tmp_path / "nodes.toml"
    first, second = text.index('name = "node1"'), text.index('name = "node2"')
    changed = text[first:second].replace("workers = 1", "workers = 2").replace("64MiB", "90TiB")
    changed = changed.replace("/node1/scratch", "/node1/nowhere")
    more = 'name = "node5"\nip = "10.77.0.99"\n' + changed.split("\n", 2)[2].replace("[[node]]", "")
    other.write_text(text[:first] + changed + text[second:] + f"[[node]]\n{more}")
    code, lines = check(bed, other)
    assert code == 1
    for said in (
        "FAIL node1: 1 worker(s) at",
        "FAIL node1: other settings: its workers started with another nodes.toml",
        "FAIL node1: tmpfs too small",
        "nowhere cannot be used: No such file or directory",
    ):
        assert any(said in line for line in lines), lines
    if bed.network.isolated:
        assert any("FAIL node5: unreachable" in line for line in lines), lines


ON_THE_SCHEDULERS_HOST = """
import sys, urllib.request
for page in ("contimg", "metrics"):
    print(urllib.request.urlopen(f"{sys.argv[1]}/{page}", timeout=10).read().decode())
"""


def test_what_is_rendered_for_hosts_loads_all_of_it(bed: Bed) -> None:
    port = bed.inventory.cluster.dashboard_port
    url = f"http://127.0.0.1:{port}"
    deadline_s = time.monotonic() + 30
    while True:
        done = bed.run(sys.executable, "-c", ON_THE_SCHEDULERS_HOST, url)
        assert done.returncode == 0, done.stderr
        # Nodes say who they are with their heartbeats.
        if all(f'{{node="{node}"}}' in done.stdout for node in bed.nodes):
            break
        assert time.monotonic() < deadline_s, done.stdout[-2000:]
        time.sleep(0.5)
    assert "bokeh" in done.stdout
    for node in bed.nodes:
        assert f'contimg_groups_in_flight{{node="{node}"}} 0.0' in done.stdout


def test_a_worker_without_a_certificate_gets_nowhere(bed: Bed) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DASK_")}
    plain = bed.scheduler_address.replace("tls://", "tcp://")
    words = [DASK, "worker", plain, "--host", bed.network.addresses["node1"], "--no-nanny"]
    done = subprocess.run(
        [*bed.network.inside("node1"), *words, "--death-timeout", "3"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert bed.workers() == dict.fromkeys(bed.nodes, 1)


LEFT_BEHIND = """
import subprocess, sys, time
from cluster.hosts import MARK, Namespaces, quiet
import os
network = Namespaces(["scheduler"])
quiet("mount", "-t", "tmpfs", f"{MARK}{os.getpid()}", sys.argv[1])
subprocess.Popen([*network.inside("scheduler"), "sleep", "1000"])
print("ready", flush=True)
time.sleep(1000)
"""


def test_what_a_killed_test_bed_has_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    if not can_isolate():
        pytest.skip("no network namespaces here")
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", LEFT_BEHIND, str(tmp_path)]
    with subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        mark = f"{MARK}{process.pid}"
        assert any(name.startswith(f"{mark}-") for name in namespaces())
        process.kill()
    remove_dead_beds()
    assert not [name for name in namespaces() if name.startswith(f"{mark}-")]
    assert mark not in Path("/proc/mounts").read_text()
