"""No space left: refused beforehand with both numbers, survived when it happens all the same."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from contimg_dask.batch import Request, decide
from contimg_dask.convert import convert_in_order
from contimg_dask.errors import NoSpaceError
from contimg_dask.execution import steps
from contimg_dask.model import ConversionPlan, GroupRecord
from contimg_dask.python_api import find_groups
from contimg_dask.settings import Settings
from contimg_dask.simulate import Observation, simulate
from tests.reference import new_attempt

SIZE_MB = 8


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 8 MB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("incoming")
    simulate(directory, Observation(subbands=4, antennas=40, integrations=4))
    return directory


def decided(incoming: Path, out: Path) -> ConversionPlan | GroupRecord:
    return decide(find_groups(incoming, 4), Request(output_dir=out, settings=Settings()))[0]


def test_a_group_that_does_not_fit_is_refused_with_both_numbers(
    incoming: Path, small_disk: Path
) -> None:
    record = decided(incoming, small_disk)
    assert isinstance(record, GroupRecord)
    assert record.reason is not None
    assert record.reason.code == "no-space"
    assert record.reason.text.count("MB") == 2
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("ballast_mb", [0, 7])
def test_a_disk_that_becomes_full_while_it_is_written_is_named_and_left_clean(
    incoming: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, ballast_mb: int
) -> None:
    # Somebody else takes the space between the check and the write: with and without room for the
    # headers, so that casacore meets the full disk too.
    for module in ("room", "reserving"):
        monkeypatch.setattr(f"contimg_dask.staging.{module}.usable_bytes", lambda *_, **__: 10**12)
    plan = decided(incoming, small_disk)
    assert isinstance(plan, ConversionPlan)
    (small_disk / "ballast").write_bytes(bytes(ballast_mb << 20))
    attempt = new_attempt()
    with pytest.raises(NoSpaceError) as caught:
        convert_in_order(plan, attempt)
    assert caught.value.code == "no-space"
    assert str(small_disk) in str(caught.value)
    steps.discard_attempt(plan, attempt)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
