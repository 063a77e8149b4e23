"""Tell what on this machine would hurt a conversion, before it does.

Each check collects facts, a pure ``judge_…`` function turns them into a `Finding`. Nothing is left
behind: what is tried on a directory is tried in a temporary one inside it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from contimg_dask import offline
from contimg_dask.settings import (
    PROCESS_ENVIRONMENT,
    Settings,
    process_environment,
    size_bytes,
    unknown_environment,
)
from contimg_dask.staging.room import USABLE_PART, cgroup_limit_bytes

Level = Literal["ok", "warn", "fail"]

# A full-scale product: 16 subbands of 111,744 rows × 48 channels × 2 correlation products.
FULL_SCALE_BYTES = {"zero": 2_260_000_000, "none": 2_260_000_000, "copy": 3_630_000_000}
FULL_SCALE_SECONDS = 309.24
_PREDICTED_DAYS_LIMIT = 180
_OPEN_FILES_WANTED = 1024
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100

_PACKAGES = ("python-casacore", "pyuvdata", "astropy", "numpy", "h5py", "dask", "distributed")
_PROGRAMS = {"wsclean": "imaging", "DP3": "calibration", "aoflagger": "flagging"}
_CASA_PACKAGE = "casatasks"
_TMPFS_ADVICE = "stage to a disk (scratch_dir) or not at all, or enlarge it (docker: --shm-size)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    level
        ``ok``; ``warn``: works, with a loss that the text names; ``fail``: a conversion with
        these settings would fail.
    subject
        What was looked at, in a word or a path.
    text
        What was found, with its numbers.
    advice
        What to do; empty when there is nothing to do.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the checks look at: the arguments of `diagnose`, and where /proc and /sys are."""

    settings: Settings
    output_dir: Path | None
    today_mjd: float
    root: Path = Path("/")


def diagnose(
    settings: Settings, output_dir: Path | None = None, today_mjd: float | None = None
) -> list[Finding]:
    """Look at this machine with the eyes of a conversion.

    Parameters
    ----------
    settings
        The settings a conversion would run with.
    output_dir
        Where products would go, existing or not; None leaves it out.
    today_mjd
        Today, MJD (UTC), for the age of tables; None asks the clock.

    Returns
    -------
    list of Finding
        In the order of `CHECKS`. Nothing raises: what cannot be looked at is a finding.
    """
    if today_mjd is None:
        today_mjd = time.time() / 86400.0 + 40587.0
    machine = Machine(settings=settings, output_dir=output_dir, today_mjd=today_mjd)
    return [finding for check in CHECKS for finding in check(machine)]


def _ok(subject: str, text: str) -> Finding:
    return Finding(level="ok", subject=subject, text=text)


def _warn(subject: str, text: str, advice: str = "") -> Finding:
    return Finding(level="warn", subject=subject, text=text, advice=advice)


def _fail(subject: str, text: str, advice: str) -> Finding:
    return Finding(level="fail", subject=subject, text=text, advice=advice)


def check_versions(_: Machine) -> Iterator[Finding]:
    """Look up the versions of what does the work, without importing it."""
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    yield judge_versions(platform.python_version(), found)


def judge_versions(python: str, found: Mapping[str, str | None]) -> Finding:
    """Every package is there, and dask and distributed are of one release."""
    if missing := [package for package, version in found.items() if version is None]:
        return _fail("versions", f"not installed: {', '.join(missing)}", "install them")
    text = ", ".join([f"Python {python}", *(f"{name} {found[name]}" for name in found)])
    if found.get("dask") != found.get("distributed"):
        return _warn("versions", text, "install one release of dask and distributed")
    return _ok("versions", text)


def check_clients(_: Machine) -> Iterator[Finding]:
    """Look for the programs that read products; none is needed to convert."""
    for program, purpose in _PROGRAMS.items():
        yield judge_client(program, purpose, shutil.which(program))
    spec = importlib.util.find_spec(_CASA_PACKAGE)
    yield judge_client(_CASA_PACKAGE, "CASA tasks", spec.origin if spec else None)


def judge_client(name: str, purpose: str, where: str | None) -> Finding:
    """A client is there or not."""
    if where:
        return _ok(name, where)
    advice = f"install it if products are to be used here for {purpose}"
    if name == _CASA_PACKAGE:
        advice += ", in an environment of its own: it crashes beside python-casacore"
    return _warn(name, "not found (optional)", advice)


