"""Verify a published product: its structure always, and every value when the input is at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from contimg_dask.discovery import discover
from contimg_dask.errors import InputError, UsageError
from contimg_dask.model import MJD_JD_OFFSET_D, Subband, SubbandHeader
from contimg_dask.ms.structure import check_structure, window_facts
from contimg_dask.ms.verify import Finding, compare_with_input
from contimg_dask.publishing import read_manifest
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
    windows, missing = match_input(product, input_dir)
    if missing:
        return missing
    return compare_with_input(str(product), windows, progress)


def match_input(product: Path, input_dir: Path) -> tuple[tuple[Subband, ...], list[Finding]]:
    """Return the file of each spectral window, found by start time and frequency, not by name."""
    start_mjd, facts = window_facts(str(product))
    headers = _headers(product, input_dir, start_mjd)
    windows, missing = [], []
    for number, (name, centre_hz) in enumerate(facts):
        matching = [
            header
            for header in headers
            if abs(header.start_jd - MJD_JD_OFFSET_D - start_mjd) * 86400.0 < _SAME_TIME_S
            and abs(header.centre_freq_hz - centre_hz) < 0.5 * header.channel_width_hz
        ]
        if matching:
            windows.append(Subband(number=number, header=matching[0]))
        else:
            missing.append(
                Finding(
                    code="no-input",
                    text=f"{input_dir}: no readable file of window {name} ({centre_hz / 1e6:.3f} "
                    f"MHz) with this start time",
                )
            )
    return tuple(windows), missing


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
