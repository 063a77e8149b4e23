"""Nodes, and the events that tell what happened."""

from __future__ import annotations

import time

from contimg_dask.catalogue import events, nodes
from contimg_dask.catalogue.opening import Catalogue
from tests.integration.catalogue.nouns import queued


def test_a_node_is_known_from_when_it_was_first_seen(catalogue: Catalogue) -> None:
    nodes.seen(catalogue, "10.0.0.2", 4, {"memory": 1})
    nodes.seen(catalogue, "10.0.0.1", 8, {})
    (first,) = [node for node in nodes.list_nodes(catalogue) if node.name == "10.0.0.2"]
    nodes.seen(catalogue, "10.0.0.2", 3, {"memory": 2})
    one, two = nodes.list_nodes(catalogue)
    assert (one.name, two.name) == ("10.0.0.1", "10.0.0.2")
    assert (two.workers, two.facts, two.state) == (3, {"memory": 2}, "active")
    assert two.first_seen_s == first.first_seen_s
    assert first.last_seen_s <= two.last_seen_s <= time.time()
    assert [event.event for event in events.list_events(catalogue)] == ["node-joined"] * 2


def test_a_draining_node_stays_so_until_it_is_used_again(catalogue: Catalogue) -> None:
    assert not nodes.set_draining(catalogue, "10.0.0.1", True)
    nodes.seen(catalogue, "10.0.0.1", 4, {})
    for _ in range(2):
        assert nodes.set_draining(catalogue, "10.0.0.1", True)
        nodes.seen(catalogue, "10.0.0.1", 4, {})
        assert nodes.draining_names(catalogue) == frozenset({"10.0.0.1"})
    assert nodes.set_draining(catalogue, "10.0.0.1", False)
    assert nodes.draining_names(catalogue) == frozenset()
    assert [event.event for event in events.list_events(catalogue)] == [
        "node-joined", "node-draining", "node-active",
    ]  # fmt: skip


def test_events_are_read_on_from_the_last_one_known(catalogue: Catalogue) -> None:
    assert events.latest_id(catalogue) == 0
    first, _ = queued(catalogue, 2)
    found = events.list_events(catalogue)
    assert [event.event for event in found] == ["job-submitted", "group-queued", "group-queued"]
    assert [event.id for event in found] == sorted(event.id for event in found)
    assert events.latest_id(catalogue) == found[-1].id
    assert events.list_events(catalogue, after_id=found[1].id) == found[2:]
    assert events.list_events(catalogue, limit=2) == found[:2]
    assert events.list_events(catalogue, group=first) == [found[1]]
    assert events.list_events(catalogue, job=1) == found
    assert found[1].facts == {"present": 2, "expected": 2}
    assert found[1].to_json()["group_id"] == found[1].group_id


def test_ids_of_events_that_were_pruned_are_not_used_again(catalogue: Catalogue) -> None:
    queued(catalogue)
    last = events.latest_id(catalogue)
    assert events.prune(catalogue, time.time() + 60) == 2
    assert events.prune(catalogue, time.time() + 60) == 0
    nodes.seen(catalogue, "10.0.0.1", 4, {})
    (event,) = events.list_events(catalogue)
    assert event.id > last
