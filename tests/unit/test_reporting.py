"""What a command reports: one JSON document and one exit code."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from contimg_dask import cli_convert
from contimg_dask.batch import Ran
from contimg_dask.errors import ClusterError, ContimgError
from contimg_dask.model import GroupRecord, OutcomeName, Reason, UnreadableFile
from contimg_dask.reporting import OUTCOMES, exit_code, report, sort_records

GROUP_KEYS = {
    "id", "start_mjd", "present", "missing", "outcome", "reason", "path", "bytes_in", "bytes_out",
    "mode", "tier", "tier_proposed", "tier_reason", "node", "attempts", "seconds", "unreadable",
    "notes",
}  # fmt: skip


def record(outcome: OutcomeName, group_id: str = "2025-10-05T03:12:06") -> GroupRecord:
    return GroupRecord(id=group_id, start_mjd=60953.1, present=(0,), missing=(1,), outcome=outcome)


def records(*outcomes: OutcomeName) -> list[GroupRecord]:
    return [record(name, f"2025-10-05T03:12:{i:02d}") for i, name in enumerate(outcomes)]


EXIT_CODES: list[tuple[tuple[OutcomeName, ...], int, int]] = [
    # outcomes, exit code, exit code with --strict
    ((), 3, 3),
    (("published",), 0, 0),
    (("skipped",), 0, 0),
    (("planned",), 0, 0),
    (("failed",), 1, 1),
    (("incomplete",), 3, 1),
    (("incomplete", "incomplete"), 3, 1),
    (("published", "skipped"), 0, 0),
    (("published", "incomplete"), 0, 1),
    (("skipped", "incomplete"), 0, 1),
    (("planned", "incomplete"), 0, 1),
    (("failed", "incomplete"), 1, 1),
    (("published", "published", "failed"), 1, 1),
    (("published", "skipped", "failed", "incomplete", "planned"), 1, 1),
]


@pytest.mark.parametrize(("outcomes", "code", "strict_code"), EXIT_CODES)
def test_the_exit_code_follows_from_the_outcomes(
    outcomes: tuple[OutcomeName, ...], code: int, strict_code: int
) -> None:
    assert exit_code(records(*outcomes), strict=False) == code
    assert exit_code(records(*reversed(outcomes)), strict=False) == code
    assert exit_code(records(*outcomes), strict=True) == strict_code


def test_the_report_counts_every_outcome() -> None:
    document = report("convert", records("published", "failed", "published"), {})
    assert document["counts"] == {
        "groups": 3,
        "published": 2,
        "skipped": 0,
        "failed": 1,
        "incomplete": 0,
        "planned": 0,
    }
    assert set(document["counts"]) == {"groups", *OUTCOMES}


def test_the_report_has_the_documented_keys() -> None:
    document = report("convert", records("published"), {"total": 1.23456})
    assert set(document) == {"schema", "command", "counts", "seconds", "groups"}
    assert document["schema"] == "contimg-dask.report/1"
    assert document["command"] == "convert"
    assert document["seconds"] == {"total": 1.235}
    assert set(document["groups"][0]) == GROUP_KEYS


def test_a_group_in_the_report_is_its_record_in_plain_json() -> None:
    unreadable = UnreadableFile(
        path="/in/sb01",
        name_stamp="2025-10-05T03:12:06",
        name_number=1,
        reason=Reason(code="truncated", text="/in/sb01: cut"),
    )
    failed = GroupRecord(
        id="2025-10-05T03:12:06",
        start_mjd=60953.25,
        present=(0, 2),
        missing=(1,),
        outcome="failed",
        reason=Reason(code="truncated", text="/in/sb01: cut"),
        bytes_in=12,
        mode="direct-parallel",
        tier="destination",
        tier_proposed="tmpfs",
        tier_reason="tmpfs is too full (3 MB needed, 1 MB to use); 3 MB needed, 9 MB to use",
        node="lxd110h01",
        attempts=2,
        seconds={"parts": 1.5, "total": 2.0},
        unreadable=(unreadable,),
        notes=("a note",),
    )
    text = json.dumps(report("convert", [failed], {"total": 3.0}), allow_nan=False)
    (group,) = json.loads(text)["groups"]
    assert group == {
        "id": "2025-10-05T03:12:06",
        "start_mjd": 60953.25,
        "present": [0, 2],
        "missing": [1],
        "outcome": "failed",
        "reason": {"code": "truncated", "text": "/in/sb01: cut"},
        "path": None,
        "bytes_in": 12,
        "bytes_out": 0,
        "mode": "direct-parallel",
        "tier": "destination",
        "tier_proposed": "tmpfs",
        "tier_reason": "tmpfs is too full (3 MB needed, 1 MB to use); 3 MB needed, 9 MB to use",
        "node": "lxd110h01",
        "attempts": 2,
        "seconds": {"parts": 1.5, "total": 2.0},
        "unreadable": [
            {
                "path": "/in/sb01",
                "name_stamp": "2025-10-05T03:12:06",
                "name_number": 1,
                "reason": {"code": "truncated", "text": "/in/sb01: cut"},
            }
        ],
        "notes": ["a note"],
    }


def test_groups_are_reported_in_order_of_time() -> None:
    ids = ["2025-10-06T00:00:01", "2025-10-05T23:59:59", "2024-12-31T00:00:00"]
    made = [record("published", group_id) for group_id in ids]
    assert [r.id for r in sort_records(made)] == sorted(ids)
    document = report("convert", made, {})
    assert [group["id"] for group in document["groups"]] == sorted(ids)


# ----------------------------------------------------- the command's own codes come before these


class Conversion:
    """Stands in for the conversion: hands on some records, then perhaps is interrupted."""

    def __init__(self, outcomes: Sequence[OutcomeName], end: BaseException | None = None) -> None:
        self.records = records(*outcomes)
        self.end = end

    def __call__(self, groups: Any, request: Any, *, on_record: Any, **_: Any) -> Ran:
        del groups, request
        for made in self.records:
            on_record(made)
        if self.end is not None:
            raise self.end
        return Ran(startup_s=0.5, handed_over=3, hand_overs_failed=2)


def run_convert(conversion: Conversion, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """Run the command without what it does to the process it has for itself."""
    monkeypatch.setattr(cli_convert, "convert_groups", conversion)
    monkeypatch.setattr(cli_convert, "use_packaged_tables", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    return CliRunner().invoke(cli_convert.convert, arguments)


@pytest.mark.parametrize(
    ("conversion", "code"),
    [
        (Conversion(["published"]), 0),
        (Conversion(["published", "failed"]), 1),
        (Conversion([]), 3),
        (Conversion([], KeyboardInterrupt()), 130),
        (Conversion(["published"], KeyboardInterrupt()), 130),
        (Conversion(["published", "failed"], KeyboardInterrupt()), 130),
    ],
)
def test_the_command_ends_with_the_code_and_prints_one_json_document(
    conversion: Conversion, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_convert(conversion, monkeypatch, str(tmp_path), str(tmp_path), "--json")
    assert done.exit_code == code
    document = json.loads(done.stdout)
    assert document["counts"]["groups"] == len(conversion.records)
    assert "traceback" not in done.stderr.lower()
    if conversion.end is None:
        assert document["hand_overs"] == {"done": 3, "failed": 2}
        assert document["seconds"]["startup"] == 0.5


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ClusterError("no Dask scheduler answers there"), 1),
    ],
)
def test_what_ends_the_command_is_one_line_after_what_was_known(
    error: ContimgError, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = Conversion(["skipped"] if code == 1 else [], error)
    done = run_convert(conversion, monkeypatch, str(tmp_path), str(tmp_path), "--json")
    assert done.exit_code == code
    *before, last = done.stderr.splitlines()
    assert last == f"contimg-dask: {error}"
    if code == 1:
        assert json.loads(done.stdout)["counts"]["skipped"] == 1
    else:
        assert (done.stdout, before) == ("", [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--start", "yesterday"],
        ["--start", "2025-10-06", "--end", "2025-10-05"],
        ["--workers", "many"],
        ["--on-existing", "overwrite"],
        ["--expected-subbands", "0"],
        ["--min-subbands", "17"],
        ["--kind", "satellite"],
        ["--mode", "rw-rw-r--"],
        ["--mode", "444"],
        ["--tmpfs-budget", "some"],
    ],
)
def test_wrong_use_ends_with_2_and_a_line_on_standard_error(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Conversion(["published"])
    done = run_convert(published, monkeypatch, str(tmp_path), str(tmp_path), *arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.strip()
