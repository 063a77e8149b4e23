"""What can be seen of conversions: the page in the dashboard, and figures for Prometheus.

Scheduler and worker are the real commands in processes of their own.
"""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bokeh.client import pull_session
from distributed import Client

from cluster.browser import CHROMIUM, look_at
from contimg_dask.execution.cluster import embedded_cluster
from contimg_dask.execution.keys import key_of
from tests.acceptance.conftest import make_groups, run
from tests.cluster.test_executor import PRELOAD, dask_process

ID = "2025-10-05T03:12:06"
LOST = "2025-10-05T04:00:00.1.0a1b2c3d"
PAGE = ("--preload", "contimg_dask.deploy.dashboard_page")
SCHEDULER_METRICS = ("--preload", "contimg_dask.deploy.scheduler_metrics")
WORKER_METRICS = ("--preload", "contimg_dask.deploy.worker_metrics")
HTTP = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")


@dataclass(frozen=True)
class Watched:
    """A scheduler and a worker, after one group was converted on them."""

    client: Client
    dashboard: str
    worker_http: str


@contextmanager
def one_group_converted(
    directory: Path, on_scheduler: tuple[str, ...], on_worker: tuple[str, ...]
) -> Iterator[Watched]:
    file = directory / "scheduler.json"
    incoming, out = directory / "incoming", directory / "products"
    make_groups(incoming, groups=1, subbands=4)
    where = ("--port", "0", "--scheduler-file", str(file))
    # As rendered: one death of a worker is the end of its attempt.
    once = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with (
        dask_process("scheduler", *HTTP, *where, *on_scheduler, **once),
        Client(scheduler_file=str(file), timeout=60) as client,
    ):
        address = client.scheduler_info()["address"]
        words = ("worker", address, *HTTP, "--no-nanny", "--nthreads", "1", *PRELOAD, *on_worker)
        with dask_process(*words):
            client.wait_for_workers(1, timeout=60)
            done = run("convert", incoming, out, "--expected-subbands", "4", "--scheduler", address)
            assert done.code == 0, done.err
            info = client.scheduler_info(n_workers=-1)
            (worker,) = info["workers"].values()
            yield Watched(
                client=client,
                dashboard=f"http://127.0.0.1:{info['services']['dashboard']}",
                worker_http=f"http://127.0.0.1:{worker['services']['dashboard']}",
            )


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    directory = tmp_path_factory.mktemp("watched")
    with one_group_converted(directory, (*PAGE, *SCHEDULER_METRICS), WORKER_METRICS) as found:
        yield found


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - of this machine
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def samples(url: str) -> dict[str, float]:
    """Our samples of a /metrics page, by name and labels."""
    _, text = fetch(f"{url}/metrics")
    lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("contimg_")]
    return {name: float(value) for name, _, value in lines}


def shown(dashboard: str) -> dict[str, Any]:
    """The texts and figures of the page, from the document a browser gets."""
    session = pull_session(url=f"{dashboard}/contimg")
    try:
        roots = {root.name: root for root in session.document.roots}
        source = session.document.select_one({"name": "bars"})
    finally:
        session.close()
    assert source is not None
    texts = {name: getattr(root, "text", "") for name, root in roots.items()}
    return texts | {"bars": list(source.data["groups"])}


def shown_once(true: Callable[[dict[str, Any]], object], dashboard: str) -> dict[str, Any]:
    deadline_s = time.monotonic() + 30
    while not true(found := shown(dashboard)):
        assert time.monotonic() < deadline_s, found
        time.sleep(0.3)
    return found


def number(text: str, label: str) -> str:
    """The large number above a label."""
    (found,) = re.findall(rf"<b>([^<]*)</b>{label}", text)
    return str(found)


def test_a_worker_tells_prometheus_what_its_steps_did(watched: Watched) -> None:
    found = samples(watched.worker_http)
    for step, times in {"open": 1, "rows": 1, "part": 4, "reduce": 1}.items():
        assert found[f'contimg_step_seconds_count{{step="{step}"}}'] == times
        assert found[f'contimg_step_seconds_bucket{{le="+Inf",step="{step}"}}'] == times
        assert 0 < found[f'contimg_step_seconds_sum{{step="{step}"}}'] < 60
    assert found["contimg_group_seconds_count"] == 1
    assert found["contimg_groups_published_total"] == 1
    values = 4 * 2 * 21 * 8 * 2  # subbands, integrations, baselines, channels, products
    assert found["contimg_read_bytes_total"] >= values * 8
    assert found["contimg_written_bytes_total"] >= values * 8
    assert not [name for name in found if name.startswith("contimg_step_failures_total{")]


def test_a_worker_tells_prometheus_how_its_tiers_stand(watched: Watched) -> None:
    deadline_s = time.monotonic() + 20
    while True:
        found = samples(watched.worker_http)
        tiers = {n: v for n, v in found.items() if n.startswith("contimg_staging_")}
        free = [v for n, v in tiers.items() if n.startswith("contimg_staging_free_bytes")]
        if free and sum(tiers.values()) == free[0]:  # nothing promised, nothing used any more
            break
        assert time.monotonic() < deadline_s, tiers
        time.sleep(0.3)
    assert len(tiers) == 3
    assert free[0] > 1e6
    assert all('tier="destination"' in name for name in tiers)


