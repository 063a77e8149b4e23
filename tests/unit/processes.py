"""Real processes for tests: side by side, halted in the middle, killed.

Every one is a new interpreter: a fork would share the locks of this one's libraries. What they run
must stand in a module that loads fast, because each of them loads it again.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

_SPAWN = multiprocessing.get_context("spawn")
_START_S = 60.0


class OtherProcess:
    """A process that runs a generator function, from one ``yield`` to the next as it is told to.

    Use it in a ``with`` block, at whose end it is killed.
    """

    def __init__(self, function: Callable[..., Iterator[Any]], *arguments: Any) -> None:
        self._ours, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs, function, arguments))
        self._process.start()
        theirs.close()

    def __enter__(self) -> OtherProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._ours.close()

    def yielded(self) -> Any:
        """Wait until it has come to its next ``yield`` and return what it yields there."""
        assert self._ours.poll(_START_S), "the other process is stuck"
        return self._ours.recv()

    def go_on(self) -> Any:
        """Let it run on to its next ``yield``, and return what it yields there; None at its end."""
        self._ours.send(None)
        return self.yielded()

    def kill(self) -> None:
        """Kill it, with no chance to clean up, and wait until it is gone."""
        self._process.kill()
        self._process.join()


def _serve(
    connection: Connection, function: Callable[..., Iterator[Any]], arguments: tuple[Any, ...]
) -> None:
    for value in function(*arguments):
        connection.send(value)
        connection.recv()
    connection.send(None)


def side_by_side(function: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
    """Call a function once per tuple of arguments, each in a process, all begun at one moment.

    Returns what they returned, in order; the first that raised raises here.
    """
    barrier = _SPAWN.Barrier(len(arguments))
    with ProcessPoolExecutor(
        len(arguments), mp_context=_SPAWN, initializer=_keep, initargs=(barrier,)
    ) as pool:
        futures = [pool.submit(_at_once, function, *each) for each in arguments]
        return [future.result() for future in futures]


_barriers: list[Any] = []


def meet() -> None:
    """Wait until all who run `side_by_side` have come to this."""
    _barriers[0].wait(_START_S)


def _keep(barrier: Any) -> None:
    _barriers.append(barrier)


def _at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    meet()
    return function(*arguments)
