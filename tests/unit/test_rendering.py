"""What is rendered for a host: systemd takes the units, Dask the YAML, the program its settings."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from contimg_dask.cli import cli
from contimg_dask.deploy.inventory import Inventory, read_inventory
from contimg_dask.deploy.rendering import memory_max_bytes, render_host
from contimg_dask.errors import UsageError
from contimg_dask.settings import load_settings
from tests.unit.test_inventory import CLUSTER, NODE, SECOND

GIB = 2**30
UNITS = "/etc/systemd/system"
CONFIG = "/etc/contimg-dask"


def inventory(directory: Path, text: str = CLUSTER + NODE + SECOND) -> Inventory:
    # systemd-analyze looks whether commands exist.
    path = directory / "nodes.toml"
    path.write_text(text.replace("/opt/contimg-dask", sys.prefix), encoding="utf-8")
    return read_inventory(path)


def names(files: dict[str, str]) -> set[str]:
    return {Path(name).name for name in files}


def test_each_host_gets_the_units_of_what_runs_on_it(tmp_path: Path) -> None:
    everywhere = {"dask.yaml", "environment", "contimg-dask.toml", "nodes.toml"}
    there = inventory(tmp_path)
    assert names(render_host(there, "node1")) == {"dask-worker@.service"} | everywhere
    control = {"dask-scheduler.service", "contimg-dispatch.service", "contimg-api.service"}
    assert names(render_host(there, "scheduler")) == control | everywhere
    text = CLUSTER + 'input_dir = "/data/incoming"\n' + NODE
    both = (text + SECOND).replace('"10.0.0.1"', '"10.0.0.11"\nscheduler_name = "node1"')
    found = names(render_host(inventory(tmp_path, both), "node1"))
    assert found == control | {"contimg-stream.service", "dask-worker@.service"} | everywhere


def test_a_host_that_is_not_in_the_inventory_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no host .node3.*scheduler, node1, node2"):
        render_host(inventory(tmp_path), "node3")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    text = CLUSTER + 'input_dir = "/data/incoming"\n' + NODE + SECOND
    there = inventory(tmp_path, text)
    units = []
    for host in ("scheduler", "node1"):
        for name, content in render_host(there, host).items():
            if name.endswith(".service"):
                units.append(tmp_path / Path(name).name.replace("@", f"@{host}"))
                units[-1].write_text(content)
    assert len(units) == 5
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_limit_of_the_control_group_allows_for_tmpfs(tmp_path: Path) -> None:
    there = inventory(tmp_path)
    assert memory_max_bytes(there.nodes[0]) == (8 * 4 + 16 + 1) * GIB
    unit = render_host(there, "node1")[f"{UNITS}/dask-worker@.service"]
    assert f"\nMemoryMax={49 * GIB}\n" in unit
    assert "\nOOMPolicy=continue\n" in unit
    assert "\nRestart=always\n" in unit
    assert "PrivateTmp=yes" not in unit


def test_the_web_interface_may_name_what_the_inventory_names(tmp_path: Path) -> None:
    text = CLUSTER + 'input_dir = "/data/incoming"\n'
    there = inventory(tmp_path, text + NODE)
    unit = render_host(there, "scheduler")[f"{UNITS}/contimg-api.service"]
    for name, value in (("API_TOKEN_FILE", f"{CONFIG}/api-token"), ("INPUT_ROOTS", "/data/incoming"),
                        ("OUTPUT_ROOTS", there.cluster.output_dir)):  # fmt: skip
        assert f"\nEnvironment=CONTIMG_DASK_{name}={value}\n" in unit
    assert f"ReadWritePaths={there.cluster.output_dir}" not in unit
    chosen = '[settings]\noutput_roots = "/data/products:/archive"\n'
    there = inventory(tmp_path, text + chosen + NODE)
    files = render_host(there, "scheduler")
    assert "OUTPUT_ROOTS" not in files[f"{UNITS}/contimg-api.service"]
    assert 'output_roots = "/data/products:/archive"' in files[f"{CONFIG}/contimg-dask.toml"]


def config(there: Inventory, host: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(render_host(there, host)[f"{CONFIG}/dask.yaml"])
    return document


def test_dask_is_told_to_encrypt_and_to_leave_retries_to_us(tmp_path: Path) -> None:
    there = inventory(tmp_path)
    node, scheduler = (
        config(there, "node1")["distributed"],
        config(there, "scheduler")["distributed"],
    )
    assert node["comm"]["require-encryption"] is True
    assert node["comm"]["tls"]["worker"]["key"] == "/etc/contimg-dask/tls/node1-key.pem"
    assert scheduler["comm"]["tls"]["client"]["cert"] == "/etc/contimg-dask/tls/client.pem"
    assert scheduler["scheduler"]["allowed-failures"] == 0
    assert scheduler["scheduler"]["worker-ttl"] == "60s"
    assert "preload" not in scheduler["worker"]
    assert node["worker"]["memory"]["spill"] is False


def test_dask_loads_what_watches_it_unless_the_inventory_says_not(tmp_path: Path) -> None:
    there = inventory(tmp_path)
    assert config(there, "node1")["distributed"]["worker"]["preload"] == [
        "contimg_dask.deploy.worker_node",
        "contimg_dask.deploy.worker_metrics",
    ]
    assert config(there, "scheduler")["distributed"]["scheduler"]["preload"] == [
        "contimg_dask.execution.spans",
        "contimg_dask.deploy.dashboard_page",
        "contimg_dask.deploy.scheduler_metrics",
    ]
    there = inventory(tmp_path, CLUSTER + "monitoring = false\n" + NODE)
    assert config(there, "node1")["distributed"]["worker"]["preload"] == [
        "contimg_dask.deploy.worker_node"
    ]
    assert config(there, "scheduler")["distributed"]["scheduler"]["preload"] == [
        "contimg_dask.execution.spans"
    ]


def test_without_certificates_dask_is_not_told_to_encrypt(tmp_path: Path) -> None:
    text = CLUSTER.replace('tls_dir = "/etc/contimg-dask/tls"', "allow_plain_tcp = true") + NODE
    comm = config(inventory(tmp_path, text), "node1")["distributed"]["comm"]
    assert (comm["require-encryption"], "tls" in comm) == (False, False)


def test_the_rendered_settings_are_settings_of_the_program(tmp_path: Path) -> None:
    text = CLUSTER + "[settings]\nmin_subbands = 14\non_existing = 'fail'\n" + NODE
    there = inventory(tmp_path, text)
    for host in ("scheduler", "node1"):
        path = tmp_path / "contimg-dask.toml"
        path.write_text(render_host(there, host)[f"{CONFIG}/contimg-dask.toml"])
        loaded = load_settings({}, path, environ={}).settings
        assert loaded.scheduler == "tls://10.0.0.1:8786"
        assert loaded.tls_ca_file == "/etc/contimg-dask/tls/ca.pem"
        assert (loaded.min_subbands, loaded.on_existing) == (14, "fail")


def test_the_command_writes_below_the_directory_or_only_prints(tmp_path: Path) -> None:
    there = inventory(tmp_path)
    words = ["cluster", "render", "--inventory", there.path, "--host", "node1", "--output"]
    output = tmp_path / "out"
    printed = CliRunner().invoke(cli, [*words, str(output), "--dry-run"])
    assert printed.exit_code == 0
    assert "### /etc/contimg-dask/dask.yaml\n" in printed.output
    assert not output.exists()
    done = CliRunner().invoke(cli, [*words, str(output)])
    assert done.exit_code == 0
    assert (output / "etc/contimg-dask/nodes.toml").read_text() == Path(there.path).read_text()
    assert str(output / "etc/systemd/system/dask-worker@.service") in done.output.splitlines()
