"""Headers in, groups out: which files are one observation, and which subband each one is.

Pure: nothing here opens a file. The key of a group is the start time in the headers, which is
bit-identical over its subbands; names are stamped by each correlator node on its own and only say
where an unreadable file belongs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import PurePath

from contimg_dask.model import (
    MJD_JD_OFFSET_D,
    SAME_START_TOLERANCE_D,
    Group,
    Reason,
    Subband,
    SubbandHeader,
    UnreadableFile,
)
from contimg_dask.naming import stamp_of_jd, stamp_to_mjd

NAME_REACH_S = 120.0
"""An unreadable file belongs to the group nearest by name, up to this far away [s]."""

NAME_HEADER_LIMIT_S = 600.0
"""Name and header further apart than this mean a bad clock; real names are up to 82 s apart."""

_SHARED: dict[str, Callable[[SubbandHeader], object]] = {
    "channels": lambda header: header.channels,
    "channel width [Hz]": lambda header: header.channel_width_hz,
    "correlation products": lambda header: header.products,
    "integrations": lambda header: header.integrations,
    "rows": lambda header: header.rows,
}
"""What all subbands of a group have in common, by the name an operator knows it by."""

_FREQUENCY_TOLERANCE = 0.1
"""Part of a channel width by which subbands may miss the regular grid of subbands."""


def name_and_header_apart(header: SubbandHeader) -> Reason | None:
    """Return why the clock of this file's header cannot be trusted, or None when it can."""
    if header.name_stamp is None:
        return None
    name_mjd = stamp_to_mjd(header.name_stamp)
    assert name_mjd is not None  # a parsed name holds a date
    header_mjd = header.start_jd - MJD_JD_OFFSET_D
    apart_s = abs(header_mjd - name_mjd) * 86400.0
    if apart_s <= NAME_HEADER_LIMIT_S:
        return None
    return Reason(
        code="clock-apart",
        text=f"{header.path}: the header starts at {stamp_of_jd(header.start_jd)} but the name says "
        f"{header.name_stamp}, {apart_s:.0f} s apart (limit {NAME_HEADER_LIMIT_S:.0f} s): the "
        f"recording node's clock was wrong; set the file aside",
    )


def group_files(
    headers: Iterable[SubbandHeader], unreadable: Iterable[UnreadableFile], expected: int
) -> list[Group]:
    """Return every group, in time order.

    Parameters
    ----------
    headers
        Readable files, in any order. Those whose name and header are too far apart are treated
        as unreadable.
    unreadable
        Files with a subband's name that could not be read.
    expected
        Number of subbands in a whole group.

    Returns
    -------
    list of Group
        A group that cannot be converted has its ``fault`` set; unreadable files hang on the
        group they belong to, and those far from any group make groups of their own.
    """
    good: list[SubbandHeader] = []
    bad = list(unreadable)
    for header in headers:
        reason = name_and_header_apart(header)
        if reason is None:
            good.append(header)
        else:
            bad.append(
                UnreadableFile(
                    path=header.path,
                    name_stamp=header.name_stamp,
                    name_number=header.name_number,
                    reason=reason,
                )
            )
    clusters = _split_by_start(good)
    owned, orphans = _assign_unreadable(bad, clusters)
    groups = [
        assemble(cluster, expected, unreadable=owned[index])
        for index, cluster in enumerate(clusters)
    ]
    groups += [_unreadable_group(files, expected) for files in _split_by_name(orphans)]
    groups.sort(key=lambda group: (group.start_jd or _name_jd(group.id), group.id))
    return _with_ids_of_their_own(groups)


def _with_ids_of_their_own(groups: list[Group]) -> list[Group]:
    """Give a group whose id is taken its start time as id, or an id a second later.

    It happens when a group begins within a minute of another that has lost its first subbands.
    """
    taken: set[str] = set()
    unique = []
    for group in groups:
        new = group.id
        if new in taken and group.start_jd is not None:
            new = stamp_of_jd(group.start_jd)
        while new in taken:
            new = stamp_of_jd(_name_jd(new) + 1 / 86400.0)
        taken.add(new)
        unique.append(group if new == group.id else replace(group, id=new))
    return unique


def assemble(
    headers: Sequence[SubbandHeader],
    expected: int,
    *,
    unreadable: Sequence[UnreadableFile] = (),
    group_id: str | None = None,
) -> Group:
    """Make one group of headers with the same start time, each given its subband number."""
    fault, notes, numbers = _number(headers, expected)
    subbands = tuple(
        Subband(number=number, header=header)
        for number, header in sorted(
            zip(numbers, headers, strict=True), key=lambda item: item[1].centre_freq_hz
        )
    )
    # The id is the name of the lowest-numbered subband; without names, the start time itself.
    lowest = min(subbands, key=lambda subband: (subband.number, subband.header.path))
    return Group(
        id=group_id or lowest.header.name_stamp or stamp_of_jd(lowest.header.start_jd),
        start_jd=headers[0].start_jd,
        subbands=subbands,
        expected=expected,
        unreadable=tuple(unreadable),
        fault=_disagreement(headers) or fault,
        notes=tuple(notes),
    )


