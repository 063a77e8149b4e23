"""Rights that one process has for a while, such as to dispatch; and whether anything is begun.

The clocks of the hosts that share a catalogue have to agree to a few seconds, well below the length
of a lease.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from contimg_dask.catalogue import events
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Lease, Pause
from contimg_dask.catalogue.rows import Row, storable
from contimg_dask.catalogue.tables import control, leases
from contimg_dask.errors import CatalogueError
from contimg_dask.model import Owner

_PAUSED = "paused"


class LeaseHeldError(CatalogueError):
    """Another process holds the lease."""

    code = "lease-held"


def acquire(
    catalogue: Catalogue,
    name: str,
    *,
    owner: Owner,
    holder: str,
    facts: Mapping[str, Any],
    lease_s: float,
    now_s: float,
    is_dead: Callable[[Owner], bool],
) -> Lease:
    """Take a lease that is free, over, or held by a process that is dead; of several, one gets it.

    Parameters
    ----------
    catalogue, name
        Which lease.
    owner, holder
        Who takes it: told apart from any other process, and in words for people.
    facts
        What to show of the holder, as plain JSON types.
    lease_s
        How long it lasts without `renew` [s].
    now_s
        The time now.
    is_dead
        Asked about the holder there is; only what is certain counts.

    Raises
    ------
    LeaseHeldError
        Another process holds it, and which.
    """
    with catalogue.writing() as connection:
        query = select(leases).where(leases.c.name == name)
        row = connection.execute(query).mappings().first()
        if row is not None and row["expires_s"] > now_s and not is_dead(Owner(**row["owner"])):
            raise LeaseHeldError(
                f"{catalogue.url_shown}: the {name} lease is held by {row['holder']}; it lasts "
                f"{row['expires_s'] - now_s:.0f} s more unless renewed: stop that one first",
                path=catalogue.url_shown,
            )
        new = {
            "name": name,
            "holder": storable(holder),
            "owner": asdict(owner),
            "token": uuid.uuid4().hex,
            "acquired_s": now_s,
            "expires_s": now_s + lease_s,
            "facts": dict(facts),
        }
        connection.execute(delete(leases).where(leases.c.name == name))
        connection.execute(insert(leases).values(new))
        taken_from = None if row is None else row["holder"]
        about = {"lease": name, "holder": new["holder"], "taken_from": taken_from}
        events.add(connection, "lease-taken", facts=about)
    return _lease_of(new)


def renew(catalogue: Catalogue, token: str, *, lease_s: float, facts: Mapping[str, Any]) -> bool:
    """Make a lease last from now on; False when somebody else has it. Safe to call twice."""
    values = {"expires_s": time.time() + lease_s, "facts": dict(facts)}
    with catalogue.writing() as connection:
        mine = update(leases).where(leases.c.token == token).values(values)
        return connection.execute(mine).rowcount == 1


def release(catalogue: Catalogue, token: str) -> bool:
    """Give a lease back; False when it was not held any more. Safe to call twice."""
    with catalogue.writing() as connection:
        mine = delete(leases).where(leases.c.token == token).returning(leases.c.name)
        name = connection.execute(mine).scalar()
        if name is not None:
            events.add(connection, "lease-released", facts={"lease": name})
        return name is not None


def current(catalogue: Catalogue, name: str) -> Lease | None:
    """Return a lease as it is, whether its time is over or not; None when nobody has it."""
    with catalogue.reading() as connection:
        query = select(leases).where(leases.c.name == name)
        row = connection.execute(query).mappings().first()
    return None if row is None else _lease_of(row)


def list_current(catalogue: Catalogue, prefix: str, now_s: float) -> list[Lease]:
    """Return the leases that last and whose names begin so, by name."""
    lasts = leases.c.expires_s > now_s
    query = select(leases).where(leases.c.name.startswith(prefix, autoescape=True), lasts)
    with catalogue.reading() as connection:
        return [
            _lease_of(row) for row in connection.execute(query.order_by(leases.c.name)).mappings()
        ]


def set_paused(catalogue: Catalogue, *, by: str, reason: str | None = None) -> bool:
    """Have nothing new begun; tell whether that changed anything. Safe to call twice.

    A pause that is there keeps its time, and gets the new reason if there is one.
    """
    with catalogue.writing() as connection:
        before = _remove_pause(connection)
        kept = {"reason": "", "since_s": time.time()} if before is None else before
        value = {**kept, "by": by, "reason": reason or kept["reason"]}
        connection.execute(insert(control).values(name=_PAUSED, value=value))
        if before is None:
            facts = {"by": by, "reason": value["reason"]}
            events.add(connection, "paused", facts=facts)
        return before is None


def set_resumed(catalogue: Catalogue) -> bool:
    """Go on; tell whether there was a pause. Safe to call twice."""
    with catalogue.writing() as connection:
        before = _remove_pause(connection)
        if before is not None:
            events.add(connection, "resumed")
        return before is not None


def _remove_pause(connection: Connection) -> dict[str, Any] | None:
    mine = control.c.name == _PAUSED
    found: dict[str, Any] | None = connection.execute(select(control.c.value).where(mine)).scalar()
    connection.execute(delete(control).where(mine))
    return found


def paused(catalogue: Catalogue) -> Pause | None:
    """Return the pause there is, or None."""
    with catalogue.reading() as connection:
        query = select(control.c.value).where(control.c.name == _PAUSED)
        value = connection.execute(query).scalar()
    return None if value is None else Pause(**value)


def _lease_of(row: Row) -> Lease:
    return Lease(
        name=row["name"],
        holder=row["holder"],
        owner=Owner(**row["owner"]),
        token=row["token"],
        acquired_s=row["acquired_s"],
        expires_s=row["expires_s"],
        facts=row["facts"],
    )
