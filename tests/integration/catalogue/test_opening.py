"""Opening a catalogue: made on first use, refused in one line when it cannot be used."""

from __future__ import annotations

import os
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from contimg_dask.catalogue import connecting, groups, jobs, nodes
from contimg_dask.catalogue.explaining import explained
from contimg_dask.catalogue.opening import open_catalogue, upgrade_catalogue
from contimg_dask.catalogue.tables import SCHEMA_VERSION
from contimg_dask.errors import CatalogueError
from tests.integration.catalogue.nouns import new_job, queued, submitted
from tests.postgres import Server, running_server

NOBODY = 65534


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="contimg-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def refusal(place: str, **how: bool) -> str:
    """Return the one line with which a catalogue is refused."""
    with pytest.raises(CatalogueError) as caught, open_catalogue(place, **how):  # type: ignore[call-overload]
        pass
    said = str(caught.value)
    assert "\n" not in said
    assert caught.value.code == "catalogue"
    return said


def set_version(place: str, version: str) -> None:
    unchecked = connecting.Catalogue(connecting.parse_url(place))
    with unchecked as catalogue, catalogue.writing() as connection:
        statement = text("UPDATE alembic_version SET version_num = :version")
        connection.execute(statement, {"version": version})


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user for whom permissions count, also when the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_catalogue_is_made_on_first_use_and_found_on_the_second(empty_place: str) -> None:
    with open_catalogue(empty_place) as catalogue:
        assert catalogue.schema_version == SCHEMA_VERSION
        job = submitted(catalogue)
    with open_catalogue(empty_place, create=False) as catalogue:
        assert jobs.get_job(catalogue, job.id) == job


def test_where_there_is_none_one_is_made_only_if_wanted(empty_place: str) -> None:
    told = refusal(empty_place, create=False)
    assert "there is no catalogue" in told
    assert "contimg-dask submit" in told
    with open_catalogue(empty_place, create=False, missing_ok=True) as found:
        assert found is None
    assert not Path(empty_place).parent.exists() or "://" in empty_place
    open_catalogue(empty_place).close()
    with open_catalogue(empty_place, create=False, missing_ok=True) as found:
        assert found is not None


def test_an_sqlite_catalogue_is_a_plain_path_or_a_url(tmp_path: Path) -> None:
    odd = tmp_path / "some where" / "cat%20?.sqlite"
    with open_catalogue(str(odd)) as catalogue:
        assert catalogue.url_shown == catalogue.sqlite_path == str(odd)
    assert odd.exists()
    path = tmp_path / "plain.sqlite"
    open_catalogue(str(path)).close()
    with open_catalogue(f"sqlite:///{path}", create=False) as catalogue:
        assert catalogue.url_shown == str(path)


def test_sqlite_writes_ahead_and_waits_for_the_disk(tmp_path: Path) -> None:
    with open_catalogue(str(tmp_path / "c")) as catalogue, catalogue.reading() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {
        "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000,
    }  # fmt: skip


