"""What stands before every request: Host and Origin, size and pace of bodies, headers of answers.

A page of somewhere else that a browser on the same machine has open must not reach this one: not by
a name that it makes resolve to the loopback (Host), and not by sending forms (Origin, token).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contimg_dask.api.refusals import problem

LARGEST_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_S = 5.0

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Passes requests on that may come in, and bounds what they cost.

    Parameters
    ----------
    app
        What answers them.
    names
        Host names and addresses by which it may be called, beside the loopback's.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        self._app = app
        self._names = _LOOPBACK | {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, text in _HEADERS.items():
                    headers.setdefault(name, text)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refused(scope)
        if refused is not None:
            await problem(*refused)(scope, receive, secured)
        elif scope["method"] in _READS:
            await self._app(scope, receive, secured)
        else:
            await self._with_body(scope, receive, secured)

    def _refused(self, scope: Scope) -> tuple[int, str, str] | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            said = ", ".join(hosts)[:100] or "nothing"
            return 421, "wrong-host", f"this is not {said}: see the setting api_names"
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in _READS:
            parts = urlsplit(origin)
            if parts.netloc.lower() != hosts[0].lower():
                return 403, "wrong-origin", "a page of another site may change nothing here"
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name is not None and "@" not in host and "/" not in host and name in self._names

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await asyncio.wait_for(_read(scope, receive), BODY_TIMEOUT_S)
        except TimeoutError:
            text = f"the body did not come within {BODY_TIMEOUT_S:.0f} s"
            await problem(408, "too-slow", text, connection="close")(scope, receive, send)
            return
        if body is None:
            text = f"a body may have {LARGEST_BODY_BYTES} bytes at most"
            await problem(413, "too-large", text, connection="close")(scope, receive, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replayed, send)


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """Return a body, or None for one that is too large."""
    declared = Headers(scope=scope).get("content-length", "0")
    if not declared.isdecimal() or int(declared) > LARGEST_BODY_BYTES:
        return None
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > LARGEST_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return body


def is_loopback(host: str) -> bool:
    """Tell whether an address is one that only this machine reaches.

    Raises
    ------
    ValueError
        It is no IP address.
    """
    return ipaddress.ip_address(host).is_loopback