def assemble_any(
    headers: Sequence[SubbandHeader],
    unreadable: Sequence[UnreadableFile] = (),
    group_id: str | None = None,
) -> Group:
    """Make one group of exactly these files, whatever their names.

    Numbers follow the telescope's rule, the highest frequency first; windows may lie apart but
    not overlap. Every file is needed: an unreadable one is the group's fault.
    """
    descending = sorted(headers, key=lambda header: -header.centre_freq_hz)
    stamps = [header.name_stamp for header in descending] + [file.name_stamp for file in unreadable]
    started = stamp_of_jd(descending[0].start_jd) if descending else None
    fallback = started or PurePath(unreadable[0].path).stem
    subbands = tuple(Subband(number=n, header=h) for n, h in enumerate(descending))[::-1]
    return Group(
        id=group_id or stamps[0] or fallback,
        start_jd=descending[0].start_jd if descending else None,
        subbands=subbands,
        expected=len(headers) + len(unreadable),
        unreadable=tuple(unreadable),
        fault=unreadable[0].reason if unreadable else _fault_of_any(descending),
    )


def _fault_of_any(descending: Sequence[SubbandHeader]) -> Reason | None:
    first, last = _extremes(descending)
    spread_d = last.start_jd - first.start_jd
    if spread_d > SAME_START_TOLERANCE_D:
        return Reason(
            code="subbands-disagree",
            text=f"{last.path} starts {spread_d * 86400:.3f} s after {first.path}: files of one "
            f"group start together; leave one of them out",
        )
    disagreement = _disagreement(descending)
    if disagreement is not None:
        return disagreement
    overlaps = (_overlap(lower, upper) for upper, lower in pairwise(descending))
    return next((overlap for overlap in overlaps if overlap is not None), None)


def _extremes(headers: Sequence[SubbandHeader]) -> tuple[SubbandHeader, SubbandHeader]:
    return min(headers, key=lambda h: h.start_jd), max(headers, key=lambda h: h.start_jd)


def _split_by_start(headers: list[SubbandHeader]) -> list[list[SubbandHeader]]:
    clusters: list[list[SubbandHeader]] = []
    for header in sorted(headers, key=lambda h: (h.start_jd, h.path)):
        if clusters and header.start_jd - clusters[-1][0].start_jd <= SAME_START_TOLERANCE_D:
            clusters[-1].append(header)
        else:
            clusters.append([header])
    return clusters


def _name_jd(stamp: str) -> float:
    mjd = stamp_to_mjd(stamp)
    return 0.0 if mjd is None else mjd + MJD_JD_OFFSET_D


def _assign_unreadable(
    bad: list[UnreadableFile], clusters: list[list[SubbandHeader]]
) -> tuple[list[list[UnreadableFile]], list[UnreadableFile]]:
    """Give each bad file to the nearest cluster by name, first to one that lacks its number."""
    owned: list[list[UnreadableFile]] = [[] for _ in clusters]
    orphans: list[UnreadableFile] = []
    spans = [_name_span(cluster) for cluster in clusters]
    for file in sorted(bad, key=lambda f: f.path):
        mjd = stamp_to_mjd(file.name_stamp) if file.name_stamp else None
        near = [
            (file.name_number in {h.name_number for h in clusters[index]}, distance_s, index)
            for index, span in enumerate(spans)
            if mjd is not None and (distance_s := _distance_s(mjd, span)) <= NAME_REACH_S
        ]
        if near:
            owned[min(near)[2]].append(file)
        else:
            orphans.append(file)
    return owned, orphans


def _name_span(cluster: list[SubbandHeader]) -> tuple[float, ...]:
    stamps = (stamp_to_mjd(h.name_stamp) for h in cluster if h.name_stamp)
    return tuple(mjd for mjd in stamps if mjd is not None)


def _distance_s(mjd: float, span: tuple[float, ...]) -> float:
    # Stamps are whole seconds; as MJD their differences are not quite.
    return min((round(abs(mjd - other) * 86400.0) for other in span), default=float("inf"))


def _split_by_name(files: list[UnreadableFile]) -> list[list[UnreadableFile]]:
    clusters: list[list[UnreadableFile]] = []
    for file in sorted(files, key=lambda f: (f.name_stamp or "", f.path)):
        start = _name_jd(clusters[-1][0].name_stamp or "") if clusters else 0.0
        if clusters and round((_name_jd(file.name_stamp or "") - start) * 86400.0) <= NAME_REACH_S:
            clusters[-1].append(file)
        else:
            clusters.append([file])
    return clusters


