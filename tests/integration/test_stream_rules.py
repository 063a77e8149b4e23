"""What a stream does with files that are unfinished, late, doubled, sent again, corrected, misnamed.

Each test is a row of the table in docs/streaming.md, which names it.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import pytest

from contimg_dask.catalogue import files as subband_files
from contimg_dask.catalogue import queue
from contimg_dask.catalogue.arriving import arrive
from contimg_dask.errors import CatalogueError
from contimg_dask.model import Reason
from contimg_dask.stream import watching
from tests.acceptance.conftest import make_groups
from tests.integration.catalogue.nouns import failed as failed_by_dispatcher
from tests.integration.following import STARTED, SUBBANDS, Follower, following
from tests.services import until

TINY = {"subbands": SUBBANDS, "antennas": 3, "integrations": 2, "channels": 4}
NEXT = "2025-10-05T03:17:15"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of three subbands, to be brought from."""
    directory = tmp_path_factory.mktemp("made")
    make_groups(directory, groups=2, **TINY)
    return directory


Follow = Callable[..., Follower]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written down every two seconds, and looked at as often, is so four times as often."""
    monkeypatch.setattr("contimg_dask.stream.arrivals._SHOWN_EVERY_S", 0.5)
    monkeypatch.setattr("contimg_dask.stream.ingest._AGAIN_AFTER_S", 0.5)
    monkeypatch.setattr("contimg_dask.stream.ingest._POLL_S", 0.5)


@pytest.fixture
def follow(memory_path: Path, made: Path) -> Iterator[Follow]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(following(memory_path, made, **settings))


# -- unfinished ---------------------------------------------------------------------------------


def test_a_file_counts_when_it_has_its_final_name(follow: Follow) -> None:
    stream = follow()
    source = stream.made / stream.name(0)
    unfinished = stream.incoming / source.name.replace(".hdf5", "_incomplete.hdf5")
    shutil.copyfile(source, unfinished)
    shutil.copyfile(source, stream.incoming / f".{source.name}.Xy12Zz")
    stream.looked_twice()
    assert stream.rows() == []
    unfinished.rename(stream.incoming / source.name)
    stream.until_state("collecting")
    assert stream.the_group().present == 1


def test_a_file_that_is_copied_in_place_is_not_taken_by_half(follow: Follow) -> None:
    """Every byte of it is there from the start, as with a copy that makes room first."""
    stream = follow(rescan_s=60)
    source = (stream.made / stream.name(0)).read_bytes()
    target = stream.incoming / stream.name(0)
    with target.open("wb") as file:
        file.write(source)
        file.flush()
        for _ in range(8):
            time.sleep(0.3)
            os.pwrite(file.fileno(), source[:100], 0)
            assert stream.rows() == []
    stream.until_state("collecting")


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
def test_a_file_that_is_no_good_is_missing_and_looked_at_again(follow: Follow, kind: str) -> None:
    stream = follow()
    stream.bring(0, 1)
    path = stream.spoil(2)
    if kind != "truncated":
        path.write_text("" if kind == "empty" else "not HDF5")
    row = stream.until_present(2)
    assert row.state == "collecting"
    assert row.missing == (2,)
    stream.bring(2)
    stream.until_state("queued")
    assert stream.the_group().present == 3


def test_a_file_that_is_no_good_yet_is_counted_and_not_reported(follow: Follow) -> None:
    stream = follow()
    stream.spoil(0)
    stream.looked_twice()
    assert stream.said("file-unusable") == []
    assert stream.ingest.facts()["waiting_files"] == 1


def test_a_file_that_has_been_no_good_for_long_is_reported_once(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contimg_dask.stream.finishing.REPORT_AFTER_S", 1.0)
    stream = follow()
    stream.spoil(0)
    assert "truncated" in stream.until_said("file-unusable")
    stream.looked_twice()
    assert len(stream.said("file-unusable")) == 1
    assert stream.told().count("file-unusable") == 1


def test_a_file_that_may_not_be_read_is_taken_as_soon_as_it_may(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the reading is refused instead."""
    stream = follow(start=False)
    real = h5py.File
    refused = [True]

    def asked(path: str, *arguments: Any, **options: Any) -> h5py.File:
        if refused[0] and str(path).endswith("_sb01.hdf5"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(h5py, "File", asked)
    stream.ingest.start()
    stream.bring(0, 1, 2)
    assert stream.until_present(2).missing == (1,)
    refused[0] = False
    stream.until_state("queued")


# -- whole, and not -----------------------------------------------------------------------------


def test_a_group_is_queued_the_moment_its_last_subband_is_finished(follow: Follow) -> None:
    stream = follow(rescan_s=60, settle_s=60, collecting_timeout_s=600)
    stream.bring(0, 1)
    assert stream.until_present(2).state == "collecting"
    before_s = time.time()
    stream.bring(2)
    (row,) = stream.until_state("queued")
    assert row.id == STARTED
    assert row.live
    assert row.complete_s is not None
    assert before_s - 0.1 <= row.complete_s <= time.time()
    assert stream.paths(row.key) == [stream.name(n) for n in range(3)]


def test_files_that_come_before_watching_has_begun_are_found_when_it_does(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = threading.Event()
    real = watching.watch

    def late(*arguments: Any, **options: Any) -> Iterator[set[Any]]:
        assert begin.wait(20)
        return real(*arguments, **options)

    monkeypatch.setattr(watching, "watch", late)
    stream = follow(rescan_s=600, settle_s=1, collecting_timeout_s=600)
    stream.bring(0, 1, 2)
    time.sleep(1.5)
    assert stream.rows() == []
    begin.set()
    stream.until_state("queued")


def test_an_incomplete_group_fails_when_its_time_is_over_naming_what_is_missing(
    follow: Follow,
) -> None:
    stream = follow(collecting_timeout_s=2)
    stream.bring(0, 2)
    stream.until_state("collecting")
    (row,) = stream.until_state("failed")
    assert row.reason is not None
    assert row.reason.code == "missing-subbands"
    assert "missing: sb01" in row.reason.text
    until(lambda: stream.failed, 20, every_s=0.05)
    record = json.loads(stream.failed_record(row.id).read_text())
    assert record["reason"]["code"] == "missing-subbands"
    assert [one.id for one in stream.failed] == [row.id]


def test_a_record_that_a_kill_has_prevented_is_written_after_the_restart(
    memory_path: Path, made: Path
) -> None:
    with following(memory_path, made, collecting_timeout_s=1) as stream:
        stream.bring(0, 2)
        (row,) = stream.until_state("failed")
        until(lambda: stream.failed, 20, every_s=0.05)
    stream.failed_record(row.id).unlink()
    with following(memory_path, made, collecting_timeout_s=1) as stream:
        until(stream.failed_record(row.id).exists, 20, every_s=0.05)
        assert stream.rows() == [row]


def test_an_incomplete_group_with_enough_subbands_is_queued_as_partial(follow: Follow) -> None:
    stream = follow(collecting_timeout_s=2, min_subbands=2)
    stream.bring(0, 2)
    stream.until_state("collecting")
    (row,) = stream.until_state("queued")
    assert (row.present, row.missing) == (2, (1,))


def test_the_time_of_a_group_begins_anew_with_each_file(follow: Follow) -> None:
    stream = follow(collecting_timeout_s=3)
    for subband in range(2):
        stream.bring(subband)
        time.sleep(2)
        assert stream.states() == ["collecting"]
    stream.until_state("failed")


# -- late ---------------------------------------------------------------------------------------


def test_a_late_file_makes_a_failed_group_whole(follow: Follow) -> None:
    stream = follow(collecting_timeout_s=1)
    stream.bring(0, 1)
    stream.until_state("failed")
    stream.bring(2)
    (row,) = stream.until_state("queued")
    assert row.present == 3


def test_a_late_file_is_taken_along_while_a_partial_group_waits_for_its_turn(
    follow: Follow,
) -> None:
    stream = follow(collecting_timeout_s=1, min_subbands=2)
    stream.bring(0, 1)
    stream.until_state("queued")
    stream.bring(2)
    stream.until_present(3)
    assert stream.states() == ["queued"]


def test_a_late_file_changes_nothing_of_a_published_group_and_is_said(follow: Follow) -> None:
    stream = follow(collecting_timeout_s=1, min_subbands=2)
    stream.bring(0, 1)
    (row,) = stream.until_state("queued")
    before = stream.publish(row)
    stream.bring(2)
    assert "replace" in stream.until_said("files-late")
    stream.looked_twice()
    assert stream.rows() == [before]
    assert stream.told().count("files-late") == 1


def test_a_late_file_of_a_running_group_is_said_when_that_is_published(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contimg_dask.stream.arrivals._AGAIN_AFTER_S", 0.2)
    stream = follow(collecting_timeout_s=1, min_subbands=2)
    stream.bring(0, 1)
    (row,) = stream.until_state("queued")
    stream.begin(row)
    (row,) = stream.until_state("running")
    stream.bring(2)
    time.sleep(0.6)
    assert stream.states() == ["running"]
    stream.publish(row)
    stream.until_said("files-late")
    assert stream.states() == ["published"]


# -- sent again, corrected ----------------------------------------------------------------------


def test_a_file_sent_again_while_its_group_is_converted_has_it_queued_again_if_it_fails(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contimg_dask.stream.arrivals._AGAIN_AFTER_S", 0.2)
    stream = follow()
    stream.bring(0, 1, 2)
    (row,) = stream.until_state("queued")
    attempt = stream.begin(row)
    stream.until_state("running")
    stream.bring(1)
    time.sleep(0.6)
    assert stream.states() == ["running"]
    reason = Reason(code="input-changed", text="it changed while it was read")
    assert queue.fail(stream.catalogue, row.key, attempt, reason, quarantine=False, seconds={})
    stream.until_state("queued")


def test_a_file_sent_again_never_moves_a_published_group(follow: Follow) -> None:
    stream = follow()
    stream.bring(0, 1, 2)
    (row,) = stream.until_state("queued")
    before = stream.publish(row)
    time.sleep(0.05)
    stream.bring(1)
    stream.until_said("files-late")
    stream.looked_twice()
    assert stream.rows() == [before]


def test_a_corrected_file_has_a_failed_group_queued_again(follow: Follow) -> None:
    stream = follow()
    stream.bring(0, 1, 2)
    (row,) = stream.until_state("queued")
    reason = Reason(code="nan-everywhere", text="no value of sb01 is finite")
    failed_by_dispatcher(stream.catalogue, row.key, reason)
    stream.looked_twice()
    assert stream.states() == ["failed"]
    stream.bring(1)
    stream.until_state("queued")


def test_a_file_that_was_away_and_is_brought_back_has_its_group_queued_again(
    follow: Follow,
) -> None:
    """It has the size and the times it had before."""
    stream = follow()
    path, *_ = stream.bring(0, 1, 2)
    (row,) = stream.until_state("queued")
    away = stream.incoming.parent / "away.hdf5"
    path.rename(away)
    reason = Reason(code="unreadable-input", text=f"{path}: No such file or directory")
    failed_by_dispatcher(stream.catalogue, row.key, reason)
    stream.looked_twice()
    assert stream.states() == ["failed"]
    away.rename(path)
    stream.until_state("queued")


def test_a_file_that_is_set_aside_does_not_count_any_more(follow: Follow) -> None:
    stream = follow()
    paths = stream.bring(0, 1)
    stream.until_present(2)
    paths[0].rename(paths[0].with_name(paths[0].name + ".corrupted"))
    stream.until_present(1)
    stream.bring(2)
    row = stream.until_present(2)
    assert (row.state, row.missing) == ("collecting", (0,))


def test_a_group_whose_files_are_all_taken_away_fails(follow: Follow) -> None:
    stream = follow()
    brought = stream.bring(0, 1)
    stream.until_present(2)
    for path in brought:
        path.rename(path.with_name(path.name + ".corrupted"))
    (row,) = stream.until_state("failed")
    assert row.reason is not None
    assert "taken away" in row.reason.text
    until(stream.failed_record(row.id).exists, 20, every_s=0.05)


def test_files_that_are_cleared_away_leave_their_products_alone(follow: Follow) -> None:
    stream = follow()
    paths = stream.bring(0, 1, 2)
    (row,) = stream.until_state("queued")
    before = stream.publish(row)
    for path in paths:
        path.unlink()
    stream.looked_twice()
    stream.looked_twice()
    assert stream.rows() == [before]
    assert stream.ingest.facts()["files"] == 0


# -- doubled, misnamed --------------------------------------------------------------------------


def test_a_subband_that_is_there_twice_fails_until_one_is_set_aside(follow: Follow) -> None:
    stream = follow()
    second = stream.bring(1, name=f"{STARTED[:-2]}08_sb01.hdf5")[0]
    stream.bring(0, 1, 2)
    (row,) = stream.until_state("failed")
    assert row.reason is not None
    assert row.reason.code == "duplicate-subband"
    assert second.name in row.reason.text
    second.rename(second.with_name(second.name + ".corrupted"))
    stream.bring(0)
    (row,) = stream.until_state("queued")
    assert row.present == 3


def test_a_node_that_does_not_know_itself_is_known_by_its_frequencies(follow: Follow) -> None:
    stream = follow()
    stream.bring(2, name=f"{STARTED[:-2]}07_sb00.hdf5")
    stream.bring(0, 1)
    (row,) = stream.until_state("queued")
    assert (row.present, row.missing) == (3, ())


@pytest.mark.parametrize("apart_s", [1, 22, 82, 400])
def test_files_are_together_by_their_start_however_far_apart_their_names_are(
    follow: Follow, apart_s: int
) -> None:
    """At 400 s the name is one that the next group would have."""
    stream = follow()
    stamp = _later(STARTED, apart_s)
    stream.bring(0, 1, 2, group=1)
    stream.until_state("queued")
    stream.bring(1, name=f"{stamp}_sb01.hdf5")
    stream.bring(0, 2)
    first, second = stream.until_state("queued", "queued")
    assert (first.present, second.present) == (3, 3)
    assert f"{stamp}_sb01.hdf5" in stream.paths(first.key)


def test_groups_that_begin_within_seconds_of_each_other_are_two(
    follow: Follow, tmp_path: Path
) -> None:
    stream = follow()
    make_groups(tmp_path / "after", groups=1, **TINY | {"start": "2025-10-05T03:12:30"})
    stream.bring(0, 1, 2)
    for path in sorted((tmp_path / "after").iterdir()):
        shutil.move(path, stream.incoming / path.name)
    first, second = stream.until_state("queued", "queued")
    assert (first.id, second.id) == (STARTED, "2025-10-05T03:12:30")
    assert (first.present, second.present) == (3, 3)


def test_a_file_of_a_clock_that_failed_counts_as_missing(follow: Follow, tmp_path: Path) -> None:
    stream = follow(collecting_timeout_s=1)
    make_groups(tmp_path / "bad", "mjd-55000:0:1", groups=1, **TINY)
    stream.bring(0, 2)
    shutil.move(tmp_path / "bad" / stream.name(1), stream.incoming)
    (row,) = stream.until_state("failed")
    assert row.reason is not None
    assert row.reason.code == "clock-apart"
    assert row.missing == (1,)


def test_a_group_of_files_that_are_all_no_good_fails_under_one_name(follow: Follow) -> None:
    stream = follow(collecting_timeout_s=2)
    for subband in range(3):
        stream.spoil(subband)
    (row,) = stream.until_state("failed")
    assert row.reason is not None
    assert row.reason.code == "truncated"
    assert row.start_mjd is None
    # Sent again, the first one under another name than the group has.
    stream.bring(1)
    stream.bring(0, 2)
    (again,) = stream.until_state("queued")
    assert (again.key, again.present) == (row.key, 3)
    assert again.start_mjd is not None


def test_files_of_the_older_kind_without_a_number_are_taken(follow: Follow, tmp_path: Path) -> None:
    stream = follow()
    make_groups(tmp_path / "old", "no-number:0:1", groups=1, **TINY)
    for path in sorted((tmp_path / "old").iterdir()):
        shutil.move(path, stream.incoming)
    assert stream.until_present(3).state == "queued"


# -- the directory ------------------------------------------------------------------------------


def test_a_directory_that_goes_and_comes_back_loses_nothing(follow: Follow) -> None:
    stream = follow()
    stream.bring(0, 1)
    stream.until_state("collecting")
    away = stream.incoming.with_name("unmounted")
    stream.incoming.rename(away)
    assert "No such file" in stream.until_said("stream-troubled")
    away.rename(stream.incoming)
    stream.until_said("stream-well")
    stream.bring(2)
    stream.until_state("queued")


def test_a_directory_in_whose_place_there_is_an_empty_one_for_a_moment_loses_nothing(
    follow: Follow,
) -> None:
    """As when a file system is unmounted and mounted again."""
    stream = follow()
    stream.bring(0, 1)
    stream.until_state("collecting")
    away = stream.incoming.with_name("unmounted")
    stream.incoming.rename(away)
    stream.incoming.mkdir()
    time.sleep(0.3)
    stream.incoming.rmdir()
    away.rename(stream.incoming)
    stream.bring(2)
    (row,) = stream.until_state("queued")
    assert row.present == 3
    assert "group-failed" not in stream.told()  # as if its files had been taken away


def test_a_catalogue_that_is_away_for_a_moment_loses_no_group(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is away when the group is whole: nothing more will come to make it due again."""
    stream = follow(rescan_s=60)
    refused = []

    def away(*arguments: Any, **options: Any) -> Any:
        if len(refused) < 2:
            refused.append(arguments)
            raise CatalogueError("the server is away")
        return arrive(*arguments, **options)

    stream.bring(0, 1)
    stream.until_present(2)
    monkeypatch.setattr("contimg_dask.stream.arrivals.arrive", away)
    stream.bring(2)
    stream.until_state("queued")
    assert len(refused) == 2
    assert "the server is away" in stream.until_said("stream-troubled")


def test_without_events_looking_finds_everything(follow: Follow) -> None:
    stream = follow(poll=True)
    assert stream.ingest.facts()["by"] == "looking"
    stream.bring(0, 1, 2)
    stream.until_state("queued")


def test_a_group_that_waits_is_waited_for_after_a_restart(memory_path: Path, made: Path) -> None:
    with following(memory_path, made) as stream:
        stream.bring(0, 1)
        stream.until_state("collecting")
    with following(memory_path, made) as stream:
        stream.looked_twice()
        assert stream.states() == ["collecting"]
        stream.bring(2)
        stream.until_state("queued")


def test_a_restart_changes_nothing_and_opens_no_file(
    memory_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with following(memory_path, made) as stream:
        stream.bring(0, 1, 2)
        (row,) = stream.until_state("queued")
        stream.publish(row)
        stream.bring(0, 1, 2, group=1)
        before, told = stream.until_state("published", "queued"), stream.told()
    monkeypatch.setattr(h5py, "File", None)
    with following(memory_path, made) as stream:
        stream.looked_twice()
        assert stream.rows() == before
        assert stream.told() == told
        assert stream.ingest.facts()["files"] == 6


def test_what_an_outage_has_left_is_a_backlog(memory_path: Path, made: Path) -> None:
    with following(
        memory_path, made, start=False, live_within_s=0, collecting_timeout_s=0
    ) as stream:
        stream.bring(0, 1, 2)
        time.sleep(0.1)
        stream.ingest.start()
        (row,) = stream.until_state("queued")
        assert not row.live


def test_headers_of_files_that_are_gone_and_old_events_are_forgotten(
    memory_path: Path, made: Path
) -> None:
    with following(memory_path, made) as stream:
        first, *_ = stream.bring(0, 1, 2)
        stream.until_state("queued")
        shutil.copy(first, memory_path / "elsewhere.hdf5")
    first.unlink()
    with following(memory_path, made, start=False, keep_events_days=0) as stream:
        known = subband_files.paths_below(stream.catalogue, str(stream.incoming))
        assert str(first) in known
        stream.ingest.start()
        assert "1 header(s)" in stream.until_said("housekeeping")
        left = subband_files.paths_below(stream.catalogue, str(stream.incoming))
        assert left == known - {str(first)}
        assert stream.told() == []
        assert stream.states() == ["queued"]


def _later(stamp: str, seconds: int) -> str:

    return (datetime.fromisoformat(stamp) + timedelta(seconds=seconds)).isoformat()
