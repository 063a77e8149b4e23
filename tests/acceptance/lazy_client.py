"""Open a product lazily and print a digest of what was read; run in a process of its own.

``lazy_client.py daskms|xarray MS`` prints JSON: per window the number of rows compared.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import casacore.tables as tables
import numpy as np

NAMES = ("DATA", "FLAG", "WEIGHT_SPECTRUM", "UVW", "TIME", "ANTENNA1", "ANTENNA2")


def window(path: str, number: int) -> dict[str, Any]:
    """Read the rows of one window through casacore."""
    main = tables.table(path, ack=False, lockoptions="auto")
    rows = main.getcol("DATA_DESC_ID") == number
    columns = {name: main.getcol(name)[rows] for name in NAMES}
    main.close()
    return columns


def by_dask_ms(path: str) -> list[int]:
    from daskms import xds_from_ms

    rows = []
    for number, found in enumerate(xds_from_ms(path, columns=NAMES, group_cols=["DATA_DESC_ID"])):
        wanted = window(path, number)
        for name in NAMES:
            assert hasattr(found[name].data, "dask"), f"{name} was read at once"
            assert np.array_equal(found[name].values, wanted[name]), name
        rows.append(len(wanted["TIME"]))
    return rows


def by_xarray_ms(path: str) -> list[int]:
    import xarray

    tree = xarray.open_datatree(path, engine="xarray-ms:msv2", chunks={}, auto_corrs=True)
    names = tables.table(f"{path}::ANTENNA", ack=False).getcol("NAME")
    rows = []
    for number, child in enumerate(sorted(tree.children)):
        found = tree[child].ds
        wanted = window(path, number)
        one, two = found.baseline_antenna1_name.values, found.baseline_antenna2_name.values
        place = {pair: index for index, pair in enumerate(zip(one, two, strict=True))}
        times = np.unique(wanted["TIME"])
        of_time = np.searchsorted(times, wanted["TIME"])
        of_baseline = [
            place[names[a], names[b]]
            for a, b in zip(wanted["ANTENNA1"], wanted["ANTENNA2"], strict=True)
        ]
        for name, column in (("VISIBILITY", "DATA"), ("WEIGHT", "WEIGHT_SPECTRUM"), ("UVW", "UVW")):
            values = found[name].values[of_time, of_baseline]
            assert np.array_equal(values, wanted[column]), name
        rows.append(len(wanted["TIME"]))
    return rows


def main() -> None:
    warnings.simplefilter("ignore")
    which, path = sys.argv[1:]
    rows = {"daskms": by_dask_ms, "xarray": by_xarray_ms}[which](path)
    sys.stdout.write("\nRESULT " + json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
