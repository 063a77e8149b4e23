"""What can be changed over HTTP: by the same functions as the commands, and with the token alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contimg_dask.catalogue import groups, jobs, leases, nodes
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.settings import load_settings
from contimg_dask.submitting import Backlog, new_job
from tests.acceptance.conftest import make_groups
from tests.api.site import TOKEN, Site
from tests.night import NODES

Night = dict[str, list[int]]

CHANGES = (
    ("POST", "/api/v1/jobs", {"input_dir": "/a", "output_dir": "/b"}),
    ("DELETE", "/api/v1/jobs/1", None),
    ("POST", "/api/v1/groups/1/cancel", None),
    ("POST", "/api/v1/retry", {"all": True}),
    ("POST", "/api/v1/pause", {}),
    ("POST", "/api/v1/resume", None),
    ("POST", f"/api/v1/nodes/{NODES[0]}/drain", None),
    ("POST", f"/api/v1/nodes/{NODES[0]}/undrain", None),
    ("PUT", "/api/v1/log-level", {"level": "debug"}),
)


def state_of(catalogue: Catalogue) -> tuple[object, ...]:
    """What steering could have changed."""
    return (
        groups.count_by_state(catalogue),
        leases.paused(catalogue),
        leases.log_level(catalogue),
        nodes.draining_names(catalogue),
        len(jobs.list_jobs(catalogue)),
    )


def test_these_are_all_the_endpoints_that_change_something(site: Site) -> None:
    paths = site.get("/api/v1/openapi.json")["paths"]
    there = {(method.upper(), path) for path, methods in paths.items() for method in methods} - {
        ("GET", path) for path in paths
    }
    shape = {"/jobs/1": "/jobs/{job}", "/groups/1/": "/groups/{key}/", NODES[0]: "{node}"}
    here = set()
    for method, path, _ in CHANGES:
        for name, template in shape.items():
            path = path.replace(name, template)
        here.add((method, path))
    assert there == here


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_nothing_is_changed_without_the_token(
    site: Site, catalogue: Catalogue, method: str, path: str, body: object
) -> None:
    before = (
        groups.count_by_state(catalogue),
        leases.paused(catalogue),
        len(jobs.list_jobs(catalogue)),
    )
    missing = site.ask(method, path, body)
    assert (missing.status, missing.json["code"]) == (401, "token-needed")
    assert missing.headers["www-authenticate"] == "Bearer"
    for wrong in (TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é" * 30, "x"):
        found = site.ask(
            method,
            path,
            body,
            headers={"Authorization": f"Bearer {wrong}".encode().decode("latin-1")},
        )
        assert (found.status, found.json["code"]) == (401, "token-wrong")
        assert TOKEN not in found.text
    for elsewhere in ({"Authorization": f"Basic {TOKEN}"}, {"Cookie": f"token={TOKEN}"}):
        assert site.ask(method, path, body, headers=elsewhere).status == 401
    assert site.ask(method, f"{path}?token={TOKEN}", body).status == 401
    after = (
        groups.count_by_state(catalogue),
        leases.paused(catalogue),
        len(jobs.list_jobs(catalogue)),
    )
    assert after == before


def test_a_backlog_is_submitted_as_the_command_does_it(site: Site, catalogue: Catalogue) -> None:
    make_groups(site.incoming / "week", groups=2, subbands=2)
    body = {
        "input_dir": str(site.incoming / "week"),
        "output_dir": str(site.products / "week"),
        "label": "over the web",
        "priority": 3,
        "start": "2025-10-05",
        "options": {"expected_subbands": 2, "spw": "single"},
    }
    said = site.change("POST", "/api/v1/jobs", body)
    assert (said["candidates"], said["dispatcher"]) == (2, "process 4211 on scheduler")
    job = jobs.get_job(catalogue, said["job"])
    wanted = new_job(
        Backlog(
            input_dir=site.incoming / "week",
            output_dir=site.products / "week",
            settings=load_settings({"expected_subbands": 2, "spw": "single"}, environ={}).settings,
            start_mjd=60953.0,
            priority=3,
            label="over the web",
        )
    )
    same = ("input_dir", "output_dir", "settings", "options_hash", "start_mjd", "priority", "label")
    assert [getattr(job, name) for name in same] == [getattr(wanted, name) for name in same]
    assert job.submitted_by.startswith("web interface on")
    site.change("DELETE", f"/api/v1/jobs/{job.id}")
    assert jobs.get_job(catalogue, job.id).state == "cancelled"


def test_groups_are_retried_one_by_one_and_by_reason(
    site: Site, catalogue: Catalogue, night: Night
) -> None:
    first, second, *_ = night["failed"]
    assert site.change("POST", "/api/v1/retry", {"groups": [str(first)]}) == {"queued": 1}
    assert groups.get_row(catalogue, first).state == "queued"
    assert site.get("/api/v1/status")["counts"]["queued"] == len(night["queued"]) + 1
    by_reason = {"all": True, "reason": "truncated"}
    assert site.change("POST", "/api/v1/retry", by_reason) == {"queued": 1}
    assert groups.get_row(catalogue, second).state == "queued"
    assert site.change("POST", "/api/v1/retry", by_reason) == {"queued": 0}
    for wrong in ({}, {"all": True, "groups": ["1"]}, {"groups": ["1"], "reason": "truncated"}):
        assert site.ask("POST", "/api/v1/retry", wrong, token=TOKEN).status == 400
    assert site.ask("POST", "/api/v1/retry", {"groups": ["77777"]}, token=TOKEN).status == 404


def test_a_group_is_cancelled(site: Site, catalogue: Catalogue, night: Night) -> None:
    waiting, runs = night["queued"][0], night["running"][0]
    said = site.change("POST", f"/api/v1/groups/{waiting}/cancel")
    assert said == {"cancelled": 1, "requested": 0}
    assert groups.get_row(catalogue, waiting).state == "cancelled"
    said = site.change("POST", f"/api/v1/groups/{runs}/cancel")
    assert said == {"cancelled": 0, "requested": 1}
    assert groups.get_row(catalogue, runs).cancel_requested


def test_the_queue_is_paused_and_goes_on(site: Site, catalogue: Catalogue) -> None:
    assert site.change("POST", "/api/v1/pause", {"reason": "disk"}) == {"paused": True}
    pause = leases.paused(catalogue)
    assert pause is not None
    assert (pause.reason, pause.by.startswith("web interface on")) == ("disk", True)
    assert site.get("/api/v1/status")["paused"]["reason"] == "disk"
    assert "disk" in site.ask("GET", "/").text
    assert site.change("POST", "/api/v1/resume") == {"paused": False}
    assert leases.paused(catalogue) is None


def test_a_node_is_drained_and_used_again(site: Site, catalogue: Catalogue) -> None:
    site.change("POST", f"/api/v1/nodes/{NODES[1]}/drain")
    assert nodes.draining_names(catalogue) == {NODES[1]}
    site.change("POST", f"/api/v1/nodes/{NODES[1]}/undrain")
    assert nodes.draining_names(catalogue) == frozenset()
    strange = site.ask("POST", "/api/v1/nodes/10.9.9.9/drain", token=TOKEN)
    assert strange.status == 404
    assert NODES[0] in strange.json["message"]


def test_the_level_of_logs_is_set_for_all_services(site: Site, catalogue: Catalogue) -> None:
    assert site.get("/api/v1/log-level") == {"level": None}
    assert site.change("PUT", "/api/v1/log-level", {"level": "info"}) == {"level": "info"}
    assert leases.log_level(catalogue) == "info"
    site.change("PUT", "/api/v1/log-level", {"level": None})
    assert leases.log_level(catalogue) is None


def test_a_new_token_counts_at_once_and_an_unsafe_one_never(site: Site) -> None:
    old, new = site.token_file.read_text(), "another-token-of-the-tests-987654"
    try:
        replacing = site.token_file.with_name("token.new")
        replacing.touch(mode=0o600)
        replacing.write_text(f"{new}\n")
        os.replace(replacing, site.token_file)
        assert site.ask("POST", "/api/v1/resume", token=TOKEN).status == 401
        assert site.ask("POST", "/api/v1/resume", token=new).status == 200
        site.token_file.chmod(0o644)
        unsafe = site.ask("POST", "/api/v1/resume", token=new)
        assert (unsafe.status, unsafe.json["code"]) == (503, "token-file")
        assert new not in unsafe.text
    finally:
        Path(site.token_file).write_text(old)
        site.token_file.chmod(0o600)
    assert site.ask("POST", "/api/v1/resume", token=TOKEN).status == 200
