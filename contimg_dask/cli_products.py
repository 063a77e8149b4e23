"""Commands about what is published and what was left behind: inputs, sweep."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from contimg_dask.cli_errors import refuse
from contimg_dask.deciding import Request
from contimg_dask.errors import ContimgError, UsageError
from contimg_dask.execution.scratch import dead_scratch
from contimg_dask.inputs import Published, published_inputs
from contimg_dask.progress import Counting, error_console
from contimg_dask.reporting import EXIT_FAILED, EXIT_OK
from contimg_dask.settings import load_settings
from contimg_dask.staging.room import megabytes
from contimg_dask.staging.sweeping import Leftover, sweep


@click.command("inputs")
@click.option(
    "--published",
    "output_dir",
    required=True,
    metavar="OUTPUT",
    type=click.Path(path_type=Path),
    help="Root of the products to look through.",
)
@click.option("-0", "--null", is_flag=True, help="End names with NUL instead of a new line.")
@click.option("--checksums", is_flag=True, help="Also read every product through.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def inputs_command(output_dir: Path, null: bool, checksums: bool, as_json: bool) -> None:
    """List the input files that are safely converted: their product is whole, and they unchanged.

    Nothing is removed. Exit code 1 when a product is in doubt; its inputs are not listed, and the
    reason is on standard error.

    \b
    contimg-dask inputs --published products/
    contimg-dask inputs --published products/ -0 | xargs -0 -r mv -t /archive/
    """  # fmt: skip
    counting = Counting(error_console(), "products looked at")
    try:
        products = published_inputs(output_dir, checksums=checksums, progress=counting)
    except ContimgError as error:
        refuse(error)
    if as_json:
        document = {
            "schema": "contimg-dask.inputs/1",
            "output": str(output_dir),
            "products": [asdict(product) for product in products],
        }
        click.echo(json.dumps(document, indent=1))
    else:
        _list_inputs(products, "\0" if null else "\n")
    if not products:
        click.echo(f"{output_dir}: no product below science/ or calibrators/", err=True)
    in_doubt = any(product.doubt is not None for product in products)
    sys.exit(EXIT_FAILED if in_doubt else EXIT_OK)


def _list_inputs(products: list[Published], end: str) -> None:
    for product in products:
        if product.doubt is not None:
            click.echo(f"{product.product}: not listed: {product.doubt}", err=True)
        for reason in product.left_out:
            click.echo(f"not listed: {reason}", err=True)
        for path in product.files:
            if end == "\n" and "\n" in path:
                click.echo(f"not listed: {path!r} holds a line break: use -0", err=True)
                continue
            click.echo(path + end, nl=False)


@click.command("sweep")
@click.argument("output_dir", type=click.Path(path_type=Path), metavar="OUTPUT")
@click.option("--tmpfs-path", metavar="DIR", help="Where memory staging goes [/dev/shm].")
@click.option("--scratch-dir", metavar="DIR", help="Staging directory on a local disk.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML file.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def sweep_command(
    output_dir: Path, config: Path | None, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Remove what killed conversions left in the staging directories that this machine sees.

    Attempts that are still alive are listed and left alone. Every conversion does the same when it
    starts; products and input are never touched.

    \b
    contimg-dask sweep products/ --dry-run
    contimg-dask sweep products/ --scratch-dir /ssd/staging
    """  # fmt: skip
    try:
        settings = load_settings(options | {"stage_to_tmpfs": True}, config).settings
        tiers = Request(output_dir=output_dir.absolute(), settings=settings).tiers
        if not output_dir.is_dir():
            raise UsageError(f"{output_dir}: there is no such directory", path=str(output_dir))
        found = [
            leftover for tier in tiers for leftover in _swept(tier.root, dry_run)
        ] + dead_scratch(remove=not dry_run)
    except ContimgError as error:
        refuse(error)
    if as_json:
        document = {"schema": "contimg-dask.sweep/1", "dry_run": dry_run,
                    "attempts": [asdict(leftover) for leftover in found]}  # fmt: skip
        click.echo(json.dumps(document, indent=1))
    else:
        for leftover in found:
            click.echo(_line(leftover, dry_run))
        if not found:
            click.echo("nothing was left behind")
    stuck = [left for left in found if left.alive is None and not left.removed]
    sys.exit(EXIT_FAILED if stuck and not dry_run else EXIT_OK)


def _swept(root: str, dry_run: bool) -> list[Leftover]:
    try:
        return sweep(root, dry_run=dry_run)
    except OSError as error:
        raise UsageError(f"{root}: {error.strerror}: sweep as the user who owns it") from error


def _line(leftover: Leftover, dry_run: bool) -> str:
    size, place = megabytes(leftover.size_bytes), leftover.paths[0]
    if leftover.alive is not None:
        return f"alive    {leftover.name}  {size}  {leftover.alive}"
    if dry_run:
        return f"dead     {leftover.name}  {size}  {place}"
    if leftover.removed:
        return f"removed  {leftover.name}  {size}  {place}"
    return f"STUCK    {leftover.name}  {size}  {place} cannot be removed: sweep as its owner"