def check_earth_orientation(machine: Machine) -> Iterator[Finding]:
    """Compare the installed Earth-orientation tables with today."""
    outside = offline.earth_orientation_warning(machine.today_mjd)
    yield judge_earth_orientation(offline.earth_orientation_span(), machine.today_mjd, outside)


def judge_earth_orientation(
    span: offline.TableSpan, today_mjd: float, outside: str | None
) -> Finding:
    """The tables cover today, and their measurements are not too old to predict it."""
    subject, advice = "earth orientation", "pip install --upgrade astropy-iers-data"
    if outside:
        return _warn(subject, f"today, {outside}", advice)
    days = max(0.0, today_mjd - span.measured_until_mjd)
    # IERS Bulletin A states the error of predicted UT1−UTC after D days as 0.00025 s × D^0.75.
    error_s = 0.00025 * days**0.75
    text = (
        f"tables measured until {days:.0f} days ago, predicted for {span.last_mjd - today_mjd:.0f} "
        f"more; UT1−UTC of today good to {1000 * error_s:.1f} ms ({15 * error_s:.2f}″)"
    )
    return _warn(subject, text, advice) if days > _PREDICTED_DAYS_LIMIT else _ok(subject, text)


def check_environment(_: Machine) -> Iterator[Finding]:
    """Look at the variables that numerical libraries and our settings are read from."""
    return judge_environment(process_environment(), unknown_environment())


def judge_environment(found: Mapping[str, str | None], unknown: Iterable[str]) -> Iterator[Finding]:
    """One thread per process, no HDF5 locks, no misspelt setting."""
    for name, value in found.items():
        wanted = PROCESS_ENVIRONMENT[name]
        if value is None or value.upper() == wanted:
            # Unset is right too: worker processes set it when they start.
            yield _ok(name, wanted)
            continue
        loss = "input on a file system without locks cannot be opened"
        if not name.startswith("HDF5"):
            loss = "each of the worker processes starts as many threads"
        yield _warn(name, f"{value}: {loss}", f"set it to {wanted}, or unset it")
    for name in unknown:
        yield _warn(name, "is no setting and has no effect", "see: contimg-dask config show")


def check_memory(machine: Machine) -> Iterator[Finding]:
    """Compare the memory of the machine and of its control group with what workers may use."""
    settings = machine.settings
    workers = settings.workers or len(os.sched_getaffinity(0))
    yield judge_memory(
        psutil.virtual_memory().total,
        cgroup_limit_bytes(machine.root),
        workers,
        workers * size_bytes(settings.worker_memory_limit),
        _staging_need_bytes(settings) if settings.stage_to_tmpfs else 0,
    )


def judge_memory(
    total_bytes: int, cgroup_bytes: int | None, workers: int, promised_bytes: int, staged_bytes: int
) -> Finding:
    """All workers at their limit, and what is staged in memory, fit."""
    usable_bytes = min(total_bytes, cgroup_bytes or total_bytes)
    where = "the machine" if usable_bytes == total_bytes else "the control group"
    text = f"{_size(usable_bytes)} in {where}; {workers} workers may use {_size(promised_bytes)}"
    if staged_bytes:
        text += f", staging {_size(staged_bytes)}"
    if promised_bytes + staged_bytes <= usable_bytes:
        return _ok("memory", text)
    advice = "lower workers or worker_memory_limit, or the kernel may kill them"
    return _warn("memory", text, advice)


def check_open_files(_: Machine) -> Iterator[Finding]:
    """Look at how many files a process may open."""
    yield judge_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def judge_open_files(soft: int, hard: int) -> Finding:
    """A scheduler with its connections, or a table with its files, stays under the limit."""
    if soft == resource.RLIM_INFINITY or soft >= _OPEN_FILES_WANTED:
        return _ok("open files", f"limit {soft} per process" if soft > 0 else "no limit")
    text = f"limit {soft} per process (hard limit {hard}), wanted {_OPEN_FILES_WANTED}"
    return _warn("open files", text, f"ulimit -n {_OPEN_FILES_WANTED}")


def check_tmpfs(machine: Machine) -> Iterator[Finding]:
    """Compare the memory file system with what staging a full-scale group takes."""
    path, in_use = machine.settings.tmpfs_path, machine.settings.stage_to_tmpfs
    try:
        usage = shutil.disk_usage(path)
    except OSError as error:
        judge = _fail if in_use else _warn
        yield judge(path, f"cannot be used: {error.strerror}", _TMPFS_ADVICE)
        return
    need = _staging_need_bytes(machine.settings)
    yield judge_tmpfs(path, usage.total, usage.free, need, in_use)


