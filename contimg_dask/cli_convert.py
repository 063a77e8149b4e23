"""The two conversion commands: read options, call the package, report."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from contimg_dask.batch import Ran, convert_groups
from contimg_dask.cli_errors import refuse
from contimg_dask.deciding import Request
from contimg_dask.errors import ClusterError, ContimgError, InputError, UsageError
from contimg_dask.execution.cluster import Cluster
from contimg_dask.execution.runner import Listener
from contimg_dask.grouping import assemble_any
from contimg_dask.model import (
    ConversionPlan,
    Group,
    GroupRecord,
    Reason,
    SubbandHeader,
    UnreadableFile,
)
from contimg_dask.naming import parse_file_name, stamp_to_mjd
from contimg_dask.offline import use_packaged_tables
from contimg_dask.progress import Counting, bars, closing_table, error_console, say_record
from contimg_dask.python_api import find_groups, to_mjd
from contimg_dask.reporting import (
    EXIT_INTERRUPTED,
    exit_code,
    report,
    sort_records,
)
from contimg_dask.settings import Settings, load_settings
from contimg_dask.uvh5.header import peek

_SETTING_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--workers", type=int, metavar="N", help="Embedded worker processes [cores]."),
    click.option("--scheduler", metavar="ADDRESS", help="Use this running Dask scheduler."),
    click.option("--tls-ca", "tls_ca_file", metavar="FILE", help="Its certificate authority."),
    click.option("--tls-cert", "tls_cert_file", metavar="FILE", help="Certificate to show to it."),
    click.option("--tls-key", "tls_key_file", metavar="FILE", help="Key of that certificate."),
    click.option("--allow-plain-tcp/--no-allow-plain-tcp", default=None,
                 help="Use a scheduler elsewhere without encryption [no]."),
    click.option("--direct-ms/--no-direct-ms", default=None,
                 help="Write into the product, or parts to concatenate [direct]."),
    click.option("--parallel-subband/--no-parallel-subband", default=None,
                 help="A task per subband, or one per group [parallel]."),
    click.option("--max-readers", type=int, metavar="N",
                 help="Processes of a node reading one input device [no bound]."),
    click.option("--on-existing", type=click.Choice(["skip", "fail", "replace"]),
                 help="When the product is there already [skip]."),
    click.option("--telescope-name", metavar="NAME", help="In OBSERVATION [DSA_110]."),
    click.option("--imaging-columns", type=click.Choice(["zero", "copy", "none"]),
                 help="MODEL_DATA zero, CORRECTED_DATA zero or a copy of DATA [zero]."),
    click.option("--spw", type=click.Choice(["subband", "single"]),
                 help="A spectral window per subband, or a single one [subband]."),
    click.option("--phase-centre", type=click.Choice(["auto", "meridian", "keep"]),
                 help="Meridian per integration, or the tracked centre [auto: as the data are]."),
    click.option("--stage-to-tmpfs/--no-stage-to-tmpfs", default=None,
                 help="Stage products in memory, where they fit [no]."),
    click.option("--tmpfs-path", metavar="DIR", help="Where that is [/dev/shm]."),
    click.option("--tmpfs-budget", metavar="SIZE", help="The most they may take there together."),
    click.option("--scratch-dir", metavar="DIR", help="Stage products on this disk."),
    click.option("--kind", type=click.Choice(["science", "calibrator"]), default="science",
                 help="Branch of the layout: science/ or calibrators/ [science]."),
    click.option("--mode", "product_mode", metavar="OCTAL",
                 help="Permissions of a product's files, such as 664 [umask]."),
    click.option("--group", "product_group", metavar="NAME", help="Group that owns products."),
    click.option("--allow-gap/--no-allow-gap", default=None,
                 help="Replace also where directories cannot be exchanged [no]."),
    click.option("--keep-failed/--no-keep-failed", default=None,
                 help="Keep what a failed group got to, below failed/ [no]."),
    click.option("--on-published", metavar="CMD",
                 help="Run once per product, its record on standard input."),
    click.option("--event-log", metavar="FILE", help="Append a line of JSON per event."),
    click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML file."),
    click.option("--dry-run", is_flag=True, help="Only print what would be done."),
    click.option("--strict", is_flag=True, help="Exit 1 also for incomplete groups."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output."),
)  # fmt: skip
_NOT_SETTINGS = {"config", "dry_run", "strict", "as_json", "kind"}


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that both conversions share."""
    for option in reversed(_SETTING_OPTIONS):
        command = option(command)
    return command


@dataclass(slots=True, kw_only=True)
class _Run:
    """One run of a conversion command: its clock, its records, its console."""

    command: str
    as_json: bool
    strict: bool
    start_s: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    records: list[GroupRecord] = field(default_factory=list)
    ran: Ran | None = None
    console: Any = field(default_factory=error_console)

    def add(self, record: GroupRecord) -> None:
        """Keep a record, and say it."""
        self.records.append(record)
        if record.outcome in ("published", "failed"):
            say_record(self.console)(record)

    def say(self, text: str) -> None:
        """Say what people may want to know meanwhile."""
        self.console.print(text)

    def finish(self) -> int:
        """Report everything and return the exit code."""
        self.seconds["total"] = time.monotonic() - self.start_s
        closing_table(self.console, sort_records(self.records))
        if not self.records:
            self.console.print("no group was found or finished: see the names in docs/input.md")
        if self.as_json:
            document = report(self.command, self.records, self.seconds)
            if self.ran is not None:
                document["hand_overs"] = {
                    "done": self.ran.handed_over,
                    "failed": self.ran.hand_overs_failed,
                }
            click.echo(json.dumps(document, indent=1))
        return exit_code(self.records, strict=self.strict)


