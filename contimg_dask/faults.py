"""Faults of subband files, as a table: each kind says what it does to one simulated file.

A fault acts at one of three moments: on the *setup* (what the node observes and how it names its
file, so the file stays consistent in itself), on the *content* (what the file says), or on the
finished *file* (its bytes). Kinds are combined freely; those of one subband act in the order
given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contimg_dask.errors import UsageError
from contimg_dask.uvh5.writer import Compression, HeaderValue, SubbandContent

SECONDS_PER_DAY = 86400.0
CLOCK_FAILURE_JD = 2455000.5  # MJD 55000, 2009-06-18


def file_name(stamp: datetime, subband: int) -> str:
    """Name of a finished subband file; `stamp` is UTC and cut to whole seconds."""
    return f"{stamp:%Y-%m-%dT%H:%M:%S}_sb{subband:02d}.hdf5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong with one subband of one group.

    Raises
    ------
    UsageError
        The kind is unknown, or an index is negative.
    """

    kind: str
    """A key of `FAULT_KINDS`."""
    group: int
    """Index of the group, from 0."""
    subband: int
    """The subband's own number, from 0 (highest frequency)."""

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            known = ", ".join(FAULT_KINDS)
            raise UsageError(f"unknown fault kind {self.kind!r}; known kinds: {known}")
        if self.group < 0 or self.subband < 0:
            raise UsageError(
                f"fault {self}: group {self.group} and subband {self.subband} count from 0"
            )

    def __str__(self) -> str:
        return f"{self.kind}:{self.group}:{self.subband}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``kind:group:subband``, for example ``missing:0:3``.

        Raises
        ------
        UsageError
            The text has another form, an unknown kind or an index that is no number.
        """
        fields = text.strip().split(":")
        if len(fields) != 3 or not all(field.isdecimal() for field in fields[1:]):
            raise UsageError(f"fault {text!r} is not kind:group:subband, for example missing:0:3")
        return cls(kind=fields[0], group=int(fields[1]), subband=int(fields[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SubbandSetup:
    """What one node is told to observe, before a visibility is computed."""

    group: int
    """Index of the group, from 0."""
    subband: int
    """The subband's own number."""
    group_stamp: datetime
    """UTC stamp of the group's sb00."""
    stamp: datetime
    """UTC stamp of this node."""
    names: tuple[str, ...]
    """File names to write; none, one or several."""
    times_jd: NDArray[np.float64]
    """(Ntimes,) centres of the integrations, JD UTC."""
    freq_hz: NDArray[np.float64]
    """(Nfreqs,) channel centres in file order."""
    channel_width_hz: float
    """Positive."""
    antenna_order: NDArray[np.int64]
    """(Nants_data,) antenna numbers in correlator order."""
    compression: Compression | None
    """Filter on the data sets."""


# Spread of the name stamps within a group (share, least, most in s), from 2,231 real groups; the
# half per cent between the measured classes is put at 3-8 s.
NAME_SPREADS = (
    (0.020, 0, 0),
    (0.840, 1, 1),
    (0.050, 2, 2),
    (0.005, 3, 8),
    (0.080, 9, 22),
    (0.005, 59, 82),
)


