"""The document about the catalogue has every table, column, event and module, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contimg_dask.catalogue.tables import metadata

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "catalogue.md").read_text()
PACKAGE = ROOT / "contimg_dask" / "catalogue"
SOURCES = "\n".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))


def names_in_first_cells(text: str, first_column: str) -> list[str]:
    """Return what stands in code quotes in the first cells of the table with this first column."""
    table = text.split(f"| {first_column} |", 1)[1].split("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_table_has_its_section() -> None:
    assert re.findall(r"^### (\w+)$", TEXT, re.MULTILINE) == list(metadata.tables)


@pytest.mark.parametrize("table", list(metadata.tables))
def test_every_column_is_explained(table: str) -> None:
    section = TEXT.split(f"\n### {table}\n")[1].split("\n### ")[0].split("\n## ")[0]
    assert sorted(names_in_first_cells(section, "column")) == sorted(
        metadata.tables[table].c.keys()
    )


def test_every_kind_of_event_is_explained() -> None:
    kinds = set(
        re.findall(r'(?:event="|event_row\(\s*"|add\(\s*connection,\s*")([a-z-]+)"', SOURCES)
    )
    kinds |= set(re.findall(r'"((?:node|job|group|product)-[a-z-]+)"', SOURCES))
    kinds |= {f"group-{state}" for state in ("collecting", "queued", "failed", "quarantined")}
    assert kinds >= {"attempt-started", "paused", "lease-taken", "node-joined", "group-adopted"}
    assert set(names_in_first_cells(TEXT, "event")) == kinds


def test_every_module_is_in_the_table_of_modules() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} | {"migrations"}
    assert set(names_in_first_cells(TEXT, "module")) == modules
