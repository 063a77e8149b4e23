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
from contimg_dask.cli_options import conversion_options, settings_of
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
from contimg_dask.settings import Settings
from contimg_dask.uvh5.header import peek


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
@conversion_options
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
    settings = settings_of(options)

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
@conversion_options
def convert_group(
    output_dir: Path, files: tuple[Path, ...], group_id: str | None, **options: Any
) -> None:
    """Convert exactly these UVH5 files as one group, whatever their names.

    \b
    contimg-dask convert-group products/ part_a.uvh5 part_b.uvh5
    contimg-dask convert-group products/ night/*_sb0?.hdf5 --id 2025-10-05T03:12:06
    """
    run = _Run(command="convert-group", as_json=options["as_json"], strict=options["strict"])
    settings = settings_of(options)

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
            interrupts.ignore()
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
    While one is on its way up another one changes nothing: what is being ended in order would be
    left half done.
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
        if not _is_interrupted(sys.exception()):
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """Let no other one cut off the report, nor change the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def check(self) -> None:
        """Raise KeyboardInterrupt when there was one."""
        if self._seen:
            raise KeyboardInterrupt


def _is_interrupted(error: BaseException | None) -> bool:
    """Tell whether an exception that is being handled came of an interrupt."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
