"""A lease has one holder; it is taken over from the dead and the silent only."""

from __future__ import annotations

import time
from typing import Any

import pytest

from contimg_dask.catalogue import events, leases
from contimg_dask.catalogue.leases import LeaseHeldError
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Lease
from contimg_dask.model import Owner
from tests.integration.catalogue.nouns import ME, OTHER


def acquire(catalogue: Catalogue, owner: Owner = ME, **how: Any) -> Lease:
    usual: dict[str, Any] = {
        "owner": owner,
        "holder": f"process {owner.pid} on {owner.host}",
        "facts": {"state": "idle"},
        "lease_s": 30.0,
        "now_s": 1000.0,
        "is_dead": lambda owner: False,
    }
    return leases.acquire(catalogue, "dispatcher", **usual | how)


def test_a_free_lease_is_had_and_shown_to_everybody(catalogue: Catalogue) -> None:
    assert leases.current(catalogue, "dispatcher") is None
    mine = acquire(catalogue)
    assert leases.current(catalogue, "dispatcher") == mine
    assert (mine.owner, mine.acquired_s, mine.expires_s) == (ME, 1000.0, 1030.0)
    assert mine.facts == {"state": "idle"}
    assert leases.current(catalogue, "other") is None


def test_a_held_lease_is_refused_with_its_holder(catalogue: Catalogue) -> None:
    acquire(catalogue)
    with pytest.raises(LeaseHeldError, match=r"process 11 on here; it lasts 20 s more") as caught:
        acquire(catalogue, OTHER, now_s=1010.0)
    assert caught.value.code == "lease-held"
    assert "\n" not in str(caught.value)


def test_a_lease_is_taken_over_when_its_time_is_over_or_its_owner_dead(
    catalogue: Catalogue,
) -> None:
    first = acquire(catalogue)
    asked: list[Owner] = []
    second = acquire(catalogue, OTHER, now_s=1031.0)
    third = acquire(catalogue, ME, now_s=1032.0, is_dead=lambda o: not asked.append(o))
    assert asked == [OTHER]
    assert len({first.token, second.token, third.token}) == 3
    for old in (first, second):
        assert not leases.renew(catalogue, old.token, lease_s=30.0, facts={})
        assert not leases.release(catalogue, old.token)
    assert leases.current(catalogue, "dispatcher") == third


def test_renewing_lasts_from_now_on_and_shows_new_facts(catalogue: Catalogue) -> None:
    mine = acquire(catalogue)
    before_s = time.time()
    assert leases.renew(catalogue, mine.token, lease_s=30.0, facts={"state": "busy"})
    now = leases.current(catalogue, "dispatcher")
    assert now is not None
    assert before_s + 30 <= now.expires_s <= time.time() + 30
    assert (now.facts, now.token, now.acquired_s) == ({"state": "busy"}, mine.token, 1000.0)


def test_a_lease_that_is_given_back_is_free(catalogue: Catalogue) -> None:
    mine = acquire(catalogue)
    assert leases.release(catalogue, mine.token)
    assert not leases.release(catalogue, mine.token)
    assert leases.current(catalogue, "dispatcher") is None
    acquire(catalogue, OTHER)


def test_a_pause_is_shown_with_who_asked_for_it_and_why(catalogue: Catalogue) -> None:
    assert leases.paused(catalogue) is None
    assert leases.set_paused(catalogue, by="me", reason="disk is full")
    first = leases.paused(catalogue)
    assert first is not None
    assert (first.by, first.reason) == ("me", "disk is full")
    assert abs(first.since_s - time.time()) < 60
    assert not leases.set_paused(catalogue, by="you")
    second = leases.paused(catalogue)
    assert second is not None
    assert (second.by, second.reason, second.since_s) == ("you", "disk is full", first.since_s)
    assert leases.set_resumed(catalogue)
    assert not leases.set_resumed(catalogue)
    assert leases.paused(catalogue) is None
    assert [event.event for event in events.list_events(catalogue)] == ["paused", "resumed"]


def test_a_pause_without_a_reason_has_an_empty_one(catalogue: Catalogue) -> None:
    leases.set_paused(catalogue, by="me", reason=None)
    pause = leases.paused(catalogue)
    assert pause is not None
    assert pause.reason == ""
