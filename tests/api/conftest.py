"""One web interface for all tests of a file, on a catalogue that holds a night."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from tests.api.site import Site, serving
from tests.night import fill_night
from tests.reference import memory_directory


@pytest.fixture(scope="module")
def catalogue() -> Iterator[Catalogue]:
    """A catalogue in memory, for all tests of a file."""
    with memory_directory() as path, open_catalogue(str(path / "catalogue.sqlite")) as opened:
        yield opened


@pytest.fixture(scope="module")
def night(catalogue: Catalogue) -> dict[str, list[int]]:
    """The keys of its groups, by what became of them."""
    return fill_night(catalogue, hours=4.0)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue, night: dict[str, list[int]]
) -> Iterator[Site]:
    """The web interface on that catalogue."""
    del night
    directory: Path = tmp_path_factory.mktemp("site")
    with serving(directory, catalogue.url_shown) as found:
        yield found