@click.command("convert")
@click.argument("input_dir", type=click.Path(path_type=Path), metavar="INPUT")
@click.argument("output_dir", type=click.Path(path_type=Path), metavar="OUTPUT")
@click.option("--start", metavar="ISO", help="First integration at or after this time (UTC).")
@click.option("--end", metavar="ISO", help="First integration before this time (UTC).")
@click.option("--expected-subbands", type=int, metavar="N", help="In a complete group [16].")
@click.option("--min-subbands", type=int, metavar="N", help="Convert from this many on [all].")
@setting_options
def convert(
    input_dir: Path, output_dir: Path, start: str | None, end: str | None, **options: Any
) -> None:
    """Convert every complete group in the directory INPUT to OUTPUT/science/YYYY-MM-DD/ID.ms.

    \b
    contimg-dask convert incoming/ products/
    contimg-dask convert incoming/ products/ --start 2025-10-05T03:00 --end 2025-10-05T04:00
    contimg-dask convert incoming/ products/ --dry-run --json | jq .groups[].id
    contimg-dask convert incoming/ products/ --scheduler tcp://10.0.0.1:8786 --min-subbands 14
    """
    run = _Run(command="convert", as_json=options["as_json"], strict=options["strict"])
    settings = _settings(options)

    def find() -> list[Group]:
        counting = Counting(run.console, "reading headers")
        return find_groups(
            input_dir, settings.expected_subbands, to_mjd(start), to_mjd(end), counting
        )

    _convert(run, find, output_dir, settings, settings.min_subbands, options)


@click.command("convert-group")
@click.argument("output_dir", type=click.Path(path_type=Path), metavar="OUTPUT")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--id", "group_id", metavar="ID", help="Name of the product: YYYY-MM-DDTHH:MM:SS.")
@setting_options
def convert_group(
    output_dir: Path, files: tuple[Path, ...], group_id: str | None, **options: Any
) -> None:
    """Convert exactly these UVH5 files as one group, whatever their names.

    \b
    contimg-dask convert-group products/ part_a.uvh5 part_b.uvh5
    contimg-dask convert-group products/ night/*_sb0?.hdf5 --id 2025-10-05T03:12:06
    """
    run = _Run(command="convert-group", as_json=options["as_json"], strict=options["strict"])
    settings = _settings(options)

    def find() -> list[Group]:
        if group_id is not None and stamp_to_mjd(group_id) is None:
            raise UsageError(f"--id {group_id}: an id is a time like 2025-10-05T03:12:06")
        return [_group_of(files, group_id)]

    _convert(run, find, output_dir, settings, None, options)


def _group_of(files: tuple[Path, ...], group_id: str | None) -> Group:
    headers: list[SubbandHeader] = []
    unreadable: list[UnreadableFile] = []
    for file in dict.fromkeys(str(path.absolute()) for path in files):
        try:
            headers.append(peek(file))
        except InputError as error:
            name = parse_file_name(Path(file).name)
            unreadable.append(
                UnreadableFile(
                    path=file,
                    name_stamp=name.stamp if name else None,
                    name_number=name.number if name else None,
                    reason=Reason(code=error.code, text=str(error)),
                )
            )
    return assemble_any(headers, unreadable, group_id)


def _settings(options: dict[str, Any]) -> Settings:
    with _usage_errors():
        chosen = {name: value for name, value in options.items() if name not in _NOT_SETTINGS}
        return load_settings(chosen, options["config"]).settings


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except ContimgError as error:
        refuse(error)


def _convert(
    run: _Run,
    find: Callable[[], list[Group]],
    output_dir: Path,
    settings: Settings,
    min_subbands: int | None,
    options: dict[str, Any],
) -> None:
    """Find groups, convert them, report, exit."""
    interrupts = _Interrupts()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    use_packaged_tables()

    @contextmanager
    def listener(plans: Sequence[ConversionPlan], cluster: Cluster) -> Iterator[Listener]:
        with bars(run.console, plans, cluster.dashboard, interrupts.check) as shown:
            yield shown

    request = Request(
        output_dir=output_dir.absolute(),
        settings=settings,
        kind=options["kind"],
        min_subbands=min_subbands,
        dry_run=options["dry_run"],
    )
    code = 0
    with _usage_errors():
        try:
            groups = find()
            run.seconds["discovery"] = time.monotonic() - run.start_s
            interrupts.check()
            run.ran = convert_groups(
                groups, request, listener=listener, on_record=run.add, on_line=run.say
            )
            run.seconds["startup"] = run.ran.startup_s
        except KeyboardInterrupt:
            run.console.print(
                "interrupted: what is published is whole, the rest left nothing behind"
            )
            code = EXIT_INTERRUPTED
        except ClusterError:
            run.finish()
            raise
    finished = run.finish()
    sys.exit(code or finished)


class _Interrupts:
    """Turns Ctrl-C and SIGTERM into KeyboardInterrupt, and remembers them.

    One that is raised while Python runs a callback of its own is lost, so `check` raises it again.
    """

    def __init__(self) -> None:
        self._seen = False
        signal.signal(signal.SIGTERM, self._note)
        if (
            signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):  # ignored: a shell's background job
            signal.signal(signal.SIGINT, self._note)

    def _note(self, *_: object) -> None:
        self._seen = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt when there was one."""
        if self._seen:
            raise KeyboardInterrupt
