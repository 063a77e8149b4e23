"""Records of failed groups: ``failed/YYYY-MM-DD/<id>.json``, and what is kept beside them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from pathlib import Path

from contimg_dask.copying import copy_tree
from contimg_dask.model import GroupRecord, Publication
from contimg_dask.naming import STAGING_DIRECTORY, failed_record_path
from contimg_dask.publishing.ownership import make_directories, own_file, own_tree
from contimg_dask.staging.records import locked_root
from contimg_dask.staging.sweeping import remove_tree

FAILED_RECORD_VERSION = 1


def write_failed_record(publication: Publication, record: GroupRecord, inputs: list[str]) -> None:
    """Leave ``failed/YYYY-MM-DD/<id>.json``: outcome, reason and inputs of a failed group."""
    output_dir = Path(publication.output_dir)
    path = failed_record_path(output_dir, record.id)
    content = {
        "schema": FAILED_RECORD_VERSION,
        **record.to_json(),
        "inputs": inputs,
        "host": socket.gethostname(),
    }
    kept = path.with_suffix(".ms")
    if kept.is_dir():
        content["kept"] = str(kept)
    root = str(output_dir / STAGING_DIRECTORY)
    # Under the lock, so that what a killed process leaves of it is known to be nobody's.
    with locked_root(root):
        make_directories(path.parent, publication)
        name = f"{record.id}.{uuid.uuid4().hex[:8]}.json"
        staged = os.path.join(root, name)
        if os.stat(root).st_dev != os.stat(path.parent).st_dev:
            staged = str(path.parent / f".{name}")
        Path(staged).write_text(json.dumps(content, indent=1) + "\n")
        own_file(staged, publication)
        os.replace(staged, path)


def keep_failed(product: str, group_id: str, publication: Publication, staging: str) -> None:
    """Keep what there is of a failed group's Measurement Set beside its record.

    Parameters
    ----------
    product
        As far as it got.
    group_id, publication
        Whose it is, and where records go.
    staging
        The attempt's directory at the destination, made if need be: what is copied on the way, or
        replaced, is there and goes with the attempt.
    """
    path = failed_record_path(Path(publication.output_dir), group_id).with_suffix(".ms")
    os.makedirs(staging, exist_ok=True)
    ready = product
    if os.stat(product).st_dev != os.stat(staging).st_dev:
        ready = os.path.join(staging, f"{uuid.uuid4().hex[:8]}-kept.ms")
        copy_tree(product, ready)
    make_directories(path.parent, publication)
    if os.stat(ready).st_dev == os.stat(path.parent).st_dev:
        own_tree(ready, path.parent, publication)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, os.path.join(staging, f"{uuid.uuid4().hex[:8]}-replaced.ms"))
        os.rename(ready, path)
        return
    beside = str(path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}"))
    try:
        copy_tree(ready, beside)
        own_tree(beside, path.parent, publication)
        remove_tree(str(path))
        os.rename(beside, path)
    except OSError:
        remove_tree(beside)
        raise


def remove_failed_record(output_dir: Path, group_id: str) -> None:
    """Remove the record of an earlier failure, what was kept, and directories left empty."""
    path = failed_record_path(output_dir, group_id)
    if not path.parent.is_dir():
        return
    # Under the lock, so that no record of another group is just about to be put there.
    root = str(output_dir / STAGING_DIRECTORY)
    with contextlib.suppress(OSError), locked_root(root):
        doomed = path.with_suffix(".ms")
        with contextlib.suppress(OSError):
            # Where a sweep finds it, should this be cut short; not from another file system.
            aside = Path(root, f"{group_id}.{uuid.uuid4().hex[:8]}.kept")
            doomed = doomed.rename(aside)
        remove_tree(str(doomed))
        path.unlink(missing_ok=True)
        path.parent.rmdir()
        path.parent.parent.rmdir()
