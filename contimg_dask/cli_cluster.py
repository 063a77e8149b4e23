"""The commands about a cluster of several hosts: cluster render, cluster check."""

from __future__ import annotations

from pathlib import Path

import click

from contimg_dask.cli_errors import refuse
from contimg_dask.deploy.inventory import read_inventory
from contimg_dask.deploy.rendering import render_host, write_files
from contimg_dask.errors import ContimgError

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