def _unreadable_group(files: list[UnreadableFile], expected: int) -> Group:
    named = sorted(files, key=lambda f: (99 if f.name_number is None else f.name_number, f.path))
    return Group(
        id=named[0].name_stamp or "unknown",
        start_jd=None,
        subbands=(),
        expected=expected,
        unreadable=tuple(named),
    )


def _disagreement(headers: Sequence[SubbandHeader]) -> Reason | None:
    """Compare what headers tell without their rows; the rows are compared when they are read.

    The file that differs from most others is named.
    """
    for what, of in _SHARED.items():
        usual, _ = Counter(of(header) for header in headers).most_common(1)[0]
        like = next(header for header in headers if of(header) == usual)
        for header in headers:
            if of(header) != usual:
                return Reason(
                    code="subbands-disagree",
                    text=f"{header.path}: {what} {of(header)}, but {usual} in {like.path}: they are "
                    f"not subbands of one observation; set the wrong one aside",
                )
    return None


def _overlap(lower: SubbandHeader, upper: SubbandHeader) -> Reason | None:
    overlap_hz = lower.highest_freq_hz + lower.channel_width_hz - upper.lowest_freq_hz
    if overlap_hz <= _FREQUENCY_TOLERANCE * upper.channel_width_hz:
        return None
    same = abs(lower.centre_freq_hz - upper.centre_freq_hz) < 0.5 * upper.channel_width_hz
    return Reason(
        code="duplicate-subband" if same else "frequency-overlap",
        text=f"{lower.path} and {upper.path} "
        + (
            f"are both the subband at {upper.centre_freq_hz / 1e6:.3f} MHz"
            if same
            else f"overlap by {overlap_hz / 1e6:.3f} MHz"
        )
        + ": set one of them aside",
    )


def _number(
    headers: Sequence[SubbandHeader], expected: int
) -> tuple[Reason | None, list[str], list[int]]:
    """Number the subbands by frequency, anchored where most names agree.

    A node that does not know itself writes ``sb00``, so a name is only a vote for where sb00
    lies. On a tie the highest anchor wins, because such a node votes too low.
    """
    bandwidth_hz = headers[0].bandwidth_hz
    channel_hz = headers[0].channel_width_hz
    votes = Counter(
        round((h.centre_freq_hz + h.name_number * bandwidth_hz) / channel_hz)
        for h in headers
        if h.name_number is not None
    )
    if votes:
        winner = max(votes, key=lambda vote: (votes[vote], vote))
        anchor_hz = next(
            h.centre_freq_hz + h.name_number * bandwidth_hz
            for h in headers
            if h.name_number is not None
            and round((h.centre_freq_hz + h.name_number * bandwidth_hz) / channel_hz) == winner
        )
    else:
        anchor_hz = max(h.centre_freq_hz for h in headers)
    numbers = [round((anchor_hz - h.centre_freq_hz) / bandwidth_hz) for h in headers]
    fault = _grid_fault(headers, numbers, anchor_hz, expected)
    notes = [
        f"{h.path} is named sb{h.name_number:02d} but its frequencies are those of sb{n:02d}"
        for n, h in zip(numbers, headers, strict=True)
        if fault is None and h.name_number is not None and h.name_number != n
    ]
    return fault, notes, numbers


def _grid_fault(
    headers: Sequence[SubbandHeader], numbers: list[int], anchor_hz: float, expected: int
) -> Reason | None:
    by_frequency = sorted(headers, key=lambda h: h.centre_freq_hz)
    for lower, upper in pairwise(by_frequency):
        fault = _overlap(lower, upper)
        if fault is not None:
            return fault
    for number, header in zip(numbers, headers, strict=True):
        miss_hz = abs(anchor_hz - number * header.bandwidth_hz - header.centre_freq_hz)
        if miss_hz > _FREQUENCY_TOLERANCE * header.channel_width_hz:
            return Reason(
                code="frequency-gap",
                text=f"{header.path}: its centre, {header.centre_freq_hz / 1e6:.4f} MHz, lies "
                f"{miss_hz / 1e3:.1f} kHz off the grid of {header.bandwidth_hz / 1e6:.4f} MHz "
                f"subbands: only whole subbands may be missing; set the file aside",
            )
        if not 0 <= number < expected:
            return Reason(
                code="frequency-gap",
                text=f"{header.path}: by frequency it is subband {number}, outside the expected 0 to "
                f"{expected - 1}: set it aside or give --expected-subbands",
            )
    return None
