"""A headless Chromium that looks at one page: what it shows, and a picture of it.

It gets a new empty profile, and nothing to talk to but that page.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)
_PATIENCE_S = 30.0


@contextmanager
def open_browser(inside: Sequence[str] = ()) -> Iterator[str]:
    """Run a browser, and yield the address it is told what to do at.

    ``inside`` is put before its command: where the page can be reached from.
    """
    assert CHROMIUM is not None, "there is no chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [*inside, CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield _address(Path(profile), process)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            port, path = (profile / "DevToolsActivePort").read_text().split()
        except (OSError, ValueError):
            time.sleep(0.1)
        else:
            return f"ws://127.0.0.1:{port}{path}"
    raise TimeoutError("chromium did not start")


class Tab:
    """A tab of a browser, told what to do by Chromium's own protocol."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection = connection
        self._session: str | None = None
        self._target = ""
        self._sent = 0
        self.requests: list[str] = []

    async def _do(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        order = {"id": self._sent, "method": method, "params": parameters}
        if self._session is not None:
            order["sessionId"] = self._session
        await self._connection.write_message(json.dumps(order))
        while True:
            answer = json.loads(await self._connection.read_message() or "{}")
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    async def open(
        self, url: str, width: int, height: int, *, scheme: str = "light", script: bool = True
    ) -> None:
        """Open a page on a screen of this size; from then on ``requests`` lists what it asks for."""
        target = await self._do("Target.createTarget", url="about:blank")
        attached = await self._do(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session, self._target = attached["sessionId"], target["targetId"]
        await self._do(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self._do("Emulation.setEmulatedMedia", features=features)
        await self._do("Emulation.setScriptExecutionDisabled", value=not script)
        await self._do("Network.enable")
        await self._do("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        found = await self._do("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    async def close(self) -> None:
        """Close it, and with it the connections that its page holds."""
        self._session = None
        await self._do("Target.closeTarget", targetId=self._target)
        self._connection.close()

    async def press(self, key: str, code: int = 0, text: str = "") -> None:
        """Press a key and let it go; ``code`` is its number in Windows, ``text`` what it types."""
        more = {"text": text} if text else {}
        down = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self._do("Input.dispatchKeyEvent", type="keyDown", **down, **more)
        await self._do("Input.dispatchKeyEvent", type="keyUp", **down)

    async def type(self, text: str) -> None:
        """Type a text into what has the focus."""
        await self._do("Input.insertText", text=text)

    async def until(self, expression: str, patience_s: float = _PATIENCE_S) -> Any:
        """Return the value of an expression as soon as it is true."""
        deadline_s = time.monotonic() + patience_s
        while not (value := await self.evaluate(expression)):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"never true: {expression}; {await self.evaluate(TEXT)}")
            await asyncio.sleep(0.1)
        return value

    async def picture(self, *, whole: bool = False) -> bytes:
        """Return what is on the screen, or the whole page, as PNG."""
        more = {}
        if whole:
            height = await self.evaluate("document.documentElement.scrollHeight")
            width = await self.evaluate("document.documentElement.clientWidth")
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            more = {"clip": clip, "captureBeyondViewport": True}
        found = await self._do("Page.captureScreenshot", format="png", **more)
        return base64.b64decode(found["data"])


TEXT = """
(function texts(node) {
  let found = node.nodeType === 3 ? node.data + " " : "";
  if (["STYLE", "SCRIPT"].includes(node.nodeName)) return "";
  for (const child of (node.shadowRoot ? [node.shadowRoot] : [...node.childNodes]))
    found += texts(child);
  return found;
})(document.body).replace(/\\s+/g, " ")
"""
"""What a page shows as text; Bokeh's parts lie in shadow roots."""


async def _look(
    address: str, url: str, words: Sequence[str], width: int, height: int
) -> tuple[str, bytes, int]:
    tab = Tab(await websocket_connect(address, max_message_size=64 * 2**20))
    await tab.open(url, width, height)
    deadline_s = time.monotonic() + _PATIENCE_S
    text = ""
    while not all(word in text for word in words):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the page shows no {words}, but: {text[:2000]}")
        await asyncio.sleep(0.3)
        text = str(await tab.evaluate(TEXT))
    await asyncio.sleep(0.5)  # the plot is drawn after the text
    scrolled = await tab.evaluate("document.documentElement.scrollWidth")
    return text, await tab.picture(), int(scrolled)


async def new_tab(address: str) -> Tab:
    """Return a tab of an open browser, by its address."""
    return Tab(await websocket_connect(address, max_message_size=64 * 2**20))


def look_at(
    url: str,
    *words: str,
    width: int = 1200,
    height: int = 800,
    inside: Sequence[str] = (),
) -> tuple[str, bytes, int]:
    """Return what a page shows once it has all these words: text, picture, width it takes.

    ``inside`` is put before the browser's command; this process has to be there as well.
    """
    with open_browser(inside) as address:
        return asyncio.run(_look(address, url, words, width, height))
