"""A directory in: finished subband files and their headers out, nothing touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from contimg_dask.discovery import Discovered, discover, starts_within
from contimg_dask.errors import UsageError
from contimg_dask.grouping import group_files
from contimg_dask.model import Group, Reason, UnreadableFile
from contimg_dask.naming import stamp_to_mjd
from contimg_dask.simulate import Fault, Observation, SimulatedGroup, simulate

TINY = Observation(subbands=3, antennas=4, integrations=1, channels=4, name_jitter=False)
ID = "2025-10-05T03:12:06"
SB00, SB01, SB02 = (f"{ID}_sb{number:02d}.hdf5" for number in range(3))


def names(found: Discovered) -> list[str]:
    return [os.path.basename(header.path) for header in found.headers]


def codes(found: Discovered) -> dict[str, str]:
    return {os.path.basename(file.path): file.reason.code for file in found.unreadable}


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    """One whole group of three tiny files."""
    simulate(tmp_path / "in", TINY)
    return tmp_path / "in"


def test_the_headers_of_finished_files_are_read(incoming: Path) -> None:
    found = discover(incoming)
    assert names(found) == [SB00, SB01, SB02]
    assert found.unreadable == ()
    header = found.headers[1]
    assert header.path == str(incoming / SB01)
    assert header.size_bytes == (incoming / SB01).stat().st_size
    assert header.mtime_ns == (incoming / SB01).stat().st_mtime_ns
    assert (header.name_stamp, header.name_number) == (ID, 1)
    assert (header.integrations, header.rows, header.channels) == (1, 10, 4)
    assert header.products == (-5, -6)
    assert header.channel_width_hz == 11.71875e6 / 4
    assert header.highest_freq_hz == 1498.75e6 - 11.71875e6 - 11.71875e6 / 8
    assert header.lowest_freq_hz == 1498.75e6 - 2 * 11.71875e6 + 11.71875e6 / 8
    mjd = stamp_to_mjd(ID)
    assert mjd is not None
    assert header.start_jd == pytest.approx(mjd + 2400000.5 + 6.442450944 / 86400, abs=1e-9)


def test_other_names_are_neither_input_nor_errors(incoming: Path) -> None:
    for name in (
        f"{ID}_sb03_incomplete.hdf5",
        f".{ID}_sb03.hdf5.aB3xYz",
        f"{ID}_sb03.hdf5.corrupted",
        "2025-13-40T03:12:06_sb03.hdf5",
        "README.txt",
    ):
        (incoming / name).write_bytes(b"anything")
    found = discover(incoming)
    assert names(found) == [SB00, SB01, SB02]
    assert found.unreadable == ()


def test_subdirectories_are_not_looked_into_whatever_their_names(incoming: Path) -> None:
    for below in ("older", f"{ID}_sb03.hdf5"):
        (incoming / below).mkdir()
        os.link(incoming / SB02, incoming / below / SB02)
    found = discover(incoming)
    assert names(found) == [SB00, SB01, SB02]
    assert found.unreadable == ()


def test_a_link_to_a_file_is_a_file(incoming: Path, tmp_path: Path) -> None:
    (incoming / SB02).rename(tmp_path / "elsewhere")
    (incoming / SB02).symlink_to(tmp_path / "elsewhere")
    assert names(discover(incoming)) == [SB00, SB01, SB02]


def test_an_empty_directory_holds_nothing(tmp_path: Path) -> None:
    assert discover(tmp_path) == Discovered(headers=(), unreadable=())


# --------------------------------------------------------------------------- files that are bad

FAULTS = {
    "zero-byte": "empty-file",
    "truncated": "truncated",
    "not-hdf5": "not-hdf5",
    "missing-header": "header-incomplete",
}


@pytest.mark.parametrize(("kind", "code"), FAULTS.items())
def test_a_bad_file_is_listed_with_its_reason_and_the_others_are_read(
    tmp_path: Path, kind: str, code: str
) -> None:
    simulate(tmp_path, TINY, [Fault(kind=kind, group=0, subband=1)])
    found = discover(tmp_path)
    assert names(found) == [SB00, SB02]
    (bad,) = found.unreadable
    assert (bad.path, bad.name_stamp, bad.name_number) == (str(tmp_path / SB01), ID, 1)
    assert bad.reason.code == code
    assert bad.reason.text.startswith(f"{tmp_path / SB01}: ")
    assert "\n" not in bad.reason.text
    assert "set it aside" in bad.reason.text


def test_a_dangling_link_is_a_bad_file(incoming: Path) -> None:
    (incoming / f"{ID}_sb03.hdf5").symlink_to(incoming / "nowhere")
    assert codes(discover(incoming)) == {f"{ID}_sb03.hdf5": "unreadable-input"}


def test_a_file_one_may_not_read_is_a_bad_file(
    open_directory: Path, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    simulate(open_directory, TINY)
    (open_directory / SB01).chmod(0)
    with without_rights():
        found = discover(open_directory)
    assert names(found) == [SB00, SB02]
    assert codes(found) == {SB01: "unreadable-input"}
    assert "permission" in found.unreadable[0].reason.text


@pytest.mark.parametrize("kind", ["two-sb00", "no-number", "mjd-55000", "ascending", "nan"])
def test_a_readable_file_is_not_judged_by_what_it_holds(tmp_path: Path, kind: str) -> None:
    simulate(tmp_path, TINY, [Fault(kind=kind, group=0, subband=2)])
    found = discover(tmp_path)
    assert (len(found.headers), found.unreadable) == (3, ())


def test_found_files_make_groups_with_each_bad_one_in_its_place(tmp_path: Path) -> None:
    faults = [
        Fault(kind="truncated", group=0, subband=1),
        Fault(kind="missing", group=1, subband=0),
        Fault(kind="mjd-55000", group=1, subband=2),
        Fault(kind="incomplete", group=2, subband=2),
    ]
    made = simulate(tmp_path, Observation(
        groups=3, subbands=3, antennas=4, integrations=1, channels=4
    ), faults)  # fmt: skip
    found = discover(tmp_path)
    groups = group_files(found.headers, found.unreadable, 3)
    assert [group.start_jd for group in groups] == [group.start_jd for group in made]
    assert [group.missing for group in groups] == [(1,), (0, 2), (2,)]
    assert [
        [(file.name_number, file.reason.code) for file in group.unreadable] for group in groups
    ] == [[(1, "truncated")], [(2, "clock-apart")], []]
    assert [group.fault for group in groups] == [None] * 3


# ---------------------------------------------------------------------- directories that are bad


@pytest.mark.parametrize("place", ["nowhere", "a file", "a file/below"])
def test_what_is_no_directory_is_wrong_use(tmp_path: Path, place: str) -> None:
    (tmp_path / "a file").write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        discover(tmp_path / place)
    assert str(caught.value).startswith(f"{tmp_path / place}: ")
    assert caught.value.path == str(tmp_path / place)


def test_a_directory_one_may_not_list_is_wrong_use(
    open_directory: Path, without_rights: Callable[[], AbstractContextManager[None]]
) -> None:
    closed = open_directory / "closed"
    closed.mkdir()
    closed.chmod(0)
    with without_rights(), pytest.raises(UsageError, match="Permission denied"):
        discover(closed)


# ---------------------------------------------------------------------------------- time ranges


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[SimulatedGroup]]:
    """Eight groups of one subband, 309 s apart."""
    directory = tmp_path_factory.mktemp("night")
    observation = Observation(groups=8, subbands=1, antennas=2, integrations=1, channels=1)
    return directory, simulate(directory, observation)


@pytest.mark.parametrize(
    ("first", "end", "chosen"),
    [
        # start of the range and its end, as groups; None: open
        (None, None, range(8)),
        (3, None, range(3, 8)),
        (None, 3, range(3)),
        (3, 5, (3, 4)),
        (3, 4, (3,)),
        (7, None, (7,)),
        (None, 0, ()),
    ],
)
def test_a_time_range_is_half_open_by_the_first_integration(
    night: tuple[Path, list[SimulatedGroup]],
    first: int | None,
    end: int | None,
    chosen: tuple[int, ...],
) -> None:
    directory, made = night
    start_mjd, end_mjd = (
        None if index is None else made[index].start_jd - 2400000.5 for index in (first, end)
    )
    found = discover(directory, start_mjd=start_mjd, end_mjd=end_mjd)
    groups = group_files(found.headers, found.unreadable, 1)
    within = [group for group in groups if starts_within(group, start_mjd, end_mjd)]
    assert [group.start_jd for group in within] == [made[index].start_jd for index in chosen]


def test_files_far_outside_a_time_range_are_not_opened(
    night: tuple[Path, list[SimulatedGroup]],
) -> None:
    directory, made = night
    middle_mjd = made[4].start_jd - 2400000.5
    found = discover(directory, start_mjd=middle_mjd, end_mjd=middle_mjd + 1 / 86400)
    # Names may be ten minutes from the header, so two groups on either side have to be looked at.
    assert [header.start_jd for header in found.headers] == [g.start_jd for g in made[2:7]]


@pytest.mark.parametrize("late_s", [-590, -82, 82, 600])
def test_a_group_within_a_time_range_is_found_whatever_its_names_say(
    tmp_path: Path, late_s: int
) -> None:
    (made,) = simulate(tmp_path, Observation(subbands=1, antennas=2, integrations=1, channels=1))
    mjd = made.start_jd - 2400000.5
    minute, second = divmod(3 * 3600 + 12 * 60 + 6 + late_s, 60)
    name = f"2025-10-05T{minute // 60:02d}:{minute % 60:02d}:{second:02d}_sb00.hdf5"
    made.files[0].rename(tmp_path / name)
    found = discover(tmp_path, start_mjd=mjd, end_mjd=mjd + 1 / 86400)
    (group,) = group_files(found.headers, found.unreadable, 1)
    assert group.start_jd == made.start_jd


@pytest.mark.parametrize(
    ("start_s", "end_s", "within"),
    [(0, 1, True), (-1, 0, False), (1, 2, False), (None, 0, False), (0, None, True)],
)
def test_a_group_without_a_readable_file_goes_by_its_name(
    start_s: float | None, end_s: float | None, within: bool
) -> None:
    reason = Reason(code="truncated", text="cut")
    file = UnreadableFile(path=f"/in/{SB00}", name_stamp=ID, name_number=0, reason=reason)
    group = Group(id=ID, start_jd=None, subbands=(), expected=16, unreadable=(file,))
    mjd = stamp_to_mjd(ID)
    assert mjd is not None
    start_mjd, end_mjd = (None if s is None else mjd + s / 86400 for s in (start_s, end_s))
    assert starts_within(group, start_mjd, end_mjd) == within


# -------------------------------------------------------------------------------------- manners


def test_progress_counts_every_file_that_is_looked_at(tmp_path: Path) -> None:
    simulate(tmp_path, TINY, [Fault(kind="zero-byte", group=0, subband=1)])
    (tmp_path / "README.txt").write_bytes(b"")
    seen: list[tuple[int, int]] = []
    discover(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_nothing_in_the_directory_is_touched(incoming: Path) -> None:
    def state() -> dict[str, tuple[int, ...]]:
        status = {path.name: path.stat() for path in (incoming, *incoming.iterdir())}
        return {n: (s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for n, s in status.items()}

    before = state()
    discover(incoming)
    assert state() == before
