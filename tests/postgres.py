"""A real PostgreSQL server for tests: one per pytest process, and a database of its own per test.

Debian's binaries, a temporary directory, a socket in it and no port: nothing else can meet it.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import pytest

from contimg_dask.catalogue.opening import open_catalogue
from contimg_dask.catalogue.tables import metadata

_TEMPLATE = "contimg_template"
_START_S = 60.0


def postgresql_binaries() -> Path | None:
    """Return where the newest installed server's programs are."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3])
    )
    return found[-1].parent if found else None


@dataclass
class Server:
    """A running server, which can be killed and started again."""

    binaries: Path
    directory: Path
    _process: subprocess.Popen[bytes] | None = None
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _free: list[str] = field(default_factory=list)

    def url(self, database: str) -> str:
        """Return the URL of a database, as a user would give it."""
        return f"postgresql://postgres@/{database}?host={self.directory}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": "off",  # the machine does not lose power in a test
            "full_page_writes": "off",
            "shared_buffers": "32MB",
            "max_connections": "60",
            "autovacuum": "off",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.directory / "data", *options],
                stdout=log,
                stderr=log,
                **_as_postgres(),
            )
        deadline_s = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    pytest.fail((self.directory / "log").read_text()[-2000:])
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server this object started, and wait until all processes of it are gone."""
        if self._process is not None:
            children = psutil.Process(self._process.pid).children()
            self._process.send_signal(how)
            self._process.wait(timeout=_START_S)
            self._process = None
            # Killed, it leaves its children to find out; until then they hold its memory.
            deadline_s = time.monotonic() + _START_S
            while any(_runs(child) for child in children):
                assert time.monotonic() < deadline_s
                time.sleep(0.01)

    def execute(self, statement: str) -> None:
        """Run a statement outside of any transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def empty_database(self) -> str:
        """Make a database without any table; return its URL."""
        name = f"empty_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def catalogue_database(self) -> str:
        """Return the URL of a database with empty tables of a catalogue: a copy, or a used one."""
        if self._free:
            return self._free.pop()
        name = f"catalogue_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        return self.url(name)

    def recycle(self, url: str) -> None:
        """Take such a database back, empty it whoever is still connected, and have it used again."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
            tables = ", ".join(metadata.tables)
            connection.execute(f"TRUNCATE {tables} RESTART IDENTITY".encode())
        self._free.append(url)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected."""
        name = url.partition("@/")[2].partition("?")[0]
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _as_postgres() -> dict[str, object]:
    """Return how to run the server's programs, which refuse to run as root."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam("postgres")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server while the block lasts; skips the test where there is none to run."""
    binaries = postgresql_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    # A socket's path may have 107 characters, which pytest's own directories would use up.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    directory = Path(tempfile.mkdtemp(prefix="contimg-pg-", dir=memory))
    try:
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres", "postgres")
        initdb = [binaries / "initdb", "-D", directory / "data", "-U", "postgres", "-A", "trust",
                  "-E", "UTF8", "--locale=C", "--no-sync"]  # fmt: skip
        subprocess.run(initdb, check=True, capture_output=True, cwd=directory, **_as_postgres())
        server = Server(binaries=binaries, directory=directory)
        server.start()
        try:
            server.execute(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
            open_catalogue(server.url(_TEMPLATE)).close()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The server of this pytest process."""
    with running_server() as server:
        yield server
