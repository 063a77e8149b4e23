"""Variables that numerical libraries read once, when they are loaded."""

from __future__ import annotations

import os
import types
from collections.abc import Mapping, MutableMapping

# One thread per process everywhere: workers fill the cores by number, and casacore and HDF5 are
# not thread-safe. Input may lie on a network file system without locks, and is only ever read.
# pyuvdata compiles functions by numba, none of which costs us anything as it is; without that it
# loads in two thirds of the time, and where neither the environment nor the home directory can be
# written, as under the units we render, it could not be loaded at all: numba finds no cache.
PROCESS_ENVIRONMENT: Mapping[str, str] = types.MappingProxyType(
    {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "NUMBA_DISABLE_JIT": "1",
    }
)


_SET_HERE: set[str] = set()


def apply_process_environment(environ: MutableMapping[str, str] | None = None) -> None:
    """Set the variables that numerical libraries read once, where the user has not set them.

    Call it before numpy, h5py or casacore are imported; later it has no effect on this process,
    only on its children.
    """
    environ = os.environ if environ is None else environ
    for name, value in PROCESS_ENVIRONMENT.items():
        if name not in environ:
            environ[name] = value
            _SET_HERE.add(name)


def user_environment() -> dict[str, str]:
    """Return the environment as the user has it, for programs that are not ours."""
    return {name: value for name, value in os.environ.items() if name not in _SET_HERE}


def process_environment(environ: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """Tell what the variables of `PROCESS_ENVIRONMENT` are set to; None where unset."""
    environ = os.environ if environ is None else environ
    return {name: environ.get(name) for name in PROCESS_ENVIRONMENT}


def notify_address(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the socket on which the service manager wants to hear of us; None without one."""
    return (os.environ if environ is None else environ).get("NOTIFY_SOCKET") or None


def watchdog_s(environ: Mapping[str, str] | None = None) -> float | None:
    """Return how often the service manager wants to hear of us [s]; None when it does not."""
    environ = os.environ if environ is None else environ
    text = environ.get("WATCHDOG_USEC", "")
    ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(text) / 1e6 if text.isascii() and text.isdigit() and ours else None
