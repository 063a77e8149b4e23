"""What the check of a cluster says of what was found: one line for everything that is wrong."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contimg_dask.deploy.checking import judge_cluster
from contimg_dask.deploy.inventory import Inventory
from contimg_dask.deploy.probing import (
    ClusterFacts,
    NodeFacts,
    Place,
    WorkerSaid,
    authority_days_left,
    look_at,
    own_days_left,
    own_versions,
)
from contimg_dask.execution.encryption import TlsFiles
from tests.unit.test_inventory import CLUSTER, NODE, SECOND, read

GIB = 2**30
SCRIPT = Path(__file__).parents[2] / "cluster" / "make-certificates"


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    return read(tmp_path, CLUSTER + NODE + SECOND)


def worker(inventory: Inventory, number: int, **changes: Any) -> WorkerSaid:
    fine = WorkerSaid(
        address=f"tls://10.0.0.11:{40000 + number}",
        versions={"contimg-dask": "1.0", "Python": "3.11.7"},
        node="node1",
        digest=inventory.digest_of(inventory.nodes[0]),
        threads=1,
        memory_limit_bytes=4 * GIB,
        memory_bytes=64 * GIB,
        tmpfs=Place(path="/dev/shm", fault=None, total_bytes=32 * GIB),
        scratch=Place(path="/scratch", fault=None, total_bytes=1000 * GIB),
        output=Place(path="/data/products", fault=None, total_bytes=1000 * GIB),
        input=None,
        now_s=0.0,
    )
    return replace(fine, **changes)


def node_facts(inventory: Inventory, count: int = 8, **changes: Any) -> NodeFacts:
    workers = tuple(worker(inventory, number, **changes) for number in range(count))
    return NodeFacts(answers=True, workers=workers, offset_s=0.1, days_left=200.0)


def cluster_facts(inventory: Inventory, first: NodeFacts, **changes: Any) -> ClusterFacts:
    versions = {"contimg-dask": "1.0", "Python": "3.11.7"}
    fine = ClusterFacts(
        versions=versions,
        scheduler_versions=versions,
        days_left={"the authority": 3000.0, "its certificate": 200.0},
        nodes={
            "node1": first,
            "node2": node_facts(inventory, digest=inventory.digest_of(inventory.nodes[1])),
        },
    )
    return replace(fine, **changes)


def lines(inventory: Inventory, first: NodeFacts, **changes: Any) -> list[str]:
    """Every finding that is not ok, as the command prints it."""
    findings = judge_cluster(inventory, cluster_facts(inventory, first, **changes))
    assert all(finding.advice for finding in findings if finding.level != "ok")
    return [f"{f.level} {f.subject}: {f.text}" for f in findings if f.level != "ok"]


def test_a_cluster_that_is_well_is_one_line_per_host(inventory: Inventory) -> None:
    findings = judge_cluster(inventory, cluster_facts(inventory, node_facts(inventory)))
    assert [(f.level, f.subject) for f in findings] == [
        ("ok", "scheduler scheduler"),
        ("ok", "node1"),
        ("ok", "node2"),
    ]
    assert findings[1].text == "8 worker(s) at 10.0.0.11"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"digest": "other"}, "fail node1: other settings: its workers started with another"),
        ({"digest": None}, "fail node1: other settings: its workers know no inventory"),
        ({"versions": {"contimg-dask": "0.9", "Python": "3.11.7"}},
         "fail node1: other versions: contimg-dask 0.9 (here 1.0)"),
        ({"versions": {"contimg-dask": "1.0", "Python": "3.12.1"}},
         "fail node1: other versions: Python 3.12.1 (here 3.11.7)"),
        ({"threads": 4}, "warn node1: 4 threads per worker, 1 wanted"),
        ({"memory_limit_bytes": 2 * GIB},
         "fail node1: a worker may take 2.0 GiB, memory_limit is 4GiB"),
        ({"memory_bytes": 32 * GIB},
         "fail node1: workers and tmpfs may take 48.0 GiB together, the machine has 32.0 GiB"),
        ({"tmpfs": Place(path="/dev/shm", fault=None, total_bytes=8 * GIB)},
         "fail node1: tmpfs too small: /dev/shm has 8.0 GiB, tmpfs_budget is 16GiB"),
        ({"tmpfs": Place(path="/dev/shm", fault="Permission denied")},
         "fail node1: tmpfs_path /dev/shm cannot be used: Permission denied"),
        ({"scratch": Place(path="/scratch", fault="No such file or directory")},
         "fail node1: scratch_dir /scratch cannot be used: No such file or directory"),
        ({"output": Place(path="/data/products", fault="Read-only file system")},
         "fail node1: output_dir /data/products cannot be used: Read-only file system"),
        ({"input": Place(path="/data/in", fault="No such file or directory")},
         "fail node1: input_dir /data/in cannot be used: No such file or directory"),
        ({"address": "tcp://10.0.0.11:40000"},
         "fail node1: plain TCP where TLS was asked for: tcp://10.0.0.11:40000"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_workers_of_a_node_is_told_once(
    inventory: Inventory, changes: dict[str, Any], said: str
) -> None:
    (line,) = lines(inventory, node_facts(inventory, **changes))
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            {"answers": False, "workers": ()},
            "fail node1: unreachable: nothing answers at 10.0.0.11 within 3 s",
        ),
        ({"workers": ()}, "fail node1: no worker at 10.0.0.11, 8 wanted"),
        ({"days_left": 12.4}, "warn node1: its certificate expires in 12 days"),
        ({"days_left": 0.0}, "fail node1: its certificate has expired"),
        ({"offset_s": -7.25}, "fail node1: its clock is 7.2 s behind this one"),
        ({"offset_s": 90.0, "uncertainty_s": 0.1}, "fail node1: its clock is 90.0 s ahead of"),
        ({"offset_s": 3.0, "uncertainty_s": 2.0}, None),
    ],
)
def test_what_is_wrong_with_a_node_is_told(
    inventory: Inventory, facts: dict[str, Any], said: str | None
) -> None:
    found = lines(inventory, replace(node_facts(inventory), **facts))
    assert [line.startswith(str(said)) for line in found] == ([] if said is None else [True])


def test_too_few_workers_and_those_that_cannot_be_asked(inventory: Inventory) -> None:
    first = replace(node_facts(inventory, 6), unusable=("tls://10.0.0.11:1: No module",))
    assert lines(inventory, first) == [
        "fail node1: a worker cannot be asked: tls://10.0.0.11:1: No module",
        "fail node1: 7 worker(s) at 10.0.0.11, 8 wanted",
    ]
    assert lines(inventory, node_facts(inventory, 9))[0].startswith("warn node1: 9 worker(s)")


def test_what_is_wrong_with_the_scheduler_and_who_is_too_many(inventory: Inventory) -> None:
    found = lines(
        inventory, node_facts(inventory), allowed_failures=3, strangers=("tls://10.0.0.99:1",),
        days_left={"the authority": 20.0, "the client's certificate": 0.0},
    )  # fmt: skip
    assert [line.partition(":")[0] for line in found] == [
        "fail scheduler scheduler", "warn scheduler scheduler", "fail scheduler scheduler",
        "fail strangers",
    ]  # fmt: skip


def test_without_a_scheduler_nodes_are_told_apart_by_whether_they_answer(
    inventory: Inventory,
) -> None:
    nodes = {"node1": NodeFacts(answers=False), "node2": NodeFacts(answers=True)}
    findings = judge_cluster(inventory, ClusterFacts(nodes=nodes, fault="no scheduler answers"))
    assert [(f.level, f.subject) for f in findings] == [
        ("fail", "scheduler scheduler"),
        ("fail", "node1"),
        ("warn", "node2"),
    ]


def test_a_directory_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    place = look_at(str(tmp_path), written=True)
    assert (place.fault, list(tmp_path.iterdir())) == (None, [])
    assert place.total_bytes > 0
    missing = look_at(str(tmp_path / "missing"), written=True)
    assert missing.fault == "No such file or directory"
    file = tmp_path / "file"
    file.touch()
    assert look_at(str(file), written=False).fault == "Not a directory"


def test_the_package_itself_is_among_the_versions() -> None:
    found = own_versions()
    assert "not installed" not in found.values()
    assert {"Python", "contimg-dask", "distributed"} <= set(found)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_days_of_authority_and_client_are_read(tmp_path: Path) -> None:
    words = [str(SCRIPT), str(tmp_path / "tls"), "--days", "30", "a=127.0.0.1"]
    subprocess.run(words, check=True, capture_output=True)
    files = TlsFiles(
        ca_file=str(tmp_path / "tls/ca.pem"),
        cert_file=str(tmp_path / "tls/client.pem"),
        key_file=str(tmp_path / "tls/client-key.pem"),
    )
    assert own_days_left(files) == pytest.approx(30, abs=0.1)
    assert authority_days_left(files) == pytest.approx(3650, abs=0.1)