def test_a_catalogue_that_was_restored_from_a_dump_writes_ahead_again(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    with open_catalogue(str(path)) as catalogue:
        queued(catalogue)
    with sqlite3.connect(path) as raw, sqlite3.connect(tmp_path / "restored") as other:
        other.executescript("\n".join(raw.iterdump()))
    raw.close()
    other.close()
    with open_catalogue(str(tmp_path / "restored")) as catalogue:
        assert catalogue.writes_ahead
        assert groups.count_by_state(catalogue) == {"queued": 1}
        assert submitted(catalogue).id == 2


def test_a_catalogue_of_an_older_or_newer_version_is_refused_with_both(place: str) -> None:
    set_version(place, "0000")
    said = refusal(place)
    assert "version 0000" in said
    assert f"needs {SCHEMA_VERSION}" in said
    assert "catalogue upgrade" in said
    set_version(place, "9999")
    assert "9999" in refusal(place, create=False)
    with pytest.raises(CatalogueError, match="a newer contimg-dask"):
        upgrade_catalogue(place)
    set_version(place, SCHEMA_VERSION)


def test_upgrading_makes_a_catalogue_and_leaves_one_of_this_version(empty_place: str) -> None:
    assert upgrade_catalogue(empty_place) == (None, SCHEMA_VERSION)
    with open_catalogue(empty_place, create=False) as catalogue:
        queued(catalogue)
    assert upgrade_catalogue(empty_place) == (SCHEMA_VERSION, SCHEMA_VERSION)
    with open_catalogue(empty_place, create=False) as catalogue:
        assert groups.count_by_state(catalogue) == {"queued": 1}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:s3cret@h/d", "SQLite file or a PostgreSQL"),
        ("postgresql://u:s3cret@h:port/d", "no URL of a database"),
        ("sqlite://", "path of a file"),
        ("sqlite:///:memory:", "path of a file"),
        ("://", "no URL of a database"),
    ],
)
def test_what_is_no_place_for_a_catalogue_is_refused(url: str, said: str) -> None:
    told = refusal(url)
    assert said in told
    assert "s3cret" not in told


def test_a_file_that_is_no_catalogue_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("not a database, but rather long " * 100)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE birds (name TEXT)")
    connection.close()
    before = notes.read_bytes()
    assert "no SQLite database" in refusal(str(notes))
    assert "something else (it has a table birds)" in refusal(str(other))
    assert "cannot be opened" in refusal(str(tmp_path))
    assert notes.read_bytes() == before


