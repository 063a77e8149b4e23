"""Every setting of the program: what there is (`fields`) and where values come from (`loading`)."""

from contimg_dask.settings.fields import LARGEST_WHOLE_NUMBER, Settings
from contimg_dask.settings.loading import (
    CONFIG_VARIABLE,
    ENVIRONMENT_PREFIX,
    LoadedSettings,
    catalogue_place,
    check_value,
    describe,
    load_settings,
    size_bytes,
    toml_value,
    unknown_environment,
)
from contimg_dask.settings.process import (
    PROCESS_ENVIRONMENT,
    apply_process_environment,
    notify_address,
    process_environment,
    user_environment,
    watchdog_s,
)

__all__ = [
    "CONFIG_VARIABLE",
    "ENVIRONMENT_PREFIX",
    "LARGEST_WHOLE_NUMBER",
    "PROCESS_ENVIRONMENT",
    "LoadedSettings",
    "Settings",
    "apply_process_environment",
    "catalogue_place",
    "check_value",
    "describe",
    "load_settings",
    "notify_address",
    "process_environment",
    "size_bytes",
    "toml_value",
    "unknown_environment",
    "user_environment",
    "watchdog_s",
]
