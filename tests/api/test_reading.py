"""What can be looked at over HTTP, against what the catalogue's own functions say."""

from __future__ import annotations

import csv
import io
import json
import subprocess

from contimg_dask.catalogue import groups, jobs, products
from contimg_dask.catalogue.events import latest_id
from contimg_dask.catalogue.opening import Catalogue
from tests.api.site import Site
from tests.night import NO_SPACE, NODES, TRUNCATED
from tests.services import COMMAND

Night = dict[str, list[int]]


def as_json(value: object) -> object:
    return json.loads(json.dumps(value))


def test_the_status_is_that_of_the_command(site: Site) -> None:
    done = subprocess.run(
        [COMMAND, "status", "--json", "--catalogue", site.catalogue],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    by_command, by_web = json.loads(done.stdout), site.get("/api/v1/status")
    for moving in ("time_s", "moment_s", "live_lag_s", "rate_per_h", "left_s"):
        del by_command[moving], by_web[moving]
    assert by_web == by_command
    assert by_web["dispatcher"]["holder"] == "process 4211 on scheduler"
    (first, *_) = by_web["nodes"]
    assert (first["name"], first["facts"]["tiers"][0]["name"]) == (NODES[0], "tmpfs")


def test_the_status_of_a_job_is_of_its_groups_alone(site: Site, night: Night) -> None:
    found = site.get("/api/v1/status?job=2")
    assert found["counts"] == {"queued": len(night["queued"])}
    assert found["job"]["label"] == "week 40"


def test_groups_come_page_by_page_and_none_twice(site: Site, catalogue: Catalogue) -> None:
    wanted = [row.key for row in groups.list_groups(catalogue)]
    seen, path = [], "/api/v1/groups?limit=7"
    while True:
        page = site.get(path)
        seen += [group["key"] for group in page["groups"]]
        if page["next"] is None:
            break
        path = f"/api/v1/groups?limit=7&after={page['next']}"
    assert seen == wanted
    newest = site.get("/api/v1/groups?limit=3&newest_first=true")["groups"]
    assert [group["key"] for group in newest] == wanted[::-1][:3]


def test_groups_are_found_by_state_reason_job_and_time(
    site: Site, catalogue: Catalogue, night: Night
) -> None:
    failed = site.get("/api/v1/groups?state=failed&state=quarantined")["groups"]
    assert sorted(group["key"] for group in failed) == sorted(night["failed"])
    assert all(group["reason"]["code"] for group in failed)
    of_space = site.get(f"/api/v1/groups?reason={NO_SPACE.code}")["groups"]
    assert [group["reason"]["text"] for group in of_space] == [NO_SPACE.text]
    assert len(site.get("/api/v1/groups?job=2")["groups"]) == len(night["queued"])
    first = groups.get_row(catalogue, night["published"][0])
    hour_later = groups.get_row(catalogue, night["published"][10])
    found = site.get(f"/api/v1/groups?start={first.id}&end={hour_later.id}")["groups"]
    assert {group["key"] for group in found} <= set(night["published"][:11] + night["failed"])
    assert len(found) >= 9


def test_a_group_is_told_with_its_files_attempts_and_events(
    site: Site, catalogue: Catalogue, night: Night
) -> None:
    key = night["published"][5]
    found = site.get(f"/api/v1/groups/{key}")
    assert found["group"] == as_json(groups.get_row(catalogue, key).to_json())
    assert found["group"]["seconds"]["total"] > 0
    assert [subband["number"] for subband in found["subbands"]] == list(range(16))
    (attempt,) = found["attempts"]
    assert (attempt["state"], attempt["counted"]) == ("published", True)
    told = [event["event"] for event in found["events"]]
    assert told == ["group-queued", "attempt-started", "group-published"]
    assert (found["manifest"], found["quicklook"]) == (None, [])  # it stands in this test only


def test_products_are_found_by_kind_time_and_declination(site: Site, catalogue: Catalogue) -> None:
    everything = site.get("/api/v1/products?limit=500")
    assert everything["next"] is None
    wanted = [as_json(row.to_json()) for row in products.list_products(catalogue)]
    assert everything["products"] == wanted
    assert len(wanted) > 30
    assert site.get("/api/v1/products?kind=calibrator")["products"] == []
    assert site.get("/api/v1/products?status=removed")["products"] == []
    near = site.get("/api/v1/products?declination=16.2&tolerance=0.1&limit=500")["products"]
    assert near == wanted
    assert site.get("/api/v1/products?declination=17&tolerance=0.1")["products"] == []
    assert site.get("/api/v1/products?end=2020-01-01")["products"] == []


def test_products_come_as_csv_page_by_page(site: Site, catalogue: Catalogue) -> None:
    path, seen = "/api/v1/products?format=csv&limit=9", []
    while path:
        found = site.ask("GET", path)
        assert found.headers["content-type"].startswith("text/csv")
        seen += [row["path"] for row in csv.DictReader(io.StringIO(found.text))]
        link = found.headers.get("link", "")
        path = link.partition("<")[2].partition(">")[0]
    assert seen == [row.path for row in products.list_products(catalogue)]


def test_jobs_and_events_are_listed(site: Site, catalogue: Catalogue) -> None:
    found = site.get("/api/v1/jobs")["jobs"]
    assert [job["id"] for job in found] == [job.id for job in jobs.list_jobs(catalogue)]
    assert site.get("/api/v1/jobs/1")["label"] == "live"
    first = site.get("/api/v1/events?limit=2")
    assert [event["id"] for event in first["events"]] == [1, 2]
    last = latest_id(catalogue)
    assert site.get(f"/api/v1/events?after={last}") == {"events": [], "last": last}


def test_a_service_says_whether_it_lives_and_work_is_done(site: Site) -> None:
    assert site.get("/healthz") == {"ok": True}
    ready = site.get("/readyz")
    assert (ready["ready"], ready["dispatcher"]) == (True, True)


def test_pages_are_whole_without_script(site: Site, night: Night) -> None:
    page = site.ask("GET", "/").text
    assert "Needs a look" in page or "Not going well" in page
    for key in (*night["running"], *night["failed"]):
        assert f'href="/groups/{key}"' in page
    assert TRUNCATED.text in page
    listed = site.ask("GET", "/groups?state=running").text
    assert listed.count("<tr>") == 1 + len(night["running"])
    one = site.ask("GET", f"/groups/{night['failed'][0]}").text
    assert TRUNCATED.text in one


def test_what_is_not_there_is_said_in_one_form(site: Site) -> None:
    for path, code in (
        ("/api/v1/groups/99999", "not-found"),
        ("/api/v1/jobs/99999", "not-found"),
        ("/api/v1/status?job=99999", "not-found"),
        ("/api/v1/nothing", "not-found"),
        ("/api/v1/products?after=/none", "not-found"),
    ):
        found = site.ask("GET", path)
        assert (found.status, found.json["code"]) == (404, code), path
        assert set(found.json) == {"code", "message"}
    page = site.ask("GET", "/groups/99999")
    assert page.status == 404
    assert page.headers["content-type"].startswith("text/html")
    assert "not-found" in page.text
