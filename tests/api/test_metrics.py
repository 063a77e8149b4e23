"""Figures for Prometheus, against what was done; rules and dashboard, against the figures there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contimg_dask.api.metrics import DECLARED
from contimg_dask.catalogue.opening import Catalogue
from tests.api.site import Site
from tests.night import (
    GB,
    LOST,
    NODES,
    TRUNCATED,
    arrived,
    dispatched,
    ended,
    followed,
    group_starting,
    shifted,
    token_of,
)

Night = dict[str, list[int]]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

CLUSTER = Path(__file__).parents[2] / "cluster"
RULES = CLUSTER / "prometheus" / "contimg.rules.yml"
DASHBOARD = CLUSTER / "grafana" / "contimg.json"


def samples(site: Site) -> Samples:
    found = site.ask("GET", "/metrics")
    assert found.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(found.text)
        for sample in family.samples
    }


def of(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_every_metric_is_there_under_its_declared_name_and_kind(site: Site) -> None:
    text = site.ask("GET", "/metrics").text
    declared = {(metric.name.removesuffix("_total"), metric.kind) for metric in DECLARED}
    there = {
        (name.removesuffix("_total"), kind)
        for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    }
    assert there == declared


def test_gauges_say_how_things_stand(site: Site, night: Night) -> None:
    found = samples(site)
    for state in ("published", "running", "queued"):
        assert of(found, "contimg_queue_groups", state=state) == len(night[state])
    assert of(found, "contimg_failed_groups", state="failed", reason="truncated") == 2
    assert of(found, "contimg_failed_groups", state="quarantined", reason=LOST.code) == 1
    assert of(found, "contimg_dispatcher_up") == 1
    assert of(found, "contimg_node_workers", node=NODES[0]) == 8
    tmpfs = {"node": NODES[2], "tier": "tmpfs"}
    assert of(found, "contimg_node_staging_free_bytes", **tmpfs) == 6 * GB
    assert of(found, "contimg_node_staging_promised_bytes", **tmpfs) == 10 * GB
    assert of(found, "contimg_stream_up", input="/data/incoming") == 1
    assert of(found, "contimg_live_lag_seconds") > 600
    assert of(found, "contimg_queue_oldest_waiting_seconds") > 0


def test_counters_count_what_is_done_from_now_on(site: Site, catalogue: Catalogue) -> None:
    before = samples(site)
    assert of(before, "contimg_input_bytes_total") == 0
    one, other, third = arrived(
        catalogue, [group_starting(1.85e9 + 400 * n) for n in range(3)], live=True
    )
    (old,) = arrived(catalogue, [group_starting(1.6e9)], output_dir="/data/backlog")
    token = token_of(catalogue)
    ended(catalogue, token, one, total_s=8.0)
    ended(catalogue, token, other, total_s=20.0)
    ended(catalogue, token, old, total_s=9.0)
    ended(catalogue, token, third, reason=TRUNCATED)
    shifted(catalogue, one, 1.85e9 + 320.0, latency_s=11.0)
    after = samples(site)
    published = "contimg_groups_converted_total"
    assert of(after, published, urgency="live") == of(before, published, urgency="live") + 2
    assert of(after, published, urgency="backlog") == 1
    files = sum(1_000_000 + subband for subband in range(16))
    assert of(after, "contimg_input_bytes_total") == 3 * files
    assert of(after, "contimg_group_failures_total", reason="truncated") == 1
    steps = "contimg_conversion_step_seconds"
    assert of(after, f"{steps}_count", step="total") == 3
    assert of(after, f"{steps}_sum", step="total") == pytest.approx(37.0)
    assert of(after, f"{steps}_bucket", step="total", le="10.0") == 2
    assert of(after, f"{steps}_sum", step="parts") == pytest.approx(0.72 * 37.0)
    assert of(after, "contimg_live_latency_seconds_sum") == pytest.approx(11.0)
    assert samples(site)[published, (("urgency", "live"),)] == of(after, published, urgency="live")


def test_a_held_queue_and_a_stream_that_is_gone_are_told(site: Site, catalogue: Catalogue) -> None:
    dispatched(catalogue, state="waiting: 3 GB to use, 5 GB needed", held="no-space")
    followed(catalogue, "/data/other", waiting_files=7, input_free_bytes=GB)
    site.change("POST", "/api/v1/resume")  # so that the next figures are not a second old
    found = samples(site)
    assert of(found, "contimg_dispatcher_held", reason="no-space") == 1
    assert of(found, "contimg_dispatcher_waiting") == 1
    assert of(found, "contimg_stream_waiting_files", input="/data/other") == 7
    assert of(found, "contimg_stream_input_free_bytes", input="/data/other") == GB
    dispatched(catalogue)


def named_in(text: str) -> set[str]:
    return set(re.findall(r"\bcontimg_\w+", text))


def test_rules_and_dashboard_name_metrics_that_there_are(site: Site) -> None:
    there = {name for name, _ in samples(site)} | {metric.name for metric in DECLARED}
    expressions = [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel["targets"]
    ]
    for named in (named_in(RULES.read_text()), named_in(" ".join(expressions))):
        assert len(named) > 8
        assert named - there == set()


def test_the_dashboard_loads_nothing_but_its_data_source() -> None:
    text = DASHBOARD.read_text()
    assert "http" not in text
    dashboard = json.loads(text)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    sources = {panel["datasource"]["uid"] for panel in dashboard["panels"]}
    assert sources == {"${datasource}"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool")
def test_rules_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    for command in (["check", "rules", RULES], ["test", "rules", RULES.with_suffix(".test.yml")]):
        done = subprocess.run(
            ["promtool", *map(str, command)],
            capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool")
def test_the_figures_are_as_prometheus_wants_them(site: Site) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=site.ask("GET", "/metrics").body, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
