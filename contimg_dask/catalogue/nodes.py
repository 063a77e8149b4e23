"""The machines of the cluster: when each was seen last, and which are to get nothing more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import insert, select, update

from contimg_dask.catalogue import events
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import NodeRow, NodeState
from contimg_dask.catalogue.tables import nodes

_NODE = [field.name for field in fields(NodeRow)]


def seen(catalogue: Catalogue, name: str, workers: int, facts: Mapping[str, Any]) -> None:
    """Record that a node is there, with so many worker processes. Safe to call twice.

    One that is seen for the first time is active; one that is being drained stays so.
    """
    now_s = time.time()
    values = {"workers": workers, "last_seen_s": now_s, "facts": dict(facts)}
    with catalogue.writing() as connection:
        known = connection.execute(update(nodes).where(nodes.c.name == name).values(values))
        if known.rowcount == 0:
            first = {"name": name, "state": "active", "first_seen_s": now_s, **values}
            connection.execute(insert(nodes).values(first))
            events.add(connection, "node-joined", facts={"node": name, "workers": workers})


def list_nodes(catalogue: Catalogue) -> list[NodeRow]:
    """Return every node that was ever seen, in order of name."""
    with catalogue.reading() as connection:
        rows = connection.execute(select(nodes).order_by(nodes.c.name)).mappings().all()
    return [NodeRow(**{name: row[name] for name in _NODE}) for row in rows]


def set_draining(catalogue: Catalogue, name: str, draining: bool) -> bool:
    """Have a node get nothing more, or again something; False when it was never seen.

    What runs there comes to its end. Safe to call twice.
    """
    after: NodeState = "draining" if draining else "active"
    with catalogue.writing() as connection:
        state = connection.execute(select(nodes.c.state).where(nodes.c.name == name)).scalar()
        if state is None:
            return False
        if state != after:
            connection.execute(update(nodes).where(nodes.c.name == name).values(state=after))
            event = "node-draining" if draining else "node-active"
            events.add(connection, event, facts={"node": name})
        return True


def draining_names(catalogue: Catalogue) -> frozenset[str]:
    """Return the nodes that get nothing more."""
    with catalogue.reading() as connection:
        query = select(nodes.c.name).where(nodes.c.state == "draining")
        return frozenset(connection.execute(query).scalars())
