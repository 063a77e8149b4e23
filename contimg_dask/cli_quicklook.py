"""The command that looks at a product: quicklook."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from contimg_dask.cli_errors import refusals
from contimg_dask.cli_options import JSON
from contimg_dask.errors import UsageError
from contimg_dask.quicklook.rendering import KINDS, render
from contimg_dask.quicklook.store import read_quicklook
from contimg_dask.quicklook.summary import summarise


@click.command("quicklook")
@click.argument("product", type=click.Path(path_type=Path), metavar="PRODUCT")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="PNG",
              help="Write a picture to this file.")  # fmt: skip
@click.option("--kind", type=click.Choice(KINDS), help="Which picture [overview].")
@JSON
def quicklook_command(product: Path, output: Path | None, kind: str | None, as_json: bool) -> None:
    """Look at the Measurement Set PRODUCT: dead antennas, what is flagged, and pictures.

    It reads the quick-look that was made while the product was converted, not the product itself.

    \b
    contimg-dask quicklook products/science/2025-10-05/2025-10-05T03:12:06.ms
    contimg-dask quicklook products/science/2025-10-05/2025-10-05T03:12:06.ms -o night.png
    contimg-dask quicklook products/science/2025-10-05/2025-10-05T03:12:06.ms -o uv.png --kind uv
    contimg-dask quicklook products/science/2025-10-05/2025-10-05T03:12:06.ms --json | jq .dead_antennas
    """  # fmt: skip
    with refusals():
        if kind is not None and output is None:
            raise UsageError(f"--kind {kind}: say where the picture goes, with -o PNG")
        if output is not None and output.suffix.lower() != ".png":
            raise UsageError(
                f"-o {output}: pictures are PNG files: give a name that ends with .png"
            )
        dataset = read_quicklook(product)
        facts = summarise(dataset)
        if output is not None:
            _write(output, render(dataset, kind or "overview"))
    if as_json:
        document = {
            "schema": "contimg-dask.quicklook/1",
            "product": str(product),
            "picture": None if output is None else str(output),
            **facts,
        }
        click.echo(json.dumps(document, indent=1))
    else:
        click.echo("\n".join(_lines(facts)))
        if output is not None:
            click.echo(f"picture: {output}")


def _write(output: Path, picture: bytes) -> None:
    """Write a picture in one stroke, so that a page that shows it never finds half of one."""
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(picture)
        unfinished.replace(output)
    except OSError as error:
        raise UsageError(
            f"{output}: cannot be written ({error.strerror}): give another file with -o",
            path=str(output),
        ) from error
    finally:
        with suppress(OSError):  # usually it has its name by now
            unfinished.unlink()


def _lines(facts: dict[str, Any]) -> list[str]:
    missing = ", ".join(f"sb{number:02d}" for number in facts["subbands_missing"])
    lines = [
        f"group {facts['group']}: {facts['antennas']} antennas, {facts['integrations']} "
        f"integrations, {facts['channels']} channels, {facts['lowest_freq_hz'] / 1e6:.2f} to "
        f"{facts['highest_freq_hz'] / 1e6:.2f} MHz",
        f"dead antennas: {', '.join(facts['dead_antennas']) or 'none'}",
    ]
    if missing:
        lines.insert(1, f"missing subbands: {missing}")
    for product, here in facts["products"].items():
        only = [name for name in here["dead_antennas"] if name not in facts["dead_antennas"]]
        if len(here["dead_antennas"]) == facts["antennas"]:
            only = ["all"]
        lines.append(
            f"{product}: {here['fraction_flagged']:.1%} flagged, {here['fraction_zero']:.1%} zero, "
            f"amplitude {_number(here['amplitude'])}, "
            f"autocorrelations {_number(here['autocorrelation'])} ({facts['amplitude_units']})"
            + (f"; dead here alone: {', '.join(only)}" if only else "")
        )
    lines.append(f"looked at {facts['sample']}")
    return lines


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