def judge_tmpfs(
    path: str, total_bytes: int, free_bytes: int, need_bytes: int, in_use: bool
) -> Finding:
    """The groups in flight fit into the share of tmpfs that staging may take."""
    text = f"{_size(free_bytes)} of {_size(total_bytes)} free; staging needs {_size(need_bytes)}"
    if USABLE_PART * free_bytes >= need_bytes:
        return _ok(path, text)
    text += f", and takes at most {USABLE_PART:.0%} of what is free"
    return _fail(path, text, _TMPFS_ADVICE) if in_use else _warn(path, text, _TMPFS_ADVICE)


def check_directories(machine: Machine) -> Iterator[Finding]:
    """Try on the output and the scratch directory what a conversion does there."""
    if machine.output_dir is not None:
        yield from examine_directory("output", machine.output_dir, machine.settings)
    if scratch_dir := machine.settings.scratch_dir:
        yield from examine_directory("scratch", Path(scratch_dir), machine.settings)


def examine_directory(role: str, path: Path, settings: Settings) -> Iterator[Finding]:
    """Look at free space and features of a directory, or of the place where it would be made."""
    subject = f"{role} {path}"
    lineage = (path.absolute(), *path.absolute().parents)
    try:
        existing = next(place for place in lineage if place.exists())
        with tempfile.TemporaryDirectory(prefix=".contimg-dask-doctor-", dir=existing) as place:
            yield judge_space(subject, shutil.disk_usage(place).free, settings)
            for attempt in (try_lock, try_exchange, try_hole):
                yield attempt(subject, Path(place))
    except OSError as refused:
        advice = "choose another directory, or change its owner or mode"
        yield _fail(subject, f"cannot be written: {refused.strerror}", advice)


def judge_space(subject: str, free_bytes: int, settings: Settings) -> Finding:
    """At least one full-scale product fits, and better an hour of them."""
    each_bytes = FULL_SCALE_BYTES[settings.imaging_columns]
    groups = free_bytes // each_bytes
    text = f"{_size(free_bytes)} free: {groups} full-scale groups"
    if groups < 1:
        return _fail(subject, text, f"free at least {_size(each_bytes)}")
    if groups * FULL_SCALE_SECONDS < 3600.0:
        return _warn(subject, text, "less than an hour of observing fits")
    return _ok(subject, text)


def try_lock(subject: str, directory: Path) -> Finding:
    """Lock a new file in the directory, as casacore locks every table."""
    with (directory / "lock").open("wb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as refused:
            text = f"no file locking ({refused.strerror}): casacore cannot open tables here"
            return _fail(subject, text, "mount it with locks, or choose another directory")
    return _ok(subject, "file locking works")


def try_exchange(subject: str, directory: Path) -> Finding:
    """Exchange two new directories in the directory, as replacing a product does."""
    for name in ("first", "second"):
        (directory / name).mkdir()
    if error := _exchange_errno(directory / "first", directory / "second"):
        text = f"no exchange of directories ({os.strerror(error)}): --on-existing replace must fail"
        return _warn(subject, text, "use --on-existing skip or fail, or a local file system")
    return _ok(subject, "directories can be exchanged")


def _exchange_errno(first: Path, second: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return errno.ENOSYS
    names = os.fsencode(first), os.fsencode(second)
    failed = libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return ctypes.get_errno() if failed else 0


def try_hole(subject: str, directory: Path) -> Finding:
    """Write a page behind a hole in the directory, as zero imaging columns are written."""
    hole_bytes = 16 * 2**20
    with (directory / "hole").open("wb") as file:
        file.seek(hole_bytes)
        file.write(b"\1" * 4096)
        file.flush()
        os.fsync(file.fileno())
        found = os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0
        used_bytes = os.fstat(file.fileno()).st_blocks * 512
    if found and used_bytes < hole_bytes // 2:
        return _ok(subject, "files may have holes")
    text = "no holes in files: zero imaging columns take 2.7 GB per full-scale group"
    return _warn(subject, text, "use --imaging-columns none if nothing needs them")


CHECKS: tuple[Callable[[Machine], Iterator[Finding]], ...] = (
    check_versions,
    check_environment,
    check_earth_orientation,
    check_memory,
    check_open_files,
    check_tmpfs,
    check_directories,
    check_clients,
)


def _staging_need_bytes(settings: Settings) -> int:
    return FULL_SCALE_BYTES[settings.imaging_columns] * (settings.groups_in_flight or 1)


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
