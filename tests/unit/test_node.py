"""A worker's own node: found by its address, and its tiers in the place of those a plan names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dask
import pytest

from contimg_dask.deploy import worker_node
from contimg_dask.deploy.node_lookup import find_node
from contimg_dask.errors import ClusterError
from contimg_dask.execution import preload
from contimg_dask.execution.node import at_this_node, on_this_node, set_this_node, this_node
from contimg_dask.execution.node_steps import measure, sweep_given_up
from contimg_dask.model import ConversionPlan, Tier
from contimg_dask.naming import STAGING_DIRECTORY
from contimg_dask.planning import propose_tiers
from contimg_dask.staging.attempts import open_attempt
from tests.unit.plans import attempt_called, bare_plan
from tests.unit.test_inventory import CLUSTER, NODE, SECOND


@pytest.fixture(autouse=True)
def no_node() -> Iterator[None]:
    set_this_node(None)
    yield
    set_this_node(None)


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "nodes.toml"
    path.write_text((CLUSTER + NODE + SECOND).replace("/scratch", str(tmp_path / "scratch")))
    with dask.config.set({"contimg.inventory": str(path)}):
        yield path


class Server:
    """A worker, as far as a preload looks at it."""

    address = "tls://10.0.0.12:40001"


def test_a_node_is_found_by_the_address_of_its_worker(inventory: Path, tmp_path: Path) -> None:
    node = find_node("tls://10.0.0.12:40001")
    assert (node.name, node.scratch_dir) == ("node2", str(tmp_path / "scratch"))
    assert node.tmpfs_budget_bytes == 16 * 2**30


def test_an_address_that_is_not_in_the_inventory_is_refused_in_one_line(inventory: Path) -> None:
    with pytest.raises(ClusterError) as caught:
        find_node("tls://10.0.0.13:40001")
    assert caught.value.code == "not-in-inventory"
    assert "10.0.0.13" in str(caught.value)
    assert "node1 10.0.0.11, node2 10.0.0.12" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_worker_without_an_inventory_is_refused() -> None:
    with (
        dask.config.set({"contimg.inventory": None}),
        pytest.raises(ClusterError, match="has no contimg"),
    ):
        find_node("tls://10.0.0.13:40001")


def test_a_starting_worker_knows_its_node_and_sweeps_it(
    inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preload, "dask_setup", lambda worker: None)
    left = tmp_path / "scratch" / ".contimg-staging" / "2025-10-05T03:12:06.1.abcdefgh"
    left.mkdir(parents=True)
    (left / "DATA.tiles").write_bytes(b"what a dead attempt had written")
    worker_node.dask_setup(Server())
    node = this_node()
    assert node is not None
    assert node.name == "node2"
    assert not left.exists()


def test_tiers_of_a_plan_become_the_nodes_own(inventory: Path, tmp_path: Path) -> None:
    tiers = propose_tiers(str(tmp_path), tmpfs_path="/elsewhere", scratch_dir="/disk")
    plan = replace(bare_plan(tmp_path), tiers=tiers)
    assert at_this_node(plan) is plan
    set_this_node(find_node("tls://10.0.0.11:1"))
    tmpfs, scratch, destination = at_this_node(plan).tiers
    assert (tmpfs.root, tmpfs.budget_bytes) == ("/dev/shm/.contimg-staging", 16 * 2**30)
    assert scratch.root == str(tmp_path / "scratch" / ".contimg-staging")
    assert destination == tiers[-1]


def test_a_tier_nobody_asked_for_is_not_added(inventory: Path, tmp_path: Path) -> None:
    plan = replace(bare_plan(tmp_path), tiers=propose_tiers(str(tmp_path)))
    set_this_node(find_node("tls://10.0.0.11:1"))
    seen: list[ConversionPlan] = []
    on_this_node(seen.append)(plan)
    assert seen == [plan]


@pytest.mark.parametrize(
    ("role", "reduces"), [("stage", False), ("reduce", True), ("both", True), (None, True)]
)
def test_a_node_says_what_it_is_there_for(
    inventory: Path, role: str | None, reduces: bool, tmp_path: Path
) -> None:
    if role is not None:
        inventory.write_text(inventory.read_text() + f'role = "{role}"\n')
        set_this_node(find_node("tls://10.0.0.12:40001"))
    (tmp_path / "scratch").mkdir()
    tier = Tier(name="scratch", root=str(tmp_path / "scratch" / STAGING_DIRECTORY))
    measured = measure((tier, Tier(name="other", root=str(tmp_path / "nowhere" / "staging"))))
    assert measured.reduces is reduces
    # Of a tier that cannot be used there is nothing to tell.
    assert measured.room_bytes.keys() == {tier.root}
    assert measured.room_bytes[tier.root] > 0


def test_a_node_measures_and_sweeps_its_own_tiers_whatever_they_are_called_elsewhere(
    inventory: Path, tmp_path: Path
) -> None:
    set_this_node(find_node("tls://10.0.0.12:40001"))
    own = tmp_path / "scratch" / STAGING_DIRECTORY
    elsewhere = Tier(name="scratch", root="/nowhere/staging")
    (tmp_path / "scratch").mkdir()
    assert measure((elsewhere,)).room_bytes.keys() == {elsewhere.root}
    node = this_node()
    assert node is not None
    plan = bare_plan(tmp_path / "out", *node.tiers[1:])
    attempt = attempt_called("a.1")
    (tmp_path / "out").mkdir()
    open_attempt(plan, attempt)
    assert (own / "a.1").is_dir()
    sweep_given_up((elsewhere.root,), (), {"b.1"})
    assert (own / "a.1").is_dir()
    assert sweep_given_up((elsewhere.root,), (), {"a.1"}) >= 1
    assert not own.exists()
