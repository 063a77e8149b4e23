"""What processes of their own do to a catalogue, side by side or until they are killed.

It loads nothing but the catalogue, because each process loads it again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine, event

from contimg_dask.catalogue import groups, jobs, leases, queue
from contimg_dask.catalogue.leases import LeaseHeldError
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from tests.integration.catalogue.nouns import ME, make_group, new_job, whole
from tests.unit.processes import meet


def make(place: str) -> str | None:
    """Open a catalogue that may not be there yet; return its version."""
    with open_catalogue(place) as catalogue:
        return catalogue.schema_version


def make_all(places: list[str]) -> list[str | None]:
    """Make one catalogue after the other, each begun by all who do this at the same moment."""
    versions = []
    for place in places:
        meet()
        versions.append(make(place))
    return versions


def claim(place: str, token: str, keys: list[int], name: str) -> list[bool]:
    """Try to take every group, and return which were had."""
    with open_catalogue(place) as catalogue:
        meet()
        return [
            queue.begin_attempt(catalogue, token, key, f"{name}-{key}", number=1, node=name)
            for key in keys
        ]


def take_lease(place: str) -> str | None:
    """Try to take the lease; return its token, or None when another process has it."""
    with open_catalogue(place) as catalogue:
        meet()
        return _token(catalogue)


def count_under_lease(place: str, file: str, rounds: int) -> int:
    """Add one to the number in a file, again and again, each time with the lease in hand."""
    done = 0
    with open_catalogue(place) as catalogue:
        while done < rounds:
            token = _token(catalogue)
            if token is None:
                time.sleep(0.002)
                continue
            number = int(Path(file).read_text())
            time.sleep(0.001)  # whoever came in between would be lost
            Path(file).write_text(str(number + 1))
            assert leases.release(catalogue, token)
            done += 1
    return done


def _token(catalogue: Catalogue) -> str | None:
    try:
        return leases.acquire(
            catalogue,
            "dispatcher",
            owner=ME,
            holder=f"process {os.getpid()}",
            facts={},
            lease_s=60.0,
            now_s=time.time(),
            is_dead=lambda owner: False,
        ).token
    except LeaseHeldError:
        return None


def bring(place: str, numbers: list[int]) -> list[tuple[int | None, str]]:
    """Have a job of its own bring these groups, some at a time."""
    with open_catalogue(place) as catalogue:
        job = jobs.add_job(catalogue, new_job())
        meet()
        found = []
        for start in range(0, len(numbers), 7):
            some = whole(*map(make_group, numbers[start : start + 7]))
            found += [(one.key, one.id) for one in groups.arrive(catalogue, job, some)]
        return found


def killed_at(statement: int, work: Callable[[], object]) -> bool:
    """Run something in a process that kills itself before its n-th statement.

    Beginning and end of a transaction count too. Returns whether it came to that; otherwise it has
    done its work.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _arm(statement)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "it failed before it was killed"
    return False


def _arm(statement: int) -> None:
    left = [statement]

    def step(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", step)
    event.listen(Engine, "commit", step)
