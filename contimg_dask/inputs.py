"""Which input files are safely converted: for whoever clears the ingest disk. Nothing is deleted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contimg_dask.errors import UsageError
from contimg_dask.integrity import check_integrity
from contimg_dask.publishing.manifest import read_manifest
from contimg_dask.publishing.targets import fault_of_product, published_products


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A product and the input files that can be read back from it.

    ``doubt`` says why none can; ``left_out`` why single files are not among ``files``.
    """

    product: str
    files: tuple[str, ...] = ()
    doubt: str | None = None
    left_out: tuple[str, ...] = ()


def published_inputs(
    output_dir: Path,
    *,
    checksums: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Published]:
    """Return every product of the dated layout with the inputs it holds.

    A file counts when its product is whole (its manifest parses, the table opens with its rows, no
    bulk file is short) and the file is still the one that was read: same size and modification
    time. One that was sent again since is left out, and one that is gone.

    Parameters
    ----------
    output_dir
        Root of the layout.
    checksums
        Also read every product and hold it against the checksums in its manifest.
    progress
        Called with (products done, products in all).

    Raises
    ------
    UsageError
        There is no such directory.
    """
    if not output_dir.is_dir():
        raise UsageError(f"{output_dir}: there is no such directory", path=str(output_dir))
    products = published_products(output_dir)
    found = []
    for done, product in enumerate(products, start=1):
        found.append(_published(product, checksums))
        progress(done, len(products))
    return found


def _published(product: Path, checksums: bool) -> Published:
    manifest = read_manifest(product)
    doubt = fault_of_product(product, manifest)
    if manifest is None or doubt is not None:
        return Published(product=str(product), doubt=doubt)
    if checksums:
        findings = check_integrity(product).findings
        if findings:
            return Published(product=str(product), doubt=findings[0].text)
    files, left_out = [], []
    for entry in manifest["inputs"]:
        if not isinstance(entry, dict):
            return Published(product=str(product), doubt="its manifest has inputs that are none")
        change = _change(entry)
        if change is None:
            files.append(str(entry["path"]))
        else:
            left_out.append(change)
    return Published(product=str(product), files=tuple(files), left_out=tuple(left_out))


def _change(entry: dict[str, Any]) -> str | None:
    """Return why a file is not the one that was converted, or None."""
    path = str(entry.get("path"))
    try:
        found = os.stat(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    except ValueError as error:  # a NUL in it
        return f"{path!r}: {error}"
    if found.st_size != entry.get("size_bytes"):
        return f"{path}: {found.st_size} bytes, {entry.get('size_bytes')} when it was converted"
    if found.st_mtime_ns != entry.get("mtime_ns"):
        return f"{path}: written again since it was converted"
    return None
