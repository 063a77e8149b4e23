"""What the rendered units let a service write is enough: everything else is read-only here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contimg_dask.verification import verify
from tests.acceptance.conftest import make_groups

COMMAND = str(Path(sys.executable).with_name("contimg-dask"))

IN_A_READ_ONLY_WORLD = """
for place in "$OUT" "$TMPDIR" /dev/shm; do mount --bind "$place" "$place"; done
mount -o remount,bind,ro /
if touch "$HOME/probe" 2>/dev/null; then echo "home can be written" >&2; exit 99; fi
exec "$@"
"""
"""As ``ProtectSystem=strict`` and ``ProtectHome=read-only`` have it, with ``ReadWritePaths``."""


def is_allowed() -> bool:
    words = ["unshare", "-m", "sh", "-c", "mount -o remount,bind,ro /"]
    return not subprocess.run(words, capture_output=True, check=False).returncode


def test_a_service_converts_where_it_can_write_its_own_directories_only(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or not is_allowed():
        pytest.skip("no mount namespaces here")
    places = {name: tmp_path / name.lower() for name in ("OUT", "TMPDIR", "HOME")}
    for place in places.values():
        place.mkdir()
    incoming = tmp_path / "incoming"
    make_groups(incoming, groups=1, subbands=2)
    words = [
        COMMAND,
        "convert",
        incoming,
        places["OUT"],
        "--expected-subbands",
        "2",
        "--workers",
        "1",
    ]
    numba = {name for name in os.environ if name.startswith("NUMBA_")}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", IN_A_READ_ONLY_WORLD, "sh", *map(str, words)],
        env={name: value for name, value in os.environ.items() if name not in numba}
        | {name: str(place) for name, place in places.items()},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (product,) = places["OUT"].glob("science/*/*.ms")
    assert verify(product, incoming) == []
