"""The web interface as an operator runs it: the real command in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.services import COMMAND

TOKEN = "a-token-of-the-tests-0123456789"  # noqa: S105 - of a service that lives as long as a test


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


@dataclass(frozen=True, kw_only=True)
class Site:
    """A web interface that runs."""

    port: int
    process: subprocess.Popen[str]
    catalogue: str
    incoming: Path
    products: Path
    token_file: Path
    log: Path

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request; a body that is no bytes is sent as JSON."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if body is not None and not isinstance(body, bytes):
            sent["Content-Type"] = "application/json"
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, sent)
            found = connection.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Any:
        """Return a document that must be there."""
        found = self.ask("GET", path, headers=headers)
        assert found.status == 200, found.text
        return found.json

    def change(self, method: str, path: str, body: Any = None) -> Any:
        """Change something, with the token; return what it says."""
        found = self.ask(method, path, body, token=TOKEN)
        assert found.status in (200, 201), found.text
        return found.json


@contextmanager
def serving(directory: Path, catalogue: str, *arguments: str, token: bool = True) -> Iterator[Site]:
    """Run the command on a port of its own until the block ends."""
    incoming, products = directory / "incoming", directory / "products"
    for place in (incoming, products):
        place.mkdir(parents=True, exist_ok=True)
    token_file = directory / "token"
    token_file.write_text(f"{TOKEN}\n")
    token_file.chmod(0o600)
    settings = {
        "CONTIMG_DASK_INPUT_ROOTS": str(incoming),
        "CONTIMG_DASK_OUTPUT_ROOTS": f"{products}:/data/products",
    }
    words = [COMMAND, "api", "--port", "0", "--catalogue", catalogue, *arguments]
    if token:
        words += ["--token-file", str(token_file)]
    log = directory / "api.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=file, text=True, env=os.environ | settings
        )
    try:
        site = Site(
            port=_port(process, log),
            process=process,
            catalogue=catalogue,
            incoming=incoming,
            products=products,
            token_file=token_file,
            log=log,
        )
        yield site
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert "Traceback" not in log.read_text(), log.read_text()
        assert TOKEN not in log.read_text()


def _port(process: subprocess.Popen[str], log: Path) -> int:
    deadline_s = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline_s:
        if found := re.search(r"on http://127\.0\.0\.1:(\d+)/", log.read_text()):
            return int(found[1])
        time.sleep(0.02)
    raise AssertionError(log.read_text())
