"""The conversion as a Python function: for scripts, notebooks and pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astropy.time import Time

from contimg_dask.batch import convert_groups
from contimg_dask.deciding import Request
from contimg_dask.discovery import discover, starts_within
from contimg_dask.errors import UsageError
from contimg_dask.execution.cluster import Cluster, use_client
from contimg_dask.execution.runner import Listener
from contimg_dask.grouping import group_files
from contimg_dask.model import (
    ConversionPlan,
    Group,
    GroupRecord,
    ImagingColumns,
    Kind,
    OnExisting,
    PhaseCentre,
    SpectralWindows,
)
from contimg_dask.naming import PathMapper
from contimg_dask.offline import packaged_tables
from contimg_dask.reporting import sort_records
from contimg_dask.settings import load_settings

if TYPE_CHECKING:
    from distributed import Client


def convert_subband_groups_to_ms(
    input_dir: str | Path,
    output_dir: str | Path,
    start_time: str | Time | None = None,
    end_time: str | Time | None = None,
    *,
    path_mapper: PathMapper | None = None,
    scratch_dir: str | Path | None = None,
    direct_ms: bool = True,
    parallel_subband: bool = True,
    stage_to_tmpfs: bool = False,
    tmpfs_path: str | Path = "/dev/shm",  # noqa: S108  the mount, not a file in it
    max_workers: int | None = None,
    client: Client | None = None,
    scheduler: str | None = None,
    expected_subbands: int | None = None,
    min_subbands: int | None = None,
    on_existing: OnExisting | None = None,
    telescope_name: str | None = None,
    imaging_columns: ImagingColumns | None = None,
    phase_centre: PhaseCentre | None = None,
    spw: SpectralWindows | None = None,
    max_readers: int | None = None,
    quicklook: bool | None = None,
    kind: Kind = "science",
    dry_run: bool = False,
) -> list[dict[str, Any]]:
    """Convert every complete group in a directory to a Measurement Set.

    Parameters
    ----------
    input_dir
        Directory with the subband files; it is only read.
    output_dir
        Root of the dated layout.
    start_time, end_time
        Half-open range of the first integration, as ISO strings (UTC) or astropy Time.
    path_mapper
        ``mapper(base_name, output_dir) -> path`` instead of the dated layout
        (`contimg_dask.create_path_mapper` makes the usual ones). ``base_name`` is the group id.
    scratch_dir
        Stage products on this disk.
    direct_ms
        Write subbands straight into the product, rather than as parts to be concatenated.
    parallel_subband
        Spread the subbands of a group over the workers, rather than one task per group.
    stage_to_tmpfs, tmpfs_path
        Stage products in memory, where they fit.
    max_workers
        Processes of the embedded cluster; the machine's cores when None.
    client
        A Dask client to use; its workers must have this package. It is left open.
    scheduler
        Or the address of a scheduler to connect to.
    expected_subbands, min_subbands, on_existing, telescope_name, imaging_columns, phase_centre, spw,
    max_readers, quicklook
        As the options of ``contimg-dask convert``; None takes the configured value.
    kind
        ``science`` or ``calibrator``: which branch of the layout.
    dry_run
        Only say what would be done.

    Returns
    -------
    list of dict
        One record per group in time order, the same as in ``contimg-dask convert --json``.

    Raises
    ------
    UsageError
        An argument is wrong; nothing was done.
    ClusterError
        The cluster cannot be used.

    Examples
    --------
    >>> from contimg_dask import convert_subband_groups_to_ms
    >>> records = convert_subband_groups_to_ms("incoming", "products")  # doctest: +SKIP
    >>> [record["outcome"] for record in records]  # doctest: +SKIP
    ['published']
    """
    loaded = load_settings(
        {
            "scratch_dir": None if scratch_dir is None else str(scratch_dir),
            "direct_ms": direct_ms,
            "parallel_subband": parallel_subband,
            "stage_to_tmpfs": stage_to_tmpfs,
            "tmpfs_path": str(tmpfs_path),
            "workers": max_workers,
            "scheduler": scheduler,
            "expected_subbands": expected_subbands,
            "min_subbands": min_subbands,
            "on_existing": on_existing,
            "telescope_name": telescope_name,
            "imaging_columns": imaging_columns,
            "phase_centre": phase_centre,
            "spw": spw,
            "max_readers": max_readers,
            "quicklook": quicklook,
        }
    )
    request = Request(
        output_dir=Path(output_dir).absolute(),
        settings=loaded.settings,
        kind=kind,
        min_subbands=loaded.settings.min_subbands,
        path_mapper=path_mapper,
        dry_run=dry_run,
    )
    groups = find_groups(
        Path(input_dir), loaded.settings.expected_subbands, to_mjd(start_time), to_mjd(end_time)
    )
    records: list[GroupRecord] = []
    cluster = use_client(client) if client is not None else None
    convert_groups(groups, request, listener=_silent, cluster=cluster, on_record=records.append)
    return [record.to_json() for record in sort_records(records)]


def find_groups(
    input_dir: Path,
    expected_subbands: int,
    start_mjd: float | None = None,
    end_mjd: float | None = None,
    progress: Any = None,
) -> list[Group]:
    """Return the groups in a directory whose first integration lies in [start, end)."""
    if start_mjd is not None and end_mjd is not None and start_mjd >= end_mjd:
        raise UsageError("the start of the time range is not before its end: nothing lies between")
    found = discover(input_dir.absolute(), start_mjd=start_mjd, end_mjd=end_mjd, progress=progress)
    groups = group_files(found.headers, found.unreadable, expected_subbands)
    return [group for group in groups if starts_within(group, start_mjd, end_mjd)]


def to_mjd(moment: str | Time | None) -> float | None:
    """Return an ISO string (UTC) or a Time as MJD UTC [d].

    Raises
    ------
    UsageError
        The text is no time.
    """
    if moment is None:
        return None
    try:
        with packaged_tables():
            return float(
                Time(moment, scale="utc").mjd if isinstance(moment, str) else moment.utc.mjd
            )
    except ValueError as error:
        raise UsageError(f"{moment!r} is not a time: give UTC as in 2025-10-05T03:12:06") from error


class _Silence:
    """A listener for those who only want the records."""

    def group_started(self, plan: ConversionPlan) -> None:
        """Say nothing."""

    def step_done(self, plan: ConversionPlan, name: str) -> None:
        """Say nothing."""

    def group_done(self, plan: ConversionPlan) -> None:
        """Say nothing."""


@contextmanager
def _silent(plans: Sequence[ConversionPlan], cluster: Cluster) -> Iterator[Listener]:
    del plans, cluster
    yield _Silence()
