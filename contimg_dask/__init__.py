"""Convert DSA-110 UVH5 subband groups to CASA Measurement Sets on a Dask cluster."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = [
    "ClusterError",
    "ContimgError",
    "ConversionPlan",
    "InputError",
    "OutputError",
    "Product",
    "UsageError",
    "convert_subband_groups_to_ms",
    "create_path_mapper",
]

_HOME = {
    "ClusterError": "errors",
    "ContimgError": "errors",
    "ConversionPlan": "model",
    "InputError": "errors",
    "OutputError": "errors",
    "Product": "model",
    "UsageError": "errors",
    "convert_subband_groups_to_ms": "python_api",
    "create_path_mapper": "naming",
}


def __getattr__(name: str) -> Any:
    # Workers import small parts of this package and must not pay for astropy and Dask each time.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