def test_a_damaged_file_is_told_from_others(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    with open_catalogue(str(path)) as catalogue:
        queued(catalogue, 200)
    with path.open("r+b") as file:
        for page in range(3, path.stat().st_size // 4096, 2):
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)
    with pytest.raises(CatalogueError, match="it is damaged") as caught:  # noqa: SIM117
        with open_catalogue(str(path)) as catalogue:
            groups.list_groups(catalogue)
    assert "\n" not in str(caught.value)


def test_what_may_not_be_written_is_refused_with_its_place(open_directory: Path) -> None:
    made = open_directory / "made.sqlite"
    open_catalogue(str(made)).close()
    with as_nobody():
        assert "Permission denied" in refusal(str(open_directory / "new" / "c.sqlite"))
        assert "needs the right to write" in refusal(str(made))
        assert "needs the right to write" in refusal(str(made), create=False)


def test_others_may_look_while_the_dispatcher_has_it_open(open_directory: Path) -> None:
    path = str(open_directory / "c.sqlite")
    with open_catalogue(path) as dispatcher:
        queued(dispatcher)
        with as_nobody(), open_catalogue(path, create=False) as catalogue:
            assert groups.count_by_state(catalogue) == {"queued": 1}
            with pytest.raises(CatalogueError, match="needs the right to write"):
                submitted(catalogue)


def test_a_full_disk_leaves_nothing_and_the_catalogue_usable(tmp_path: Path) -> None:
    with open_catalogue(str(tmp_path / "c.sqlite")) as catalogue:
        with pytest.raises(CatalogueError, match="disk is full") as caught:  # noqa: PT012, SIM117
            with catalogue.writing() as connection:
                connection.exec_driver_sql("PRAGMA max_page_count = 60")
                for number in range(1000):
                    connection.exec_driver_sql(
                        "INSERT INTO control VALUES (?, ?)", (str(number), '"' + "x" * 4000 + '"')
                    )
        assert "\n" not in str(caught.value)
    with open_catalogue(str(tmp_path / "c.sqlite")) as catalogue:
        assert submitted(catalogue).id == 1


def test_a_writer_that_waits_too_long_for_another_one_says_so(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "WAIT_S", 1)
    with open_catalogue(place) as one, open_catalogue(place) as other:
        queued(one)
        with one.writing():
            began_s = time.monotonic()
            with pytest.raises(CatalogueError, match="another process has been writing") as caught:
                submitted(other)
            assert 0.9 < time.monotonic() - began_s < 20
            assert "\n" not in str(caught.value)
            # Readers wait for nobody.
            assert groups.count_by_state(other) == {"queued": 1}
        submitted(other)


def test_a_writer_waits_for_another_one_that_is_short(place: str) -> None:
    with open_catalogue(place) as one, open_catalogue(place) as other:
        inside, order = threading.Event(), []

        def write() -> None:
            with one.writing():
                inside.set()
                time.sleep(0.3)
                order.append("first")

        thread = threading.Thread(target=write)
        thread.start()
        inside.wait()
        submitted(other)
        order.append("second")
        thread.join()
    assert order == ["first", "second"]


def test_a_writer_that_was_stopped_in_the_middle_loses_its_transaction(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "_IDLE_WRITER_S", 1)
    url = postgres.catalogue_database()
    with open_catalogue(url) as stuck, open_catalogue(url) as other:
        with pytest.raises(CatalogueError, match=r"took too long|is gone"):  # noqa: PT012, SIM117
            with stuck.writing() as connection:
                connection.exec_driver_sql("INSERT INTO control VALUES ('x', '{}')")
                submitted(other)  # has the lock as soon as the server has ended the other one
                connection.exec_driver_sql("INSERT INTO control VALUES ('y', '{}')")
        assert submitted(stuck).id == 2
    postgres.recycle(url)


def test_a_server_that_cannot_be_used_is_named_without_its_password(
    postgres: Server, tmp_path: Path
) -> None:
    nowhere = f"postgresql://me:s3cret@/d?host={tmp_path}"
    told = refusal(nowhere)
    assert "no connection to the server" in told
    assert "postgresql://me:***@/d" in told
    missing = postgres.url("no_such_database").replace("postgres@", "postgres:s3cret@")
    assert 'database "no_such_database" does not exist' in refusal(missing)
    stranger = postgres.url("postgres").replace("postgres@", "stranger:s3cret@")
    assert 'role "stranger" does not exist' in refusal(stranger)
    queried = postgres.url("no_such_database") + "&password=s3cret"
    for url in (nowhere, missing, stranger, queried):
        assert "s3cret" not in refusal(url)


def test_a_password_is_in_no_message_whatever_the_driver_says() -> None:
    with pytest.raises(CatalogueError) as caught, explained("here", "s3cret"):
        raise SQLAlchemyError("cannot use s3cret\nfor this")
    assert str(caught.value) == "here: cannot use *** for this"


def test_a_user_who_may_not_make_tables_is_told_which_right_is_lacking(postgres: Server) -> None:
    url = postgres.empty_database()
    postgres.execute("DROP ROLE IF EXISTS reader")
    postgres.execute("CREATE ROLE reader LOGIN")
    assert "grant it CREATE" in refusal(url.replace("postgres@", "reader@"))
    postgres.drop(url)


def test_without_the_driver_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr(connecting, "create_engine", none)
    assert "pip install 'contimg-dask[postgres]'" in refusal("postgresql://h/d")


def test_connections_that_were_cut_are_made_again(place: str, postgres: Server) -> None:
    with open_catalogue(place) as catalogue:
        queued(catalogue)
        if "://" in place:
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'contimg-dask'"
            )
        assert groups.count_by_state(catalogue) == {"queued": 1}
        nodes.seen(catalogue, "n", 1, {})


def test_a_server_that_was_killed_and_started_again_is_survived() -> None:
    with running_server() as server, open_catalogue(server.catalogue_database()) as catalogue:
        queued(catalogue)
        server.stop(signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(CatalogueError) as caught:
                jobs.add_job(catalogue, new_job())
            assert "\n" not in str(caught.value)
            assert "server" in str(caught.value)
        server.start()
        assert groups.count_by_state(catalogue) == {"queued": 1}
        assert jobs.add_job(catalogue, new_job()).id > 1
