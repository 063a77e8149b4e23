"""What the doctor says of machines that would hurt, and of this one."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from contimg_dask import doctor
from contimg_dask.doctor import Finding, diagnose
from contimg_dask.offline import TableSpan, earth_orientation_span
from contimg_dask.settings import Settings

GB = 10**9
COVERED_MJD = earth_orientation_span().measured_until_mjd + 30.0


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.subject: finding.level for finding in findings}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_this_machine_is_looked_at_whole_and_left_as_it_was(tmp_path: Path) -> None:
    findings = diagnose(Settings(), tmp_path / "not" / "yet", COVERED_MJD)
    found = levels(findings)
    for subject in ("versions", "memory", "open files", "earth orientation", "/dev/shm"):
        assert subject in found
    for subject in ("wsclean", "DP3", "aoflagger", "casatasks", "OMP_NUM_THREADS"):
        assert subject in found
    assert found["versions"] == "ok"
    assert found["earth orientation"] == "ok"
    assert list(tmp_path.iterdir()) == []
    assert all(finding.advice for finding in findings if finding.level != "ok")


def test_without_a_directory_none_is_looked_at() -> None:
    subjects = [finding.subject for finding in diagnose(Settings(), None, COVERED_MJD)]
    assert not [subject for subject in subjects if subject.startswith(("output", "scratch"))]


def test_a_scratch_directory_is_looked_at_like_the_output(tmp_path: Path) -> None:
    findings = diagnose(Settings(scratch_dir=str(tmp_path)), None, COVERED_MJD)
    texts = [item.text for item in findings if item.subject == f"scratch {tmp_path}"]
    assert len(texts) == 4


def test_the_clock_is_asked_when_no_date_is_given() -> None:
    assert "earth orientation" in levels(diagnose(Settings()))


# --- versions, clients, environment ---------------------------------------------------------


def test_a_missing_package_fails() -> None:
    finding = doctor.judge_versions("3.11.7", {"python-casacore": None, "dask": "2026.8.0"})
    assert finding.level == "fail"
    assert "python-casacore" in finding.text


def test_dask_and_distributed_of_two_releases_warn() -> None:
    found: dict[str, str | None] = {"dask": "2026.8.0", "distributed": "2026.7.1"}
    assert doctor.judge_versions("3.11.7", found).level == "warn"
    found["distributed"] = "2026.8.0"
    assert doctor.judge_versions("3.11.7", found).level == "ok"


def test_a_missing_client_warns_with_its_use() -> None:
    finding = doctor.judge_client("wsclean", "imaging", None)
    assert finding.level == "warn"
    assert "imaging" in finding.advice
    assert doctor.judge_client("wsclean", "imaging", "/usr/bin/wsclean").level == "ok"


def test_casa_is_to_live_apart_from_python_casacore() -> None:
    assert "environment of its own" in doctor.judge_client("casatasks", "CASA", None).advice


def test_clients_are_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "DP3"
    write(program, "#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = levels(diagnose(Settings(), None, COVERED_MJD))
    assert found["DP3"] == "ok"
    assert found["wsclean"] == "warn"


@pytest.mark.parametrize(
    ("name", "value", "level"),
    [
        ("OMP_NUM_THREADS", None, "ok"),
        ("OMP_NUM_THREADS", "1", "ok"),
        ("OMP_NUM_THREADS", "40", "warn"),
        ("HDF5_USE_FILE_LOCKING", None, "ok"),
        ("HDF5_USE_FILE_LOCKING", "false", "ok"),
        ("HDF5_USE_FILE_LOCKING", "TRUE", "warn"),
    ],
)
def test_thread_and_lock_variables_are_judged(name: str, value: str | None, level: str) -> None:
    (finding,) = doctor.judge_environment({name: value}, [])
    assert (finding.subject, finding.level) == (name, level)


def test_a_misspelt_setting_in_the_environment_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTIMG_DASK_WORKER", "3")
    assert levels(diagnose(Settings(), None, COVERED_MJD))["CONTIMG_DASK_WORKER"] == "warn"


# --- Earth orientation ----------------------------------------------------------------------

SPAN = TableSpan(
    first_mjd=41684.0, measured_until_mjd=61000.0, last_mjd=61370.0, leap_seconds_until_mjd=61300.0
)


@pytest.mark.parametrize(
    ("today_mjd", "level"), [(60990.0, "ok"), (61100.0, "ok"), (61181.0, "warn")]
)
def test_old_measurements_of_earth_orientation_warn(today_mjd: float, level: str) -> None:
    finding = doctor.judge_earth_orientation(SPAN, today_mjd, None)
    assert finding.level == level
    assert "UT1−UTC" in finding.text


def test_the_prediction_error_is_that_of_bulletin_a() -> None:
    # Bulletin A lists 0.0040 s after 40 days.
    assert "4.0 ms" in doctor.judge_earth_orientation(SPAN, 61040.0, None).text


def test_tables_that_end_before_today_warn() -> None:
    today_mjd = earth_orientation_span().last_mjd + 400.0
    findings = diagnose(Settings(), None, today_mjd)
    (finding,) = (item for item in findings if item.subject == "earth orientation")
    assert finding.level == "warn"
    assert "past the installed" in finding.text
    assert "astropy-iers-data" in finding.advice


# --- memory and limits ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cgroup_bytes", "promised_gb", "staged_gb", "level", "where"),
    [
        (None, 64, 0, "ok", "the machine"),
        (None, 65, 0, "warn", "the machine"),
        (2**62, 64, 0, "ok", "the machine"),
        (16 * GB, 16, 0, "ok", "the control group"),
        (16 * GB, 17, 0, "warn", "the control group"),
        (16 * GB, 15, 2, "warn", "the control group"),
    ],
)
def test_workers_and_staging_must_fit_into_the_lesser_memory(
    cgroup_bytes: int | None, promised_gb: int, staged_gb: int, level: str, where: str
) -> None:
    finding = doctor.judge_memory(64 * GB, cgroup_bytes, 4, promised_gb * GB, staged_gb * GB)
    assert finding.level == level
    assert where in finding.text


def test_too_many_workers_for_this_machine_warn() -> None:
    settings = Settings(workers=1000, worker_memory_limit="1TiB")
    assert levels(diagnose(settings, None, COVERED_MJD))["memory"] == "warn"


def test_the_memory_of_the_control_group_is_looked_at_where_the_machine_has_it(
    tmp_path: Path,
) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/a\n")
    write(tmp_path / "sys/fs/cgroup/a/memory.max", f"{2 * GB}\n")
    settings = Settings(workers=4, worker_memory_limit="1GB")
    machine = doctor.Machine(
        settings=settings, output_dir=None, today_mjd=COVERED_MJD, root=tmp_path
    )
    (finding,) = doctor.check_memory(machine)
    assert finding.level == "warn"
    assert finding.text == "2.0 GB in the control group; 4 workers may use 4.0 GB"


@pytest.mark.parametrize(
    ("soft", "level"), [(256, "warn"), (1024, "ok"), (resource.RLIM_INFINITY, "ok")]
)
def test_few_open_files_warn(soft: int, level: str) -> None:
    finding = doctor.judge_open_files(soft, 4096)
    assert finding.level == level


# --- directories ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free_gb", "in_use", "level"),
    [(3.0, True, "ok"), (2.5, True, "fail"), (2.5, False, "warn"), (0.064, False, "warn")],
)
def test_tmpfs_must_hold_a_group_in_the_share_staging_may_take(
    free_gb: float, in_use: bool, level: str
) -> None:
    need_bytes = doctor.FULL_SCALE_BYTES["zero"]
    finding = doctor.judge_tmpfs("/dev/shm", 64 * GB, int(free_gb * GB), need_bytes, in_use)
    assert finding.level == level
    if level != "ok":
        assert f"{free_gb:.1f} GB" in finding.text
        assert "2.3 GB" in finding.text


def test_copied_columns_and_more_groups_need_more_tmpfs() -> None:
    settings = Settings(imaging_columns="copy", groups_in_flight=1000, stage_to_tmpfs=True)
    findings = diagnose(settings, None, COVERED_MJD)
    (finding,) = (item for item in findings if item.subject == "/dev/shm")
    assert finding.level == "fail"
    assert "3630.0 GB" in finding.text


@pytest.mark.parametrize(("staged", "level"), [(True, "fail"), (False, "warn")])
def test_a_tmpfs_that_is_not_there_matters_if_it_is_to_be_used(
    tmp_path: Path, staged: bool, level: str
) -> None:
    missing = str(tmp_path / "shm")
    settings = Settings(tmpfs_path=missing, stage_to_tmpfs=staged)
    assert levels(diagnose(settings, None, COVERED_MJD))[missing] == level


@pytest.mark.parametrize(("free_gb", "level"), [(2, "fail"), (20, "warn"), (30, "ok")])
def test_free_space_is_told_in_groups(free_gb: int, level: str) -> None:
    finding = doctor.judge_space("output", free_gb * GB, Settings())
    assert finding.level == level
    assert f"{free_gb * 100 // 226} full-scale groups" in finding.text


def test_an_output_that_cannot_be_written_fails_with_one_finding(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (finding,) = doctor.examine_directory("output", file / "below", Settings())
    assert finding.level == "fail"
    assert "Not a directory" in finding.text


def test_an_output_without_permission_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the refusal is the file system's.
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "mkdir", refuse)
    (finding,) = doctor.examine_directory("output", tmp_path, Settings())
    assert (finding.level, finding.text) == ("fail", "cannot be written: Permission denied")


def no_locks(*_args: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


class OldLibrary:
    """A C library from before renameat2."""

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass


@pytest.mark.parametrize(
    ("patch", "attempt", "level", "words"),
    [
        ((fcntl, "lockf", no_locks), doctor.try_lock, "fail", "No locks available"),
        ((doctor.ctypes, "CDLL", OldLibrary), doctor.try_exchange, "warn", "not implemented"),
        ((os, "lseek", lambda *_: 16 * 2**20), doctor.try_hole, "warn", "no holes"),
    ],
)
def test_what_a_file_system_lacks_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patch: tuple[object, str, object],
    attempt: Callable[[str, Path], Finding],
    level: str,
    words: str,
) -> None:
    assert attempt("output", make(tmp_path / "works")).level == "ok"
    monkeypatch.setattr(*patch)
    finding = attempt("output", make(tmp_path / "lacks"))
    assert finding.level == level
    assert words in finding.text


def make(path: Path) -> Path:
    path.mkdir()
    return path


def test_exchange_really_exchanges(tmp_path: Path) -> None:
    assert doctor.try_exchange("output", tmp_path).level == "ok"
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    (first / "mark").touch()
    assert doctor._exchange_errno(first, second) == 0
    assert (second / "mark").exists()
    assert doctor._exchange_errno(first, tmp_path / "missing") == errno.ENOENT
