"""The inventory of a cluster: what is read, and the one line about every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from contimg_dask.deploy.inventory import Inventory, read_inventory
from contimg_dask.errors import UsageError

ROOT = Path(__file__).parents[2]

CLUSTER = """
[cluster]
scheduler_ip = "10.0.0.1"
environment = "/opt/contimg-dask"
user = "contimg"
catalogue = "/var/lib/contimg-dask/catalogue.sqlite"
output_dir = "/data/products"
tls_dir = "/etc/contimg-dask/tls"
"""
NODE = """
[[node]]
name = "node1"
ip = "10.0.0.11"
workers = 8
memory_limit = "4GiB"
scratch_dir = "/scratch"
tmpfs_budget = "16GiB"
"""
SECOND = NODE.replace("node1", "node2").replace("0.11", "0.12")


def read(directory: Path, text: str) -> Inventory:
    path = directory / "nodes.toml"
    path.write_text(text, encoding="utf-8")
    return read_inventory(path)


def refusal(directory: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        read(directory, text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(directory / "nodes.toml"))
    return str(caught.value)


def test_the_inventory_that_is_delivered_is_right() -> None:
    inventory = read_inventory(ROOT / "cluster" / "nodes.toml")
    assert inventory.host_names == ("scheduler", "node1", "node2")
    assert inventory.placement == "group"
    assert inventory.settings == {"stage_to_tmpfs": True}


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    inventory = read(tmp_path, CLUSTER + NODE)
    (node,) = inventory.nodes
    assert (node.tmpfs_path, node.input_dir, node.role) == ("/dev/shm", None, "both")
    assert node.memory_bytes == 8 * 4 * 2**30
    assert node.tmpfs_bytes == 16 * 2**30
    assert inventory.cluster.scheduler_address == "tls://10.0.0.1:8786"
    assert inventory.cluster.certificate_files("node1") == (
        "/etc/contimg-dask/tls/ca.pem",
        "/etc/contimg-dask/tls/node1.pem",
        "/etc/contimg-dask/tls/node1-key.pem",
    )


def test_a_node_is_found_by_its_address_however_that_is_written(tmp_path: Path) -> None:
    inventory = read(tmp_path, CLUSTER + NODE.replace("10.0.0.11", "fd00::0:11"))
    assert inventory.node_at("fd00::11") is inventory.nodes[0]
    assert inventory.node_at("10.0.0.12") is None


def test_placement_follows_the_nodes_that_record(tmp_path: Path) -> None:
    recording = NODE + 'input_dir = "/data/incoming"\n'
    assert read(tmp_path, CLUSTER + recording + SECOND).placement == "subband"
    chosen = CLUSTER + 'placement = "group"\n'
    assert read(tmp_path, chosen + recording).placement == "group"


def test_the_digest_of_a_node_is_of_what_matters_to_it(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        inventory = read(tmp_path, text)
        return inventory.digest_of(inventory.nodes[0])

    once = digest(CLUSTER + NODE)
    assert once == digest(CLUSTER + NODE + "# a word\n")
    # A node that is added is nothing to the others, unless it changes where groups are placed.
    assert once == digest(CLUSTER + NODE + SECOND)
    assert once != digest(CLUSTER + NODE + SECOND + 'input_dir = "/data/incoming"\n')
    assert once != digest(CLUSTER + "worker_ttl_s = 30\n" + NODE)
    assert once != digest(CLUSTER + NODE + 'role = "reduce"\n')
    assert once != digest(CLUSTER + NODE + "[settings]\nstage_to_tmpfs = true\n")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("workers = 8", "workers = 0", ['node "node1"', "workers is 0", "from 1 to 1024"]),
        ("workers = 8", "workers = true", ["workers is true", "a whole number"]),
        ("workers = 8", "worker = 8", ["'worker' is not a key", "memory_limit"]),
        ("workers = 8\n", "", ["workers is missing", "a whole number"]),
        ('"4GiB"', '"4 gigs"', ['memory_limit is "4 gigs"', "a size such as 4GiB"]),
        ('"4GiB"', '"0GiB"', ["memory_limit", "a size such as 4GiB"]),
        ('"/scratch"', '"scratch"', ['scratch_dir is "scratch"', "an absolute path"]),
        ('"/scratch"', '"/scr atch"', ["an absolute path"]),
        ('"/scratch"', '"/100%h"', ["an absolute path"]),
        ('"10.0.0.11"', '"node1.example"', ["ip is", "an IP address", "DNS name"]),
        ('"10.0.0.11"', '"0.0.0.0"', ["ip is", "an IP address"]),
        ('"10.0.0.11"', "11", ["ip is 11", "an IP address"]),
        ('name = "node1"', 'name = "node 1"', ['name is "node 1"', "letters, digits"]),
        ('name = "node1"\n', "", ["[[node]] number 1", "name is missing"]),
        ('name = "node1"', 'name = "client"', ['"client"', "certificate files"]),
        ("tmpfs_budget", 'role = "writer"\ntmpfs_budget', ["role is", "both | stage | reduce"]),
        ("tmpfs_budget", 'role = "stage"\ntmpfs_budget', ['"stage"', '"both" or "reduce"']),
        (
            "tmpfs_budget",
            'role = "reduce"\ninput_dir = "/data"\ntmpfs_budget',
            ['role "reduce" and an input_dir', 'role "both"'],
        ),
        ('tls_dir = "/etc/contimg-dask/tls"\n', "", ["tls_dir is missing", "10.0.0.1"]),
        ("[cluster]", '[cluster]\nplacement = "subband"', ["placement", "input_dir"]),
        ("[cluster]", '[cluster]\nplacement = "here"', ["[cluster]", "group | subband | auto"]),
        ("[cluster]", "[cluster]\nscheduler_port = 70000", ["70000", "from 1 to 65535"]),
        ("[cluster]", '[cluster]\nscheduler_name = "node1"', ["scheduler_ip", "10.0.0.11"]),
        ('_ip = "10.0.0.1"', '_ip = "10.0.0.11"', ["scheduler_name", "node1"]),
        ("[cluster]", "[nodes]\n[cluster]", ["'nodes' is not", "cluster, node, settings"]),
        ("[cluster]", "[cluster", ["not a readable TOML file"]),
        ('"/var/lib/contimg-dask/catalogue.sqlite"', '"catalogue"', ["catalogue", "database URL"]),
        ("[[node]]", "[settings]\nworkrs = 1\n[[node]]", ["[settings]", "'workrs' is not a setting"]),
        ("[[node]]", "[settings]\nscheduler = 'tcp://a:1'\n[[node]]", ["scheduler follows from"]),
        ("[[node]]", "[settings]\nmin_subbands = 0\n[[node]]", ["min_subbands is 0", "from 1 to 1000"]),
    ],
)  # fmt: skip
def test_every_mistake_is_one_line_with_place_key_value_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    text = CLUSTER + NODE
    assert text.count(old) == 1
    said = refusal(tmp_path, text.replace(old, new))
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (SECOND.replace("node2", "node1"), ["name is", '"node1"', "number 1 and 2"]),
        (SECOND.replace("0.12", "0.11"), ["ip is", '"10.0.0.11"', '"node1"', "number 1 and 2"]),
    ],
)
def test_names_and_addresses_are_each_nodes_own(
    tmp_path: Path, second: str, words: list[str]
) -> None:
    said = refusal(tmp_path, CLUSTER + NODE + second)
    assert [word for word in words if word not in said] == [], said


def test_an_inventory_without_tables_is_refused(tmp_path: Path) -> None:
    assert "there is no [[node]]" in refusal(tmp_path, CLUSTER)
    assert "[cluster]: there is no such table" in refusal(tmp_path, NODE)
    with pytest.raises(UsageError, match="not a readable TOML file"):
        read_inventory(tmp_path / "nowhere.toml")


def test_plain_tcp_is_taken_on_purpose_only_or_on_loopback(tmp_path: Path) -> None:
    plain = CLUSTER.replace('tls_dir = "/etc/contimg-dask/tls"\n', "")
    asked = plain + "allow_plain_tcp = true\n"
    assert read(tmp_path, asked + NODE).cluster.scheduler_address == "tcp://10.0.0.1:8786"
    local = (plain + NODE).replace("10.0.0.", "127.0.0.")
    assert read(tmp_path, local).cluster.scheduler_address == "tcp://127.0.0.1:8786"
