"""The command that serves the web interface: api."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from contimg_dask.catalogue.opening import open_catalogue
from contimg_dask.cli_errors import refusals
from contimg_dask.cli_options import CATALOGUE, CONFIG, settings_of, shared
from contimg_dask.errors import UsageError
from contimg_dask.saying import LogLines
from contimg_dask.settings import catalogue_place
from contimg_dask.stopping import write_line

_LIBRARIES = ("fastapi", "uvicorn", "prometheus_client")


@click.command("api")
@click.option("--host", "api_host", metavar="IP", help="Where to listen [127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="Its port; 0: any [8790].")
@click.option(
    "--token-file",
    "api_token_file",
    metavar="FILE",
    help="Holds the token for changes, mode 600 [nothing can be changed].",
)
@click.option("--allow-remote-reads", is_flag=True, help="Listen where other machines may read.")
@shared(CATALOGUE, CONFIG)
def api_command(port: int | None, allow_remote_reads: bool, **options: Any) -> None:
    """Serve the control-room page, the HTTP API and figures for Prometheus, until stopped.

    Everybody on this machine may read; who changes something needs the token.

    \b
    contimg-dask api
    contimg-dask api --port 8790 --token-file /etc/contimg-dask/api-token
    """  # fmt: skip
    settings = settings_of(options)
    with refusals():
        serve = _serve()
        with open_catalogue(catalogue_place(settings)) as catalogue:
            serve(
                catalogue,
                settings,
                port=settings.api_port if port is None else port,
                allow_remote_reads=allow_remote_reads,
                on_line=LogLines(settings.log_format, write_line),
            )


def _serve() -> Any:
    """Return what serves; its libraries are an extra.

    Raises
    ------
    UsageError
        They are not installed.
    """
    try:
        return import_module("contimg_dask.api.serving").serve
    except ModuleNotFoundError as error:
        if error.name not in _LIBRARIES:
            raise
        raise UsageError(
            f"{error.name} is not installed: pip install 'contimg-dask[api]'"
        ) from error
