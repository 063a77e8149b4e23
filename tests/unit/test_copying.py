"""Copies are equal to the last byte, and their holes stay holes."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from contimg_dask import copying
from contimg_dask.copying import (
    allocated_bytes,
    copy_file,
    copy_range,
    copy_tree,
    data_extents,
    sync_path,
    sync_tree,
)

MIB = 1 << 20


@pytest.fixture(params=["same file system", "from tmpfs"])
def source_directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory to copy from, also on another file system than ``tmp_path``."""
    if request.param == "same file system":
        (tmp_path / "source").mkdir()
        yield tmp_path / "source"
        return
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="contimg-test-", dir=shm))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def write(path: Path, size: int, pieces: dict[int, bytes]) -> None:
    """Make a file of this size, all hole but for the pieces."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, piece in pieces.items():
            file.seek(offset)
            file.write(piece)


def block(seed: int, size: int = 4096) -> bytes:
    return bytes((seed + i * 7) % 251 + 1 for i in range(size))


LAYOUTS: dict[str, tuple[int, dict[int, bytes]]] = {
    "empty": (0, {}),
    "no holes": (12288, {0: block(1, 12288)}),
    "one byte": (1, {0: b"x"}),
    "all hole": (4 * MIB, {}),
    "hole at the front": (2 * MIB, {2 * MIB - 4096: block(2)}),
    "hole at the end": (2 * MIB, {0: block(3)}),
    "holes between": (4 * MIB, {0: block(4), MIB: block(5, 8192), 3 * MIB: block(6)}),
    "no whole blocks": (MIB + 13, {5: b"abc", MIB: block(7, 13)}),
}


@pytest.mark.parametrize(("size", "pieces"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_copied_file_is_equal_and_takes_no_more_space(
    source_directory: Path, tmp_path: Path, size: int, pieces: dict[int, bytes]
) -> None:
    source, target = source_directory / "a", tmp_path / "b"
    write(source, size, pieces)
    written = copy_file(str(source), str(target))
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_size == size
    # A hole ends at a block, so a piece may take the rest of its block with it.
    assert sum(map(len, pieces.values())) <= written <= sum(len(p) + 8192 for p in pieces.values())
    assert target.stat().st_blocks * 512 <= written + 8192 * len(pieces)


def test_a_file_is_never_copied_over_another(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        copy_file(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, 4 * MIB, [(MIB, 8192), (3 * MIB, 4096)]),
        (MIB + 100, MIB + 200, [(MIB + 100, 100)]),
        (MIB + 4096, 4 * MIB, [(MIB + 4096, 4096), (3 * MIB, 4096)]),
        (0, MIB, []),
        (2 * MIB, 3 * MIB, []),
        (3 * MIB + 4096, 4 * MIB, []),
    ],
)
def test_the_written_stretches_of_a_file_are_found(
    tmp_path: Path, start: int, stop: int, expected: list[tuple[int, int]]
) -> None:
    path = tmp_path / "a"
    write(path, 4 * MIB, {MIB: block(1, 8192), 3 * MIB: block(2)})
    with path.open("rb") as file:
        assert list(data_extents(file.fileno(), start, stop)) == expected


def test_a_range_lands_at_its_place_and_nowhere_else(
    source_directory: Path, tmp_path: Path
) -> None:
    source, target = source_directory / "a", tmp_path / "b"
    write(source, 32768, {0: block(1, 32768)})
    target.write_bytes(b"\0" * 20000)
    with source.open("rb") as read, target.open("r+b") as to:
        assert copy_range(read.fileno(), 4099, to.fileno(), 1001, 9000) == 9000
    expected = bytearray(20000)
    expected[1001:10001] = block(1, 32768)[4099:13099]
    assert target.read_bytes() == bytes(expected)


@pytest.mark.parametrize("size", [0, 100, 8192, 16383])
def test_a_range_of_a_source_that_is_too_short_is_an_error(
    source_directory: Path, tmp_path: Path, size: int
) -> None:
    source = source_directory / "a"
    source.write_bytes(block(1, size))
    with source.open("rb") as read, (tmp_path / "b").open("wb") as to:
        os.ftruncate(to.fileno(), 16384)
        with pytest.raises(OSError) as caught:
            copy_range(read.fileno(), 0, to.fileno(), 0, 16384)
    assert caught.value.errno == errno.EIO


def test_a_source_that_is_cut_while_it_is_copied_is_an_error(
    source_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_directory / "a"
    source.write_bytes(block(1, 65536))
    ftruncate = os.ftruncate

    def cut_source_too(descriptor: int, size: int) -> None:
        # The size has been taken by now, and no byte been read.
        ftruncate(descriptor, size)
        os.truncate(source, 8192)

    monkeypatch.setattr(os, "ftruncate", cut_source_too)
    with pytest.raises(OSError) as caught:
        copy_file(str(source), str(tmp_path / "b"))
    assert caught.value.errno == errno.EIO


def test_a_source_that_ends_inside_a_stretch_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(block(1))
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    with pytest.raises(OSError, match="ended") as caught:
        copy_file(str(tmp_path / "a"), str(tmp_path / "b"))
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_what_the_file_system_refuses_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_bytes(block(1))
    monkeypatch.setattr(os, "copy_file_range", refuse)
    with pytest.raises(OSError) as caught:
        copy_file(str(tmp_path / "a"), str(tmp_path / "b"))
    assert caught.value.errno == number


def test_a_write_that_fails_names_the_file_it_was_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a").write_bytes(block(1))
    monkeypatch.setattr(os, "copy_file_range", full)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        copy_file(str(tmp_path / "a"), str(tmp_path / "b"))
    assert caught.value.filename == str(tmp_path / "b")
    with pytest.raises(OSError, match="No space") as caught:
        sync_path(str(tmp_path))
    assert caught.value.filename == str(tmp_path)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_copies_in_the_kernel_gets_them_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    write(tmp_path / "a", 3 * MIB, {MIB: block(1), 2 * MIB: block(2)})
    monkeypatch.setattr(os, "copy_file_range", refuse)
    assert copy_file(str(tmp_path / "a"), str(tmp_path / "b")) == 8192
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize("kernel_copy", [True, False])
def test_short_writes_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_copy: bool
) -> None:
    copy_file_range, sendfile = os.copy_file_range, os.sendfile

    def in_small_steps(read: int, to: int, size: int, offset: int, into: int) -> int:
        if not kernel_copy:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return copy_file_range(read, to, min(size, 1000), offset, into)

    monkeypatch.setattr(os, "copy_file_range", in_small_steps)
    monkeypatch.setattr(
        os, "sendfile", lambda to, read, offset, size: sendfile(to, read, offset, min(size, 1000))
    )
    (tmp_path / "a").write_bytes(block(1, 5555))
    assert copy_file(str(tmp_path / "a"), str(tmp_path / "b")) == 5555
    assert (tmp_path / "b").read_bytes() == block(1, 5555)


@pytest.fixture
def tree(source_directory: Path) -> Path:
    root = source_directory / "tree"
    (root / "SOURCE" / "deeper").mkdir(parents=True)
    (root / "empty").mkdir()
    write(root / "table.f1", 2 * MIB, {MIB: block(1)})
    (root / "SOURCE" / "table.dat").write_bytes(b"dat")
    (root / "SOURCE" / "deeper" / "x").write_bytes(b"")
    return root


def test_a_copied_directory_is_equal_and_keeps_its_holes(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "copied"
    assert copy_tree(str(tree), str(target)) == 4096 + 3

    def content(root: Path) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
            for path in root.rglob("*")
        }

    assert content(target) == content(tree)
    assert len(content(target)) == 6
    assert allocated_bytes(str(target)) == allocated_bytes(str(tree)) <= 3 * 4096


def test_a_directory_is_never_copied_into_another(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError):
        copy_tree(str(tree), str(tmp_path / "there"))
    assert list((tmp_path / "there").iterdir()) == []


def test_several_files_of_a_directory_are_copied_at_once(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three files, each of which waits until the others have come as far.
    meeting = threading.Barrier(3, timeout=30)

    def together(source: str, target: str) -> int:
        meeting.wait()
        return copy_file(source, target)

    monkeypatch.setattr(copying, "copy_file", together)
    assert copy_tree(str(tree), str(tmp_path / "copied")) == 4096 + 3


def test_a_file_that_cannot_be_copied_ends_the_copy_with_its_error_and_all_is_closed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> int:
        written = copy_file(source, target)
        if source.endswith("table.dat"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)
        return written

    open_files = os.listdir("/proc/self/fd")
    threads = threading.active_count()
    monkeypatch.setattr(copying, "copy_file", refuse)
    with pytest.raises(OSError) as caught:
        copy_tree(str(tree), str(tmp_path / "copied"))
    assert caught.value.errno == errno.ENOSPC
    assert len(os.listdir("/proc/self/fd")) == len(open_files)
    # Nobody goes on to copy into what the caller is about to remove.
    assert threading.active_count() == threads


def test_every_file_and_directory_is_brought_to_stable_storage_parents_last(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    sync_tree(str(tree))
    assert sorted(synced) == sorted(map(str, (tree, *tree.rglob("*"))))
    assert all(
        synced.index(path) < synced.index(str(Path(path).parent))
        for path in synced
        if path != str(tree)
    )


def test_holes_take_no_space(tmp_path: Path) -> None:
    write(tmp_path / "a", 64 * MIB, {32 * MIB: block(1)})
    (tmp_path / "below").mkdir()
    write(tmp_path / "below" / "b", 64 * MIB, {})
    assert 4096 <= allocated_bytes(str(tmp_path)) <= 3 * 4096


def test_what_is_removed_meanwhile_takes_no_space(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstat = os.lstat
    most = allocated_bytes(str(tree))

    def removed_just_then(path: str) -> os.stat_result:
        if path.endswith("table.f1"):
            os.unlink(path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", removed_just_then)
    assert allocated_bytes(str(tree)) < most
    assert allocated_bytes(str(tree / "not there")) == 0
