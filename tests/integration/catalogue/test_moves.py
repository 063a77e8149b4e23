"""Whatever is asked of a catalogue, in whatever order: groups move as the table allows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contimg_dask.catalogue import groups, jobs, products, queue
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Adoption, Arriving, GroupRow
from contimg_dask.lifecycle import FINAL, is_allowed
from tests.integration.catalogue.nouns import (
    BROKEN,
    DIGEST,
    LOST,
    lease,
    make_group,
    product_of,
    submitted,
)

outputs = count()
names = count()


class World:
    """Two groups in an output of their own, and everything that can be asked about them."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.out = f"/out{next(outputs)}"
        self.token = lease(catalogue)
        self.jobs = [submitted(catalogue, output_dir=self.out)]
        self.old: dict[int, list[str]] = {}

    def rows(self) -> dict[int, GroupRow]:
        return {row.key: row for row in groups.list_groups(self.catalogue, output_dir=self.out)}

    def product(self, number: int) -> Any:
        return product_of(number, path=f"{self.out}/{number}.ms", output_dir=self.out)

    def do(self, what: str, number: int, flag: bool, mtime_ns: int) -> None:
        """Ask for one thing."""
        wanted = make_group(number).id
        found = groups.find_groups(self.catalogue, wanted, self.out)
        row = found[0] if found else None
        if what == "arrive":
            fault = None if flag else BROKEN
            present = (0, 1) if flag else (0,)
            group = make_group(number, present=present, mtime_ns=mtime_ns)
            groups.arrive(
                self.catalogue, self.jobs[-1], [Arriving(group=group, whole=flag, fault=fault)]
            )
        elif what == "collect":
            group = make_group(number, present=(1,), mtime_ns=mtime_ns)
            groups.arrive(self.catalogue, self.jobs[-1], [Arriving(group=group, whole=False)])
        elif what == "submit":
            replaces = {"on_existing": "replace"} if flag else {}
            self.jobs.append(submitted(self.catalogue, output_dir=self.out, settings=replaces))
        elif what == "cancel-job":
            jobs.cancel_job(self.catalogue, self.jobs[-1].id)
        elif what == "adopt":
            adoption = Adoption(
                product=self.product(number), options_hash=DIGEST, subbands=("sb00",)
            )
            products.adopt(self.catalogue, adoption)
        elif row is not None:
            self._steer(what, row, number, flag)

    def _steer(self, what: str, row: GroupRow, number: int, flag: bool) -> None:
        # Attempts of the past try to have their say as well.
        past = self.old.get(row.key, [])
        attempt = past[0] if flag and past else row.attempt if row.state == "running" else None
        path = self.product(number).path
        begin = {"number": 1, "node": "n"}
        name = f"a{next(names)}"
        actions: dict[str, Callable[[], object]] = {
            "begin": lambda: queue.begin_attempt(
                self.catalogue, self.token, row.key, name, **begin  # type: ignore[arg-type]
            ),
            "publish": lambda: queue.publish(
                self.catalogue, row.key, attempt, self.product(number),
                seconds={}, node=None, facts={},
            ),
            "fail": lambda: queue.fail(
                self.catalogue, row.key, attempt, BROKEN, quarantine=flag, seconds={}
            ),
            "give-back": lambda: queue.give_back(
                self.catalogue, row.key, attempt, LOST, counted=flag, not_before_s=0.0
            ),
            "cancel": lambda: queue.cancel_groups(self.catalogue, [row.key]),
            "mark-cancelled": lambda: queue.mark_cancelled(self.catalogue, row.key, attempt),
            "retry": lambda: queue.retry_groups(self.catalogue, [row.key]),
            "remove": lambda: products.mark_removed(self.catalogue, path),
            "restore": lambda: products.restore(self.catalogue, path),
        }  # fmt: skip
        actions[what]()
        if what == "begin":
            self.old.setdefault(row.key, []).append(name)

    def check(self, before: dict[int, GroupRow]) -> None:
        """Hold what is there now against the table, and against itself."""
        after = self.rows()
        assert set(before) <= set(after)
        assert len({row.id for row in after.values()}) == len(after)
        for key, row in after.items():
            was = before.get(key)
            if was is not None and was.state != row.state:
                assert is_allowed(was.state, row.state), (was.state, row.state)
            tried = groups.attempts_of(self.catalogue, key)
            under_way = [attempt.name for attempt in tried if attempt.state == "running"]
            assert under_way == ([row.attempt] if row.state == "running" else [])
            assert (row.finished_s is not None) == (row.state in FINAL)
            assert row.state == "running" or not row.cancel_requested
            assert row.state not in ("queued", "collecting") or row.attempt is None
            assert (row.reason is None) or row.state not in ("published", "collecting")
            if row.state == "published":
                assert row.path is not None
                product = products.get_product(self.catalogue, row.path)
                assert product is not None
                assert (product.status, product.group_key) == ("published", key)


WORDS = (
    "arrive", "arrive", "collect", "submit", "cancel-job", "adopt", "begin", "begin", "publish",
    "fail", "give-back", "cancel", "mark-cancelled", "retry", "remove", "restore",
)  # fmt: skip
requests = st.tuples(
    st.sampled_from(WORDS), st.integers(0, 1), st.booleans(), st.sampled_from((7, 8))
)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(requests, min_size=4, max_size=14))
def test_groups_move_as_the_table_allows(
    catalogue: Catalogue, asked: list[tuple[str, int, bool, int]]
) -> None:
    world = World(catalogue)
    world.do("arrive", 0, True, 7)
    for request in asked:
        before = world.rows()
        world.do(*request)
        world.check(before)
