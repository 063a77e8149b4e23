"""A group from submission over the web to its plots: the real dispatcher, cluster, browser."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from cluster.browser import CHROMIUM, new_tab, open_browser
from contimg_dask.catalogue.groups import list_groups
from contimg_dask.catalogue.jobs import is_job_done
from contimg_dask.catalogue.opening import open_catalogue
from contimg_dask.publishing.manifest import read_manifest
from contimg_dask.quicklook.rendering import KINDS, SIZES
from tests.acceptance.conftest import make_groups
from tests.api.site import Site, serving
from tests.api.test_metrics import of, samples
from tests.services import COMMAND, until


@dataclass(frozen=True)
class Done:
    """A web interface whose catalogue has one group that was really converted."""

    site: Site
    key: int
    product: Path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    directory = tmp_path_factory.mktemp("converted")
    place = str(directory / "catalogue.sqlite")
    open_catalogue(place).close()
    with serving(directory / "site", place) as site, open_catalogue(place) as catalogue:
        make_groups(site.incoming, groups=1, subbands=4)
        body = {
            "input_dir": str(site.incoming),
            "output_dir": str(site.products),
            "options": {"expected_subbands": 4},
        }
        job = site.change("POST", "/api/v1/jobs", body)["job"]
        with (directory / "dispatch.log").open("w") as log:
            words = [COMMAND, "dispatch", "--workers", "1", "--catalogue", place]
            dispatcher = subprocess.Popen(words, stderr=log)
        try:
            until(lambda: is_job_done(catalogue, job), 90)
            # Staging is told with the next look at the nodes.
            until(
                lambda: "contimg_node_staging_free_bytes{" in site.ask("GET", "/metrics").text, 30
            )
            (row,) = list_groups(catalogue)
            assert row.path is not None, row.reason
            yield Done(site=site, key=row.key, product=Path(row.path))
        finally:
            dispatcher.send_signal(signal.SIGTERM)
            assert dispatcher.wait(timeout=60) == 0


def test_what_was_submitted_over_the_web_is_a_product_with_its_manifest(done: Done) -> None:
    found = done.site.get(f"/api/v1/groups/{done.key}")
    assert found["group"]["state"] == "published"
    assert found["group"]["path"].startswith(str(done.site.products))
    assert found["manifest"] == json.loads(json.dumps(read_manifest(done.product)))
    assert [subband["facts"]["rows"] for subband in found["subbands"]] == [42] * 4
    assert found["group"]["seconds"].keys() >= {"rows", "parts", "publish", "total"}
    assert found["quicklook"] == list(KINDS)


def test_its_node_tells_how_its_staging_stands(done: Done) -> None:
    found = samples(done.site)
    (node,) = [row["name"] for row in done.site.get("/api/v1/status")["nodes"]]
    labels = {"node": node, "tier": "destination"}
    assert of(found, "contimg_node_staging_free_bytes", **labels) > 1e6
    assert of(found, "contimg_node_staging_promised_bytes", **labels) == 0
    assert of(found, "contimg_groups_converted_total", urgency="backlog") == 1
    assert of(found, "contimg_conversion_step_seconds_count", step="total") == 1


def test_its_plots_are_drawn_once_and_not_sent_twice(done: Done, tmp_path: Path) -> None:
    tags = set()
    for kind in KINDS:
        path = f"/api/v1/groups/{done.key}/quicklook/{kind}.png"
        found = done.site.ask("GET", path)
        assert (found.status, found.headers["content-type"]) == (200, "image/png")
        (tmp_path / "plot.png").write_bytes(found.body)
        with Image.open(tmp_path / "plot.png") as picture:
            assert picture.size == SIZES[kind]
        tag = found.headers["etag"]
        again = done.site.ask("GET", path, headers={"If-None-Match": tag})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        other = done.site.ask("GET", path, headers={"If-None-Match": '"other"'})
        assert (other.status, other.body) == (200, found.body)
        tags.add(tag)
    assert len(tags) == len(KINDS)
    missing = done.site.ask("GET", f"/api/v1/groups/{done.key}/quicklook/nothing.png")
    assert (missing.status, missing.json["code"]) == (404, "not-found")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_a_browser_opens_the_group_and_sees_its_plots(done: Done) -> None:
    async def opened(address: str) -> list[str]:
        tab = await new_tab(address)
        await tab.open(f"{done.site.url}/", 1200, 900)
        await tab.until(f"document.getElementById('g-{done.key}') !== null")
        await tab.evaluate(f"document.getElementById('g-{done.key}').click()")
        await tab.until(f"location.pathname === '/groups/{done.key}'")
        await tab.until(f"document.images.length === {len(KINDS) - 1}")
        assert await tab.evaluate("document.querySelector('#quicklook small a').href") in (
            f"{done.site.url}/api/v1/groups/{done.key}/quicklook/overview.png",
        )
        await tab.evaluate("document.images[0].scrollIntoView()")
        await tab.evaluate("for (const image of document.images) image.loading = 'eager'")
        await tab.until("[...document.images].every((image) => image.naturalWidth > 500)", 60)
        assert await tab.evaluate("document.querySelectorAll('#steps rect').length") >= 5
        await tab.close()
        return tab.requests

    with open_browser() as address:
        asked = asyncio.run(opened(address))
    assert {url.split("/")[2] for url in asked} == {f"127.0.0.1:{done.site.port}"}
