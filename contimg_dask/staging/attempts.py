"""Open, find and remove the directory of an attempt.

Every attempt leaves a record in the destination's staging directory, which names all it may write
there; one staged elsewhere leaves a second one in that tier, on its node.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from contimg_dask.errors import AttemptGoneError, NoSpaceError, OutputError
from contimg_dask.model import Attempt, AttemptFiles, ConversionPlan, Tier
from contimg_dask.staging.records import (
    AttemptRecord,
    held,
    locked_root,
    read_record,
    record_path,
)
from contimg_dask.staging.reserving import try_reserve
from contimg_dask.staging.sweeping import paths_of, remove_tree, settle_replaced


def open_attempt(plan: ConversionPlan, attempt: Attempt) -> AttemptFiles:
    """Reserve room in the first tier that has it, and make the attempt's directory there.

    Opening twice is harmless: the second time finds what the first has made.

    Raises
    ------
    NoSpaceError
        Not even the destination has room; the message has both numbers.
    OutputError
        The destination cannot be written.
    """
    with contextlib.suppress(AttemptGoneError):
        return find_attempt(plan, attempt)
    refused: list[str] = []
    for tier in plan.tiers:
        try:
            fits, numbers = _open_in(tier, plan, attempt, _said(refused))
        except OSError as error:
            if tier.name == "destination":
                raise _unwritable(tier, error) from error
            refused.append(f"{tier.name} cannot be used ({error.strerror})")
            continue
        if fits:
            return find_attempt(plan, attempt)
        refused.append(f"{tier.name} is too full ({numbers})")
    remove_attempt(plan, attempt)
    raise NoSpaceError(
        f"{plan.publication.output_dir or plan.home_root}: no room for {plan.group_id}: "
        f"{'; '.join(refused)}: free some space",
        path=plan.target,
    )


def _open_in(tier: Tier, plan: ConversionPlan, attempt: Attempt, before: str) -> tuple[bool, str]:
    directory = os.path.join(tier.root, attempt.name)
    home = plan.tiers[-1]
    if tier != home:
        # The copy beside the target needs room as well, and the sweep must know of it.
        copy = _record(plan, attempt, plan.bytes_product, os.path.join(home.root, attempt.name), "")
        fits, numbers = try_reserve(home, copy)
        if not fits:
            return False, f"for the copy at the destination {numbers}"
    record = _record(plan, attempt, plan.bytes_staged, directory, before)
    fits, numbers = try_reserve(tier, record)
    if fits:
        os.makedirs(directory, exist_ok=True)
    return fits, numbers


def _record(
    plan: ConversionPlan, attempt: Attempt, promised_bytes: int, directory: str, before: str
) -> AttemptRecord:
    return AttemptRecord(
        attempt=attempt.name,
        owner=attempt.owner,
        promised_bytes=promised_bytes,
        directory=directory,
        beside=(incoming_path(plan, attempt), replaced_path(plan, attempt)),
        target=plan.target,
        reason=before,
    )


def _said(refused: list[str]) -> str:
    return "; ".join(refused) + "; " if refused else ""


def _unwritable(tier: Tier, error: OSError) -> OutputError:
    where = error.filename or tier.root
    return OutputError(
        f"{where}: cannot be made or written ({error.strerror}): check the permissions of the "
        f"output directory",
        path=str(where),
    )


def is_recorded(plan: ConversionPlan, attempt: Attempt) -> bool:
    """Tell whether anything of an attempt may be left, as far as can be seen from here."""
    return any(
        os.path.lexists(path)
        for tier in plan.tiers
        for path in (record_path(tier.root, attempt.name), os.path.join(tier.root, attempt.name))
    )


def incoming_path(plan: ConversionPlan, attempt: Attempt) -> str:
    """Return where a product from another file system is copied to: hidden, beside the target."""
    return str(Path(plan.target).parent / f".{attempt.name}.incoming")


def replaced_path(plan: ConversionPlan, attempt: Attempt) -> str:
    """Return where the old product waits while it is replaced with a gap, beside the target."""
    return str(Path(plan.target).parent / f".{attempt.name}.replaced")


def find_attempt(plan: ConversionPlan, attempt: Attempt) -> AttemptFiles:
    """Return where an attempt works on this node.

    Raises
    ------
    AttemptGoneError
        It was never opened here, or has been given up.
    """
    for tier in plan.tiers:
        directory = os.path.join(tier.root, attempt.name)
        if os.path.isdir(directory):
            record = read_record(record_path(tier.root, attempt.name))
            if record is not None:
                return AttemptFiles(directory=directory, tier=tier.name, tier_reason=record.reason)
    raise AttemptGoneError(f"attempt {attempt.name} has no directory here: it was given up")


@contextmanager
def working_in(plan: ConversionPlan, attempt: Attempt) -> Iterator[AttemptFiles]:
    """Keep an attempt alive while a step of it runs, and say where it works.

    Raises
    ------
    AttemptGoneError
        It was given up, or taken for dead.
    """
    with ExitStack() as holds:
        files = find_attempt(plan, attempt)
        for root in {plan.home_root, os.path.dirname(files.directory)}:
            holds.enter_context(held(record_path(root, attempt.name)))
        yield files


def remove_attempt(plan: ConversionPlan, attempt: Attempt) -> None:
    """Remove everything an attempt wrote, in whatever tier, and its records last.

    A step that is still running cannot bring any of it back, nor publish what is half removed: each
    directory is first renamed, in one stroke, to a name the step does not know.
    """
    settle_replaced(replaced_path(plan, attempt), plan.target)
    beside = (incoming_path(plan, attempt), replaced_path(plan, attempt))
    for tier in plan.tiers:
        if not os.path.isdir(tier.root):
            continue
        paths = paths_of(os.path.join(tier.root, attempt.name), beside)
        left = [path for path in paths if not remove_tree(path)]
        with contextlib.suppress(OSError), locked_root(tier.root):
            if not left:
                os.unlink(record_path(tier.root, attempt.name))
