"""Verify a published product: its structure always, and every value when the input is at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from contimg_dask.discovery import discover
from contimg_dask.errors import InputError, UsageError
from contimg_dask.model import MJD_JD_OFFSET_D, Subband, SubbandHeader
from contimg_dask.ms.structure import check_structure, window_facts
from contimg_dask.ms.verify import Finding, Placement, compare_with_input
from contimg_dask.publishing.manifest import read_manifest
from contimg_dask.uvh5.header import peek

_SAME_TIME_S = 2e-3
"""A start time read back from MJD seconds is this close to the header's, or is another one."""

Progress = Callable[[int, int], None]


def verify(
    product: Path, input_dir: Path | None = None, progress: Progress | None = None
) -> list[Finding]:
    """Return what is wrong with a product; nothing is good news.

    Parameters
    ----------
    product
        The Measurement Set.
    input_dir
        Directory with the files it was made from: then every value of every subband is compared.
    progress
        Called with (rows done, rows in all).

    Raises
    ------
    UsageError
        There is no Measurement Set at ``product``, or no such input directory.
    """
    if not (product / "table.dat").is_file():
        raise UsageError(f"{product}: there is no Measurement Set there", path=str(product))
    findings = check_structure(str(product))
    if findings or input_dir is None:
        return findings
    places, missing = match_input(product, input_dir)
    if missing:
        return missing
    return compare_with_input(str(product), places, progress)


def match_input(product: Path, input_dir: Path) -> tuple[tuple[Placement, ...], list[Finding]]:
    """Return the files of each spectral window, found by start time and frequency, not by name."""
    start_mjd, windows = window_facts(str(product))
    headers = [
        header
        for header in _headers(product, input_dir, start_mjd)
        if abs(header.start_jd - MJD_JD_OFFSET_D - start_mjd) * 86400.0 < _SAME_TIME_S
    ]
    places: list[Placement] = []
    first_row = 0
    for freq_hz in windows:
        channel, rows = 0, 0
        while channel < freq_hz.size:
            header = _header_from(headers, float(freq_hz[channel]))
            if header is None:
                return (), [_no_input(input_dir, float(freq_hz[channel]))]
            places.append(
                Placement(
                    subband=Subband(number=_number(header, len(places)), header=header),
                    first_row=first_row,
                    first_channel=channel,
                    whole_window=header.channels == freq_hz.size,
                )
            )
            channel, rows = channel + header.channels, header.rows
        first_row += rows
    return tuple(places), []


def _number(header: SubbandHeader, position: int) -> int:
    return position if header.name_number is None else header.name_number


def _header_from(headers: list[SubbandHeader], lowest_hz: float) -> SubbandHeader | None:
    near = (h for h in headers if abs(h.lowest_freq_hz - lowest_hz) < 0.1 * h.channel_width_hz)
    return next(near, None)


def _no_input(input_dir: Path, freq_hz: float) -> Finding:
    text = f"{input_dir}: no readable file with this start time begins at {freq_hz / 1e6:.3f} MHz"
    return Finding(code="no-input", text=text)


def _headers(product: Path, input_dir: Path, start_mjd: float) -> list[SubbandHeader]:
    """Return the subband files near this time, and those the manifest names."""
    found = list(discover(input_dir, start_mjd=start_mjd, end_mjd=start_mjd).headers)
    known = {header.path for header in found}
    for entry in (read_manifest(product) or {}).get("inputs", []):
        path = input_dir.absolute() / Path(entry["path"]).name
        if str(path) not in known and path.is_file():
            try:
                found.append(peek(str(path)))
            except InputError:
                continue  # it will be reported as the window without a readable file
    return found
