"""Which files are one observation, and which subband each of them is."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contimg_dask.grouping import assemble_any, group_files
from contimg_dask.model import Group, Reason, SubbandHeader, UnreadableFile

START = datetime(2025, 10, 5, 3, 12, 6, tzinfo=UTC)
ID = "2025-10-05T03:12:06"
CADENCE_S = 309.237645
INTEGRATION_S = 12.884901888
TOP_HZ = 1498.75e6
SUBBAND_HZ = 11.71875e6
CHANNEL_HZ = 244140.625
CHANNELS = 48
CLOCK_FAILURE_JD = 2455000.5


def stamp(seconds: float) -> str:
    """Stamp this long after START, as a node writes it."""
    return f"{START + timedelta(seconds=int(seconds)):%Y-%m-%dT%H:%M:%S}"


def start_jd(seconds: float) -> float:
    """Julian date of the first integration of an observation that begins then."""
    noon = datetime(2000, 1, 1, 12, tzinfo=UTC)
    moment = START + timedelta(seconds=seconds + INTEGRATION_S / 2)
    return 2451545.0 + (moment - noon).total_seconds() / 86400


def file_name(seconds: float, number: int | None) -> str:
    return f"/in/{stamp(seconds)}" + ("" if number is None else f"_sb{number:02d}") + ".hdf5"


def header(
    number: int,
    *,
    begin_s: float = 0,
    late_s: float = 0,
    named: int | None = -1,
    shift_hz: float = 0,
    **changes: Any,
) -> SubbandHeader:
    """Header of the subband with this number by frequency, in an observation at ``begin_s``.

    The name says the same, unless ``named`` says otherwise, and is ``late_s`` late.
    """
    name_number = number if named == -1 else named
    top_hz = TOP_HZ - number * SUBBAND_HZ + shift_hz
    fields: dict[str, Any] = {
        "path": file_name(begin_s + late_s, name_number),
        "size_bytes": 145_348_600,
        "mtime_ns": 0,
        "name_stamp": stamp(begin_s + late_s),
        "name_number": name_number,
        "start_jd": start_jd(begin_s),
        "integrations": 24,
        "rows": 111_744,
        "channels": CHANNELS,
        "products": (-5, -6),
        "lowest_freq_hz": top_hz - (CHANNELS - 0.5) * CHANNEL_HZ,
        "highest_freq_hz": top_hz - 0.5 * CHANNEL_HZ,
        "channel_width_hz": CHANNEL_HZ,
    }
    return SubbandHeader(**(fields | changes))


def group_of(numbers: Iterable[int], begin_s: float = 0, **late_s: float) -> list[SubbandHeader]:
    """Headers of one observation; ``sb07=3`` lets a name be 3 s late."""
    return [header(n, begin_s=begin_s, late_s=late_s.get(f"sb{n:02d}", 0)) for n in numbers]


def broken(number: int | None, seconds: float = 0) -> UnreadableFile:
    return UnreadableFile(
        path=file_name(seconds, number),
        name_stamp=stamp(seconds),
        name_number=number,
        reason=Reason(code="truncated", text=f"{file_name(seconds, number)}: truncated"),
    )


def numbers_by_path(group: Group) -> dict[str, int]:
    return {subband.header.path: subband.number for subband in group.subbands}


def paths(group: Group) -> list[str]:
    return [s.header.path for s in group.subbands] + [file.path for file in group.unreadable]


# ------------------------------------------------------------------------ names and start times

LATE_NAMES: dict[str, dict[int, float]] = {
    "names agree, as in 2 % of groups": {},
    "names within 1 s": {1: 1, 4: 1, 15: 1},
    "one node 22 s late after a restart": {7: 22},
    "one node 82 s late": {3: 82, 4: 1},
    "sb00 the late one": {0: 82},
    "names before the first integration": {2: -9, 9: -22},
    "every node at its own time": {n: (n * 7) % 23 for n in range(16)},
}


@pytest.mark.parametrize("late_s", LATE_NAMES.values(), ids=LATE_NAMES.keys())
def test_one_start_time_is_one_group_however_the_names_differ(late_s: dict[int, float]) -> None:
    headers = [header(n, late_s=late_s.get(n, 0)) for n in range(16)]
    (group,) = group_files(headers, [], 16)
    assert group.present == tuple(range(16))
    assert (group.missing, group.fault, group.notes, group.unreadable) == ((), None, (), ())
    assert group.id == stamp(late_s.get(0, 0))
    assert group.start_jd == start_jd(0)
    assert group.bytes_in == 16 * 145_348_600


def test_equal_names_with_different_start_times_are_two_groups() -> None:
    early = group_of(range(8))
    late = [header(n, begin_s=13, late_s=-13) for n in range(8, 16)]
    assert {h.name_stamp for h in early + late} == {ID}
    groups = group_files(early + late, [], 16)
    assert [group.present for group in groups] == [tuple(range(8)), tuple(range(8, 16))]


@pytest.mark.parametrize(("apart_ms", "groups"), [(0.05, 1), (0.9, 1), (1.2, 2), (50, 2)])
def test_start_times_within_a_millisecond_are_the_same(apart_ms: float, groups: int) -> None:
    late = header(1, start_jd=start_jd(0) + apart_ms / 86_400_000)
    assert len(group_files([header(0), late], [], 16)) == groups


def test_successive_groups_are_told_apart() -> None:
    headers = [h for k in range(3) for h in group_of(range(16), k * CADENCE_S, sb05=22)]
    groups = group_files(headers, [], 16)
    assert [group.id for group in groups] == [stamp(k * CADENCE_S) for k in range(3)]
    assert all(group.missing == () for group in groups)


def test_a_group_within_30_s_of_the_last_is_told_apart_though_their_names_interleave() -> None:
    # The old group's nodes are late by up to 82 s, the new one begins 30 s after it.
    old = [header(n, late_s=(n * 11) % 83) for n in range(16)]
    new = [header(n, begin_s=30, late_s=(n * 5) % 23) for n in range(16)]
    stamps = sorted((h.name_stamp, h.start_jd) for h in old + new)
    assert [jd for _, jd in stamps] != sorted(jd for _, jd in stamps)
    groups = group_files(old + new, [], 16)
    assert [sorted(paths(g)) for g in groups] == [sorted(h.path for h in g) for g in (old, new)]
    assert [group.id for group in groups] == [stamp(0), stamp(30)]
    assert [group.missing for group in groups] == [(), ()]


def test_two_groups_never_share_an_id() -> None:
    # The old group lost sb00, and its sb01 was stamped in the second the new sb00 was.
    old = group_of(range(1, 16), sb01=30)
    new = group_of(range(16), begin_s=30)
    groups = group_files(old + new, [], 16)
    assert [len(group.subbands) for group in groups] == [15, 16]
    assert groups[0].id != groups[1].id


# -------------------------------------------------------------------------------- what is missing


@pytest.mark.parametrize(
    "missing",
    [
        (3,),
        (3, 4, 5, 6),
        (0,),
        (0, 1, 2, 3),
        (12, 13, 14, 15),
        (0, 15),
        (1, 2, 8, 9, 10),
        tuple(n for n in range(16) if n != 9),
    ],
    ids=str,
)
def test_missing_subbands_are_counted_and_no_fault(missing: tuple[int, ...]) -> None:
    present = tuple(n for n in range(16) if n not in missing)
    (group,) = group_files(group_of(present), [], 16)
    assert (group.present, group.missing, group.fault) == (present, missing, None)


def test_the_windows_ascend_in_frequency() -> None:
    (group,) = group_files(group_of([4, 0, 15, 7, 1]), [], 16)
    assert [subband.number for subband in group.subbands] == [15, 7, 4, 1, 0]
    centres_hz = [subband.header.centre_freq_hz for subband in group.subbands]
    assert centres_hz == sorted(centres_hz)


# ------------------------------------------------------------------------------ ids and dates


@pytest.mark.parametrize(
    ("present", "late_s", "group_id"),
    [
        (range(16), {"sb00": 1}, stamp(1)),
        (range(16), {"sb00": 20, "sb01": 1}, stamp(20)),
        (range(1, 16), {"sb01": 2, "sb02": 1}, stamp(2)),
        ((9, 11), {"sb09": 82}, stamp(82)),
    ],
)
def test_the_id_is_the_name_stamp_of_the_lowest_numbered_subband(
    present: Iterable[int], late_s: dict[str, float], group_id: str
) -> None:
    (group,) = group_files(group_of(present, **late_s), [], 16)
    assert group.id == group_id


def test_the_id_follows_the_number_by_frequency_not_by_name() -> None:
    lost = header(7, named=0, late_s=5)
    (group,) = group_files([*group_of([1, 2, 3], sb01=1), lost], [], 16)
    assert group.id == stamp(1)


def test_a_group_across_midnight_is_one_group_named_by_its_lowest_subband() -> None:
    midnight_s = 20 * 3600 + 47 * 60 + 54
    before = [header(n, begin_s=midnight_s - 1) for n in range(1, 8)]
    after = [header(n, begin_s=midnight_s - 1, late_s=1) for n in (0, *range(8, 16))]
    (group,) = group_files(before + after, [], 16)
    assert {h.name_stamp for h in before} == {"2025-10-05T23:59:59"}
    assert (group.id, group.missing) == ("2025-10-06T00:00:00", ())


def test_groups_come_in_order_of_time() -> None:
    starts_s = [900, 0, 600, 86400, 300]
    headers = [h for s in starts_s for h in group_of([0, 1], s)]
    groups = group_files(headers, [broken(3, 450), broken(3, -500)], 2)
    expected_s = sorted([*starts_s, 450, -500])
    assert [group.id for group in groups] == [stamp(s) for s in expected_s]


# -------------------------------------------------------------------- names that lie about numbers

MISNAMED: dict[str, list[tuple[int, int]]] = {
    # (number by frequency, number in the name)
    "sb07 of a whole group": [(n, 0 if n == 7 else n) for n in range(16)],
    "sb15 of a whole group": [(n, 0 if n == 15 else n) for n in range(16)],
    "sb07, and sb00 is missing": [(n, 0 if n == 7 else n) for n in range(1, 16)],
    "sb01, and sb00 is missing": [(n, 0 if n == 1 else n) for n in range(1, 16)],
    "two files only, both named sb00": [(0, 0), (7, 0)],
    "two files only, sb00 missing": [(3, 3), (7, 0)],
    "two files only, the lost one higher": [(3, 0), (7, 7)],
    "three lost nodes": [(n, 0 if n in (5, 9, 11) else n) for n in range(16)],
    "only lost nodes, and sb00": [(0, 0), (5, 0), (9, 0)],
    "lost nodes outnumber the others": [(2, 2), (5, 0), (9, 0), (11, 0)],
    "another number": [(n, 12 if n == 4 else n) for n in range(12)],
}


@pytest.mark.parametrize("files", MISNAMED.values(), ids=MISNAMED.keys())
def test_frequencies_tell_which_subband_a_misnamed_file_is(files: list[tuple[int, int]]) -> None:
    headers = [header(n, named=named, late_s=n if n != named else 0) for n, named in files]
    (group,) = group_files(headers, [], 16)
    assert group.fault is None
    assert numbers_by_path(group) == {h.path: n for h, (n, _) in zip(headers, files, strict=True)}
    wrong = [h.path for h, (n, named) in zip(headers, files, strict=True) if n != named]
    assert len(group.notes) == len(wrong)
    assert all(any(path in note for note in group.notes) for path in wrong)


def test_older_names_without_numbers_are_numbered_by_frequency() -> None:
    headers = [header(n, named=None, late_s=n) for n in (2, 0, 1, 3)]
    (group,) = group_files(headers, [], 4)
    assert numbers_by_path(group) == {file_name(n, None): n for n in range(4)}
    assert (group.id, group.fault, group.notes) == (stamp(0), None, ())


def test_a_hole_between_older_names_without_numbers_is_missing() -> None:
    headers = [header(n, named=None, late_s=n) for n in (0, 1, 4)]
    (group,) = group_files(headers, [], 5)
    assert (group.present, group.missing, group.fault) == ((0, 1, 4), (2, 3), None)


def test_one_name_with_a_number_numbers_the_others() -> None:
    headers = [header(5, named=None, late_s=1), header(6), header(9, named=None, late_s=2)]
    (group,) = group_files(headers, [], 16)
    assert group.present == (5, 6, 9)


# -------------------------------------------------------------------------- frequencies that clash


def fault_of(headers: Sequence[SubbandHeader], expected: int = 16) -> Reason:
    (group,) = group_files(headers, [], expected)
    assert group.fault is not None
    assert sorted(paths(group)) == sorted(h.path for h in headers)
    # Where frequencies clash, numbers by frequency mean nothing: no file is called misnamed.
    assert group.notes == ()
    return group.fault


def test_two_files_for_one_subband_are_a_fault_that_names_both() -> None:
    again = header(5, late_s=2)
    fault = fault_of([*group_of(range(16)), again])
    assert fault.code == "duplicate-subband"
    assert again.path in fault.text
    assert file_name(0, 5) in fault.text


def test_two_files_for_one_subband_are_a_fault_under_different_numbers_too() -> None:
    fault = fault_of([*group_of(range(16)), header(5, named=0, late_s=2)])
    assert fault.code == "duplicate-subband"
    assert file_name(0, 5) in fault.text


@pytest.mark.parametrize("shift_channels", [0.2, 1, 24, 47])
def test_subbands_that_overlap_in_frequency_are_a_fault(shift_channels: float) -> None:
    moved = header(5, shift_hz=shift_channels * CHANNEL_HZ)
    fault = fault_of([*group_of(n for n in range(16) if n != 5), moved])
    assert fault.code == "frequency-overlap"
    assert moved.path in fault.text


@pytest.mark.parametrize("shift_channels", [0.2, 1, 24, 47])
def test_a_gap_that_is_not_whole_subbands_is_a_fault(shift_channels: float) -> None:
    moved = header(5, shift_hz=shift_channels * CHANNEL_HZ)
    fault = fault_of([*group_of(n for n in range(16) if n not in (4, 5)), moved])
    assert fault.code == "frequency-gap"
    assert moved.path in fault.text


@pytest.mark.parametrize("shift_channels", [-0.05, 0.05])
def test_rounding_of_frequencies_is_no_fault(shift_channels: float) -> None:
    moved = header(5, shift_hz=shift_channels * CHANNEL_HZ)
    (group,) = group_files([*group_of(n for n in range(16) if n != 5), moved], [], 16)
    assert (group.fault, group.missing) == (None, ())


def test_more_subbands_than_expected_are_a_fault_with_both_numbers() -> None:
    fault = fault_of(group_of(range(16)), expected=8)
    assert fault.code == "frequency-gap"
    assert "0 to 7" in fault.text
    assert "--expected-subbands" in fault.text


DISAGREEMENTS: dict[str, dict[str, Any]] = {
    "fewer channels": {
        "channels": 24,
        "lowest_freq_hz": TOP_HZ - 5 * SUBBAND_HZ - 23.5 * CHANNEL_HZ,
    },
    "wider channels": {
        "channels": 24,
        "channel_width_hz": 2 * CHANNEL_HZ,
        "lowest_freq_hz": TOP_HZ - 6 * SUBBAND_HZ + CHANNEL_HZ,
        "highest_freq_hz": TOP_HZ - 5 * SUBBAND_HZ - CHANNEL_HZ,
    },
    "narrower channels": {
        "channel_width_hz": CHANNEL_HZ / 2,
        "lowest_freq_hz": TOP_HZ - 5.5 * SUBBAND_HZ - 11.75 * CHANNEL_HZ,
        "highest_freq_hz": TOP_HZ - 5.5 * SUBBAND_HZ + 11.75 * CHANNEL_HZ,
    },
    "other products": {"products": (-5, -7, -8, -6)},
    "products in another order": {"products": (-6, -5)},
    "fewer integrations": {"integrations": 23},
    "fewer rows": {"rows": 111_743},
}


@pytest.mark.parametrize("position", ["first", "last"])
@pytest.mark.parametrize("changes", DISAGREEMENTS.values(), ids=DISAGREEMENTS.keys())
def test_subbands_that_differ_are_a_fault_that_names_the_odd_one(
    changes: dict[str, Any], position: str
) -> None:
    # Files are compared in order of path: the odd one comes first or last in it.
    odd = header(5, late_s=-9 if position == "first" else 9, **changes)
    fault = fault_of([*group_of(n for n in range(16) if n != 5), odd])
    assert fault.code == "subbands-disagree"
    assert odd.path in fault.text


# ------------------------------------------------------------------------- files that cannot be used


def test_a_file_of_a_failed_clock_is_an_unreadable_member_of_the_group_its_name_tells() -> None:
    failed = header(4, late_s=1, start_jd=CLOCK_FAILURE_JD)
    (group,) = group_files([*group_of([*range(4), *range(5, 16)]), failed], [], 16)
    assert (group.missing, group.fault) == ((4,), None)
    (file,) = group.unreadable
    assert (file.path, file.name_number, file.reason.code) == (failed.path, 4, "clock-apart")
    assert failed.path in file.reason.text
    assert "2009-06-18" in file.reason.text


def test_a_group_of_failed_clocks_keeps_the_id_and_the_files_of_its_names() -> None:
    headers = [header(n, late_s=n % 2, start_jd=CLOCK_FAILURE_JD) for n in range(16)]
    (group,) = group_files(headers, [], 16)
    assert (group.id, group.start_jd, group.subbands) == (ID, None, ())
    assert sorted(paths(group)) == sorted(h.path for h in headers)


@pytest.mark.parametrize(
    ("late_s", "trusted"),
    [(-590, True), (-82, True), (82, True), (600, True), (610, False), (-610, False)],
)
def test_name_and_header_may_be_ten_minutes_apart(late_s: float, trusted: bool) -> None:
    (group,) = group_files([header(0, late_s=late_s)], [], 16)
    assert (len(group.subbands), len(group.unreadable)) == ((1, 0) if trusted else (0, 1))


@pytest.mark.parametrize("late_s", [-120, -60, 0, 22, 82, 119, 120])
def test_an_unreadable_file_belongs_to_the_group_within_120_s_by_name(late_s: float) -> None:
    (group,) = group_files(group_of(range(15)), [broken(15, late_s)], 16)
    assert [file.path for file in group.unreadable] == [file_name(late_s, 15)]
    assert (group.missing, group.fault) == ((15,), None)


@pytest.mark.parametrize("late_s", [-180, -121, 121, 200])
def test_an_unreadable_file_further_away_is_a_group_of_its_own(late_s: float) -> None:
    groups = group_files(group_of(range(15)), [broken(15, late_s)], 16)
    whole = next(group for group in groups if group.subbands)
    alone = next(group for group in groups if not group.subbands)
    assert whole.unreadable == ()
    assert (alone.id, alone.start_jd, alone.missing) == (stamp(late_s), None, tuple(range(16)))
    assert paths(alone) == [file_name(late_s, 15)]


def test_the_nearest_name_of_a_group_counts_not_its_first() -> None:
    headers = group_of(range(15), sb07=82)
    (group,) = group_files(headers, [broken(15, 200)], 16)
    assert len(group.unreadable) == 1


OWNERS: dict[str, tuple[Iterable[int], Iterable[int], UnreadableFile, int]] = {
    # subbands of the group at 0 s, of the group at 100 s, the file, index of its owner
    "only the far one lacks it": (range(16), range(15), broken(15, 10), 1),
    "only the near one lacks it": (range(15), range(16), broken(15, 90), 0),
    "both lack it, the first is nearer": (range(15), range(15), broken(15, 40), 0),
    "both lack it, the second is nearer": (range(15), range(15), broken(15, 60), 1),
    "both have it, the first is nearer": (range(16), range(16), broken(15, 40), 0),
    "both have it, the second is nearer": (range(16), range(16), broken(15, 60), 1),
    "without a number, the second is nearer": (range(15), range(16), broken(None, 60), 1),
    "the one that lacks it is out of reach": (range(16), range(15), broken(15, -30), 0),
}


@pytest.mark.parametrize(("first", "second", "file", "owner"), OWNERS.values(), ids=OWNERS.keys())
def test_an_unreadable_file_goes_first_to_a_group_that_lacks_its_number_then_to_the_nearest(
    first: Iterable[int], second: Iterable[int], file: UnreadableFile, owner: int
) -> None:
    groups = group_files([*group_of(first), *group_of(second, begin_s=100)], [file], 16)
    assert [len(group.unreadable) for group in groups] == [int(owner == 0), int(owner == 1)]


def test_groups_that_are_all_unreadable_are_split_by_name() -> None:
    files = [broken(n, k * CADENCE_S + n % 3) for k in range(2) for n in range(16)]
    groups = group_files([], files, 16)
    assert [group.id for group in groups] == [stamp(0), stamp(CADENCE_S)]
    assert [len(group.unreadable) for group in groups] == [16, 16]
    assert all(group.start_jd is None for group in groups)
    assert all(group.missing == tuple(range(16)) for group in groups)


def test_no_files_are_no_groups() -> None:
    assert group_files([], [], 16) == []


# ------------------------------------------------------------------------------- exactly these files


def foreign(number: int, **changes: Any) -> SubbandHeader:
    """A file whose name says nothing."""
    fields = {"path": f"/in/part{number}.uvh5", "name_stamp": None, "name_number": None}
    return header(number, **(fields | changes))


def test_any_files_are_numbered_from_the_highest_frequency_and_may_lie_apart() -> None:
    group = assemble_any([foreign(9, shift_hz=1e5), foreign(2), foreign(30)])
    assert numbers_by_path(group) == {
        "/in/part2.uvh5": 0,
        "/in/part9.uvh5": 1,
        "/in/part30.uvh5": 2,
    }
    assert [subband.number for subband in group.subbands] == [2, 1, 0]
    assert (group.expected, group.missing, group.fault) == (3, (), None)


@pytest.mark.parametrize(
    ("changes", "given_id", "group_id"),
    [
        ({}, None, "2025-10-05T03:12:12"),  # the start of the header, cut to the second
        ({"name_stamp": stamp(3)}, None, stamp(3)),
        ({"name_stamp": stamp(3)}, "2024-01-01T00:00:00", "2024-01-01T00:00:00"),
    ],
)
def test_any_files_get_the_id_asked_for_or_that_of_their_name_or_their_start(
    changes: dict[str, Any], given_id: str | None, group_id: str
) -> None:
    assert assemble_any([foreign(0, **changes)], group_id=given_id).id == group_id


ANY_FAULTS: dict[str, tuple[SubbandHeader, str]] = {
    "starts later": (foreign(1, start_jd=start_jd(1)), "subbands-disagree"),
    "the same frequencies": (foreign(0, path="/in/part1.uvh5"), "duplicate-subband"),
    "half of the same frequencies": (
        foreign(1, shift_hz=SUBBAND_HZ / 2),
        "frequency-overlap",
    ),
    "other products": (foreign(1, products=(-5,)), "subbands-disagree"),
}


@pytest.mark.parametrize(("other", "code"), ANY_FAULTS.values(), ids=ANY_FAULTS.keys())
def test_any_files_must_fit_together(other: SubbandHeader, code: str) -> None:
    fault = assemble_any([foreign(0), other]).fault
    assert fault is not None
    assert fault.code == code
    assert "/in/part1.uvh5" in fault.text


def test_every_one_of_exactly_these_files_is_needed() -> None:
    group = assemble_any([foreign(0)], [broken(1)])
    assert (group.fault, group.expected) == (broken(1).reason, 2)
    only_broken = assemble_any([], [broken(1)])
    assert (only_broken.fault, only_broken.id, only_broken.start_jd) == (broken(1).reason, ID, None)


# ----------------------------------------------------------------------------------- any mixture

BEGINNINGS_S = st.sampled_from([0.0, 13.0, 30.0, 95.0, 309.0, 618.0])
JITTER_S = st.sampled_from([0, 0, 0, 1, 1, 2, 9, 22, 59, 82])


@st.composite
def readable(draw: st.DrawFn) -> list[SubbandHeader]:
    headers = []
    for index in range(draw(st.integers(0, 30))):
        number = draw(st.integers(0, 15))
        named = draw(st.sampled_from([number, number, number, 0, None]))
        begin_s, late_s = draw(BEGINNINGS_S), draw(JITTER_S)
        made = header(
            number,
            begin_s=begin_s,
            late_s=late_s,
            named=named,
            shift_hz=draw(st.sampled_from([0, 0, 0, 0, CHANNEL_HZ])),
            # Two files of one directory have two names, also when they say the same.
            path=f"/in/{index}",
        )
        changes = draw(st.sampled_from([{}, {}, {}, {"start_jd": CLOCK_FAILURE_JD}, {"rows": 1}]))
        headers.append(SubbandHeader(**{n: getattr(made, n) for n in made.__slots__} | changes))
    return headers


@st.composite
def unusable(draw: st.DrawFn) -> list[UnreadableFile]:
    files = []
    for index in range(draw(st.integers(0, 8))):
        made = broken(draw(st.sampled_from([None, 0, 3, 15])), draw(st.integers(-300, 900)))
        files.append(
            UnreadableFile(
                path=f"/in/broken{index}",
                name_stamp=made.name_stamp,
                name_number=made.name_number,
                reason=made.reason,
            )
        )
    return files


@settings(max_examples=60, deadline=None)
@given(headers=readable(), files=unusable(), seed=st.integers(0, 2**32))
def test_every_file_is_in_exactly_one_group_and_the_order_of_the_files_does_not_matter(
    headers: list[SubbandHeader], files: list[UnreadableFile], seed: int
) -> None:
    groups = group_files(headers, files, 16)
    assert Counter(path for group in groups for path in paths(group)) == Counter(
        [h.path for h in headers] + [f.path for f in files]
    )
    shuffled = random.Random(seed)
    headers, files = list(headers), list(files)
    shuffled.shuffle(headers)
    shuffled.shuffle(files)
    assert group_files(headers, files, 16) == groups


@settings(max_examples=60, deadline=None)
@given(headers=readable(), files=unusable())
def test_a_group_holds_all_files_of_one_start_time_and_no_others(
    headers: list[SubbandHeader], files: list[UnreadableFile]
) -> None:
    groups = group_files(headers, files, 16)
    starts = [group.start_jd for group in groups if group.start_jd is not None]
    assert len(set(starts)) == len(starts)
    assert set(starts) == {h.start_jd for h in headers} - {CLOCK_FAILURE_JD}
    for group in groups:
        assert {s.header.start_jd for s in group.subbands} <= {group.start_jd}
        assert bool(group.subbands) == (group.start_jd is not None)


@settings(max_examples=60, deadline=None)
@given(
    present=st.sets(st.integers(0, 15), min_size=3),
    data=st.data(),
)
def test_a_minority_of_nodes_that_lost_their_number_changes_nothing_but_the_notes(
    present: set[int], data: st.DataObject
) -> None:
    at_most = (len(present) - 1) // 2
    lost = data.draw(st.sets(st.sampled_from(sorted(present - {0}) or [None]), max_size=at_most))
    headers = [header(n, named=0 if n in lost else n, late_s=n) for n in sorted(present)]
    (group,) = group_files(headers, [], 16)
    assert group.fault is None
    assert group.present == tuple(sorted(present))
    assert len(group.notes) == len(lost)
