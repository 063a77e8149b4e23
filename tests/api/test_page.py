"""The page in a real browser: a headless Chromium without a way to anywhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from cluster.browser import CHROMIUM, Tab, new_tab, open_browser
from contimg_dask.catalogue import groups
from contimg_dask.catalogue.opening import Catalogue
from tests.api.site import TOKEN, Site
from tests.night import arrived, begun, ended, group_starting, token_of

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

Night = dict[str, list[int]]
Script = Callable[[Tab], Awaitable[None]]
LIVE = "document.getElementById('link-state').textContent === 'live'"


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    with open_browser() as address:
        yield address


def drive(browser: str, url: str, script: Script, *, width: int = 1200, **how: Any) -> list[str]:
    """Open a page, do something on it, and return everything it asked for meanwhile."""

    async def driven() -> list[str]:
        tab = await new_tab(browser)
        await tab.open(url, width, 900, **how)
        await tab.until("document.readyState === 'complete'")
        try:
            await script(tab)
        finally:
            await tab.close()
        return tab.requests

    return asyncio.run(driven())


def test_a_live_group_is_seen_to_appear_and_to_finish(
    browser: str, site: Site, catalogue: Catalogue
) -> None:
    async def watched(tab: Tab) -> None:
        await tab.until(LIVE)
        (key,) = arrived(catalogue, [group_starting(1.8e9)], live=True)
        await tab.until("document.querySelector('#numbers').textContent.includes('waiting')")
        begun(catalogue, token_of(catalogue), key)
        tile = f"document.getElementById('g-{key}')"
        await tab.until(f"{tile} && {tile}.classList.contains('running')")
        await tab.until(f"document.querySelector('#running a[href=\"/groups/{key}\"]')?.text")
        ended(catalogue, token_of(catalogue), key, is_begun=True)
        await tab.until(f"{tile} && {tile}.classList.contains('published')")
        await tab.until(f"!document.querySelector('#running a[href=\"/groups/{key}\"]')")

    asked = drive(browser, f"{site.url}/", watched)
    assert {url.split("/")[2] for url in asked} == {f"127.0.0.1:{site.port}"}
    assert any(url.endswith("/fragments/night") for url in asked)


def test_a_failed_group_is_retried_with_the_token_and_not_without(
    browser: str, site: Site, catalogue: Catalogue, night: Night
) -> None:
    key = night["failed"][0]
    button = f"document.getElementById('retry-{key}')"

    async def retried(tab: Tab) -> None:
        await tab.until(f"{button} && !{button}.hidden")
        await tab.evaluate(f"{button}.click()")
        await tab.until("document.getElementById('answer').textContent.includes('token')")
        assert await tab.evaluate("document.activeElement.id") == "token"
        await tab.type("a wrong token of the tests")
        await tab.press("Enter", 13, "\r")
        await tab.until("sessionStorage.getItem('contimg-token')")
        await tab.evaluate(f"{button}.click()")
        await tab.until("document.getElementById('answer').textContent.includes('token-wrong')")
        assert await tab.evaluate("sessionStorage.getItem('contimg-token')") is None
        assert groups.get_row(catalogue, key).state == "failed"
        await tab.evaluate("document.getElementById('token').focus()")
        await tab.type(TOKEN)
        await tab.press("Enter", 13, "\r")
        await tab.until(f"sessionStorage.getItem('contimg-token') === '{TOKEN}'")
        await tab.evaluate(f"{button}.click()")
        await tab.until(f"!{button}")  # it is not among the failures any more
        assert await tab.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"

    asked = drive(browser, f"{site.url}/", retried)
    assert groups.get_row(catalogue, key).state == "queued"
    assert not [url for url in asked if TOKEN in url]


def test_everything_is_reached_with_the_keyboard(browser: str, site: Site, night: Night) -> None:
    focused = "document.activeElement"

    async def typed(tab: Tab) -> None:
        await tab.until(LIVE)
        await tab.press("Tab", 9)
        assert await tab.evaluate(f"{focused}.textContent") == "Skip to content"
        for _ in range(40):
            await tab.press("Tab", 9)
            if await tab.evaluate(f"{focused}.matches('.hours a.tile')"):
                break
        first = await tab.evaluate(f"{focused}.id")
        shown = "getComputedStyle(document.activeElement.querySelector('.tip')).display"
        assert await tab.evaluate(shown) == "block"  # as on hover
        await tab.press("ArrowRight", 39)
        second = await tab.evaluate(f"{focused}.id")
        assert second.startswith("g-") and second != first  # noqa: PT018
        await tab.press("ArrowDown", 40)
        below = await tab.evaluate(f"{focused}.id")
        assert below not in (first, second)
        await tab.press("Tab", 9)  # one stop for the whole timeline
        assert not await tab.evaluate(f"{focused}.matches('.hours a.tile')")
        await tab.evaluate(f"document.getElementById('{below}').focus()")
        await tab.press("Enter", 13, "\r")
        await tab.until(f"location.pathname === '/groups/{below[2:]}'")

    drive(browser, f"{site.url}/", typed)
    assert night["published"]


def test_the_focus_stays_where_it_is_when_the_page_is_brought_up_to_date(
    browser: str, site: Site, catalogue: Catalogue, night: Night
) -> None:
    key = night["published"][-1]

    async def kept(tab: Tab) -> None:
        await tab.until(LIVE)
        await tab.evaluate(f"document.getElementById('g-{key}').focus()")
        (other,) = arrived(catalogue, [group_starting(1.81e9)], live=True)
        ended(catalogue, token_of(catalogue), other)
        await tab.until(f"document.getElementById('g-{other}') !== null")
        assert await tab.evaluate("document.activeElement.id") == f"g-{key}"

    drive(browser, f"{site.url}/", kept)


def test_a_phone_shows_all_of_it_without_scrolling_sideways(
    browser: str, site: Site, night: Night
) -> None:
    async def narrow(tab: Tab) -> None:
        assert await tab.evaluate("document.documentElement.scrollWidth") <= 360
        assert await tab.evaluate("document.getElementById('timeline').offsetWidth") > 300

    for path in (
        "/",
        f"/groups/{night['failed'][1]}",
        f"/groups/{night['published'][0]}",
        "/groups",
    ):
        drive(browser, f"{site.url}{path}", narrow if path == "/" else _fits, width=360)


async def _fits(tab: Tab) -> None:
    assert await tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_it_is_dark_at_night_and_light_where_that_is_asked_for(browser: str, site: Site) -> None:
    found = {}

    async def looked(tab: Tab) -> None:
        found[len(found)] = await tab.evaluate("getComputedStyle(document.body).backgroundColor")

    for scheme in ("dark", "light"):
        drive(browser, f"{site.url}/", looked, scheme=scheme)
    dark, light = (sum(map(int, found[i][4:-1].split(","))) for i in (0, 1))
    assert dark < 100 < 600 < light


def test_a_dead_page_does_not_look_like_a_quiet_night(browser: str, site: Site) -> None:
    async def lost(tab: Tab) -> None:
        await tab.until(LIVE)
        # As if nothing had come for a minute.
        await tab.evaluate("lastSeen = Date.now() - 60000; showLink();")
        text = await tab.evaluate("document.getElementById('link-state').textContent")
        assert text.startswith("NOT CONNECTED")

    drive(browser, f"{site.url}/", lost)


def test_the_pages_are_read_without_script(browser: str, site: Site, night: Night) -> None:
    # A browser whose scripts are off cannot be asked by script: what it was sent is looked at.
    page = site.ask("GET", "/").text
    assert page.count('class="tile published"') >= len(night["published"])
    assert page.count("hidden>Retry</button>") >= 1
