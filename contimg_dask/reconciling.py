"""Hold the catalogue against the disk, both ways, and put the catalogue right.

The disk decides: products are never touched. A group that is being converted at the moment is left
to its dispatcher.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from contimg_dask.catalogue import products
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Adoption, ProductRow
from contimg_dask.errors import UsageError
from contimg_dask.model import ProductOptions
from contimg_dask.naming import PRODUCT_DIRECTORIES
from contimg_dask.product_rows import row_of_manifest
from contimg_dask.publishing.manifest import read_manifest
from contimg_dask.publishing.targets import fault_of_product, published_products

What = Literal["adopted", "repaired", "restored", "removed", "moved", "doubtful"]
_MOUNT = "if it is not mounted, mount it first"
_Same = tuple[str, float]
"""Plan hash and start: what tells that a product is the one that stood elsewhere."""

_COMPARED = (
    "group_id",
    "kind",
    "start_mjd",
    "begin_mjd",
    "middle_mjd",
    "end_mjd",
    "ra_deg",
    "dec_deg",
    "declination_deg",
    "plan_hash",
    "attempt",
)
"""What a manifest says of a product; its bytes change when it is calibrated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A place where catalogue and disk differ; ``doubtful`` ones wait for a person."""

    what: What
    path: str
    text: str


def reconcile(
    catalogue: Catalogue,
    output_dir: Path,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Difference]:
    """Return every difference below an output directory, mended unless it is doubtful.

    Parameters
    ----------
    catalogue
        To be put right.
    output_dir
        Root of a dated layout.
    dry_run
        Only tell.
    progress
        Called with (products done, products on disk in all).

    Raises
    ------
    UsageError
        There is no such directory, or nothing of the layout in it although products should be
        there: it may only be unmounted, so nothing was marked.
    """
    root = str(output_dir.absolute())
    known = {row.path: row for row in products.iterate_products(catalogue, root)}
    expected = [row for row in known.values() if row.status == "published"]
    _check_mounted(output_dir, len(expected))
    gone: dict[_Same, list[ProductRow]] = {}
    for row in expected:
        if not os.path.lexists(row.path):
            gone.setdefault((row.plan_hash, row.start_mjd), []).append(row)
    disk = _Disk(catalogue=catalogue, root=root, known=known, gone=gone, dry_run=dry_run)
    there = published_products(Path(root))
    found: list[Difference] = []
    for done, path in enumerate(there, start=1):
        found += disk.differences(path)
        progress(done, len(there))
    for row in (one for rows in gone.values() for one in rows):
        if os.path.lexists(row.path):
            continue  # a dispatcher has put it back, or another in its place, meanwhile
        if not dry_run:
            products.mark_removed(catalogue, row.path)
        text = f"it is gone; group {row.group_id} is not converted again unless asked for"
        found.append(Difference(what="removed", path=row.path, text=text))
    return found


def check_output(output_dir: Path) -> None:
    """Refuse an output that is not there.

    Raises
    ------
    UsageError
        There is no such directory.
    """
    if not output_dir.is_dir():
        text = f"{output_dir}: there is no such directory; {_MOUNT}"
        raise UsageError(text, path=str(output_dir))


def _check_mounted(output_dir: Path, expected: int) -> None:
    """Refuse an output that looks as a place does where nothing is mounted."""
    check_output(output_dir)
    if expected and not any((output_dir / kind).is_dir() for kind in PRODUCT_DIRECTORIES):
        raise UsageError(
            f"{output_dir}: {expected} product(s) should be there, and there is not even a "
            f"directory {' or '.join(PRODUCT_DIRECTORIES)}: {_MOUNT}; if they were moved away, make "
            f"an empty one",
            path=str(output_dir),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Disk:
    """What the catalogue knows of an output, to hold each product on disk against.

    ``gone`` are products that are not where the catalogue has them, by plan and start; those that
    are found elsewhere are taken out of it.
    """

    catalogue: Catalogue
    root: str
    known: dict[str, ProductRow]
    gone: dict[_Same, list[ProductRow]]
    dry_run: bool

    def differences(self, path: Path) -> Iterator[Difference]:
        """Yield what is wrong about one product, mended unless it is doubtful."""
        # One that is not known may have been published since the catalogue was read.
        known = self.known.get(str(path)) or products.get_product(self.catalogue, str(path))
        manifest = read_manifest(path)
        fault = fault_of_product(path, manifest)
        row = None
        if manifest is not None and fault is None:
            key = 0 if known is None else known.group_key
            row = row_of_manifest(str(path), manifest, group_key=key, output_dir=self.root)
        if not os.path.lexists(path):
            return  # moved away since the directory was listed
        if manifest is None or row is None:
            text = f"{fault or 'its manifest lacks what every manifest has'}: look at it"
            yield Difference(what="doubtful", path=str(path), text=text)
        elif known is None:
            yield from self._unknown(row, manifest)
        else:
            yield from self._known(row, known)

    def _known(self, row: ProductRow, known: ProductRow) -> Iterator[Difference]:
        if known.status == "removed" and (
            self.dry_run or products.restore(self.catalogue, row.path)
        ):
            yield Difference(what="restored", path=row.path, text="it has been brought back")
        wrong = [name for name in _COMPARED if getattr(known, name) != getattr(row, name)]
        if wrong:
            if not self.dry_run:
                kept = replace(row, published_s=known.published_s)
                products.repair(self.catalogue, row.path, kept)
            text = f"the catalogue had other {', '.join(wrong)}"
            yield Difference(what="repaired", path=row.path, text=text)

    def _unknown(self, row: ProductRow, manifest: dict[str, Any]) -> Iterator[Difference]:
        if away := self.gone.get((row.plan_hash, row.start_mjd)):
            old = away.pop()
            if not self.dry_run:
                products.move_product(self.catalogue, old.path, row.path)
            yield Difference(what="moved", path=row.path, text=f"the catalogue had {old.path}")
            return
        try:
            options = ProductOptions(**manifest["options"])
            subbands = tuple(entry["subband"] for entry in manifest["inputs"])
        except (KeyError, TypeError):
            text = "its manifest has options or inputs that this version does not know"
            yield Difference(what="doubtful", path=row.path, text=text)
            return
        adoption = Adoption(
            product=row,
            options_hash=options.digest,
            subbands=subbands,
            missing=tuple(manifest.get("missing", ())),
        )
        if products.adopt(self.catalogue, adoption, dry_run=self.dry_run):
            text = f"group {row.group_id} is published"
            yield Difference(what="adopted", path=row.path, text=text)
