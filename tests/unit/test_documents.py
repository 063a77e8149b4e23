"""The documents say what the program does: codes, options, settings, commands, fields, modules."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import click
import pytest

from contimg_dask.api.metrics import DECLARED
from contimg_dask.cli import cli
from contimg_dask.deploy.scheduler_metrics import scheduler_figures
from contimg_dask.deploy.worker_metrics import worker_figures
from contimg_dask.inputs import Published
from contimg_dask.model import GroupRecord
from contimg_dask.publishing.manifest import MANIFEST_VERSION, read_manifest
from contimg_dask.settings import describe, load_settings
from contimg_dask.staging.records import LEASE_S
from contimg_dask.staging.sweeping import Leftover
from tests.unit.conftest import Converted

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
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


def test_every_explained_code_is_one_of_the_program() -> None:
    explained = {
        code for table in tables_in("json.md", first_column="code") for code in names_in(table)
    }
    assert len(explained) > 50
    assert sorted(code for code in explained if f'"{code}"' not in SOURCES) == []


def tables_in(document: str, *, first_column: str, heading: str = "") -> list[list[str]]:
    """Return the first cells of each table that has this first column, below a heading if given."""
    text = (ROOT / "docs" / document).read_text()
    if heading:
        assert text.count(f"\n## {heading}\n") == 1, heading
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = []
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        if rows and rows[0].startswith(f"| {first_column} |"):
            found.append([row.split("|")[1] for row in rows[2:]])
    return found


def names_in(cells: list[str]) -> set[str]:
    """Return what stands in code quotes in these cells."""
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def documented_fields(heading: str, which: int = 0) -> set[str]:
    """Return the fields in a table of docs/json.md."""
    return names_in(tables_in("json.md", first_column="field", heading=heading)[which])


RECORD_FIELDS = {field.name for field in dataclasses.fields(GroupRecord)}


def test_the_fields_of_a_record_are_documented() -> None:
    (report, _, record, _) = tables_in(
        "json.md", first_column="field", heading="`convert` and `convert-group`"
    )
    assert names_in(record) >= RECORD_FIELDS
    first = {re.findall(r"`([^`]+)`", cell)[0] for cell in record}
    assert first == RECORD_FIELDS
    assert names_in(report) == {"schema", "command", "counts", "seconds", "groups", "hand_overs"}


def test_the_fields_of_a_manifest_are_documented(converted: Converted) -> None:
    manifest = read_manifest(converted.product)
    assert manifest is not None
    assert documented_fields("Manifest") == set(manifest)
    text = (ROOT / "docs" / "json.md").read_text().split("\n## Manifest\n")[1]
    assert f"| `manifest_version` | integer | {MANIFEST_VERSION} |" in text
    for facts in manifest["subbands"].values():
        assert [name for name in facts if f"`{name}`" not in text] == []
    for part in ("options", "geometry", "pointing"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{part}` |")]
        assert [name for name in manifest[part] if f"`{name}`" not in line] == []


@pytest.mark.parametrize(
    ("heading", "nested", "kind"),
    [("`inputs`", "products", Published), ("`sweep`", "attempts", Leftover)],
)
def test_the_fields_of_the_lists_of_inputs_and_sweep_are_documented(
    heading: str, nested: str, kind: type
) -> None:
    names = documented_fields(heading)
    own = {name.partition("[].")[2] for name in names if name.startswith(f"{nested}[].")}
    assert own == {field.name for field in dataclasses.fields(kind)}


def test_every_kind_of_event_is_documented() -> None:
    written = set(re.findall(r'log\.add\(\s*"([a-z-]+)"|self\.add\("([a-z-]+)"', SOURCES))
    kinds = {name for pair in written for name in pair if name}
    assert kinds >= {"run-started", "step-done", "handed-over", "run-stopped"}
    kinds |= {f"group-{outcome}" for outcome in ("published", "skipped", "failed", "incomplete")}
    (table,) = tables_in("json.md", first_column="event", heading="Events")
    assert names_in(table) == kinds


def test_every_schema_is_documented() -> None:
    text = (ROOT / "docs" / "json.md").read_text()
    schemas = set(re.findall(r"contimg-dask\.[a-z]+/\d+", SOURCES))
    assert len(schemas) >= 8
    assert sorted(schema for schema in schemas if text.count(f"`{schema}`") < 2) == []


def test_every_metric_is_documented_with_its_kind_and_labels() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(contimg_\w+)` \| (\w+) \| ([^|]*) \| (\w+) \|", text, re.MULTILINE)
    documented = {
        (name, kind, tuple(re.findall(r"`(\w+)`", labels)), where)
        for name, kind, labels, where in rows
    }
    assert len(documented) == len(rows)
    by_place = (
        ("worker", worker_figures()), ("scheduler", scheduler_figures()), ("api", DECLARED),
    )  # fmt: skip
    there = {
        (figure.name, figure.kind, figure.labels, where)
        for where, figures in by_place
        for figure in figures
    }
    assert documented == there


def test_metrics_are_named_as_prometheus_wants_them() -> None:
    for figure in (*worker_figures(), *scheduler_figures(), *DECLARED):
        assert figure.name.endswith("_total") == (figure.kind == "counter"), figure.name
        assert figure.kind != "histogram" or figure.name.endswith("_seconds"), figure.name
        assert figure.help


def test_how_long_an_unseen_attempt_lives_is_documented() -> None:
    for name in ("operations.md", "design.md", "reliability.md"):
        assert f"{LEASE_S / 60:.0f} minutes" in (ROOT / "docs" / name).read_text()


def test_every_module_and_its_layer_are_in_the_document_about_design() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    package = ROOT / "contimg_dask"
    modules = {
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert sorted(module for module in modules if f"`{module}`" not in text) == []
    (drawn,) = re.findall(r"```\n(cli\n.*?)```", text, re.DOTALL)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [c["layers"] for c in contracts["contracts"] if c["id"] == "layers"]
    names = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    there = [[name for name in re.findall(r"\w+", layer) if name in names] for layer in layers]
    assert [re.findall(r"\w+", line) for line in drawn.splitlines()] == [
        layer for layer in there if layer
    ]


def test_every_test_that_is_called_a_proof_exists() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`(\w+/\w+\.py)::(\w+)`", text)
    assert len(named) > 30
    missing = [
        f"{file}::{function}"
        for file, function in named
        if f"def {function}(" not in (ROOT / "tests" / file).read_text()
    ]
    assert missing == []


def test_what_was_tried_against_the_web_interface_are_tests_that_there_are() -> None:
    table = (ROOT / "docs" / "api.md").read_text().split("\n## What was tried against it\n")[1]
    table = table.split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(?:(\w+\.py)::)?(test_\w+)`", row)
        assert named, row
        for file, function in named:
            source = ROOT / "tests" / "api" / (file or "test_hostile.py")
            assert f"def {function}(" in source.read_text(), row


def test_every_alert_is_documented() -> None:
    rules = (ROOT / "cluster" / "prometheus" / "contimg.rules.yml").read_text()
    names = set(re.findall(r"alert: (\w+)", rules))
    assert len(names) > 10
    assert names_in(tables_in("monitoring.md", first_column="alert")[0]) == names


def test_every_endpoint_is_documented() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for module in ("reading", "steering"):
        source = (ROOT / "contimg_dask" / "api" / f"{module}.py").read_text()
        paths = re.findall(r"@router\.\w+\(\s*\"([^\"]+)\"", source)
        assert paths
        missing = [p for p in paths if p not in text and f"/{p.split('/')[-1]}" not in text]
        assert missing == []


def test_every_link_between_documents_leads_somewhere() -> None:
    def anchors(document: Path) -> set[str]:
        headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
        plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
        return {heading.replace(" ", "-") for heading in plain}

    broken = []
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            path, _, anchor = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            if "://" in link:
                continue
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{document.name}: {link}")
    assert broken == []


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
    for document in DOCUMENTS:
        assert not re.search(r"/(root|home|work)/", document.read_text()), document
