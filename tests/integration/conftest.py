"""Directories in memory: these tests write thousands of small files, and no disk has to keep them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reference import memory_directory


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """Like ``tmp_path``, in memory, and gone after the test."""
    with memory_directory() as path:
        yield path
