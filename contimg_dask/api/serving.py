"""Serve the web interface until stopped, in a bounded time, whatever clients do."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from contimg_dask.api.application import make_application, make_context
from contimg_dask.api.guarding import is_loopback
from contimg_dask.api.listening import ImpatientProtocol
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.errors import UsageError
from contimg_dask.settings import Settings

STOP_TIMEOUT_S = 5
"""What still runs so long after SIGTERM is given up."""
_KEEP_ALIVE_S = 30
_LARGEST_HEAD_BYTES = 32 * 1024
_BACKLOG = 512
_SWITCH_S = 0.001


def serve(
    catalogue: Catalogue,
    settings: Settings,
    *,
    port: int,
    allow_remote_reads: bool,
    on_line: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Parameters
    ----------
    catalogue, settings
        What to show, and how.
    port
        Where to listen; 0 takes any that is free.
    allow_remote_reads
        Listen on an address that other machines reach, where everybody may read.
    on_line
        Is told where it listens.

    Raises
    ------
    UsageError
        It cannot listen there, or may not; the token file cannot be used.
    """
    _check_host(settings, allow_remote_reads)
    # Requests are not logged, and so no token is.
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    context = make_context(catalogue, settings)
    listening = _listen(settings.api_host, port)
    config = uvicorn.Config(
        make_application(context),
        http=ImpatientProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        h11_max_incomplete_event_size=_LARGEST_HEAD_BYTES,
        proxy_headers=False,
    )
    # Threads that look into the catalogue hand the interpreter over sooner to the one that answers.
    sys.setswitchinterval(_SWITCH_S)
    # uvicorn sends itself what it was stopped by once more, when it has stopped.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    bound = listening.getsockname()[1]
    shown = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
    changes = "with a token" if context.tokens.there else "not at all: there is no --token-file"
    on_line(f"serving {catalogue.url_shown} on http://{shown}:{bound}/")
    on_line(f"queue and jobs can be changed {changes}")
    _Server(config, context.feed.close).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends event streams when it is stopped; they would not end by themselves."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)


def _check_host(settings: Settings, allow_remote_reads: bool) -> None:
    try:
        if is_loopback(settings.api_host):
            return
    except ValueError as error:
        raise UsageError(f"--host {settings.api_host}: give an IP address") from error
    if not allow_remote_reads:
        raise UsageError(
            f"--host {settings.api_host}: other machines could reach it, and everybody there could "
            f"read: say --allow-remote-reads if that is meant, or use an ssh tunnel"
        )
    if settings.api_token_file is None:
        raise UsageError(
            f"--host {settings.api_host}: other machines could reach it: a --token-file is needed"
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)  # whoever is told of it can connect
    except OSError as error:
        listening.close()
        raise UsageError(
            f"{host}:{port}: cannot listen there ({error.strerror}): give another --port or --host"
        ) from error
    listening.set_inheritable(True)
    return listening
