"""Commands about what is published, by the catalogue: products, reconcile, catalogue."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from contimg_dask.catalogue.opening import open_catalogue, upgrade_catalogue
from contimg_dask.catalogue.products import list_products
from contimg_dask.catalogue.records import ProductRow
from contimg_dask.cli_errors import refusals
from contimg_dask.cli_options import CATALOGUE, CONFIG, JSON, NUMBER, required, settings_of, shared
from contimg_dask.naming import moment_to_mjd
from contimg_dask.product_rows import csv_of
from contimg_dask.progress import Counting, error_console
from contimg_dask.reconciling import Difference, check_output, reconcile
from contimg_dask.reporting import EXIT_FAILED, EXIT_OK
from contimg_dask.settings import catalogue_place

_SHOWN = ("path", "kind", "status", "begin_mjd", "ra_deg", "dec_deg", "declination_deg", "bytes")


@click.command("products")
@click.option(
    "--output",
    "output_dir",
    type=click.Path(path_type=Path),
    metavar="OUTPUT",
    help="Only products below this root.",
)
@click.option("--kind", type=click.Choice(["science", "calibrator"]), help="Only these.")
@click.option(
    "--status",
    type=click.Choice(["published", "removed", "any"]),
    default="published",
    help="Where it should be, or moved away by somebody [published].",
)
@click.option("--start", metavar="ISO", help="First integration at or after this time (UTC).")
@click.option("--end", metavar="ISO", help="First integration before this time (UTC).")
@click.option(
    "--declination",
    nargs=2,
    type=float,
    metavar="DEG TOLERANCE",
    help="Apparent declination of the pointing, and how far off it may be.",
)
@click.option("--limit", type=NUMBER, metavar="N", help="At most so many [all].")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", help="[table]"
)
@shared(CATALOGUE, CONFIG)
def products_command(
    output_dir: Path | None, form: str, declination: tuple[float, float] | None, **options: Any
) -> None:
    """List published products, in order of time.

    \b
    contimg-dask products --start 2025-10-05 --end 2025-10-06
    contimg-dask products --declination 16.3 0.1 --format csv > products.csv
    """  # fmt: skip
    with refusals():
        wanted = {
            "kind": options.pop("kind"),
            "status": None if (status := options.pop("status")) == "any" else status,
            "start_mjd": moment_to_mjd(options.pop("start")),
            "end_mjd": moment_to_mjd(options.pop("end")),
            "declination": declination,
            "output_dir": None if output_dir is None else str(output_dir.absolute()),
            "limit": options.pop("limit"),
        }
        place = catalogue_place(settings_of(options))
        with open_catalogue(place, create=False, missing_ok=True) as found:
            _say_products(list_products(required(found, place), **wanted), form)


def _say_products(found: list[ProductRow], form: str) -> None:
    if form == "json":
        document = {
            "schema": "contimg-dask.products/1",
            "products": [product.to_json() for product in found],
        }
        click.echo(json.dumps(document, indent=1))
        return
    if form == "csv":
        click.echo(csv_of(found), nl=False)
        return
    rows = [[getattr(product, column) for column in _SHOWN] for product in found]
    cells = [_SHOWN, *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_SHOWN))]
    for row in cells:
        click.echo("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6f}" if isinstance(value, float) else str(value)


@click.command("reconcile")
@click.argument("output_dir", type=click.Path(path_type=Path), metavar="OUTPUT")
@shared(CATALOGUE, CONFIG)
@click.option("--dry-run", is_flag=True, help="Only say what differs.")
@JSON
def reconcile_command(output_dir: Path, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Hold the catalogue against the products below OUTPUT, both ways, and put the catalogue right.

    Products themselves are never touched. Products of plain conversions are adopted; one that was
    moved away is marked removed, and its group is not converted again unless asked for with retry.
    Exit code 1 when something is doubtful: it waits for a person.

    \b
    contimg-dask reconcile products/ --dry-run
    contimg-dask reconcile products/
    """  # fmt: skip
    counting = Counting(error_console(), "products looked at")
    place = catalogue_place(settings_of(options))
    with refusals():
        check_output(output_dir)  # before there is a catalogue
        if not dry_run:
            open_catalogue(place).close()
        with open_catalogue(place, create=False, missing_ok=True) as known:
            catalogue = required(known, place)
            found = reconcile(catalogue, output_dir, dry_run=dry_run, progress=counting)
    if as_json:
        document = {
            "schema": "contimg-dask.reconcile/1",
            "output": str(output_dir),
            "dry_run": dry_run,
            "differences": [asdict(difference) for difference in found],
        }
        click.echo(json.dumps(document, indent=1))
    else:
        _say_differences(found, dry_run)
    sys.exit(EXIT_FAILED if any(d.what == "doubtful" for d in found) else EXIT_OK)


def _say_differences(found: list[Difference], dry_run: bool) -> None:
    for difference in found:
        click.echo(f"{difference.what:9} {difference.path}: {difference.text}")
    if not found:
        click.echo("catalogue and disk agree")
        return
    counts = ", ".join(f"{n} {what}" for what, n in Counter(d.what for d in found).items())
    click.echo(f"{counts}{' (nothing was changed: --dry-run)' if dry_run else ''}")


@click.group("catalogue")
def catalogue_group() -> None:
    """Make, upgrade and look at the catalogue itself."""


@catalogue_group.command("upgrade")
@shared(CATALOGUE, CONFIG)
def upgrade_command(**options: Any) -> None:
    """Bring the catalogue to the schema of this version; makes it where there is none.

    Stop dispatchers first, and keep a copy of the file or a dump of the database.
    """
    with refusals():
        place = catalogue_place(settings_of(options))
        before, after = upgrade_catalogue(place)
        click.echo(
            f"schema {after}, as before" if before == after else f"schema {before} -> {after}"
        )


@catalogue_group.command("show")
@shared(CATALOGUE, CONFIG)
def show_command(**options: Any) -> None:
    """Say where the catalogue is and which schema it has."""
    place = catalogue_place(settings_of(options))
    with refusals(), open_catalogue(place, create=False, missing_ok=True) as found:
        catalogue = required(found, place)
        click.echo(f"{catalogue.url_shown}  schema {catalogue.schema_version}")
