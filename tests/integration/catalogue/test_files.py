"""Remembered headers: as they were read, and only for files that are still the same."""

from __future__ import annotations

import pytest

from contimg_dask.catalogue import files
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.model import Reason, UnreadableFile
from tests.integration.catalogue.nouns import make_header


def unreadable(path: str, code: str = "truncated") -> UnreadableFile:
    return UnreadableFile(
        path=path,
        name_stamp="2025-10-05T03:12:06",
        name_number=7,
        reason=Reason(code=code, text=f"{path}: bad"),
    )


def test_headers_come_back_as_they_were_read(catalogue: Catalogue) -> None:
    headers = {h.path: h for h in (make_header(n, s) for n in range(50) for s in range(16))}
    stats = {path: (h.size_bytes, h.mtime_ns) for path, h in headers.items()}
    assert files.recall(catalogue, stats) == {}
    files.remember(catalogue, headers.values(), stats)
    files.remember(catalogue, headers.values(), stats)
    assert files.recall(catalogue, stats) == headers


@pytest.mark.parametrize("change", [(1, 0), (0, 1)])
def test_a_file_whose_size_or_time_has_changed_is_not_remembered(
    catalogue: Catalogue, change: tuple[int, int]
) -> None:
    header = make_header(0, 0, mtime_ns=1_759_633_925_760_000_001)
    now = (header.size_bytes, header.mtime_ns)
    files.remember(catalogue, [header], {})
    assert files.recall(catalogue, {header.path: now}) == {header.path: header}
    changed = (now[0] + change[0], now[1] + change[1])
    assert files.recall(catalogue, {header.path: changed}) == {}
    # What is read then takes its place.
    newer = make_header(0, 0, mtime_ns=5)
    files.remember(catalogue, [newer], {})
    assert files.recall(catalogue, {header.path: now}) == {}
    assert files.recall(catalogue, {header.path: (newer.size_bytes, 5)}) == {newer.path: newer}


def test_what_is_wrong_with_a_file_is_remembered_with_its_name(catalogue: Catalogue) -> None:
    bad = unreadable("/in/2025-10-05T03:12:06_sb07.hdf5")
    files.remember(catalogue, [bad], {bad.path: (10, 20)})
    assert files.recall(catalogue, {bad.path: (10, 20)}) == {bad.path: bad}


def test_what_may_get_better_without_the_file_changing_is_not_remembered(
    catalogue: Catalogue,
) -> None:
    denied = unreadable("/in/2025-10-05T03:12:06_sb07.hdf5", "unreadable-input")
    unseen = unreadable("/in/2025-10-05T03:12:06_sb08.hdf5")
    files.remember(catalogue, [denied, unseen], {denied.path: (10, 20)})
    assert files.recall(catalogue, {denied.path: (10, 20), unseen.path: (0, 0)}) == {}


def test_a_header_that_an_older_version_wrote_with_less_is_read_again(catalogue: Catalogue) -> None:
    header = make_header(0, 0)
    files.remember(catalogue, [header], {})
    with catalogue.writing() as connection:
        connection.exec_driver_sql('UPDATE subband_files SET header = \'{"path": "x"}\'')
    assert files.recall(catalogue, {header.path: (header.size_bytes, header.mtime_ns)}) == {}


def test_files_can_be_forgotten_by_path_and_by_age(catalogue: Catalogue) -> None:
    headers = [make_header(0, subband) for subband in range(3)]
    stats = {h.path: (h.size_bytes, h.mtime_ns) for h in headers}
    files.remember(catalogue, headers, stats)
    assert files.forget(catalogue, [headers[0].path, "/nothing"]) == 1
    assert set(files.recall(catalogue, stats)) == {h.path for h in headers[1:]}
    assert files.forget_older(catalogue, 0.0) == 0
    assert files.forget_older(catalogue, 1e12) == 2
    assert files.recall(catalogue, stats) == {}
