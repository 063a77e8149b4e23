"""The smaller commands: simulate, verify, doctor, config."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from contimg_dask.cli_errors import refuse
from contimg_dask.doctor import diagnose
from contimg_dask.errors import ContimgError, UsageError
from contimg_dask.faults import FAULT_KINDS, Fault
from contimg_dask.integrity import check_integrity
from contimg_dask.offline import use_packaged_tables
from contimg_dask.progress import Counting, error_console
from contimg_dask.reporting import EXIT_FAILED, EXIT_OK
from contimg_dask.settings import describe, load_settings
from contimg_dask.simulate import Observation, PointSource, simulate
from contimg_dask.staging.room import free_bytes
from contimg_dask.verification import verify

_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def _fault_help() -> str:
    width = max(len(kind) for kind in FAULT_KINDS)
    lines = [f"{kind:<{width}}  {fault.meaning}" for kind, fault in FAULT_KINDS.items()]
    return "\b\nFaults, as KIND:GROUP:SUBBAND:\n" + "\n".join(lines)


def _check_room(directory: Path, observation: Observation) -> None:
    """Refuse what would fill a disk: a visibility takes 13 bytes, with its flag and its weight."""
    baselines = observation.antennas * (observation.antennas + 1) // 2
    rows = observation.groups * observation.subbands * baselines * observation.integrations
    needed = rows * observation.channels * observation.products * 13
    free = free_bytes(directory)
    if needed > free and observation.compression is None:
        raise UsageError(
            f"{directory}: {needed / 1e9:,.1f} GB are to be written, and {free / 1e9:,.1f} GB are "
            f"free there: simulate fewer or smaller groups",
            path=str(directory),
        )


@click.command("simulate", epilog=_fault_help())
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--start", default="2025-10-05T03:12:06", show_default=True, help="UTC, ISO.")
@click.option("--groups", type=int, default=1, show_default=True)
@click.option("--subbands", type=int, default=16, show_default=True)
@click.option("--antennas", type=int, default=96, show_default=True)
@click.option("--integrations", type=int, default=24, show_default=True)
@click.option("--channels", type=int, default=48, show_default=True)
@click.option("--products", type=click.Choice(["2", "4"]), default="2", show_default=True)
@click.option(
    "--declination",
    type=float,
    default=16.28,
    show_default=True,
    help="Apparent declination of the meridian pointing, degrees.",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="RA,DEC,JY",
    help="Point source, degrees (ICRS) and Jy; may be repeated [three near the centre].",
)
@click.option(
    "--noise", type=float, default=0.0, show_default=True, help="Jy per real and imaginary part."
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--jitter/--no-jitter", default=True, help="Of the stamps in file names.")
@click.option("--ascending", is_flag=True, help="Channels ascend in every file.")
@click.option("--compression", type=click.Choice(["lzf", "gzip", "bitshuffle"]))
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND:GROUP:SUBBAND",
    help="Something wrong with one file; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def simulate_command(directory: Path, **options: Any) -> None:
    """Write groups of subband files as the telescope does, with known sources and known faults.

    \b
    contimg-dask simulate incoming/ --antennas 12 --integrations 4
    contimg-dask simulate incoming/ --groups 3 --fault missing:0:3 --fault truncated:1:7
    """  # fmt: skip
    use_packaged_tables()
    try:
        observation = Observation(
            start=options["start"],
            groups=options["groups"],
            subbands=options["subbands"],
            antennas=options["antennas"],
            integrations=options["integrations"],
            channels=options["channels"],
            products=int(options["products"]),
            declination_deg=options["declination"],
            sources=tuple(_source(text) for text in options["sources"]) or None,
            noise_jy=options["noise"],
            seed=options["seed"],
            name_jitter=options["jitter"],
            ascending_channels=options["ascending"],
            compression=options["compression"],
        )
        faults = [Fault.parse(text) for text in options["faults"]]
        _check_room(directory, observation)
        groups = simulate(
            directory, observation, faults, Counting(error_console(), "writing files")
        )
    except ContimgError as error:
        refuse(error)
    if options["as_json"]:
        document = [asdict(group) for group in groups]
        click.echo(
            json.dumps(
                {"schema": "contimg-dask.simulate/1", "groups": document}, indent=1, default=str
            )
        )
        return
    for group in groups:
        size_mb = sum(file.stat().st_size for file in group.files) / 1e6
        click.echo(f"{group.stamp}: {len(group.files)} files, {size_mb:.1f} MB, in {directory}")


def _source(text: str) -> PointSource:
    try:
        ra_deg, dec_deg, flux_jy = (float(value) for value in text.split(","))
    except ValueError as error:
        raise UsageError(f"--source {text}: give RA,DEC,JY, such as 12.5,16.3,2.0") from error
    return PointSource(ra_deg=ra_deg, dec_deg=dec_deg, flux_jy=flux_jy)


@click.command("verify")
@click.argument("product", type=click.Path(path_type=Path), metavar="MS")
@click.option(
    "--input",
    "input_dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Compare every value with the files in this directory.",
)
@click.option(
    "--checksums",
    is_flag=True,
    help="Read it through: is it what was published, used since, or damaged?",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def verify_command(product: Path, input_dir: Path | None, checksums: bool, as_json: bool) -> None:
    """Check a Measurement Set: exit code 1 and a line per finding when something is wrong.

    \b
    contimg-dask verify products/science/2025-10-05/2025-10-05T03:12:06.ms
    contimg-dask verify products/science/2025-10-05/2025-10-05T03:12:06.ms --input incoming/
    contimg-dask verify products/science/2025-10-05/2025-10-05T03:12:06.ms --checksums
    """  # fmt: skip
    counting = Counting(error_console(), "rows compared")
    changes: tuple[str, ...] | None = None
    try:
        findings = verify(product, input_dir, counting)
        if checksums:
            subbands = Counting(error_console(), "subbands read")
            integrity = check_integrity(product, subbands)
            findings, changes = [*findings, *integrity.findings], integrity.changes
    except ContimgError as error:
        refuse(error)
    if as_json:
        click.echo(json.dumps({
            "schema": "contimg-dask.verify/1",
            "product": str(product),
            "compared_with": None if input_dir is None else str(input_dir),
            "findings": [asdict(finding) for finding in findings],
            "changed_since_publication": changes,
        }, indent=1))  # fmt: skip
    else:
        for finding in findings:
            click.echo(f"{finding.code}: {finding.text}")
        if changes:
            click.echo(f"{product}: changed since publication: {', '.join(changes)}")
        if not findings:
            click.echo(f"{product}: {_good_news(input_dir is not None, checksums)}")
    sys.exit(EXIT_FAILED if findings else EXIT_OK)


def _good_news(compared: bool, checksums: bool) -> str:
    if checksums:
        return "DATA and WEIGHT_SPECTRUM are as they were published"
    return "every value equals its input" if compared else "the structure is as it should be"


@click.command("doctor")
@click.argument("output_dir", required=False, type=click.Path(path_type=Path), metavar="[OUTPUT]")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def doctor_command(output_dir: Path | None, config: Path | None, as_json: bool) -> None:
    """Tell what on this machine would hurt a conversion, before it does."""
    try:
        findings = diagnose(load_settings({}, config).settings, output_dir)
    except ContimgError as error:
        refuse(error)
    if as_json:
        document = {"schema": "contimg-dask.doctor/1", "findings": [asdict(f) for f in findings]}
        click.echo(json.dumps(document, indent=1))
    else:
        for finding in findings:
            advice = f" -- {finding.advice}" if finding.advice else ""
            click.echo(f"{_MARKS[finding.level]} {finding.subject}: {finding.text}{advice}")
    sys.exit(EXIT_FAILED if any(finding.level == "fail" for finding in findings) else EXIT_OK)


@click.group("config")
def config_group() -> None:
    """Settings and where they come from."""


@config_group.command("show")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def config_show_command(config: Path | None, as_json: bool) -> None:
    """Print each setting, its value, where it comes from and what it takes."""
    try:
        rows = describe(load_settings({}, config))
    except ContimgError as error:
        refuse(error)
    if as_json:
        names = ("name", "value", "origin", "help")
        document = {
            "schema": "contimg-dask.config/1",
            "settings": [dict(zip(names, row, strict=True)) for row in rows],
        }
        click.echo(json.dumps(document, indent=1))
        return
    width = max(len(row[0]) for row in rows)
    value_width = max(len(row[1]) for row in rows)
    for name, value, origin, text in rows:
        click.echo(f"{name:<{width}} = {value:<{value_width}}  # {origin}; {text}")
