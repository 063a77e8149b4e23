"""A group's files just before it is converted: sent again, gone, or of another observation."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from contimg_dask.dispatching.freshness import freshened, is_fresh
from contimg_dask.model import Group
from contimg_dask.planning import is_convertible
from contimg_dask.python_api import find_groups
from contimg_dask.simulate import Observation, simulate

TINY = {"subbands": 3, "antennas": 3, "integrations": 2, "channels": 4, "name_jitter": False}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of three subbands; tests copy it."""
    directory = tmp_path_factory.mktemp("simulated")
    simulate(directory, Observation(groups=2, **TINY))  # type: ignore[arg-type]
    return directory


@pytest.fixture
def incoming(simulated: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "incoming"
    shutil.copytree(simulated, directory)
    return directory


@pytest.fixture
def group(incoming: Path) -> Group:
    """The first of the two groups, under an id of the catalogue's own."""
    return replace(find_groups(incoming, 3)[0], id="2025-10-05T03:12:07")


def file_of(group: Group, number: int) -> Path:
    return Path(next(s.header.path for s in group.subbands if s.number == number))


def sent_again(path: Path) -> None:
    """Give a file another time of modification."""
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def test_a_group_whose_files_are_as_they_were_is_fresh(group: Group) -> None:
    assert is_fresh(group)
    assert freshened(group) == group


def test_a_file_that_was_sent_again_is_read_again(group: Group) -> None:
    sent_again(file_of(group, 1))
    assert not is_fresh(group)
    now = freshened(group)
    assert is_fresh(now)
    assert (now.id, now.present) == (group.id, (0, 1, 2))
    kept, read = (
        next(s.header.mtime_ns for s in g.subbands if s.number == 1) for g in (group, now)
    )
    assert read == kept + 1
    assert [s for s in now.subbands if s.number != 1] == [
        s for s in group.subbands if s.number != 1
    ]


def test_a_file_that_has_grown_or_shrunk_is_seen_whatever_its_time_says(group: Group) -> None:
    path = file_of(group, 2)
    before = path.stat()
    with path.open("ab") as file:
        file.write(b"more")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not is_fresh(group)


def test_a_file_that_is_gone_is_missing(group: Group) -> None:
    file_of(group, 1).unlink()
    assert not is_fresh(group)
    now = freshened(group)
    assert (now.id, now.present, now.missing) == (group.id, (0, 2), (1,))
    fault = is_convertible(now, 3)
    assert fault is not None
    assert "sb01" in fault.text or "sb01" in str(now.unreadable)


def test_a_file_that_is_of_another_observation_by_now_is_missing(
    group: Group, incoming: Path
) -> None:
    other = find_groups(incoming, 3)[1]
    shutil.copyfile(file_of(other, 1), file_of(group, 1))
    now = freshened(group)
    assert (now.id, now.start_jd, now.present) == (group.id, group.start_jd, (0, 2))


def test_a_file_that_is_truncated_by_now_is_the_reason_why(group: Group) -> None:
    path = file_of(group, 0)
    os.truncate(path, path.stat().st_size // 2)
    now = freshened(group)
    assert [Path(bad.path) for bad in now.unreadable] == [path]
    fault = is_convertible(now, 3)
    assert fault is not None
    assert fault.code == "truncated"


def test_a_group_without_any_file_left_cannot_be_converted_and_keeps_its_start(
    group: Group, incoming: Path
) -> None:
    other = find_groups(incoming, 3)[1]
    file_of(group, 0).unlink()
    file_of(group, 1).unlink()
    shutil.copyfile(file_of(other, 2), file_of(group, 2))
    now = freshened(group)
    assert (now.id, now.start_jd, now.subbands) == (group.id, group.start_jd, ())
    assert is_convertible(now, 1) is not None


def test_nothing_is_searched_for_beside_the_group_s_own_files(group: Group, incoming: Path) -> None:
    # The same subband under another name, as when a file is renamed by hand.
    path = file_of(group, 1)
    path.rename(incoming / "2025-10-05T03:12:09_sb01.hdf5")
    assert freshened(group).present == (0, 2)


def test_what_was_unreadable_before_stays_in_the_group(group: Group, incoming: Path) -> None:
    path = file_of(group, 0)
    os.truncate(path, path.stat().st_size // 2)
    partial = find_groups(incoming, 3)[0]
    assert partial.unreadable
    assert is_fresh(partial)
    sent_again(file_of(group, 1))
    assert freshened(partial).unreadable == partial.unreadable
