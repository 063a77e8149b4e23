"""What several unit tests need: a tiny group, converted once, and a user without rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from contimg_dask.convert import convert_in_order
from contimg_dask.discovery import discover
from contimg_dask.grouping import group_files
from contimg_dask.model import ConversionPlan, ProductOptions, Publication
from contimg_dask.naming import product_path
from contimg_dask.planning import plan_group, propose_tiers
from contimg_dask.simulate import Observation, simulate
from tests.reference import new_attempt

NOBODY = 65534


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A plan and the product made by it. Tests copy the product and leave it as it is."""

    plan: ConversionPlan
    product: Path


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """Three subbands of four antennas, two integrations and four channels."""
    directory = tmp_path_factory.mktemp("converted")
    simulate(directory / "in", Observation(subbands=3, antennas=4, integrations=2, channels=4))
    found = discover(directory / "in")
    (group,) = group_files(found.headers, found.unreadable, 3)
    plan = plan_group(
        group,
        kind="science",
        options=ProductOptions(),
        target=str(product_path(directory / "out", group.id, "science")),
        tiers=propose_tiers(str(directory / "out")),
        direct=True,
        parallel=False,
        on_existing="skip",
        publication=Publication(output_dir=str(directory / "out")),
    )
    product = convert_in_order(plan, new_attempt())
    return Converted(plan=plan, product=Path(product.path))


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory every user may enter, which pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="contimg-test-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        for below in directory.rglob("*"):
            below.chmod(0o755)
        shutil.rmtree(directory)


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 8 MiB in memory."""
    directory = tmp_path / "tmpfs"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "contimg-test", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than ``tmp_path``."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="contimg-test-", dir=shm))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def without_rights() -> Callable[[], AbstractContextManager[None]]:
    """A context in which permissions count, also when the tests run as root."""

    @contextmanager
    def context() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)

    return context
