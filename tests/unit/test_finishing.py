"""Which files are finished, and when the others are looked at again."""

from __future__ import annotations

from contimg_dask.stream.finishing import REPORT_AFTER_S, Seen, Tracker, settled_s

NOW_S = 1_800_000_000.0
PATH = "/in/2025-10-05T03:12:06_sb00.hdf5"


def seen(written_s: float, *, renamed_s: float | None = None, size: int = 100) -> Seen:
    changed_s = written_s if renamed_s is None else renamed_s
    return Seen(size_bytes=size, mtime_ns=int(written_s * 1e9), ctime_ns=int(changed_s * 1e9))


def looked_for(tracker: Tracker, now_s: float) -> list[str]:
    return [path for path, _ in tracker.due(now_s)]


def test_a_file_that_was_renamed_into_place_is_looked_at_at_once() -> None:
    assert settled_s(seen(NOW_S - 0.1, renamed_s=NOW_S), NOW_S, 2.0) == NOW_S


def test_a_file_that_was_written_in_place_has_to_rest() -> None:
    assert settled_s(seen(NOW_S - 0.5), NOW_S, 2.0) == NOW_S + 1.5


def test_an_old_file_has_rested() -> None:
    assert settled_s(seen(NOW_S - 1000), NOW_S, 2.0) < NOW_S


def test_a_clock_that_is_ahead_puts_a_file_off_by_no_more_than_its_rest() -> None:
    assert settled_s(seen(NOW_S + 5000), NOW_S, 2.0) == NOW_S + 2.0


def test_a_file_that_grows_is_not_looked_at_before_it_rests() -> None:
    tracker = Tracker(settle_s=2.0)
    for step in range(10):
        now_s = NOW_S + step
        assert tracker.see(PATH, seen(now_s, size=100 + step), now_s)
        assert looked_for(tracker, now_s) == []
    assert looked_for(tracker, NOW_S + 10.9) == []
    assert looked_for(tracker, NOW_S + 11.0) == [PATH]


def test_a_file_that_is_renamed_while_it_rests_is_looked_at_at_once() -> None:
    tracker = Tracker(settle_s=60.0)
    tracker.see(PATH, seen(NOW_S), NOW_S)
    assert looked_for(tracker, NOW_S + 1) == []
    assert not tracker.see(PATH, seen(NOW_S, renamed_s=NOW_S + 1), NOW_S + 1)
    assert looked_for(tracker, NOW_S + 1) == [PATH]


def test_a_good_file_is_not_looked_at_again_until_it_changes() -> None:
    tracker = Tracker(settle_s=2.0)
    tracker.see(PATH, seen(NOW_S - 10), NOW_S)
    tracker.good(PATH)
    assert (tracker.files, tracker.waiting) == (1, 0)
    assert not tracker.see(PATH, seen(NOW_S - 10), NOW_S + 5)
    # Its group or permissions were changed: not its content.
    assert not tracker.see(PATH, seen(NOW_S - 10, renamed_s=NOW_S), NOW_S + 5)
    assert looked_for(tracker, NOW_S + 1e6) == []
    assert tracker.see(PATH, seen(NOW_S + 6, size=101), NOW_S + 6)
    assert looked_for(tracker, NOW_S + 8) == [PATH]


def test_a_bad_file_is_looked_at_for_ever_and_less_and_less_often() -> None:
    tracker = Tracker(settle_s=0.0)
    tracker.see(PATH, seen(NOW_S), NOW_S)
    now_s, gaps_s = NOW_S, []
    while now_s < NOW_S + 86400:
        tracker.bad(PATH, now_s)
        again_s = tracker.next_look_s()
        assert again_s is not None
        gaps_s.append(again_s - now_s)
        assert looked_for(tracker, again_s - 0.5) == []
        assert looked_for(tracker, again_s) == [PATH]
        now_s = again_s
    assert gaps_s == sorted(gaps_s)
    assert (gaps_s[0], gaps_s[-1]) == (1.0, 600.0)


def test_a_bad_file_is_reported_once_and_not_before_it_had_time_to_become_good() -> None:
    tracker = Tracker(settle_s=0.0)
    tracker.see(PATH, seen(NOW_S), NOW_S)
    reported = [
        now_s for now_s in range(int(NOW_S), int(NOW_S) + 3600) if tracker.bad(PATH, float(now_s))
    ]
    assert reported == [int(NOW_S + REPORT_AFTER_S)]
    tracker.see(PATH, seen(NOW_S + 4000, size=7), NOW_S + 4000)
    assert tracker.bad(PATH, NOW_S + 4000 + REPORT_AFTER_S)  # another file of that name


def test_a_file_that_has_been_bad_for_days_is_reported_when_it_is_first_seen() -> None:
    tracker = Tracker(settle_s=2.0)
    tracker.see(PATH, seen(NOW_S - 86400), NOW_S)
    assert tracker.bad(PATH, NOW_S)


def test_a_clock_that_is_set_back_puts_nothing_off() -> None:
    tracker = Tracker(settle_s=2.0)
    tracker.see(PATH, seen(NOW_S), NOW_S)
    assert looked_for(tracker, NOW_S - 86400) == [PATH]


def test_a_file_that_is_gone_is_forgotten() -> None:
    tracker = Tracker(settle_s=0.0)
    tracker.see(PATH, seen(NOW_S), NOW_S)
    assert tracker.gone(PATH)
    assert not tracker.gone(PATH)
    assert (tracker.files, tracker.next_look_s()) == (0, None)
