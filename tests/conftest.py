"""What all tests share: how Hypothesis looks for examples, and variables of libraries."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

from contimg_dask.settings import apply_process_environment

# Some tests run commands in this process. What those set would change libraries that are loaded
# already, in the middle of their work; set before anything is loaded it is as in any command.
apply_process_environment()

# Shells have what runs in the background ignore Ctrl-C, and commands would inherit that from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Files are written in most examples, so the time of one says nothing; and a suite that finds other
# failures on every run is of no use to whoever has to mend them.
settings.register_profile(
    "house",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("house")
