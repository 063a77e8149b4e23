"""How the web interface refuses: always a code for scripts and one line for people."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from contimg_dask.errors import CatalogueError, ContimgError, NotFoundError, UsageError


class TokenError(UsageError):
    """A token is needed: send it as 'Authorization: Bearer TOKEN'."""

    code = "token-needed"


class WrongTokenError(UsageError):
    """The token is wrong."""

    code = "token-wrong"


class TokenFileError(UsageError):
    """The token file cannot be used."""

    code = "token-file"


class ReadOnlyError(UsageError):
    """Nothing can be changed, because there is no token: start with --token-file."""

    code = "read-only"


class OutsideRootsError(UsageError):
    """The path is not below a directory that this web interface may use."""

    code = "outside-roots"


class BusyError(ContimgError):
    """There are too many event streams already: close some, or come back later."""

    code = "busy"


STATUS_OF: dict[type[ContimgError], int] = {
    TokenError: 401,
    WrongTokenError: 401,
    TokenFileError: 503,
    ReadOnlyError: 403,
    OutsideRootsError: 403,
    NotFoundError: 404,
    BusyError: 503,
    CatalogueError: 503,
    UsageError: 400,
    ContimgError: 500,
}
"""By class; the nearest ancestor decides."""


def status_of(error: ContimgError) -> int:
    """Return the HTTP status of an error."""
    return next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)


def problem(status: int, code: str, message: str, **headers: str) -> JSONResponse:
    """Return the one form in which everything is refused."""
    body: dict[str, Any] = {"code": code, "message": message}
    return JSONResponse(
        body, status, {name.replace("_", "-"): text for name, text in headers.items()}
    )


def problem_of(error: ContimgError) -> JSONResponse:
    """Return an error of ours as an answer."""
    status = status_of(error)
    headers = {"www_authenticate": "Bearer"} if status == 401 else {}
    if status == 503:
        headers["retry_after"] = "5"
    return problem(status, error.code, str(error), **headers)
