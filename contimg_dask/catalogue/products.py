"""The index of products: where each Measurement Set stands, what it shows, and whether it is there.

A row is never deleted: a product that is gone is ``removed``. A path has one row, of what stood
there last.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, insert, select, tuple_, update

from contimg_dask.catalogue import events
from contimg_dask.catalogue.identity import Known, identity_at, start_ms_of
from contimg_dask.catalogue.moving import AFRESH, Telling, move_groups
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Adoption, ProductRow, ProductStatus
from contimg_dask.catalogue.rows import Row, finite, product_of
from contimg_dask.catalogue.tables import groups, products
from contimg_dask.model import Kind

_PAGE = 1000
_MEASURED = (
    "begin_mjd",
    "middle_mjd",
    "end_mjd",
    "ra_deg",
    "dec_deg",
    "declination_deg",
)


def list_products(
    catalogue: Catalogue,
    *,
    kind: Kind | None = None,
    status: ProductStatus | None = "published",
    start_mjd: float | None = None,
    end_mjd: float | None = None,
    declination: tuple[float, float] | None = None,
    output_dir: str | None = None,
    after: ProductRow | None = None,
    limit: int | None = None,
) -> list[ProductRow]:
    """Return products in time order.

    Parameters
    ----------
    catalogue
        Where they are.
    kind, status, output_dir
        Only these; a status of None means those that are gone too.
    start_mjd, end_mjd
        First integration within [start, end) [MJD UTC d].
    declination
        Centre and greatest distance from it [deg]: apparent, so none where the telescope tracked.
    after
        The last one of the page before.
    limit
        At most so many.
    """
    conditions: list[Any] = []
    if start_mjd is not None:
        conditions.append(products.c.start_mjd >= start_mjd)
    if end_mjd is not None:
        conditions.append(products.c.start_mjd < end_mjd)
    if declination is not None:
        centre, reach = declination
        conditions.append(products.c.declination_deg.between(centre - reach, centre + reach))
    if after is not None:
        place = tuple_(products.c.start_mjd, products.c.path)
        conditions.append(place > tuple_(after.start_mjd, after.path))
    wanted = {"kind": kind, "status": status, "output_dir": output_dir}
    conditions += [products.c[name] == value for name, value in wanted.items() if value is not None]
    order = (products.c.start_mjd, products.c.path)
    query = select(products).where(*conditions).order_by(*order).limit(limit)
    with catalogue.reading() as connection:
        return [product_of(row) for row in connection.execute(query).mappings()]


def get_product(catalogue: Catalogue, path: str) -> ProductRow | None:
    """Return what is known of a path; None when nothing is."""
    with catalogue.reading() as connection:
        row = _row(connection, path)
    return None if row is None else product_of(row)


def iterate_products(catalogue: Catalogue, output_dir: str) -> Iterator[ProductRow]:
    """Yield every product of an output, those that are gone too, in order of path.

    Pages are read one by one, so that the catalogue may be written meanwhile.
    """
    last = ""
    while True:
        query = (
            select(products)
            .where(products.c.output_dir == output_dir, products.c.path > last)
            .order_by(products.c.path)
            .limit(_PAGE)
        )
        with catalogue.reading() as connection:
            page = [product_of(row) for row in connection.execute(query).mappings()]
        yield from page
        if len(page) < _PAGE:
            return
        last = page[-1].path


def mark_removed(catalogue: Catalogue, path: str) -> bool:
    """Record that a product is gone, and of its group: published → removed.

    False when it was not published. Safe to call twice.
    """
    with catalogue.writing() as connection:
        row = _row(connection, path)
        if row is None or row["status"] != "published":
            return False
        _change(connection, path, {"status": "removed"})
        here = and_(groups.c.key == row["group_key"], groups.c.path == path)
        move_groups(
            connection, "removed", here, {}, Telling(event="group-removed", facts={"path": path})
        )
        connection.execute(update(groups).where(here).values(path=None))
        return True


def restore(catalogue: Catalogue, path: str) -> bool:
    """Record that a product is there again, and of its group: → published.

    False when it was not removed, or its group is being worked on, whose dispatcher will find it.
    Safe to call twice.
    """
    with catalogue.writing() as connection:
        row = _row(connection, path)
        if row is None or row["status"] != "removed" or _is_running(connection, row["group_key"]):
            return False
        _change(connection, path, {"status": "published"})
        _publish_found(connection, row["group_key"], path, "group-restored")
        return True


def move_product(catalogue: Catalogue, old: str, new: str) -> bool:
    """Record that a product stands at another path now. False when nothing is known of the old one.

    Safe to call twice: the second finds nothing at the old path.
    """
    with catalogue.writing() as connection:
        row = _row(connection, old)
        if row is None:
            return False
        _vacate(connection, new, row["group_key"])
        connection.execute(delete(products).where(products.c.path == new))
        _change(connection, old, {"path": new, "status": "published"})
        mine = and_(groups.c.key == row["group_key"], groups.c.path == old)
        connection.execute(update(groups).where(mine).values(path=new))
        events.add(
            connection,
            "product-moved",
            group_key=row["group_key"],
            group_id=row["group_id"],
            facts={"from": old, "to": new},
        )
        return True


def repair(catalogue: Catalogue, path: str, product: ProductRow) -> bool:
    """Correct what is known of a product: all but its path, its group and whether it is there.

    False when nothing is known of the path. Safe to call twice.
    """
    values = _columns(product)
    for name in ("path", "group_key", "status"):
        del values[name]
    with catalogue.writing() as connection:
        row = _row(connection, path)
        if row is None:
            return False
        _change(connection, path, values)
        changed = sorted(name for name, value in values.items() if value != row[name])
        events.add(
            connection,
            "product-repaired",
            group_key=row["group_key"],
            group_id=row["group_id"],
            facts={"path": path, "changed": changed},
        )
        return True


def adopt(catalogue: Catalogue, adoption: Adoption, *, dry_run: bool = False) -> bool:
    """Take in a product found on disk: its group is published, and made known if need be.

    Parameters
    ----------
    catalogue
        To know of it.
    adoption
        The product and what its manifest says of the group.
    dry_run
        Only tell.

    Returns
    -------
    bool
        False when its group is being worked on, which is left to its dispatcher, or there is
        nothing to change. Safe to call twice.
    """
    product = adoption.product
    wanted = identity_at(product.group_id, product.start_mjd)
    with catalogue.writing(dry_run=dry_run) as connection:
        known = Known(connection, product.output_dir, adoption.options_hash, [wanted])
        row = known.find(wanted)
        if row is None:
            key = _insert_found(connection, adoption, known.id_for(wanted))
        elif row["state"] == "running" or _stands_there(connection, row, product):
            return False
        else:
            key = row["key"]
            _publish_found(connection, key, product.path, "group-adopted")
        put_product(connection, key, product)
        return True


def _stands_there(connection: Connection, group: Row, product: ProductRow) -> bool:
    """Tell whether a product is known just so, and its group published."""
    row = _row(connection, product.path)
    same = row is not None and _columns(product) | {"group_key": group["key"]} == dict(row)
    return same and group["state"] == "published"


def put_product(connection: Connection, key: int, product: ProductRow) -> None:
    """Make this the row of its path, within a transaction of the caller."""
    _vacate(connection, product.path, key)
    values = _columns(product) | {"group_key": key}
    if _change(connection, product.path, values) == 0:
        connection.execute(insert(products).values(values))


def _vacate(connection: Connection, path: str, key: int) -> None:
    """Take a path from the group whose product stood there, if that is another: it is replaced."""
    row = _row(connection, path)
    if row is None or row["group_key"] == key:
        return
    theirs = and_(groups.c.key == row["group_key"], groups.c.path == path)
    facts = {"path": path, "why": "replaced"}
    move_groups(connection, "removed", theirs, {}, Telling(event="group-removed", facts=facts))
    connection.execute(update(groups).where(theirs).values(path=None))


def _publish_found(connection: Connection, key: int, path: str, event: str) -> None:
    """Move a group that does not run to published, if it may; one that is so keeps its path."""
    idle = and_(groups.c.key == key, groups.c.state != "running")
    found = {**AFRESH, "path": path, "finished_s": time.time()}
    move_groups(connection, "published", idle, found, Telling(event=event, facts={"path": path}))


def _insert_found(connection: Connection, adoption: Adoption, group_id: str) -> int:
    product = adoption.product
    now_s = time.time()
    values = {
        **AFRESH,
        "id": group_id,
        "start_ms": start_ms_of(product.start_mjd),
        "start_mjd": product.start_mjd,
        "output_dir": product.output_dir,
        "options_hash": adoption.options_hash,
        "kind": product.kind,
        "state": "published",
        "state_since_s": now_s,
        "present": len(adoption.subbands),
        "expected": len(adoption.subbands) + len(adoption.missing),
        "missing": list(adoption.missing),
        "bytes_in": 0,
        "priority": 0,
        "live": False,
        "finished_s": product.published_s,
        "path": product.path,
    }
    inserting = insert(groups).values(values).returning(groups.c.key)
    key = connection.execute(inserting).scalar_one()
    facts = {"path": product.path}
    events.add(connection, "group-adopted", group_key=key, group_id=group_id, facts=facts)
    return int(key)


def _columns(product: ProductRow) -> dict[str, Any]:
    values = asdict(product)
    return values | {name: finite(values[name]) for name in _MEASURED}


def _change(connection: Connection, path: str, values: dict[str, Any]) -> int:
    return connection.execute(
        update(products).where(products.c.path == path).values(values)
    ).rowcount


def _row(connection: Connection, path: str) -> Row | None:
    query = select(products).where(products.c.path == path)
    return connection.execute(query).mappings().first()


def _is_running(connection: Connection, key: int) -> bool:
    runs = exists().where(groups.c.key == key, groups.c.state == "running")
    return bool(connection.execute(select(runs)).scalar())
