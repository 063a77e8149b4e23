"""The embedded cluster's own directory: swept when its process is dead, and only then."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from contimg_dask.execution import scratch
from contimg_dask.execution.scratch import dead_scratch, scratch_directory
from contimg_dask.staging.owners import current_owner

from .processes import OtherProcess


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of this test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def have_one(temporary: str) -> Iterator[str]:
    tempfile.tempdir = temporary
    with scratch_directory() as directory:
        yield directory


def left_by_a_killed_process(temporary: Path) -> Path:
    with OtherProcess(have_one, str(temporary)) as other:
        directory = Path(other.yielded())
    assert directory.is_dir()
    return directory


def test_a_directory_is_gone_when_it_was_used() -> None:
    with scratch_directory() as directory:
        Path(directory, "worker").mkdir()
    assert not Path(directory).exists()


def test_what_a_killed_process_left_is_told_and_removed(temporary: Path) -> None:
    directory = left_by_a_killed_process(temporary)
    (directory / "worker").write_bytes(bytes(8192))
    (told,) = dead_scratch(remove=False)
    assert (told.paths, told.size_bytes, told.removed) == ((str(directory),), 8192, False)
    (done,) = dead_scratch(remove=True)
    assert done == replace(told, removed=True)
    assert list(temporary.iterdir()) == []


def test_the_next_cluster_removes_it_by_itself(temporary: Path) -> None:
    dead = left_by_a_killed_process(temporary)
    with scratch_directory():
        assert not dead.exists()


def test_an_empty_directory_of_a_process_that_lives_is_left_alone(temporary: Path) -> None:
    with OtherProcess(have_one, str(temporary)) as other:
        directory = Path(other.yielded())
        assert list(directory.iterdir()) == []
        assert dead_scratch(remove=True) == []
        assert directory.is_dir()


@pytest.mark.parametrize("change", [{"boot_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12},
                                    {"pid_namespace": 1}])  # fmt: skip
def test_what_belongs_to_a_process_that_cannot_be_seen_from_here_is_left_alone(
    temporary: Path, change: dict[str, object]
) -> None:
    owner = replace(current_owner(), **change)  # type: ignore[arg-type]
    directory = Path(tempfile.mkdtemp(prefix=scratch._prefix_of(owner)))
    assert dead_scratch(remove=True) == []
    assert directory.is_dir()


def test_a_number_that_another_process_has_by_now_does_not_keep_a_directory() -> None:
    ours = current_owner()
    directory = tempfile.mkdtemp(
        prefix=scratch._prefix_of(replace(ours, start_ticks=ours.start_ticks - 1))
    )
    (found,) = dead_scratch(remove=True)
    assert found.paths == (directory,)
    assert found.removed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_what_belongs_to_another_user_is_left_alone(temporary: Path) -> None:
    directory = left_by_a_killed_process(temporary)
    os.chown(directory, 12345, -1)
    assert dead_scratch(remove=True) == []
    assert directory.is_dir()


def test_a_link_is_not_followed(temporary: Path) -> None:
    # Anybody may put one into the temporary directory, with whatever name.
    directory = left_by_a_killed_process(temporary)
    elsewhere = temporary / "elsewhere"
    directory.rename(elsewhere)
    directory.symlink_to(elsewhere)
    assert dead_scratch(remove=True) == []
    assert elsewhere.is_dir()


@pytest.mark.parametrize(
    "name", ["contimg-dask-abcdefgh", "contimg-dask-", "contimg-dask-1-2-3-4-x"]
)
def test_other_names_are_nobodys_of_ours(temporary: Path, name: str) -> None:
    (temporary / name).mkdir()
    assert dead_scratch(remove=True) == []
    assert (temporary / name).is_dir()
