"""What all tests share: how Hypothesis looks for examples."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

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
