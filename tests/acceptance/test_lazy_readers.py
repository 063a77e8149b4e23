"""Readers built on Dask and xarray open a product lazily and give the values casacore gives."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import make_groups, run


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("lazy")
    make_groups(directory / "in", subbands=3)
    done = run("convert", directory / "in", directory / "out", "--expected-subbands", "3", "--json")
    assert done.code == 0, done.err
    return str(done.report["groups"][0]["path"])


@pytest.mark.parametrize(("which", "package"), [("daskms", "daskms"), ("xarray", "xarray_ms")])
def test_a_product_opens_lazily_with_equal_values(product: str, which: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("lazy_client.py"), which, product],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    assert json.loads(line.removeprefix("RESULT ")) == [21 * 2] * 3
