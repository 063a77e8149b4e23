"""The commands around the queue: what they print, what they refuse, and what they leave behind."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from contimg_dask.catalogue import groups, jobs, leases, nodes, products, queue
from contimg_dask.catalogue.events import list_events
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.cli import main
from contimg_dask.dispatching.reading import read_job
from contimg_dask.errors import WorkerLostError
from contimg_dask.lifecycle import State
from contimg_dask.model import Reason
from tests.acceptance.conftest import COMMAND, Ran, make_groups, run
from tests.integration.catalogue.nouns import (
    begun,
    failed,
    lease,
    make_group,
    product_of,
    published,
    queued,
    submitted,
    whole,
)
from tests.services import until

TINY = {"subbands": 2, "antennas": 3, "integrations": 2, "channels": 4}
IDS = ("2025-10-05T03:12:06", "2025-10-05T03:17:15", "2025-10-05T03:22:24")
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three groups of two subbands, of which the second lacks one and the third has a bad one."""
    directory = tmp_path_factory.mktemp("simulated")
    make_groups(directory, "missing:1:0", "truncated:2:1", groups=3, **TINY)
    return directory


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state" / "catalogue.sqlite"


@pytest.fixture
def catalogue(place: Path) -> Iterator[Catalogue]:
    with open_catalogue(str(place)) as opened:
        yield opened


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that does what the command does, in this process: it is quicker."""

    def called(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["contimg-dask", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            # A command that ends leaves its handlers; this process goes on.
            for number, handler in handlers.items():
                signal.signal(number, handler)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Ran(code, said.out, said.err)

    return called


Call = Callable[..., Ran]


@contextmanager
def started(*arguments: str | Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command as a terminal would, in a process group of its own; kill what is left."""
    process = subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | settings,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE_S)


def ended(process: subprocess.Popen[str]) -> Ran:
    out, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err, err
    return Ran(process.returncode, out, err)


# --------------------------------------------------------------------------------------------- submit


def test_submit_records_a_job_without_a_dispatcher_and_says_that_there_is_none(
    simulated: Path, tmp_path: Path, place: Path
) -> None:
    done = run(
        "submit", simulated, tmp_path / "out", "--catalogue", place, "--expected-subbands", "2",
        "--label", "week 40", "--priority", "3", "--start", "2025-10-05", "--spw", "single",
    )  # fmt: skip
    assert done.code == 0
    assert done.out == f"job 1: 3 candidate group(s) by name in {simulated}\n"
    assert "no dispatcher is running" in done.err
    with open_catalogue(str(place)) as catalogue:
        (job,) = jobs.list_jobs(catalogue)
        assert groups.list_groups(catalogue) == [], "headers are the dispatcher's to read"
    assert (job.state, job.label, job.priority, job.candidates) == ("waiting", "week 40", 3, 3)
    assert (job.output_dir, job.start_mjd) == (str(tmp_path / "out"), 60953.0)
    assert (job.expected_subbands, job.settings["spw"]) == (2, "single")
    assert not (tmp_path / "out").exists()


def test_submit_names_the_dispatcher_that_is_there(
    call: Call, simulated: Path, tmp_path: Path, place: Path, catalogue: Catalogue
) -> None:
    said = ("submit", simulated, tmp_path / "out", "--catalogue", place, "--json")
    assert call(*said).report == {
        "schema": "contimg-dask.submit/1", "job": 1, "candidates": 3, "catalogue": str(place),
        "dispatcher": None,
    }  # fmt: skip
    take_lease(catalogue)
    done = call(*said)
    assert (done.report["job"], done.report["dispatcher"]) == (2, "process 11 on here")
    assert done.err == ""


def take_lease(catalogue: Catalogue) -> None:
    """Have a dispatcher that is there for a while."""
    assert leases.renew(catalogue, lease(catalogue), lease_s=60.0, facts={"state": "idle"})


