"""Products in CASA 6: described, flagged, calibrated, split, joined, transformed, written to.

Run with ``CASA_PYTHON=…/python pytest -m casa``, where that Python has casatasks, casatools and
casadata; its packages must not share a process with python-casacore.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import casacore.tables as tables
import numpy as np
import pytest
from distributed import Client

from contimg_dask import convert_subband_groups_to_ms

from .conftest import make_groups

pytestmark = [
    pytest.mark.casa,
    pytest.mark.timeout(600),
    pytest.mark.skipif("CASA_PYTHON" not in os.environ, reason="CASA_PYTHON names no CASA Python"),
]
INTEGRATIONS, SUBBANDS = 3, 4


@pytest.fixture(scope="module")
def products(client: Client, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("casa")
    make_groups(
        directory / "in", groups=2, subbands=SUBBANDS, antennas=12, integrations=INTEGRATIONS
    )
    records = convert_subband_groups_to_ms(
        directory / "in",
        directory / "out",
        client=client,
        expected_subbands=SUBBANDS,
        telescope_name="OVRO_MMA",
    )
    return [Path(record["path"]) for record in records]


@pytest.fixture(scope="module")
def casa(products: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What CASA made of the two products, in a process and a working directory of its own."""
    work = tmp_path_factory.mktemp("work")
    script = Path(__file__).with_name("casa_client.py")
    done = subprocess.run(
        [os.environ["CASA_PYTHON"], script, work, *products],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        cwd=work,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return found


def test_metadata_and_listing_show_scans_fields_and_windows(casa: dict[str, Any]) -> None:
    described = casa["described"]
    assert described["scans"] == [1, 2, 3]
    assert described["field_of_scan"] == [0, 1, 2]
    assert described["fields"] == [f"meridian_icrs_t{index}" for index in range(INTEGRATIONS)]
    assert described["windows"] == ["sb03", "sb02", "sb01", "sb00"]
    assert described["window_frequencies_hz"] == sorted(described["window_frequencies_hz"])
    assert described["observatory"] == ["OVRO_MMA"]
    assert "meridian_icrs_t2" in described["listobs"]


def test_flags_can_be_set_and_undone(casa: dict[str, Any]) -> None:
    before, after, undone = casa["flags"]["counts"]
    assert before == undone == 0
    assert after == 78 * 8 * 2  # baselines of 12 antennas with autocorrelations, channels, products
    assert casa["flags"]["restored"]


def test_split_concat_and_mstransform_work(casa: dict[str, Any]) -> None:
    derived = casa["derived"]
    assert derived["split_equals_window"]
    first, second, joined = derived["joined_rows"]
    assert joined == first + second
    split, second, joined = derived["joined_with_split_rows"]
    assert joined == split + second
    assert derived["averaged_shape"][:2] == [2, 2]


def test_calibration_columns_are_filled(casa: dict[str, Any]) -> None:
    calibrated = casa["calibrated"]
    assert calibrated["corrected_is_data"]
    assert calibrated["model_is_one"]
    assert calibrated["model_of_field_0_jy"] == pytest.approx(2.5, rel=1e-5)
    assert calibrated["model_elsewhere_jy"] == pytest.approx(1.0, rel=1e-5)


def test_what_casa_writes_reads_back_in_casa_and_in_casacore(
    casa: dict[str, Any], products: list[Path]
) -> None:
    assert casa["written"] == {"MODEL_DATA": True, "CORRECTED_DATA": True, "FLAG": True}
    assert casa["data_unchanged"]
    main = tables.table(str(products[1]), ack=False)
    model = main.getcol("MODEL_DATA")
    rng = np.random.default_rng(3)
    shape = model.T.shape
    wanted = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    assert np.array_equal(model.T, wanted)
