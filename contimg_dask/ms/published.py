"""Read a published product back, to tell whether it is still what was published."""

from __future__ import annotations

import casacore.tables as tables
import numpy as np

from contimg_dask.geometry import Geometry
from contimg_dask.ms.checksums import CHECKED_COLUMNS, Checksum
from contimg_dask.ms.skeleton import WITHOUT_LOCK, casacore_faults

_ROWS_AT_ONCE = 8192
_LITTLE_ENDIAN = {"DATA": "<c8", "WEIGHT_SPECTRUM": "<f4", "FLAG": "|b1"}


def read_checksums(path: str, geometry: Geometry, position: int) -> dict[str, str]:
    """Return the checksums of one subband of a Measurement Set, read through casacore.

    Parameters
    ----------
    path, geometry
        The table and its shape.
    position
        The subband's place in it, in ascending frequency.

    Raises
    ------
    OutputError
        The table cannot be read.
    """
    single = geometry.spw == "single"
    first_row = 0 if single else position * geometry.subband_rows
    first_channel = position * geometry.channels if single else 0
    corner = (first_channel + geometry.channels - 1, geometry.products - 1)
    sums = {name: Checksum() for name in CHECKED_COLUMNS}
    with casacore_faults(path):
        table = tables.table(path, readonly=True, ack=False, lockoptions=WITHOUT_LOCK)
        try:
            for row in range(0, geometry.subband_rows, _ROWS_AT_ONCE):
                rows = min(_ROWS_AT_ONCE, geometry.subband_rows - row)
                start = first_row + row
                for name, checksum in sums.items():
                    values = table.getcolslice(name, (first_channel, 0), corner, [], start, rows)
                    checksum.add(values.astype(_LITTLE_ENDIAN[name], copy=False))
        finally:
            table.close()
    return {name: checksum.text for name, checksum in sums.items()}


def is_untouched(path: str, column: str, geometry: Geometry, copied: bool) -> bool:
    """Tell whether an imaging column is as it was published: zero, or a copy of DATA.

    One that has been removed is not.

    Raises
    ------
    OutputError
        The table cannot be read.
    """
    with casacore_faults(path):
        table = tables.table(path, readonly=True, ack=False, lockoptions=WITHOUT_LOCK)
        try:
            if column not in table.colnames():
                return False
            for row in range(0, geometry.rows, _ROWS_AT_ONCE):
                rows = min(_ROWS_AT_ONCE, geometry.rows - row)
                found = table.getcol(column, row, rows)
                wanted = table.getcol("DATA", row, rows) if copied else np.zeros_like(found)
                if not np.array_equal(found, wanted):
                    return False
        finally:
            table.close()
    return True