def name_offsets_s(subbands: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """When each node stamps its file, in the way real nodes disagree.

    Returns
    -------
    ndarray
        (subbands,) whole seconds after sb00 (before it: negative); the first is 0.
    """
    shares = np.array([share for share, _, _ in NAME_SPREADS])
    _, least, most = NAME_SPREADS[rng.choice(len(NAME_SPREADS), p=shares / shares.sum())]
    spread_s = int(rng.integers(least, most + 1))
    # Nodes run in step to a second; a larger spread is that of a node that was restarted.
    offsets_s: NDArray[np.int64] = rng.integers(0, min(spread_s, 1) + 1, subbands)
    late, early = rng.permutation(subbands)[[0, -1]]
    offsets_s[late] = spread_s
    offsets_s[early] = 0
    offsets_s -= offsets_s[0]
    return offsets_s


def _same_setup(setup: SubbandSetup) -> SubbandSetup:
    return setup


def _same_content(content: SubbandContent) -> SubbandContent:
    return content


def _same_file(path: Path) -> None:
    del path


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """What a kind of fault does; what it does not touch stays as it is."""

    meaning: str
    """One phrase for lists of kinds."""
    setup: Callable[[SubbandSetup], SubbandSetup] = _same_setup
    content: Callable[[SubbandContent], SubbandContent] = _same_content
    file: Callable[[Path], None] = _same_file


def _unwritten(setup: SubbandSetup) -> SubbandSetup:
    return replace(setup, names=())


def _unfinished_name(setup: SubbandSetup) -> SubbandSetup:
    names = tuple(name.replace(".hdf5", "_incomplete.hdf5") for name in setup.names)
    return replace(setup, names=names)


def _stamp_of_its_own(setup: SubbandSetup) -> datetime:
    # Without it two renamed subbands of a group could get one and the same name.
    return setup.group_stamp + timedelta(seconds=setup.subband)


def _unnumbered_name(setup: SubbandSetup) -> SubbandSetup:
    name = file_name(_stamp_of_its_own(setup), setup.subband)
    return replace(setup, names=(name.split("_sb")[0] + ".hdf5",))


def _name_of_sb00(setup: SubbandSetup) -> SubbandSetup:
    if setup.subband == 0:
        raise UsageError("fault two-sb00 needs a subband other than 0, which is sb00 already")
    return replace(setup, names=(file_name(_stamp_of_its_own(setup), 0),))


def _second_name(setup: SubbandSetup) -> SubbandSetup:
    later = file_name(setup.stamp + timedelta(seconds=2), setup.subband)
    return replace(setup, names=(*setup.names, later))


def _several_times(setup: SubbandSetup, kind: str) -> NDArray[np.float64]:
    if setup.times_jd.size < 2:
        raise UsageError(f"fault {kind} needs at least 2 integrations, not {setup.times_jd.size}")
    return setup.times_jd


def _drifting_times(setup: SubbandSetup) -> SubbandSetup:
    # time_array[0] stays: with another one the file would simply belong to another group.
    times_jd = _several_times(setup, "wrong-times")
    return replace(setup, times_jd=times_jd + np.arange(times_jd.size) / SECONDS_PER_DAY)


def _fewer_times(setup: SubbandSetup) -> SubbandSetup:
    return replace(setup, times_jd=_several_times(setup, "wrong-integrations")[:-1])


def _turned_antennas(setup: SubbandSetup) -> SubbandSetup:
    return replace(setup, antenna_order=np.roll(setup.antenna_order, 1))


def _ascending_channels(setup: SubbandSetup) -> SubbandSetup:
    return replace(setup, freq_hz=np.sort(setup.freq_hz))


def _shifted_channels(setup: SubbandSetup) -> SubbandSetup:
    # Towards the higher neighbour, except from sb00, which has none.
    half_hz = setup.channel_width_hz * setup.freq_hz.size / 2
    return replace(setup, freq_hz=setup.freq_hz + (half_hz if setup.subband else -half_hz))


def _compressed(compression: Compression) -> Callable[[SubbandSetup], SubbandSetup]:
    return lambda setup: replace(setup, compression=compression)


def _array(content: SubbandContent, name: str) -> NDArray[Any]:
    return np.array(content.header[name])


def _with_header(content: SubbandContent, **entries: HeaderValue) -> SubbandContent:
    return replace(content, header={**content.header, **entries})


def _without_header(content: SubbandContent, name: str) -> SubbandContent:
    return replace(content, header={k: v for k, v in content.header.items() if k != name})


def _broken_values(content: SubbandContent) -> SubbandContent:
    visdata = content.visdata.copy()
    values = visdata.reshape(-1)
    # Strides that share no factor with the axes, so that rows, channels and products all occur.
    values[::1009] = np.nan
    values[7::1009] = np.inf
    values[13::1009] = complex(0.0, -np.inf)
    return replace(content, visdata=visdata)


def _moved_antenna(content: SubbandContent) -> SubbandContent:
    positions_m = _array(content, "antenna_positions")
    number = _array(content, "ant_1_array")[0]
    positions_m[_array(content, "antenna_numbers") == number] += 5.0
    return _with_header(content, antenna_positions=positions_m)


def _failed_clock(content: SubbandContent) -> SubbandContent:
    times_jd = _array(content, "time_array")
    return _with_header(content, time_array=CLOCK_FAILURE_JD + (times_jd - times_jd[0]))


def _no_products_entry(content: SubbandContent) -> SubbandContent:
    return _without_header(content, "polarization_array")


def _old_header(content: SubbandContent) -> SubbandContent:
    wrong_s = np.full_like(_array(content, "integration_time"), 0.134217728)
    content = _with_header(content, integration_time=wrong_s)
    content = _without_header(content, "phase_center_app_dec")
    return replace(content, extra_keywords={**content.extra_keywords, "phase_center_epoch": 2000})


def _no_spw_axis(content: SubbandContent) -> SubbandContent:
    freq_hz = _array(content, "freq_array")[0]
    width_hz = np.full_like(freq_hz, content.header["channel_width"])
    return replace(
        _with_header(content, freq_array=freq_hz, channel_width=width_hz),
        visdata=content.visdata[:, 0],
        flags=content.flags[:, 0],
        nsamples=content.nsamples[:, 0],
    )


def _cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 6 // 10)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _other_format(path: Path) -> None:
    path.write_text("This is a note, not an HDF5 file.\n", encoding="utf-8")


FAULT_KINDS: Mapping[str, FaultKind] = {
    "missing": FaultKind(meaning="no file", setup=_unwritten),
    "truncated": FaultKind(meaning="file cut at 60 % of its length", file=_cut_short),
    "incomplete": FaultKind(meaning="named *_incomplete.hdf5", setup=_unfinished_name),
    "zero-byte": FaultKind(meaning="file without content", file=_emptied),
    "not-hdf5": FaultKind(meaning="text instead of HDF5", file=_other_format),
    "nan": FaultKind(meaning="some NaN and infinite visibilities", content=_broken_values),
    "wrong-antennas": FaultKind(
        meaning="another antenna order, so other pairs in the rows", setup=_turned_antennas
    ),
    "wrong-positions": FaultKind(meaning="one antenna 5 m off", content=_moved_antenna),
    "wrong-times": FaultKind(
        meaning="same first time, then integrations 1 s longer", setup=_drifting_times
    ),
    "wrong-integrations": FaultKind(meaning="last integration absent", setup=_fewer_times),
    "mjd-55000": FaultKind(meaning="header times in 2009, good name", content=_failed_clock),
    "two-sb00": FaultKind(meaning="written under the name sb00", setup=_name_of_sb00),
    "duplicate": FaultKind(meaning="written again, stamped 2 s later", setup=_second_name),
    "no-number": FaultKind(meaning="name without _sbNN", setup=_unnumbered_name),
    "ascending": FaultKind(meaning="channels in ascending order", setup=_ascending_channels),
    "overlap": FaultKind(
        meaning="frequencies half a subband into the neighbour", setup=_shifted_channels
    ),
    "compressed-lzf": FaultKind(meaning="lzf filter", setup=_compressed("lzf")),
    "compressed-gzip": FaultKind(meaning="gzip filter", setup=_compressed("gzip")),
    "compressed-bitshuffle": FaultKind(
        meaning="bitshuffle filter", setup=_compressed("bitshuffle")
    ),
    "missing-header": FaultKind(meaning="no polarization_array", content=_no_products_entry),
    "old-header": FaultKind(
        meaning="integration_time 0.134 s, no phase_center_app_dec, epoch 2000",
        content=_old_header,
    ),
    "no-spw-axis": FaultKind(meaning="newer layout, (Nblts, Nfreqs, Npols)", content=_no_spw_axis),
}


def combined_kind(faults: Iterable[Fault], group: int, subband: int) -> FaultKind:
    """All that is wrong with one subband, as one kind; nothing at all if no fault names it."""
    wrong = [FAULT_KINDS[f.kind] for f in faults if (f.group, f.subband) == (group, subband)]

    def spoil(path: Path) -> None:
        for kind in wrong:
            kind.file(path)

    return FaultKind(
        meaning=", ".join(kind.meaning for kind in wrong),
        setup=lambda setup: reduce(lambda made, kind: kind.setup(made), wrong, setup),
        content=lambda content: reduce(lambda made, kind: kind.content(made), wrong, content),
        file=spoil,
    )


def require_targets(faults: Sequence[Fault], groups: int, subbands: Collection[int]) -> None:
    """Refuse faults that would have no effect.

    Raises
    ------
    UsageError
        A fault names a group or a subband that is not written.
    """
    for fault in faults:
        if fault.group >= groups or fault.subband not in subbands:
            raise UsageError(
                f"fault {fault} lies outside the observation: {groups} group(s), counted from 0, "
                f"of subbands {', '.join(map(str, subbands))}"
            )