def test_the_scheduler_tells_prometheus_of_groups_and_tasks(
    watched: Watched, tmp_path: Path
) -> None:
    gate = str(tmp_path / "open")

    def wait() -> None:
        while not os.path.exists(gate):
            time.sleep(0.02)

    assert samples(watched.dashboard)['contimg_groups_in_flight{node="127.0.0.1"}'] == 0
    keys = [key_of(f"{ID}.1.aaaaaaaa", step, live=True) for step in ("part-sb00", "part-sb01")]
    slow = [watched.client.submit(wait, key=key, workers=["127.0.0.1"], pure=False) for key in keys]
    deadline_s = time.monotonic() + 30
    wanted = 'contimg_tasks{state="processing",step="part",urgency="live"}'
    while samples(watched.dashboard).get(wanted) != 2:
        assert time.monotonic() < deadline_s
    assert samples(watched.dashboard)['contimg_groups_in_flight{node="127.0.0.1"}'] == 1
    found = shown(watched.dashboard)
    for said in (ID, "live", "part 0/2", "1 group<"):
        assert said in found["groups"]
    assert number(found["numbers"], "groups in flight, 1 live") == "1"
    Path(gate).touch()
    watched.client.gather(slow)


def test_the_page_is_served_and_shows_what_was_done(watched: Watched) -> None:
    status, text = fetch(f"{watched.dashboard}/contimg")
    assert (status, "bokeh" in text) == (200, True)
    found = shown_once(lambda now: "destination" in now["staging"], watched.dashboard)
    assert number(found["numbers"], "published in the last hour") == "1"
    assert sum(found["bars"]) == 1
    assert found["bars"][-1] + found["bars"][-2] == 1
    assert "127.0.0.1" in found["groups"]
    assert "all nodes" in found["staging"]


def test_the_page_is_among_those_of_dask(watched: Watched) -> None:
    for page in ("status", "contimg", "workers"):
        status, text = fetch(f"{watched.dashboard}/{page}")
        assert status == 200
        assert '<a href="contimg">' in text


def test_what_workers_tell_is_text_on_the_page(watched: Watched) -> None:
    facts = {"kind": "failed", "node": "n", "step": "part", "code": "c", "text": "<script>x"}
    watched.client.log_event("contimg", facts | {"group": "<b>g"})
    watched.client.log_event("contimg", "not what is expected")
    watched.client.log_event("contimg", {"kind": "published", "group": 7})
    found = shown_once(lambda now: "script" in now["failures"], watched.dashboard)
    assert "<script>" not in found["failures"]
    assert "&lt;b&gt;g" in found["failures"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_the_page_and_it_fits(watched: Watched, width: int) -> None:
    words = ("groups in flight", "Staging", "destination", "Last failures", "127.0.0.1")
    _, picture, taken = look_at(f"{watched.dashboard}/contimg", *words, width=width)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000
    assert taken <= width, "one would have to scroll sideways"


def test_a_node_that_is_not_heard_of_is_called_so(watched: Watched) -> None:
    (pid,) = watched.client.run(os.getpid).values()
    assert "not heard of" not in shown(watched.dashboard)["groups"]
    os.kill(pid, signal.SIGSTOP)
    try:
        found = shown_once(lambda now: "not heard of for" in now["groups"], watched.dashboard)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert re.search(r"127\.0\.0\.1.*not heard of for [3-9] s", found["groups"])
    shown_once(lambda now: "not heard of" not in now["groups"], watched.dashboard)


def test_a_worker_that_dies_is_a_failure_on_a_page_that_lives_on(watched: Watched) -> None:
    # Last: it ends the worker of the others.
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    lost = watched.client.submit(die, key=key_of(LOST, "part-sb00"), pure=False, retries=0)
    found = shown_once(lambda now: "worker-lost" in now["failures"], watched.dashboard)
    assert lost.status == "error"
    assert "2025-10-05T04:00:00" in found["failures"]
    assert "part on 127.0.0.1" in found["failures"]
    assert "No worker has told" in found["staging"]
    assert samples(watched.dashboard)


def test_without_the_preloads_all_is_as_dask_has_it(tmp_path: Path) -> None:
    with one_group_converted(tmp_path, (), ()) as plain:
        assert fetch(f"{plain.dashboard}/contimg")[0] == 404
        assert "contimg" not in fetch(f"{plain.dashboard}/status")[1].lower()
        for url in (plain.dashboard, plain.worker_http):
            status, text = fetch(f"{url}/metrics")
            assert (status, "dask_" in text) == (200, True)
            assert samples(url) == {}
    assert len(list(tmp_path.glob("products/science/*/*.ms"))) == 1


def test_an_embedded_cluster_has_the_page_too() -> None:
    for _ in range(2):
        with embedded_cluster(1, "2GiB", "127.0.0.1:0") as cluster:
            assert cluster.dashboard is not None
            dashboard = cluster.dashboard.rpartition("/")[0]
            assert "idle" in shown(dashboard)["groups"]
