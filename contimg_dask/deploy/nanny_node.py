"""Dask nanny preload: a worker command whose address is not in the inventory ends before it begins.

The worker's own preload refuses too, where there is no nanny; Dask would follow that with a page of
traceback.
"""

from __future__ import annotations

from typing import Any

from contimg_dask.deploy.node_lookup import node_or_end


def dask_setup(nanny: Any) -> None:
    """Look the nanny's address up."""
    node_or_end(nanny)
