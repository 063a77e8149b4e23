"""Publish a staged Measurement Set: afterwards readers see all of it or none.

The commit is one rename within the destination's file system, after everything is on stable
storage. The first attempt wins; a later one of the same plan is told so.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import uuid
from pathlib import Path

from contimg_dask.copying import copy_tree, sync_path, sync_tree
from contimg_dask.errors import ContimgError, ExchangeError, TargetOccupiedError
from contimg_dask.model import Attempt, ConversionPlan
from contimg_dask.publishing.ownership import make_directories, own_tree
from contimg_dask.publishing.targets import inspect_target
from contimg_dask.staging.attempts import incoming_path, replaced_path
from contimg_dask.staging.sweeping import remove_tree

_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_MOST_TRIES = 1000
_NOT_OFFERED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_libc = ctypes.CDLL(None, use_errno=True)


def publish(staged: str, plan: ConversionPlan, attempt: Attempt) -> str:
    """Move a finished Measurement Set to its target; return the attempt whose product stands there.

    Raises
    ------
    TargetOccupiedError
        Something else stands at the target, which is left as it is.
    ExchangeError
        It was to be replaced, and the file system cannot do that without a gap.
    OSError
        The file system refuses; the target is as it was.
    """
    target = Path(plan.target)
    made: list[Path] = []
    # Each run of this step has a copy of its own: it may run twice at the same time.
    incoming = f"{incoming_path(plan, attempt)}-{uuid.uuid4().hex[:8]}"
    try:
        for tries_left in reversed(range(_MOST_TRIES)):
            try:
                made += make_directories(target.parent, plan.publication)
                ready, winner = _place(staged, incoming, target, plan, attempt)
                break
            except (FileNotFoundError, FileExistsError):
                # Another attempt, which failed, may have removed the directory that both thought
                # their own, and made it again since.
                if tries_left == 0 or not os.path.isdir(staged) or _is_blocked(target.parent):
                    raise
                remove_tree(incoming)
        for path in (target, *made):
            sync_path(str(path.parent))
    except (OSError, ContimgError):
        remove_tree(incoming)
        for path in made:
            with contextlib.suppress(OSError):  # others may have put something there
                path.rmdir()
        raise
    # A copy that lost, or the product that was replaced by exchange.
    remove_tree(ready)
    return winner


def _is_blocked(directory: Path) -> bool:
    """Tell whether something that is no directory stands where one should be made."""
    return any(os.path.lexists(p) and not p.is_dir() for p in (directory, *directory.parents))


def _place(
    staged: str, incoming: str, target: Path, plan: ConversionPlan, attempt: Attempt
) -> tuple[str, str]:
    """Commit, after everything is on stable storage; return from where, and whose product it is."""
    ready = staged
    if os.stat(staged).st_dev != os.stat(target.parent).st_dev:
        copy_tree(staged, incoming)
        ready = incoming
    own_tree(ready, target.parent, plan.publication)
    sync_tree(ready)
    return ready, _commit(ready, target, plan, attempt)


def _commit(ready: str, target: Path, plan: ConversionPlan, attempt: Attempt) -> str:
    try:
        rename(ready, str(target), _RENAME_NOREPLACE)
    except FileExistsError:
        found = inspect_target(target, plan)
        if plan.on_existing == "replace":
            _replace(ready, target, plan, attempt)
        elif found.state == "whole":
            return found.attempt
        else:
            raise TargetOccupiedError(
                f"{target}: something else stands there ({found.text}): move it away or use "
                f"--on-existing replace",
                path=str(target),
            ) from None
    return attempt.name


def _replace(ready: str, target: Path, plan: ConversionPlan, attempt: Attempt) -> None:
    """Put the new product in the old one's place; the old one is at ``ready`` then, or gone."""
    try:
        rename(ready, str(target), _RENAME_EXCHANGE)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        if not plan.publication.allow_gap:
            raise ExchangeError(
                f"{target}: its file system cannot exchange two directories ({error.strerror}), so "
                f"readers would find neither for a moment: use --allow-gap if that is acceptable",
                path=str(target),
            ) from error
        _replace_with_gap(ready, target, replaced_path(plan, attempt))


def _replace_with_gap(ready: str, target: Path, aside: str) -> None:
    """Move the old product aside, then the new one in; a kill in between is mended by the sweep."""
    os.rename(target, aside)
    try:
        sync_path(str(target.parent))
        os.rename(ready, target)
    except OSError:
        os.rename(aside, target)
        raise
    sync_path(str(target.parent))
    remove_tree(aside)


def rename(source: str, target: str, flags: int) -> None:
    """Rename with renameat2(2): never onto something, or as an exchange of the two.

    A file system that cannot promise not to overwrite gets a plain rename, which still refuses a
    populated directory.
    """
    result = _libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)
    )
    if result == 0:
        return
    number = ctypes.get_errno()
    if number in _NOT_OFFERED and flags == _RENAME_NOREPLACE:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        os.rename(source, target)
        return
    raise OSError(number, os.strerror(number), target)
