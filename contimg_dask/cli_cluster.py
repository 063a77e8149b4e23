"""The commands about a cluster of several hosts: cluster render, cluster check."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from contimg_dask.cli_errors import refuse
from contimg_dask.deploy.checking import judge_cluster
from contimg_dask.deploy.inventory import read_inventory
from contimg_dask.deploy.probing import ask_cluster, client_files
from contimg_dask.deploy.rendering import render_host, write_files
from contimg_dask.errors import ContimgError
from contimg_dask.execution.encryption import TlsFiles
from contimg_dask.reporting import EXIT_FAILED, EXIT_OK

_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}

_inventory_option = click.option(
    "--inventory",
    "inventory_path",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The inventory of nodes, nodes.toml.",
)


@click.group("cluster")
def cluster_group() -> None:
    """A cluster of several hosts: what each needs, and whether all is well."""


@cluster_group.command("render")
@_inventory_option
@click.option("--host", required=True, metavar="NAME", help="A node, or the scheduler's host.")
@click.option(
    "--output",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Stands for / of that host.",
)
@click.option("--dry-run", is_flag=True, help="Print the files instead of writing them.")
def render_command(inventory_path: Path, host: str, output: Path, dry_run: bool) -> None:
    """Write the units, Dask's YAML, environment and settings of a host, below DIR.

    \b
    contimg-dask cluster render --inventory nodes.toml --host node1 --output rendered/node1
    """
    try:
        files = render_host(read_inventory(inventory_path), host)
        if dry_run:
            for name, text in files.items():
                click.echo(f"### {name}\n{text}")
            return
        for path in write_files(files, output):
            click.echo(str(path))
    except ContimgError as error:
        refuse(error)


@cluster_group.command("check")
@_inventory_option
@click.option("--tls-ca", metavar="FILE", help="Certificate authority [tls_dir/ca.pem].")
@click.option("--tls-cert", metavar="FILE", help="Certificate to show [tls_dir/client.pem].")
@click.option("--tls-key", metavar="FILE", help="Key of it [tls_dir/client-key.pem].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def check_command(
    inventory_path: Path,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    as_json: bool,
) -> None:
    """Tell host by host what is wrong: exit code 1 when anything is.

    \b
    contimg-dask cluster check --inventory /etc/contimg-dask/nodes.toml
    """
    try:
        inventory = read_inventory(inventory_path)
        usual = client_files(inventory)
        files = TlsFiles(
            ca_file=tls_ca or usual.ca_file,
            cert_file=tls_cert or usual.cert_file,
            key_file=tls_key or usual.key_file,
        )
        findings = judge_cluster(inventory, ask_cluster(inventory, files))
    except ContimgError as error:
        refuse(error)
    if as_json:
        document = {"schema": "contimg-dask.cluster/1", "findings": [asdict(f) for f in findings]}
        click.echo(json.dumps(document, indent=1))
    else:
        for finding in findings:
            advice = f" -- {finding.advice}" if finding.advice else ""
            click.echo(f"{_MARKS[finding.level]} {finding.subject}: {finding.text}{advice}")
    sys.exit(EXIT_FAILED if any(finding.level == "fail" for finding in findings) else EXIT_OK)
