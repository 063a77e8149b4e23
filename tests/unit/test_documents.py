"""The documents say what the program does: codes, options, settings, commands."""

from __future__ import annotations

import re
from pathlib import Path

import click

from contimg_dask.cli import cli
from contimg_dask.settings import describe, load_settings

ROOT = Path(__file__).parents[2]
SOURCES = "\n".join(path.read_text() for path in sorted((ROOT / "contimg_dask").rglob("*.py")))


def codes() -> set[str]:
    """Return every reason and finding code in the source."""
    found = set(re.findall(r'\bcode(?:: str)?\s*=\s*\(?\s*"([a-z0-9-]+)"', SOURCES))
    found |= set(re.findall(r', code = "[^"]*", "([a-z-]+)"', SOURCES))
    return found


def test_every_code_is_explained_in_the_document_about_json() -> None:
    text = (ROOT / "docs" / "json.md").read_text()
    assert len(codes()) > 30
    assert sorted(code for code in codes() if f"`{code}`" not in text) == []


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    names = cli.list_commands(click.Context(cli))
    assert [name for name in names if f"contimg-dask {name}" not in text] == []


def test_every_option_of_a_command_in_the_documents_exists() -> None:
    context = click.Context(cli)
    known = {"--help"}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        commands = command.commands.values() if isinstance(command, click.Group) else [command]
        for one in commands:
            for parameter in one.params:
                known |= {*parameter.opts, *parameter.secondary_opts}
    used = set()
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for line in document.read_text().splitlines():
            if "contimg-dask " in line and "dask worker" not in line:
                used |= set(re.findall(r"(?<=\s)--[a-z][a-z-]+", line))
    assert sorted(used - known - {"--preload", "--nthreads", "--input"}) == []


def test_every_setting_is_an_option_or_documented() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    text += (ROOT / "README.md").read_text()
    names = [name for name, *_ in describe(load_settings({}, environ={}))]
    missing = [n for n in names if n not in text and f"--{n.replace('_', '-')}" not in text]
    assert missing == []


def test_no_document_names_a_path_of_one_machine() -> None:
    documents = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for document in documents:
        assert not re.search(r"/(root|home|work)/", document.read_text()), document
