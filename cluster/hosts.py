"""Hosts of a test bed: network namespaces with addresses of their own, or loopback addresses.

Namespaces are called ``contimg-bed-<process id>-<four digits>-<host>``, so that those of dead
beds are known.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

MARK = "contimg-bed-"
"""What names of namespaces and mounts of a bed begin with; the bed's process id follows."""


class Unsupported(Exception):
    """The bed cannot do this on this machine."""


def quiet(*command: str) -> None:
    """Run a command; OSError with what it said when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


class Namespaces:
    """Hosts as network namespaces with one bridge, which has a namespace of its own."""

    isolated = True

    def __init__(self, names: list[str]) -> None:
        self.addresses = {name: f"10.77.0.{number}" for number, name in _numbered(names)}
        self._ports = {name: f"p{number}" for number, name in _numbered(names)}
        self._prefix = f"{MARK}{os.getpid()}-{uuid.uuid4().hex[:4]}-"
        self._switch = f"{self._prefix}switch"
        try:
            self._build()
        except OSError:
            self.close()
            raise

    def _build(self) -> None:
        quiet("ip", "netns", "add", self._switch)
        quiet("ip", "-n", self._switch, "link", "add", "br0", "type", "bridge")
        quiet("ip", "-n", self._switch, "link", "set", "br0", "up")
        for name, port in self._ports.items():
            host = f"{self._prefix}{name}"
            quiet("ip", "netns", "add", host)
            quiet("ip", "link", "add", "eth0", "netns", host,
                   "type", "veth", "peer", "name", port, "netns", self._switch)  # fmt: skip
            quiet("ip", "-n", self._switch, "link", "set", port, "master", "br0", "up")
            quiet("ip", "-n", host, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                quiet("ip", "-n", host, "link", "set", device, "up")

    def inside(self, name: str) -> list[str]:
        """What to put before a command so that it runs on a host."""
        return ["ip", "netns", "exec", f"{self._prefix}{name}"]

    def set_link(self, name: str, state: str) -> None:
        """Pull a host's cable, or plug it in again."""
        quiet("ip", "-n", self._switch, "link", "set", self._ports[name], state)

    def port(self, usual: int) -> int:
        """Return a port that is free on every host."""
        return usual

    def close(self) -> None:
        """Remove every namespace; their links go with them."""
        for name in namespaces():
            if name.startswith(self._prefix):
                quiet("ip", "netns", "del", name)


class Loopback:
    """Hosts as loopback addresses: nothing can be cut off."""

    isolated = False

    def __init__(self, names: list[str]) -> None:
        self.addresses = {name: f"127.0.77.{number}" for number, name in _numbered(names)}

    def inside(self, name: str) -> list[str]:
        """Everything runs on every host."""
        del name
        return []

    def set_link(self, name: str, state: str) -> None:
        """Refuse."""
        raise Unsupported(f"{name}: links cannot be set {state} without network namespaces")

    def port(self, usual: int) -> int:
        """Return one that nobody else on this machine has now."""
        del usual
        with socket.create_server(("127.0.0.1", 0)) as server:
            return int(server.getsockname()[1])

    def close(self) -> None:
        """There is nothing to remove."""


def _numbered(names: list[str]) -> Iterator[tuple[int, str]]:
    return zip(range(1, len(names) + 1), names, strict=True)


def can_isolate() -> bool:
    """Tell whether this machine lets us make network namespaces."""
    try:
        Namespaces(["probe"]).close()
    except OSError:
        return False
    return True


def namespaces() -> list[str]:
    """Return the names of all network namespaces of this machine."""
    if shutil.which("ip") is None:
        return []
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    return [line.split()[0] for line in done.stdout.splitlines() if line.strip()]


def remove_dead_beds() -> None:
    """Remove what test beds of processes that were killed have left: processes, namespaces, mounts."""
    for name in namespaces():
        owner = name.removeprefix(MARK).partition("-")[0]
        if name.startswith(MARK) and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            done = subprocess.run(
                ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
            )
            for pid in done.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            quiet("ip", "netns", "del", name)
    for line in Path("/proc/mounts").read_text().splitlines():
        source, where = line.split()[:2]
        owner = source.removeprefix(MARK)
        if source.startswith(MARK) and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            quiet("umount", "--lazy", where)
