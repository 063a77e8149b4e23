"""A failed group leaves a record that says why, and a later success takes it away."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contimg_dask.model import GroupRecord, Publication, Reason
from contimg_dask.naming import STAGING_DIRECTORY, failed_record_path
from contimg_dask.publishing import failed
from contimg_dask.publishing.failed import (
    FAILED_RECORD_VERSION,
    keep_failed,
    remove_failed_record,
    write_failed_record,
)
from contimg_dask.staging.sweeping import sweep
from tests.unit.plans import BLOCK, ID, entries, write_blocks
from tests.unit.processes import OtherProcess, side_by_side

OTHER_ID = "2025-10-05T03:17:15"


def failure(group_id: str = ID, code: str = "truncated") -> GroupRecord:
    return GroupRecord(
        id=group_id,
        start_mjd=None,
        present=(0,),
        missing=(1,),
        outcome="failed",
        reason=Reason(code=code, text="/in/sb01: cut"),
        attempts=2,
    )


def read(output: Path, group_id: str = ID) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(failed_record_path(output, group_id).read_text())
    return document


@pytest.fixture
def publication(tmp_path: Path) -> Publication:
    return Publication(output_dir=str(tmp_path / "out"))


@pytest.fixture
def output(publication: Publication) -> Path:
    return Path(publication.output_dir)


# ------------------------------------------------------------------------------------- the record


def test_a_failed_group_leaves_a_record_with_its_reason_and_its_files(
    publication: Publication, output: Path
) -> None:
    write_failed_record(publication, failure(), ["/in/sb00", "/in/sb01"])
    path = output / "failed/2025-10-05/2025-10-05T03:12:06.json"
    document = json.loads(path.read_text())
    assert document["schema"] == FAILED_RECORD_VERSION == 1
    assert (document["id"], document["outcome"], document["attempts"]) == (ID, "failed", 2)
    assert document["reason"] == {"code": "truncated", "text": "/in/sb01: cut"}
    assert document["inputs"] == ["/in/sb00", "/in/sb01"]
    assert document["host"] == socket.gethostname()
    assert "kept" not in document
    # All of the group's record, and nothing else.
    extra = {"schema", "inputs", "host"}
    assert document.keys() == {field.name for field in dataclasses.fields(GroupRecord)} | extra
    assert entries(path.parent) == [path.name]
    assert entries(output) == ["failed"]


def test_a_later_failure_replaces_the_record(publication: Publication, output: Path) -> None:
    write_failed_record(publication, failure(), [])
    write_failed_record(publication, failure(code="no-space"), [])
    assert read(output)["reason"]["code"] == "no-space"
    assert entries(output / "failed" / "2025-10-05") == [f"{ID}.json"]
    assert entries(output) == ["failed"]


def test_a_group_without_a_date_has_its_record_too(publication: Publication, output: Path) -> None:
    write_failed_record(publication, failure("3c286"), [])
    assert entries(output / "failed" / "undated") == ["3c286.json"]


@pytest.mark.parametrize(("mode", "of_directory"), [(None, 0o755), (0o664, 0o775)])
def test_the_record_has_the_permissions_of_what_is_published(
    publication: Publication, output: Path, mode: int | None, of_directory: int
) -> None:
    before = os.umask(0o022)
    try:
        write_failed_record(dataclasses.replace(publication, mode=mode), failure(), [])
    finally:
        os.umask(before)
    path = failed_record_path(output, ID)
    assert stat.S_IMODE(path.stat().st_mode) == (mode or 0o644)
    assert stat.S_IMODE(path.parent.stat().st_mode) == of_directory


def test_a_record_is_never_seen_by_half(
    publication: Publication, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_failed_record(publication, failure(), [])
    seen = []
    write_text = Path.write_text

    def looked_at(path: Path, text: str) -> int:
        written = write_text(path, text[: len(text) // 2])
        seen.append(read(output)["reason"]["code"])
        return written + write_text(path, text)

    monkeypatch.setattr(Path, "write_text", looked_at)
    write_failed_record(publication, failure(code="no-space"), [])
    assert seen == ["truncated"]
    assert read(output)["reason"]["code"] == "no-space"


def write_and_hang(publication: Publication) -> Iterator[str]:
    """Come as far as the finished record, and no further."""

    def hang(*_: object) -> None:
        raise TimeoutError

    failed.own_file = hang
    try:
        write_failed_record(publication, failure(), [])
    except TimeoutError:
        yield "hangs"


def test_what_a_process_killed_over_it_leaves_is_swept(
    publication: Publication, output: Path
) -> None:
    with OtherProcess(write_and_hang, publication) as process:
        assert process.yielded() == "hangs"
    left = entries(output / STAGING_DIRECTORY)
    assert len(left) == 2
    sweep(str(output / STAGING_DIRECTORY))
    assert [path for path in output.rglob("*") if not path.is_dir()] == []
    assert not (output / STAGING_DIRECTORY).exists()


def test_it_is_written_under_the_lock_so_that_no_sweep_takes_it_for_a_leftover(
    publication: Publication, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(output / STAGING_DIRECTORY)
    own_file = failed.own_file
    free = []

    def try_the_lock(*arguments: Any) -> None:
        with open(f"{root}/.lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free.append(False)
        own_file(*arguments)

    monkeypatch.setattr(failed, "own_file", try_the_lock)
    write_failed_record(publication, failure(), [])
    assert free == [False]


def test_a_record_that_cannot_be_written_is_an_error_and_leaves_nothing(
    publication: Publication, output: Path
) -> None:
    output.mkdir()
    (output / "failed").write_bytes(b"")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        write_failed_record(publication, failure(), [])
    assert entries(output) == ["failed"]


@pytest.fixture
def elsewhere(output: Path, in_memory: Path) -> Path:
    """Where failed/ of the output is: on another file system."""
    output.mkdir()
    (output / "failed").symlink_to(in_memory)
    return in_memory


def test_failed_may_be_on_another_file_system(
    publication: Publication, output: Path, elsewhere: Path
) -> None:
    for code in ("truncated", "no-space"):
        write_failed_record(publication, failure(code=code), [])
        assert read(output)["reason"]["code"] == code
        assert entries(elsewhere / "2025-10-05") == [f"{ID}.json"]
        assert entries(output) == ["failed"]
    remove_failed_record(output, ID)
    assert entries(elsewhere) == []


# ------------------------------------------------------------------------------- what was kept


def staging_in(directory: Path) -> str:
    """The directory of the attempt at the destination."""
    return str(directory / "out" / ".contimg-staging" / "attempt")


def half_made(path: Path) -> Path:
    write_blocks(path / "table.dat", 1)
    write_blocks(path / "SOURCE" / "table.dat", 1)
    with (path / "table.f1").open("wb") as hole:
        hole.truncate(100 * BLOCK)
    for below in (path, *path.rglob("*")):
        below.chmod(0o700)
    return path


@pytest.mark.parametrize("far", [False, True])
def test_what_there_is_of_a_product_is_kept_beside_the_record_and_named_in_it(
    publication: Publication, output: Path, tmp_path: Path, in_memory: Path, far: bool
) -> None:
    product = half_made((in_memory if far else tmp_path) / "product.ms")
    keep_failed(
        str(product), ID, dataclasses.replace(publication, mode=0o644), staging_in(tmp_path)
    )
    write_failed_record(publication, failure(), [])
    kept = output / "failed" / "2025-10-05" / f"{ID}.ms"
    assert read(output)["kept"] == str(kept)
    assert entries(kept.parent) == [f"{ID}.json", f"{ID}.ms"]
    assert (kept / "SOURCE" / "table.dat").read_bytes() == b"x" * BLOCK
    assert (kept / "table.f1").stat().st_size == 100 * BLOCK
    assert (kept / "table.f1").stat().st_blocks == 0
    assert stat.S_IMODE((kept / "table.f1").stat().st_mode) == 0o644
    assert stat.S_IMODE((kept / "SOURCE").stat().st_mode) == 0o755


def test_what_is_kept_replaces_what_was_kept_before(
    publication: Publication, output: Path, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        product = half_made(tmp_path / name)
        (product / name).write_bytes(b"")
        keep_failed(str(product), ID, publication, staging_in(tmp_path))
    day = output / "failed" / "2025-10-05"
    assert entries(day) == [f"{ID}.ms"]
    assert entries(day / f"{ID}.ms") == ["SOURCE", "second", "table.dat", "table.f1"]


def test_the_record_of_a_later_failure_names_what_an_earlier_one_kept(
    publication: Publication, output: Path, tmp_path: Path
) -> None:
    keep_failed(str(half_made(tmp_path / "a")), ID, publication, staging_in(tmp_path))
    for code in ("truncated", "no-space"):
        write_failed_record(publication, failure(code=code), [])
        assert read(output)["kept"].endswith(f"{ID}.ms")


# ------------------------------------------------------------------------------------ and taken away


def test_the_record_goes_with_what_was_kept_and_the_directories_it_leaves_empty(
    publication: Publication, output: Path, tmp_path: Path
) -> None:
    keep_failed(str(half_made(tmp_path / "a")), ID, publication, staging_in(tmp_path))
    write_failed_record(publication, failure(), [])
    remove_failed_record(output, ID)
    # The attempt's own directory goes with the attempt, which nobody has opened here.
    assert entries(output) == [STAGING_DIRECTORY]
    assert entries(Path(staging_in(tmp_path))) == []
    sweep(str(output / STAGING_DIRECTORY))
    assert entries(output) == []


def test_what_is_kept_may_be_on_another_file_system(
    publication: Publication, elsewhere: Path, tmp_path: Path
) -> None:
    keep_failed(str(half_made(tmp_path / "a")), ID, publication, staging_in(tmp_path))
    assert entries(elsewhere / "2025-10-05") == [f"{ID}.ms"]


@pytest.mark.parametrize("other", [OTHER_ID, "2025-10-06T03:17:15"])
def test_other_records_stay(publication: Publication, output: Path, other: str) -> None:
    write_failed_record(publication, failure(), [])
    write_failed_record(publication, failure(other), [])
    remove_failed_record(output, ID)
    assert not failed_record_path(output, ID).exists()
    assert failed_record_path(output, other).is_file()
    assert len(list((output / "failed").iterdir())) == 1


def test_no_record_is_nothing_to_remove(tmp_path: Path) -> None:
    remove_failed_record(tmp_path, ID)
    (tmp_path / "failed" / "2025-10-05").mkdir(parents=True)
    remove_failed_record(tmp_path, "2025-10-05T23:59:59")
    assert entries(tmp_path) in ([], ["failed"])


# ------------------------------------------------------------------------- two conversions at once


def fail_again_and_again(publication: Publication) -> int:
    """Leave records; return how many could be left."""
    left = 0
    for _ in range(200):
        write_failed_record(publication, failure(), [])
        left += failed_record_path(Path(publication.output_dir), ID).is_file()
        remove_failed_record(Path(publication.output_dir), ID)
    return left


def succeed_again_and_again(publication: Publication) -> int:
    for _ in range(600):
        remove_failed_record(Path(publication.output_dir), OTHER_ID)
    return 0


def test_failures_leave_their_records_while_other_groups_of_that_day_succeed(
    publication: Publication, output: Path
) -> None:
    # A success removes the directory of the day when it is empty, as it is again and again.
    results = side_by_side(
        call, (fail_again_and_again, publication), (succeed_again_and_again, publication)
    )
    assert results == [200, 0]
    assert entries(output) == []


def call(function: Any, publication: Publication) -> int:
    result: int = function(publication)
    return result


def write_again_and_again(publication: Publication, group_id: str) -> None:
    for _ in range(100):
        write_failed_record(publication, failure(group_id), [])


def test_many_processes_leave_their_records_side_by_side(
    publication: Publication, output: Path
) -> None:
    ids = [ID, OTHER_ID, "2025-10-06T03:17:15"]
    side_by_side(write_again_and_again, *((publication, group_id) for group_id in ids))
    for group_id in ids:
        assert read(output, group_id)["id"] == group_id
    assert len([path for path in output.rglob("*") if path.is_file()]) == 3
    assert entries(output) == ["failed"]
