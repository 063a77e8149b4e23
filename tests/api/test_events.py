"""What happens, told while it happens: server-sent events from the catalogue's own table."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from contimg_dask.catalogue.events import latest_id, list_events
from contimg_dask.catalogue.opening import Catalogue
from tests.api.site import Site

Night = dict[str, list[int]]


class Stream:
    """An open stream, read event by event."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def next(self) -> dict[str, Any]:
        """Return the next event; what keeps the connection alive is passed over."""
        event: dict[str, Any] = {}
        while line := self._response.readline().decode().rstrip("\n"):
            name, _, text = line.partition(": ")
            event[name] = text
        return event if "data" in event else self.next()


@contextmanager
def streaming(site: Site, last: int | None = None) -> Iterator[Stream]:
    """Open a stream, from now on or after an event."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    connection.request("GET", "/api/v1/events/stream", headers=headers)
    response = connection.getresponse()
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.readline() == b"retry: 3000\n"
    response.readline()
    try:
        yield Stream(response)
    finally:
        connection.close()


def test_what_is_done_by_anybody_is_heard_by_everybody(
    site: Site, catalogue: Catalogue, night: Night
) -> None:
    key = night["failed"][0]
    with streaming(site) as one, streaming(site) as other:
        site.change("POST", "/api/v1/retry", {"groups": [str(key)]})
        heard = one.next()
        told = json.loads(heard["data"])
        assert (heard["event"], told["event"], told["group_key"]) == ("change", "group-queued", key)
        assert int(heard["id"]) == told["id"] == latest_id(catalogue)
        assert told == json.loads(json.dumps(list_events(catalogue, group=key)[-1].to_json()))
        assert other.next() == heard


def test_a_stream_goes_on_after_the_last_event_that_was_heard(
    site: Site, catalogue: Catalogue
) -> None:
    site.change("POST", "/api/v1/pause", {"reason": "first"})
    last = latest_id(catalogue)
    site.change("POST", "/api/v1/resume")
    site.change("POST", "/api/v1/pause", {"reason": "second"})
    site.change("POST", "/api/v1/resume")
    with streaming(site, last) as stream:
        heard = [stream.next() for _ in range(3)]
    assert [int(event["id"]) for event in heard] == [last + 1, last + 2, last + 3]
    assert [json.loads(event["data"])["event"] for event in heard] == [
        "resumed", "paused", "resumed",
    ]  # fmt: skip


def test_all_that_ever_happened_can_be_heard_once_more(site: Site, catalogue: Catalogue) -> None:
    wanted = [event.id for event in list_events(catalogue)]
    with streaming(site, 0) as stream:
        assert [int(stream.next()["id"]) for _ in wanted] == wanted


def test_a_number_that_makes_no_sense_is_passed_over(site: Site) -> None:
    for last in ("-1", "x", "9" * 60, "9" * 5000):
        found = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
        found.request("GET", "/api/v1/events/stream", headers={"Last-Event-ID": last})
        assert found.getresponse().status == 200
        found.close()
