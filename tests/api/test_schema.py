"""The API against its own description: it takes what it says it takes, and answers as it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from contimg_dask.catalogue.opening import open_catalogue
from tests.api.site import TOKEN, serving
from tests.night import fill_night
from tests.reference import memory_directory

SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))


def test_the_api_keeps_to_its_own_description(tmp_path: Path) -> None:
    with memory_directory() as memory:
        _hold_against_description(tmp_path, str(memory / "catalogue.sqlite"))


def _hold_against_description(tmp_path: Path, place: str) -> None:
    with open_catalogue(place) as catalogue:
        fill_night(catalogue, hours=1.0)
    with serving(tmp_path / "site", place) as site:
        done = subprocess.run(
            [
                SCHEMATHESIS, "run", f"{site.url}/api/v1/openapi.json", "--no-color",
                "--phases", "coverage,fuzzing", "--max-examples", "3", "--workers", "1",
                "--generation-deterministic", "--header", f"Authorization: Bearer {TOKEN}",
                # It never ends.
                "--exclude-path", "/api/v1/events/stream",
                # Whether a text is a time, or a setting takes a value, no schema can say.
                "--exclude-checks", "positive_data_acceptance",
            ],
            capture_output=True, text=True, timeout=110, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:]
        assert "Tested: 21" in done.stdout