def test_a_dry_run_says_what_would_be_queued_and_why_not_the_rest_and_leaves_nothing(
    simulated: Path, tmp_path: Path, place: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    said = ("submit", simulated, tmp_path / "out", "--catalogue", place, "--dry-run",
            "--expected-subbands", "2")  # fmt: skip
    done = run(*said)
    lines = done.out.splitlines()
    assert done.code == 0
    assert lines[0] == f"queued   {IDS[0]}  2 subband(s)"
    assert lines[1].startswith(f"failed   {IDS[1]}  1 subband(s)  [missing-subbands]")
    assert lines[2].startswith(f"failed   {IDS[2]}  1 subband(s)  [truncated]")
    assert lines[3:] == ["1 of 3 group(s) would be queued"]
    document = run(*said, "--json").report
    assert document["schema"] == "contimg-dask.foreseen/1"
    assert [(g["id"], g["outcome"], g["present"], g["missing"]) for g in document["groups"]] == [
        (IDS[0], "queued", [0, 1], []),
        (IDS[1], "failed", [1], [0]),
        (IDS[2], "failed", [0], [1]),
    ]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_a_stream_says_what_it_would_do_with_the_files_of_now_and_leaves_nothing(
    simulated: Path, tmp_path: Path, place: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    said = ("stream", "--input", simulated, "--output", tmp_path / "out", "--catalogue", place,
            "--dry-run", "--expected-subbands", "2")  # fmt: skip
    done = run(*said)
    assert done.code == 0
    assert done.out.splitlines() == [
        f"queued     {IDS[0]}  2 subband(s)",
        f"collecting {IDS[1]}  1 subband(s)  waits for sb00",
        f"collecting {IDS[2]}  1 subband(s)  waits for sb01",
        "1 of 3 group(s) would be queued",
    ]
    document = run(*said, "--log-format", "json").report
    assert document["schema"] == "contimg-dask.foreseen/1"
    assert [group["outcome"] for group in document["groups"]] == [
        "queued", "collecting", "collecting",
    ]  # fmt: skip
    lines = run(*said, "--collecting-timeout", "0").out.splitlines()
    assert lines[1].startswith(f"failed   {IDS[1]}  1 subband(s)  [missing-subbands]")
    lines = run(*said, "--collecting-timeout", "0", "--min-subbands", "1").out.splitlines()
    assert lines[1].startswith(f"queued   {IDS[1]}  1 subband(s)")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_says_what_a_submission_then_does(
    call: Call, tmp_path: Path, place: Path, catalogue: Catalogue
) -> None:
    """One group in every state, its files as they were and sent again, by the rules of any job."""
    incoming, out = tmp_path / "incoming", tmp_path / "out"
    make_groups(incoming, groups=8, **TINY)
    arguments = ("submit", incoming, out, "--catalogue", place, "--expected-subbands", "2")
    assert call(*arguments).code == 0
    read_job(catalogue, jobs.get_job(catalogue, 1))
    rows = groups.list_groups(catalogue)
    keys = [row.key for row in rows]
    failed(catalogue, keys[1])
    failed(catalogue, keys[2])
    failed(catalogue, keys[3], quarantine=True)
    queue.cancel_groups(catalogue, [keys[4]])
    published(catalogue, keys[5], 5, path=str(out / "5.ms"), output_dir=str(out))
    published(catalogue, keys[6], 6, path=str(out / "6.ms"), output_dir=str(out))
    products.mark_removed(catalogue, str(out / "6.ms"))
    begun(catalogue, keys[7])
    for number in (2, 3, 6):  # sent again
        for path in incoming.glob(f"{rows[number].id}_*"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 1))
    for options, queues in (((), {2, 3, 4}), (("--on-existing", "replace"), {5, 6})):
        before = groups.list_groups(catalogue)
        foreseen = call(*arguments, *options, "--dry-run", "--json").report["groups"]
        assert groups.list_groups(catalogue) == before
        assert len(jobs.list_jobs(catalogue)) == len({job for row in before for job in row.jobs})
        job = call(*arguments, *options, "--json").report["job"]
        read_job(catalogue, jobs.get_job(catalogue, job))
        after = groups.list_groups(catalogue)
        for number, (said, now) in enumerate(zip(foreseen, after, strict=True)):
            assert said["id"] == now.id
            assert (said["outcome"] == "queued") == (number in queues), (number, said)
            if said["outcome"] == "queued":
                assert now.state == "queued"
            else:
                assert said["reason"]["code"] == f"is-{now.state}"
                assert now.state == before[number].state


# ---------------------------------------------------------------------------------------- submit --wait


@dataclass(kw_only=True)
class Helper:
    """Does a dispatcher's work in this process, with outcomes that were made up."""

    catalogue: Catalogue
    outcome: State
    hold: threading.Event

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Helper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self._thread.join()

    def _work(self) -> None:
        until(lambda: jobs.jobs_to_read(self.catalogue), PATIENCE_S, 0.02)
        (job,) = jobs.jobs_to_read(self.catalogue)
        read_job(self.catalogue, job)
        self.hold.wait(PATIENCE_S)
        for number, row in enumerate(groups.list_groups(self.catalogue, states=["queued"])):
            if self.outcome == "published":
                published(self.catalogue, row.key, number, output_dir=row.output_dir)
            else:
                failed(self.catalogue, row.key, quarantine=self.outcome == "quarantined")


@pytest.mark.parametrize(
    ("outcome", "only", "code"),
    [
        ("published", IDS[0], 0),
        ("published", "", 1),  # the others have failed with their files
        ("quarantined", IDS[0], 1),
        ("published", "nothing of the kind", 3),
    ],
)
def test_waiting_ends_with_the_job_and_tells_by_its_exit_code_what_came_of_it(
    call: Call, simulated: Path, tmp_path: Path, place: Path, catalogue: Catalogue,
    outcome: State, only: str, code: int,
) -> None:  # fmt: skip
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    for path in simulated.glob(f"{only}*"):
        shutil.copy(path, incoming)
    ready = threading.Event()
    ready.set()
    with Helper(catalogue=catalogue, outcome=outcome, hold=ready):
        done = call("submit", incoming, tmp_path / "out", "--catalogue", place, "--wait",
                    "--expected-subbands", "2")  # fmt: skip
    assert done.code == code, done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("job 1 is done: ")
    assert ("no group was found" in last) == (code == 3)


def test_waiting_for_a_job_that_cannot_be_read_ends_with_the_reason(
    call: Call, simulated: Path, tmp_path: Path, place: Path, catalogue: Catalogue
) -> None:
    def break_it() -> None:
        until(lambda: jobs.jobs_to_read(catalogue), PATIENCE_S, 0.02)
        jobs.set_broken(catalogue, 1, Reason(code="usage", text="its directory is gone"))

    thread = threading.Thread(target=break_it)
    thread.start()
    done = call("submit", simulated, tmp_path / "out", "--catalogue", place, "--wait")
    thread.join()
    assert done.code == 1
    assert done.err.splitlines()[-1] == "job 1 cannot be read: its directory is gone"


def test_waiting_shows_progress_and_ctrl_c_leaves_the_job_alone(
    simulated: Path, tmp_path: Path, place: Path, catalogue: Catalogue
) -> None:
    hold = threading.Event()
    with (
        Helper(catalogue=catalogue, outcome="published", hold=hold),
        started("submit", simulated, tmp_path / "out", "--catalogue", place, "--wait",
                "--expected-subbands", "2") as process,
    ):  # fmt: skip
        assert process.stderr is not None
        said = ""
        while "headers read" not in said:
            said = process.stderr.readline()
            assert said, "it has ended"
        until(lambda: len(groups.list_groups(catalogue)) == 3, PATIENCE_S, 0.05)
        os.killpg(process.pid, signal.SIGINT)
        done = ended(process)
        assert done.code == 130
        assert "job 1 goes on; see 'contimg-dask status 1'" in done.err
        assert jobs.get_job(catalogue, 1).state == "read"
    assert groups.count_by_state(catalogue) == {"published": 1, "failed": 2}


# -------------------------------------------------------------------------------------------- refusals


def test_a_command_on_a_catalogue_that_is_not_there_is_refused_and_makes_none(
    call: Call, tmp_path: Path, place: Path
) -> None:
    (tmp_path / "out").mkdir()
    for arguments in (
        ("status",), ("status", "--watch"), ("groups",), ("products",), ("retry", "--all"),
        ("cancel", "1"), ("pause",), ("resume",), ("drain", "10.0.0.1"), ("undrain", "10.0.0.1"),
        ("reconcile", tmp_path / "out", "--dry-run"), ("catalogue", "show"),
    ):  # fmt: skip
        done = call(*arguments, "--catalogue", place)
        assert done.code == 2, arguments
        assert done.out == ""
        (line,) = done.err.splitlines()
        assert f"{place}: there is no catalogue" in line
    assert not place.parent.exists()


def test_no_refusal_shows_a_password(call: Call) -> None:
    done = call("status", "--catalogue", "postgresql://me:secret@127.0.0.1:1/x")
    assert done.code in (1, 2)
    assert len(done.err.splitlines()) == 1
    assert "secret" not in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("submit", "{missing}", "{out}"), "No such file or directory"),
        (("submit", "{file}", "{out}"), "Not a directory"),
        (("submit", "{missing}", "{out}", "--dry-run"), "No such file or directory"),
        (("submit", "{here}", "{out}", "--start", "2025-10-06", "--end", "2025-10-05"),
         "not before its end"),
        (("submit", "{here}", "{out}", "--start", "2025-10-06", "--end", "2025-10-05", "--dry-run"),
         "not before its end"),
        (("submit", "{here}", "{out}", "--start", "yesterday"), "is not a time"),
        (("submit", "{here}", "{out}", "--expected-subbands", "0"), "from 1 to 1000"),
        (("submit", "{here}", "{out}", "--min-subbands", "17"), "more than expected_subbands"),
        (("submit", "{here}", "{out}", "--mode", "999"), "octal"),
        (("submit", "{here}", "{out}", "--config", "{missing}"), "not a readable TOML file"),
        (("status", "99"), "there is no job 99"),
        (("groups", "--job", "99"), "there is no job 99"),
        (("cancel", "99"), "there is no job 99"),
        (("cancel", "--group", "99"), "there is no such group"),
        (("cancel", "2001-01-01T00:00:00"), "there is no such group"),
        (("retry", "2001-01-01T00:00:00"), "there is no such group"),
        (("retry", "99"), "there is no such group"),
        (("retry", "9" * 20), "there is no such group"),
        (("retry", "9" * 5000), "there is no such group"),
        (("cancel", "9" * 20), "there is no such group"),
        (("cancel", "--group", "9" * 20), "there is no such group"),
        (("retry",), "give groups, or --all"),
        (("retry", "--all", "1"), "give groups, or --all"),
        (("retry", "1", "--state", "removed"), "--state and --reason go with --all"),
        (("drain", "10.9.9.9"), "has seen no such node; known: 10.0.0.1"),
        (("products", "--start", "soon"), "is not a time"),
        (("reconcile", "{missing}"), "there is no such directory"),
        (("dispatch", "--on-published", "no-such-command"), "there is no command"),
        (("dispatch", "--event-log", "{missing}/log"), "event log cannot be written"),
        (("dispatch", "--groups-in-flight", "0"), "from 1 to"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_clear_line_and_exit_code_2(
    call: Call, tmp_path: Path, place: Path, catalogue: Catalogue,
    arguments: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    (tmp_path / "file").touch()
    nodes.seen(catalogue, "10.0.0.1", 2, {})
    names = {"missing": tmp_path / "missing", "file": tmp_path / "file", "here": tmp_path,
             "out": tmp_path / "out"}  # fmt: skip
    given = [argument.format(**names) for argument in arguments]
    done = call(*given, "--catalogue", place)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert said in line
    assert jobs.list_jobs(catalogue) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", ".", "out", "--priority", "high"),
        ("submit", ".", "out", "--priority", "5000"),
        ("submit", ".", "out", "--spw", "both"),
        ("submit", ".", "out", "--scheduler", "tcp://10.0.0.1:8786"),
        ("submit", "."),
        ("groups", "--state", "lost"),
        ("groups", "--limit", "0"),
        ("status", "first"),
        ("products", "--format", "xml"),
        ("products", "--declination", "16"),
        ("cancel",),
        ("drain",),
        ("retry", "--all", "--state", "published"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_the_name_of_the_option(
    call: Call, place: Path, arguments: tuple[str, ...]
) -> None:
    done = call(*arguments, "--catalogue", place)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith("Error: ")
    assert not place.exists()


def test_a_submission_that_is_refused_makes_no_catalogue(
    call: Call, tmp_path: Path, place: Path
) -> None:
    for arguments in (("submit", tmp_path / "missing", "out"), ("reconcile", tmp_path / "missing")):
        assert call(*arguments, "--catalogue", place).code == 2
    assert not place.parent.exists()


@pytest.mark.parametrize("command", [("retry",), ("cancel",)])
def test_an_id_that_stands_for_several_groups_is_refused_with_the_ways_to_tell_them_apart(
    call: Call, place: Path, catalogue: Catalogue, command: tuple[str, ...]
) -> None:
    (first,) = queued(catalogue)
    (second,) = queued(catalogue, output_dir="/data/elsewhere")
    name = groups.get_row(catalogue, first).id
    done = call(*command, name, "--catalogue", place)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert f"{name} stands for 2 groups" in line
    assert f"{first} in /data/products; {second} in /data/elsewhere" in line
    assert groups.count_by_state(catalogue) == {"queued": 2}
    if command == ("cancel",):
        assert "--group" in line
        assert call("cancel", "--group", str(second), "--catalogue", place).code == 0
        assert groups.get_row(catalogue, second).state == "cancelled"
        assert groups.get_row(catalogue, first).state == "queued"


def test_what_is_no_catalogue_is_refused_in_one_line(call: Call, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("not a database, but long enough to look at" * 50)
    for arguments in (("status",), ("submit", tmp_path, tmp_path / "out")):
        done = call(*arguments, "--catalogue", other)
        assert done.code == 1
        (line,) = done.err.splitlines()
        assert str(other) in line
    assert other.read_text().startswith("not a database")


# --------------------------------------------------------------------------- steering, and what it says


def test_steering_answers_people_and_scripts(call: Call, place: Path, catalogue: Catalogue) -> None:
    keys = queued(catalogue, 4)
    begun(catalogue, keys[1])
    failed(catalogue, keys[2])
    nodes.seen(catalogue, "10.0.0.1", 2, {})
    for arguments, facts, text in (
        (("pause", "--reason", "why not"), {"paused": True}, "paused"),
        (("resume",), {"paused": False}, "resumed"),
        (("drain", "10.0.0.1"), {"node": "10.0.0.1", "draining": True}, "10.0.0.1 is draining"),
        (("undrain", "10.0.0.1"), {"node": "10.0.0.1", "draining": False}, "10.0.0.1 is active"),
        (("cancel", "1"), {"cancelled": 2, "requested": 1, "dry_run": False},
         "0 group(s) cancelled, 1 being stopped"),
        (("retry", str(keys[2])), {"queued": 1, "dry_run": False}, "0 group(s) queued again"),
    ):  # fmt: skip
        done = call(*arguments, "--catalogue", place, "--json")
        assert (done.code, done.err) == (0, "")
        assert done.report == {"schema": "contimg-dask.steer/1", **facts}
        # Doing it twice is harmless.
        assert call(*arguments, "--catalogue", place).out == f"{text}\n"


def test_retry_says_by_its_exit_code_that_there_was_nothing_to_do(
    call: Call, place: Path, catalogue: Catalogue
) -> None:
    (key,) = queued(catalogue)
    assert call("retry", "--all", "--catalogue", place).code == 3
    failed(catalogue, key, quarantine=True)
    assert call("retry", "--all", "--catalogue", place).code == 0
    assert groups.get_row(catalogue, key).state == "queued"


def test_dry_runs_of_retry_and_cancel_count_as_they_do_and_change_nothing(
    call: Call, place: Path, catalogue: Catalogue
) -> None:
    keys = queued(catalogue, 5)
    failed(catalogue, keys[0])
    failed(catalogue, keys[1], quarantine=True)
    begun(catalogue, keys[2])
    for arguments, counts in (
        (("retry", "--all"), {"queued": 2}),
        (("cancel", "--group", str(keys[3])), {"cancelled": 1, "requested": 0}),
        (("retry", str(keys[3])), {"queued": 1}),
        (("cancel", "1"), {"cancelled": 4, "requested": 1}),
    ):
        before = groups.list_groups(catalogue), jobs.list_jobs(catalogue), list_events(catalogue)
        foreseen = call(*arguments, "--dry-run", "--json", "--catalogue", place)
        now = groups.list_groups(catalogue), jobs.list_jobs(catalogue), list_events(catalogue)
        assert now == before
        done = call(*arguments, "--json", "--catalogue", place)
        assert (foreseen.code, done.code) == (0, 0)
        steer = {"schema": "contimg-dask.steer/1"}
        assert foreseen.report == steer | counts | {"dry_run": True}
        assert done.report == steer | counts | {"dry_run": False}
    assert "would be" in call("cancel", "1", "--dry-run", "--catalogue", place).out


# ------------------------------------------------------------------------------------ lists and status


@pytest.fixture
def night(catalogue: Catalogue) -> Catalogue:
    """A night in the middle: published, running, queued, failed, quarantined, removed."""
    keys = queued(catalogue, 8, label="night")
    for number in range(3):
        published(catalogue, keys[number], number)
    published(catalogue, keys[3], 3, declination_deg=None, ra_deg=None)
    products.mark_removed(catalogue, product_of(2).path)
    failed(catalogue, keys[4])
    failed(catalogue, keys[5], Reason(code=WorkerLostError.code, text="killed"), quarantine=True)
    begun(catalogue, keys[6], node="10.0.0.2")
    nodes.seen(catalogue, "10.0.0.2", 2, {})
    take_lease_of_running(catalogue)
    return catalogue


def take_lease_of_running(catalogue: Catalogue) -> None:
    held = leases.current(catalogue, "dispatcher")
    assert held is not None
    facts = {"state": "converting", "dashboard": "http://127.0.0.1:8787/status"}
    assert leases.renew(catalogue, held.token, lease_s=60.0, facts=facts)


def test_groups_are_listed_with_what_became_of_them(
    call: Call, place: Path, night: Catalogue
) -> None:
    every = groups.list_groups(night)
    document = call("groups", "--catalogue", place, "--json").report
    assert document["schema"] == "contimg-dask.groups/1"
    assert document["groups"] == json.loads(json.dumps([row.to_json() for row in every]))
    shown = call("groups", "--catalogue", place)
    assert shown.err == "8 group(s)\n"
    assert [line.split()[:3] for line in shown.out.splitlines()] == [
        [str(row.key), row.id, row.state] for row in every
    ]
    for options, states in (
        (("--state", "failed", "--state", "quarantined"), ["failed", "quarantined"]),
        (("--reason", "worker-lost"), ["quarantined"]),
        (("--job", "1", "--limit", "2"), ["published", "published"]),
        (("--state", "collecting"), []),
    ):
        found = call("groups", *options, "--catalogue", place, "--json").report["groups"]
        assert [group["state"] for group in found] == states


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ((), 3),
        (("--status", "any"), 4),
        (("--status", "removed"), 1),
        (("--start", "2025-10-05T03:15:00"), 2),
        (("--end", "2025-10-05T03:15:00"), 1),
        (("--declination", "16.2", "0.1"), 2),
        (("--kind", "calibrator"), 0),
        (("--output", "/data/products", "--limit", "2"), 2),
        (("--output", "/data/elsewhere"), 0),
    ],
)
def test_products_are_the_same_as_table_csv_and_json(
    call: Call, place: Path, night: Catalogue, options: tuple[str, ...], count: int
) -> None:
    def shown(form: str) -> Ran:
        done = call("products", *options, "--format", form, "--catalogue", place)
        assert (done.code, done.err) == (0, "")
        return done

    document = shown("json").report
    assert document["schema"] == "contimg-dask.products/1"
    listed = document["products"]
    assert len(listed) == count
    rows = list(csv.DictReader(io.StringIO(shown("csv").out)))
    assert rows == [
        {name: "" if value is None else str(value) for name, value in product.items()}
        for product in listed
    ]
    head, *lines = (line.split() for line in shown("table").out.splitlines())
    for line, product in zip(lines, listed, strict=True):
        for name, cell in zip(head, line, strict=True):
            value = product[name]
            assert cell == ("-" if value is None else f"{value:.6f}" if isinstance(value, float)
                            else str(value))  # fmt: skip


def test_status_is_the_same_for_people_and_for_scripts(
    call: Call, place: Path, night: Catalogue
) -> None:
    document = call("status", "--catalogue", place, "--json").report
    assert (document["schema"], document["catalogue"]) == ("contimg-dask.status/1", str(place))
    assert document["counts"] == groups.count_by_state(night) == {
        "published": 3, "removed": 1, "failed": 1, "quarantined": 1, "running": 1, "queued": 1
    }  # fmt: skip
    assert document["dispatcher"]["holder"] == "process 11 on here"
    assert (document["paused"], document["live_lag_s"]) == (None, None)
    assert [(run["node"], run["attempt"]) for run in document["running"]] == [("10.0.0.2", "a1")]
    assert {(f["code"], f["state"], f["count"]) for f in document["failures"]} == {
        ("verification-failed", "failed", 1), ("worker-lost", "quarantined", 1)
    }  # fmt: skip
    assert [node["name"] for node in document["nodes"]] == ["10.0.0.2"]
    assert document["rate_per_h"] == (3 - 1) * 3600 / max(document["moment_s"], 1.0)
    assert document["left_s"] == pytest.approx(2 / document["rate_per_h"] * 3600)
    (job,) = document["jobs"]
    assert (job["id"], job["label"], job["counts"]) == (1, "night", document["counts"])

    text = call("status", "--catalogue", place).out
    for said in (
        "dispatcher: process 11 on here; converting",
        "Dask dashboard: http://127.0.0.1:8787/status",
        "groups: 1 queued, 1 running, 3 published, 1 failed, 1 quarantined, 1 removed",
        " groups an hour; ",
        " left at this rate",
        "oldest waiting: ",
        f"running  {document['running'][0]['id']} on 10.0.0.2 for ",
        "node     10.0.0.2  active  2 worker(s)",
        "failed   1 × [verification-failed]",
        "quarantined 1 × [worker-lost], the last one ",
        "job 1 (night)",
    ):
        assert said in text, said
    assert "NO DISPATCHER" not in text


def test_status_is_loud_about_what_keeps_the_queue(
    call: Call, place: Path, catalogue: Catalogue
) -> None:
    queued(catalogue)
    leases.set_paused(catalogue, by="me", reason="the disk is exchanged")
    shown = call("status", "--catalogue", place).out.splitlines()
    assert shown[0].startswith("NO DISPATCHER is running")
    assert shown[1].startswith("PAUSED by me: the disk is exchanged")
    document = call("status", "--catalogue", place, "--json").report
    assert document["dispatcher"] is None
    assert document["paused"]["reason"] == "the disk is exchanged"


def test_status_of_a_job_is_about_that_job(call: Call, place: Path, night: Catalogue) -> None:
    other = submitted(night, label="other", output_dir="/data/elsewhere")
    groups.arrive(night, other, whole(make_group(20)))
    document = call("status", str(other.id), "--catalogue", place, "--json").report
    assert "jobs" not in document
    assert (document["job"]["label"], document["counts"]) == ("other", {"queued": 1})
    assert (document["running"], document["failures"]) == ([], [])
    assert "night" not in call("status", str(other.id), "--catalogue", place).out


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_watching_goes_on_until_ctrl_c(
    place: Path, catalogue: Catalogue, form: tuple[str, ...]
) -> None:
    queued(catalogue)
    with started("status", "--watch", "--catalogue", place, *form, PYTHONUNBUFFERED="1") as process:
        time.sleep(3.0)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        done = ended(process)
    assert (done.code, done.err.strip()) == (130, "contimg-dask: interrupted")
    if form:
        looks = [json.loads(line) for line in done.out.splitlines()]
        assert {look["schema"] for look in looks} == {"contimg-dask.status/1"}
        assert looks
    else:
        assert "NO DISPATCHER" in done.out


def test_the_catalogue_itself_is_made_and_shown(call: Call, place: Path) -> None:
    made = call("catalogue", "upgrade", "--catalogue", place)
    assert (made.code, made.out.startswith("schema None -> ")) == (0, True)
    again = call("catalogue", "upgrade", "--catalogue", place)
    assert again.out.endswith("as before\n")
    shown = call("catalogue", "show", "--catalogue", place)
    assert shown.out.startswith(f"{place}  schema ")


# ------------------------------------------------------------------------------------- a dispatcher


def test_a_dispatcher_with_a_cluster_of_its_own_does_a_job_and_ends_with_ctrl_c(
    simulated: Path, tmp_path: Path, place: Path
) -> None:
    events = tmp_path / "events.ndjson"
    with started("dispatch", "--workers", "1", "--catalogue", place, "--event-log", events,
                 ) as dispatcher:  # fmt: skip
        done = run("submit", simulated, tmp_path / "out", "--expected-subbands", "2", "--wait",
                   "--catalogue", place)  # fmt: skip
        assert done.code == 1, "one group is incomplete, one truncated"
        assert done.err.splitlines()[-1] == "job 1 is done: 2 failed, 1 published"
        workers = psutil.Process(dispatcher.pid).children(recursive=True)
        os.killpg(dispatcher.pid, signal.SIGINT)  # as a terminal does: to every process
        stopped = ended(dispatcher)
    assert stopped.code == 0
    assert f"dispatching {place}" in stopped.err
    assert [path.name for path in (tmp_path / "out").glob("science/*/*")] == [f"{IDS[0]}.ms"]
    assert not (tmp_path / "out" / ".contimg-staging").exists()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    kinds = [json.loads(line)["event"] for line in events.read_text().splitlines()]
    assert (kinds[0], kinds[-1]) == ("dispatcher-started", "dispatcher-stopped")
    assert (kinds.count("group-published"), kinds.count("group-failed")) == (1, 2)


def test_a_dispatcher_without_a_scheduler_waits_says_so_and_can_be_stopped(
    place: Path, catalogue: Catalogue
) -> None:
    queued(catalogue)
    with started("dispatch", "--scheduler", "tcp://127.0.0.1:1", "--catalogue", place) as process:

        def waits() -> bool:
            held = leases.current(catalogue, "dispatcher")
            return held is not None and "waiting for the cluster" in str(held.facts.get("state"))

        until(waits, PATIENCE_S)
        assert (
            "waiting for the cluster: tcp://127.0.0.1:1" in run("status", "--catalogue", place).out
        )
        process.send_signal(signal.SIGTERM)
        done = ended(process)
    assert done.code == 0
    assert done.err.count("no Dask scheduler answers there") == 1
    assert leases.current(catalogue, "dispatcher") is None
    assert groups.count_by_state(catalogue) == {"queued": 1}


def test_settings_of_a_job_are_those_of_its_submission(
    call: Call, tmp_path: Path, place: Path, catalogue: Catalogue
) -> None:
    options = ("--on-existing", "replace", "--scratch-dir", "scratch", "--no-parallel-subband")
    assert call("submit", tmp_path, "out", "--catalogue", place, *options).code == 0
    (job,) = jobs.list_jobs(catalogue)
    assert (job.settings["on_existing"], job.settings["parallel_subband"]) == ("replace", False)
    assert job.settings["scratch_dir"] == str(Path("scratch").absolute())
    assert job.output_dir == str(Path("out").absolute())
    assert not set(job.settings) & {"workers", "scheduler", "catalogue", "on_published"}
    assert json.loads(json.dumps(asdict(job)["settings"])) == job.settings
