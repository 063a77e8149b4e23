"""Publish a staged Measurement Set: afterwards readers see all of it or none.

The commit is one rename within the destination's file system, after everything is on stable
storage. The first attempt wins; a later one of the same plan is told so.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from contimg_dask.copying import copy_tree, sync_path, sync_tree
from contimg_dask.errors import ContimgError, TargetOccupiedError
from contimg_dask.geometry import geometry_of
from contimg_dask.model import SAME_START_TOLERANCE_D, ConversionPlan, GroupRecord
from contimg_dask.ms.skeleton import casacore_faults, first_short_bulk_column, row_count
from contimg_dask.naming import PRODUCT_DIRECTORIES, failed_record_path

MANIFEST_NAME = "contimg-manifest.json"
MANIFEST_VERSION = 1

_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What stands at a product's place: nothing, the whole product of this plan, or another."""

    state: Literal["absent", "whole", "other"]
    text: str = ""


def write_manifest(directory: str, plan: ConversionPlan, facts: dict[str, Any]) -> None:
    """Write what the product was made from into it; ``facts`` are added at the top level."""
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "group": plan.group_id,
        "kind": plan.kind,
        "start_mjd": plan.start_mjd,
        "plan_hash": plan.plan_hash,
        "inputs": [
            {
                "subband": subband.name,
                "path": subband.header.path,
                "size_bytes": subband.header.size_bytes,
                "mtime_ns": subband.header.mtime_ns,
                "start_jd": subband.header.start_jd,
            }
            for subband in plan.subbands
        ],
        "windows": {
            subband.name: index if plan.options.spw == "subband" else 0
            for index, subband in enumerate(plan.subbands)
        },
        "missing": list(plan.missing),
        "unreadable": [asdict(file) for file in plan.unreadable],
        "options": asdict(plan.options),
        "geometry": asdict(geometry_of(plan)),
        "mode": plan.mode,
        "tier": plan.tier,
        **facts,
    }
    path = os.path.join(directory, MANIFEST_NAME)
    Path(path).write_text(json.dumps(manifest, indent=1) + "\n")


def read_manifest(product: Path) -> dict[str, Any] | None:
    """Return a product's manifest, or None when it has none that can be read."""
    try:
        manifest = json.loads((product / MANIFEST_NAME).read_text())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def inspect_target(target: Path, plan: ConversionPlan) -> Found:
    """Tell what stands at the target: ``whole`` only when nothing needs to be done.

    Whole means: the manifest parses and is of this plan, the table opens with its row count, and
    no bulk file is short.
    """
    if not os.path.lexists(target):
        return Found(state="absent")
    manifest = read_manifest(target)
    if manifest is None:
        return Found(state="other", text="it has no manifest that can be read")
    if manifest.get("plan_hash") != plan.plan_hash:
        return Found(state="other", text="it was made from other files or with other options")
    geometry = geometry_of(plan)
    try:
        with casacore_faults(str(target)):
            rows = row_count(str(target))
            short = first_short_bulk_column(target, geometry)
    except ContimgError as error:
        return Found(state="other", text=str(error))
    if rows != geometry.rows:
        return Found(state="other", text=f"it has {rows} rows, {geometry.rows} expected")
    if short is not None:
        return Found(state="other", text=f"its {short.name} is missing or short")
    return Found(state="whole")


class StartIndex:
    """Finds products by the start time in their manifests, under any id or kind.

    Manifests are read once per day directory, when first asked for.
    """

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir
        self._days: dict[str, list[tuple[float, Path]]] = {}

    def find(self, start_mjd: float, dates: tuple[str, ...]) -> Path | None:
        """Return a product that starts within 1 ms of ``start_mjd`` on one of these dates."""
        for date in dates:
            for found_mjd, path in self._day(date):
                if abs(found_mjd - start_mjd) <= SAME_START_TOLERANCE_D:
                    return path
        return None

    def _day(self, date: str) -> list[tuple[float, Path]]:
        if date not in self._days:
            products = (
                path
                for kind in PRODUCT_DIRECTORIES
                for path in sorted((self._output_dir / kind / date).glob("*.ms"))
            )
            self._days[date] = [
                (float(manifest["start_mjd"]), path)
                for path in products
                if (manifest := read_manifest(path))
                and isinstance(manifest.get("start_mjd"), int | float)
            ]
        return self._days[date]


def publish(staged: str, plan: ConversionPlan) -> bool:
    """Move a finished Measurement Set to its target; return False when it stood there already.

    Raises
    ------
    TargetOccupiedError
        Something else stands at the target, which is left as it is.
    OSError
        The file system refuses; nothing is at the target then.
    """
    target = Path(plan.target)
    _make_directories(target.parent)
    ready = _beside_target(staged, target)
    try:
        sync_tree(ready)
        try:
            _rename(ready, str(target), _RENAME_NOREPLACE)
        except FileExistsError:
            if not _replace(ready, target, plan):
                return False
        sync_path(str(target.parent))
    finally:
        if ready != staged:
            _remove(ready)
    return True


def _replace(ready: str, target: Path, plan: ConversionPlan) -> bool:
    """Deal with something at the target; True when it was replaced by exchange."""
    found = inspect_target(target, plan)
    if plan.on_existing == "replace":
        # What stood at the target is now at `ready`, which the attempt removes.
        _rename(ready, str(target), _RENAME_EXCHANGE)
        return True
    if found.state == "whole":
        return False
    raise TargetOccupiedError(
        f"{target}: something else stands there ({found.text}): move it away or use "
        f"--on-existing replace",
        path=str(target),
    )


def _remove(path: str) -> None:
    """Remove what an exchange has put here: a product, or whatever stood at the target."""
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _beside_target(staged: str, target: Path) -> str:
    """Return a path on the target's file system: the staged one, or a hidden copy beside it."""
    if os.stat(staged).st_dev == os.stat(target.parent).st_dev:
        return staged
    attempt = os.path.basename(os.path.dirname(staged))
    incoming = str(target.parent / f".{attempt}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    try:
        copy_tree(staged, incoming)
    except OSError:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    return incoming


def _make_directories(directory: Path) -> None:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_path(str(path.parent))


def _rename(source: str, target: str, flags: int) -> None:
    """Rename with renameat2(2): never onto something, or as an exchange of the two.

    A file system without it gets a plain rename, which still refuses a populated directory.
    """
    result = _libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)
    )
    if result == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS) and flags == _RENAME_NOREPLACE:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        os.rename(source, target)
        return
    raise OSError(number, os.strerror(number), target)


def write_failed_record(output_dir: Path, record: GroupRecord, inputs: list[str]) -> None:
    """Leave ``failed/YYYY-MM-DD/<id>.json``: outcome, reason and inputs of a failed group."""
    path = failed_record_path(output_dir, record.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    content = {"schema": 1, **record.to_json(), "inputs": inputs}
    staged.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(staged, path)


def remove_failed_record(output_dir: Path, group_id: str) -> None:
    """Remove the record of an earlier failure, and the directories it leaves empty."""
    path = failed_record_path(output_dir, group_id)
    with contextlib.suppress(OSError):
        path.unlink()
        path.parent.rmdir()
        path.parent.parent.rmdir()
