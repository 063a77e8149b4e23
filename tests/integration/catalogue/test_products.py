"""The index of products: what stands where, what is gone, what was found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from contimg_dask.catalogue import groups, products, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Adoption, Arriving, ProductRow
from tests.integration.catalogue.nouns import (
    DIGEST,
    OUT,
    begun,
    brought,
    failed,
    faulty,
    make_group,
    product_of,
    published,
    queued,
    state_of,
    submitted,
    told,
    whole,
)


def adoption_of(product: ProductRow, **about: Any) -> Adoption:
    return Adoption(product=product, options_hash=DIGEST, **{"subbands": ("sb01", "sb00"), **about})


def paths_of(catalogue: Catalogue, **how: Any) -> list[str]:
    return [product.path for product in products.list_products(catalogue, **how)]


def test_a_product_that_is_gone_is_removed_and_one_that_comes_back_published(
    catalogue: Catalogue,
) -> None:
    (key,) = queued(catalogue)
    product = published(catalogue, key)
    assert products.mark_removed(catalogue, product.path)
    assert not products.mark_removed(catalogue, product.path)
    row = groups.get_row(catalogue, key)
    assert (row.state, row.path) == ("removed", None)
    assert paths_of(catalogue) == []
    assert paths_of(catalogue, status="removed") == [product.path]
    assert products.restore(catalogue, product.path)
    assert not products.restore(catalogue, product.path)
    row = groups.get_row(catalogue, key)
    assert (row.state, row.path) == ("published", product.path)
    assert products.get_product(catalogue, product.path) == product
    assert told(catalogue, key)[-2:] == ["group-removed", "group-restored"]
    assert not products.mark_removed(catalogue, "/nothing/here.ms")
    assert not products.restore(catalogue, "/nothing/here.ms")
    assert products.get_product(catalogue, "/nothing/here.ms") is None


def test_a_product_that_is_gone_while_it_is_made_again_leaves_the_group_alone(
    catalogue: Catalogue,
) -> None:
    (key,) = queued(catalogue)
    product = published(catalogue, key)
    queue.retry_groups(catalogue, [key], states=("published",))
    attempt = begun(catalogue, key, "second")
    assert products.mark_removed(catalogue, product.path)
    assert state_of(catalogue, key) == "running"
    assert not products.restore(catalogue, product.path)
    assert queue.publish(catalogue, key, attempt, product, seconds={}, node="n", facts={})
    (found,) = products.list_products(catalogue, status=None)
    assert (found.status, found.path) == ("published", product.path)


def test_a_product_that_was_moved_keeps_its_row_under_the_new_path(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    product = published(catalogue, key)
    new = f"{OUT}/science/2025-10-05/renamed.ms"
    assert products.move_product(catalogue, product.path, new)
    assert not products.move_product(catalogue, product.path, new)
    assert groups.get_row(catalogue, key).path == new
    assert products.list_products(catalogue, status=None) == [replace(product, path=new)]


def test_a_product_may_move_to_where_another_one_was(catalogue: Catalogue) -> None:
    first, second = queued(catalogue, 2)
    one, other = published(catalogue, first, 0), published(catalogue, second, 1)
    products.mark_removed(catalogue, other.path)
    assert products.move_product(catalogue, one.path, other.path)
    assert products.list_products(catalogue, status=None) == [replace(one, path=other.path)]
    assert (state_of(catalogue, first), state_of(catalogue, second)) == ("published", "removed")


def test_repairing_corrects_all_but_path_group_and_status(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    product = published(catalogue, key)
    right = replace(product, ra_deg=1.5, bytes=7, declination_deg=None, group_key=99)
    assert products.repair(catalogue, product.path, replace(right, status="removed", path="/x"))
    assert products.get_product(catalogue, product.path) == replace(right, group_key=key)
    assert not products.repair(catalogue, "/nothing.ms", right)


def test_a_product_of_a_plain_conversion_is_adopted_with_its_group(catalogue: Catalogue) -> None:
    adoption = adoption_of(product_of(), missing=(2, 3))
    assert products.adopt(catalogue, adoption, dry_run=True)
    assert groups.list_groups(catalogue) == []
    assert products.adopt(catalogue, adoption)
    assert not products.adopt(catalogue, adoption)
    assert not products.adopt(catalogue, adoption, dry_run=True)
    (row,) = groups.list_groups(catalogue)
    assert (row.state, row.id, row.path) == ("published", make_group().id, adoption.product.path)
    assert (row.present, row.expected, row.missing, row.jobs) == (2, 4, (2, 3), ())
    (found,) = products.list_products(catalogue)
    assert found == replace(adoption.product, group_key=row.key)
    # A job that brings it finds it published.
    arrived = brought(catalogue, submitted(catalogue), *whole(make_group()))
    assert (arrived.key, arrived.state) == (row.key, "published")


@pytest.mark.parametrize("state", ["collecting", "queued", "failed", "quarantined", "cancelled"])
def test_a_known_group_whose_product_is_found_is_published(
    catalogue: Catalogue, state: str
) -> None:
    job = submitted(catalogue)
    if state == "collecting":
        waits = Arriving(group=make_group(present=(1,)), whole=False)
        key = brought(catalogue, job, waits).key
    else:
        key = brought(catalogue, job, *whole(make_group())).key
    assert key is not None
    if state in ("failed", "quarantined"):
        failed(catalogue, key, quarantine=state == "quarantined")
    elif state == "cancelled":
        queue.cancel_groups(catalogue, [key])
    assert state_of(catalogue, key) == state
    assert products.adopt(catalogue, adoption_of(product_of()))
    row = groups.get_row(catalogue, key)
    assert (row.state, row.reason, row.path) == ("published", None, product_of().path)
    assert products.list_products(catalogue)[0].group_key == key


def test_a_running_group_is_left_to_its_dispatcher(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    begun(catalogue, key)
    assert not products.adopt(catalogue, adoption_of(product_of()))
    assert (state_of(catalogue, key), paths_of(catalogue, status=None)) == ("running", [])


def test_a_second_copy_of_a_published_product_is_known_beside_the_first(
    catalogue: Catalogue,
) -> None:
    (key,) = queued(catalogue)
    product = published(catalogue, key)
    copy = product_of(path=f"{OUT}/science/2025-10-05/copy.ms")
    assert products.adopt(catalogue, adoption_of(copy))
    assert not products.adopt(catalogue, adoption_of(copy))
    assert groups.get_row(catalogue, key).path == product.path
    assert {row.group_key for row in products.list_products(catalogue)} == {key}


def test_an_adopted_group_whose_id_is_taken_gets_one_of_its_own(catalogue: Catalogue) -> None:
    queued(catalogue)
    later = product_of(start_mjd=product_of().start_mjd + 20 / 86400, path="/p/other.ms")
    assert products.adopt(catalogue, adoption_of(later))
    assert [row.id for row in groups.list_groups(catalogue)] == [
        "2025-10-05T03:12:05", "2025-10-05T03:12:25",
    ]  # fmt: skip


def test_lists_hold_what_is_asked_for_in_time_order(catalogue: Catalogue) -> None:
    keys = queued(catalogue, 4)
    made = [
        published(catalogue, keys[n], n, declination_deg=d, kind=kind)
        for n, d, kind in [(2, 16.0, "science"), (0, 16.1, "calibrator"), (1, None, "science")]
    ]
    by_number = {0: made[1].path, 1: made[2].path, 2: made[0].path}

    def numbers(**how: Any) -> list[int]:
        found = paths_of(catalogue, **how)
        return [number for path in found for number, p in by_number.items() if p == path]

    assert numbers() == [0, 1, 2]
    assert numbers(kind="calibrator") == [0]
    assert numbers(declination=(16.0, 0.05)) == [2]
    assert numbers(declination=(16.05, 0.06)) == [0, 2]
    assert numbers(start_mjd=made[2].start_mjd) == [1, 2]
    assert numbers(end_mjd=made[2].start_mjd) == [0]
    assert numbers(output_dir=OUT, limit=2) == [0, 1]
    assert numbers(output_dir="/elsewhere") == []
    assert numbers(after=made[1], limit=1) == [1]
    assert numbers(after=made[0]) == []


def test_every_product_of_an_output_is_iterated_whatever_is_written_meanwhile(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_PAGE", 3)
    for number in range(8):
        products.adopt(catalogue, adoption_of(product_of(number)))
    products.adopt(catalogue, adoption_of(product_of(9, path="/o/x.ms", output_dir="/o")))
    found = []
    for product in products.iterate_products(catalogue, OUT):
        products.mark_removed(catalogue, product.path)
        found.append(product.path)
    assert found == [product_of(number).path for number in range(8)]
    assert list(products.iterate_products(catalogue, "/nowhere")) == []


def test_numbers_that_are_not_finite_are_unknown(catalogue: Catalogue) -> None:
    (key,) = queued(catalogue)
    published(catalogue, key, ra_deg=float("nan"), dec_deg=float("inf"))
    (found,) = products.list_products(catalogue)
    assert (found.ra_deg, found.dec_deg) == (None, None)
    assert faulty  # the made-up groups have it
