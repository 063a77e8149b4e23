"""Use products as CASA users do, in CASA's own Python; prints one JSON object of what was found.

Run as ``casa_python casa_client.py WORK FIRST.ms SECOND.ms``. casatools crashes beside
python-casacore, so nothing of this package is imported here.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import casaconfig.config as casa_config
import casadata

casa_config.measurespath = casadata.datapath
casa_config.datapath = [casadata.datapath]
casa_config.measures_auto_update = False
casa_config.data_auto_update = False
casa_config.nologger = True

import casatasks  # noqa: E402
import casatools  # noqa: E402
import numpy as np  # noqa: E402


def opened(path: str, *, write: bool = False) -> Any:
    table = casatools.table()
    table.open(path, nomodify=not write)
    return table


def column(path: str, name: str) -> Any:
    table = opened(path)
    try:
        return table.getcol(name)
    finally:
        table.close()


def describe(path: str, work: str) -> dict[str, Any]:
    metadata = casatools.msmetadata()
    metadata.open(path)
    scans = [int(number) for number in metadata.scannumbers()]
    found = {
        "scans": scans,
        "fields": list(metadata.fieldnames()),
        "field_of_scan": [int(metadata.fieldsforscan(number)[0]) for number in scans],
        "windows": list(metadata.namesforspws()),
        "window_frequencies_hz": [float(metadata.chanfreqs(n)[0]) for n in range(metadata.nspw())],
        "antennas": int(metadata.nantennas()),
        "observatory": list(metadata.observatorynames()),
    }
    metadata.done()
    listing = os.path.join(work, "listobs.txt")
    casatasks.listobs(vis=path, listfile=listing, overwrite=True)
    with open(listing) as file:
        found["listobs"] = file.read()
    return found


def flag_and_undo(path: str) -> dict[str, Any]:
    before = column(path, "FLAG")

    def flagged() -> float:
        return float(casatasks.flagdata(vis=path, mode="summary")["flagged"])

    counts = [flagged()]
    casatasks.flagdata(vis=path, mode="manual", scan="2", spw="1", flagbackup=False)
    counts.append(flagged())
    casatasks.flagdata(vis=path, mode="unflag", scan="2", spw="1", flagbackup=False)
    counts.append(flagged())
    return {"counts": counts, "restored": bool(np.array_equal(before, column(path, "FLAG")))}


def calibrate(path: str, work: str) -> dict[str, Any]:
    casatasks.clearcal(vis=path, addmodel=True)
    data, corrected = column(path, "DATA"), column(path, "CORRECTED_DATA")
    model = column(path, "MODEL_DATA")
    found = {
        "corrected_is_data": bool(np.array_equal(data, corrected)),
        "model_is_one": bool(np.all(model[0] == 1) and np.all(model[-1] == 1)),
    }
    direction = opened(os.path.join(path, "FIELD")).getcol("PHASE_DIR")[:, 0, 0]
    components = casatools.componentlist()
    components.addcomponent(
        flux=2.5, fluxunit="Jy", shape="point", freq="1.4GHz",
        dir=f"ICRS {float(direction[0])}rad {float(direction[1])}rad",
    )  # fmt: skip
    name = os.path.join(work, "one.cl")
    components.rename(name)
    components.close()
    casatasks.ft(vis=path, complist=name, field="0", usescratch=True)
    model, of_row = column(path, "MODEL_DATA"), column(path, "FIELD_ID")
    found["model_of_field_0_jy"] = float(np.abs(model[0][:, of_row == 0]).mean())
    found["model_elsewhere_jy"] = float(np.abs(model[0][:, of_row == 1]).mean())
    return found


def derive(first: str, second: str, work: str) -> dict[str, Any]:
    split = os.path.join(work, "split.ms")
    casatasks.split(vis=first, outputvis=split, datacolumn="data", spw="1", keepflags=True)
    whole, of_row = column(first, "DATA"), column(first, "DATA_DESC_ID")
    joined = os.path.join(work, "joined.ms")
    casatasks.concat(vis=[first, second], concatvis=joined)
    with_split = os.path.join(work, "with_split.ms")
    casatasks.concat(vis=[split, second], concatvis=with_split)
    averaged = os.path.join(work, "averaged.ms")
    casatasks.mstransform(
        vis=first, outputvis=averaged, datacolumn="data", chanaverage=True, chanbin=4
    )
    return {
        "split_equals_window": bool(
            np.array_equal(column(split, "DATA"), whole[:, :, of_row == 1])
        ),
        "joined_rows": [opened(p).nrows() for p in (first, second, joined)],
        "joined_with_split_rows": [opened(p).nrows() for p in (split, second, with_split)],
        "averaged_shape": list(column(averaged, "DATA").shape),
    }


def write_and_read(path: str) -> dict[str, bool]:
    table = opened(path, write=True)
    rng = np.random.default_rng(3)
    found = {}
    for name in ("MODEL_DATA", "CORRECTED_DATA"):
        shape = table.getcol(name).shape
        values = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
        table.putcol(name, values)
        table.flush()
        found[name] = bool(np.array_equal(table.getcol(name).astype(np.complex64), values))
    flags = rng.random(table.getcol("FLAG").shape) < 0.3
    table.putcol("FLAG", flags)
    table.flush()
    found["FLAG"] = bool(np.array_equal(table.getcol("FLAG"), flags))
    table.close()
    return found


def main() -> None:
    work, first, second = sys.argv[1:]
    os.chdir(work)
    data = column(first, "DATA")
    found = {
        "version": casatasks.version_string(),
        "described": describe(first, work),
        "flags": flag_and_undo(first),
        "derived": derive(first, second, work),
        "calibrated": calibrate(first, work),
        "written": write_and_read(second),
        "data_unchanged": bool(np.array_equal(data, column(first, "DATA"))),
    }
    sys.stdout.write("\nRESULT " + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
