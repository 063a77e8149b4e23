"""Parts of the web interface by themselves: roots, tokens, remembered answers, plots."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from contimg_dask.api.caching import Remembered
from contimg_dask.api.drawing import HEIGHT, WIDTH, latency, nice, quantile, steps, throughput
from contimg_dask.api.guarding import Guard
from contimg_dask.api.night import timeline
from contimg_dask.api.refusals import (
    STATUS_OF,
    OutsideRootsError,
    ReadOnlyError,
    TokenError,
    TokenFileError,
    WrongTokenError,
    problem_of,
    status_of,
)
from contimg_dask.api.roots import Roots
from contimg_dask.api.tokens import Tokens
from contimg_dask.catalogue.recent import RecentGroup
from contimg_dask.errors import ContimgError, NoSpaceError, NotFoundError
from contimg_dask.log_levels import logged_from

WORD = "a-token-of-the-tests-0123456789"


def token_file(tmp_path: Path, text: str = WORD, mode: int = 0o600) -> Path:
    path = tmp_path / "token"
    path.touch()
    path.chmod(mode)
    path.write_text(text)
    return path


def test_a_token_passes_and_nothing_else(tmp_path: Path) -> None:
    tokens = Tokens(str(token_file(tmp_path, f"  {WORD} \nsecond line\n")))
    tokens.check(f"Bearer {WORD}")
    tokens.check(f"bearer  {WORD}")
    for missing in (None, "", "Bearer", "Bearer ", f"Basic {WORD}", WORD):
        with pytest.raises(TokenError):
            tokens.check(missing)
    for wrong in ("second line", WORD[:-1], WORD + "9", "é", "\udc80"):
        with pytest.raises(WrongTokenError):
            tokens.check(f"Bearer {wrong}")
    with pytest.raises(ReadOnlyError):
        Tokens(None).check(f"Bearer {WORD}")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o777])
def test_a_token_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(TokenFileError, match=f"mode {mode:03o}"):
        Tokens(str(token_file(tmp_path, mode=mode)))


def test_a_token_that_is_short_or_not_there_is_refused(tmp_path: Path) -> None:
    for text in ("", "\n", "fifteen-letters", f"\n{WORD}"):
        with pytest.raises(TokenFileError, match="16"):
            Tokens(str(token_file(tmp_path, text)))
    with pytest.raises(TokenFileError):
        Tokens(str(tmp_path / "none"))
    with pytest.raises(TokenFileError):
        Tokens(str(tmp_path))


def test_roots_take_what_lies_below_them_by_the_name_it_was_given(tmp_path: Path) -> None:
    real, linked = tmp_path / "real", tmp_path / "linked"
    (real / "a").mkdir(parents=True)
    linked.symlink_to(real)
    roots = Roots(str(linked), f"{tmp_path / 'out'}:{tmp_path / 'more'}")
    assert roots.input_dir(str(linked / "a")) == linked / "a"
    assert roots.input_dir(str(real / "a")) == linked / "a"  # one directory, one name
    assert roots.input_dir(str(linked)) == linked
    assert roots.input_dir(f"{linked}/a/../a/.") == linked / "a"
    assert roots.output_dir(str(tmp_path / "more" / "new" / "er")) == tmp_path / "more/new/er"
    (real / "within").symlink_to(real / "a")
    assert roots.input_dir(str(linked / "within")) == linked / "a"


@given(text=st.text(max_size=60))
def test_no_text_leads_out_of_a_root(text: str) -> None:
    root = Path("/data/products")
    try:
        found = Roots(None, str(root)).output_dir(f"/data/products/{text}")
    except (OutsideRootsError, UnicodeEncodeError):
        return
    assert found == root or root in found.parents
    assert ".." not in found.parts


def test_without_roots_nothing_may_be_named_but_products_of_their_output(tmp_path: Path) -> None:
    roots = Roots(None, None)
    for ask in (roots.input_dir, roots.output_dir):
        with pytest.raises(OutsideRootsError, match="not set"):
            ask(str(tmp_path))
    product = tmp_path / "out" / "science" / "x.ms"
    assert roots.product(str(product), str(tmp_path / "out")) == product
    with pytest.raises(OutsideRootsError):
        roots.product("/etc/passwd", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:8790", 200), ("[::1]:8790", 200), ("10.0.0.1:8790", 200),
     ("Night.Example", 200), ("other.example", 421), ("10.0.0.2", 421)],
)  # fmt: skip
def test_it_answers_to_its_own_names_alone(host: str, status: int) -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("here")(scope, receive, send)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", host.encode())]}
    asyncio.run(Guard(app, ["10.0.0.1", "night.example"])(scope, receive, send))
    assert sent[0]["status"] == status
    assert (b"x-frame-options", b"DENY") in sent[0]["headers"]


def test_what_is_not_installed_is_named_with_how_to_have_it() -> None:
    without = "import sys; sys.modules['fastapi'] = None; from contimg_dask.cli import main; "
    words = [sys.executable, "-c", f"{without} sys.argv = ['contimg-dask', 'api']; main()"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "contimg-dask: fastapi is not installed: pip install 'contimg-dask[api]'\n"
    )


def test_every_error_has_a_status_and_one_form() -> None:
    assert status_of(NotFoundError("x")) == 404
    assert status_of(NoSpaceError("x")) == 500
    assert all(status_of(kind("x")) == status for kind, status in STATUS_OF.items())
    answer = problem_of(ContimgError("what it is"))
    assert answer.body == b'{"code":"internal-error","message":"what it is"}'


def test_an_answer_is_found_once_for_all_who_ask_at_the_same_time() -> None:
    asked, begun = [], threading.Event()

    def slow(key: str) -> int:
        begun.set()
        time.sleep(0.1)
        asked.append(key)
        return len(asked)

    remembered = Remembered[str, int](slow, fresh_s=100.0)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(remembered.get("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (asked, found) == (["a"], [1] * 8)
    assert remembered.get("b") == 2
    remembered.forget()
    assert remembered.get("a") == 3


def test_whoever_asks_while_a_new_answer_is_found_gets_the_last_one() -> None:
    go_on, finding = threading.Event(), threading.Event()
    count = 0

    def ask(key: None) -> int:
        nonlocal count
        count += 1
        if count == 2:
            finding.set()
            assert go_on.wait(20)
        return count

    remembered = Remembered[None, int](ask, fresh_s=0.3)
    assert remembered.get(None) == 1
    time.sleep(0.35)
    slow = threading.Thread(target=remembered.get, args=(None,))
    slow.start()
    assert finding.wait(20)
    assert remembered.get(None) == 1
    go_on.set()
    slow.join()
    assert remembered.get(None) >= 2


def test_an_error_is_not_remembered_and_few_keys_are() -> None:
    calls = []

    def ask(key: int) -> int:
        calls.append(key)
        if len(calls) == 1:
            raise NotFoundError("none")
        return key

    remembered = Remembered[int, int](ask, fresh_s=100.0, most=2)
    with pytest.raises(NotFoundError):
        remembered.get(1)
    assert [remembered.get(key) for key in (1, 2, 3, 1)] == [1, 2, 3, 1]
    assert calls == [1, 1, 2, 3, 1]


NOW_S = 1_790_000_000.0  # 14:13:20 UTC


def group(number: int, *, ago_s: float, state: str = "published", **about: object) -> RecentGroup:
    usual = {
        "key": number, "id": f"g{number}", "state": state, "finished_s": NOW_S - ago_s,
        "start_s": 0.0, "live": True, "node": "n", "present": 16, "expected": 16, "attempts": 1,
        "reason": None, "bytes_in": 1, "latency_s": None, "seconds": {"total": 20.0},
    }  # fmt: skip
    return RecentGroup(**usual | about)  # type: ignore[arg-type]


def test_bars_add_up_to_what_was_done() -> None:
    groups = [group(n, ago_s=n * 1800.0) for n in range(12)]
    groups += [group(20, ago_s=100.0, state="failed"), group(21, ago_s=90_000.0)]
    groups += [group(22, ago_s=100.0, state="cancelled")]
    plot = throughput(groups, NOW_S)
    counted = [int(bar.text.split(": ")[1].split()[0]) for bar in plot.bars if bar.kind == "done"]
    assert sum(counted) == 12
    assert [bar.text for bar in plot.bars if bar.kind == "lost"] == ["14:00: 1 failed"]
    assert "12 published, 1 failed" in plot.said
    for bar in plot.bars:
        assert 0 <= bar.x < bar.x + bar.width <= WIDTH
        assert 0 <= bar.y < bar.y + bar.height <= HEIGHT


def test_latency_is_that_of_live_groups_where_there_is_any() -> None:
    without = [group(n, ago_s=n * 60.0) for n in range(10)]
    plot, live = latency(without, NOW_S, limit_s=309.24)
    assert (live, len(plot.dots)) == (False, 10)
    assert "half within 20.0 s" in plot.said
    slow = group(11, ago_s=30.0, latency_s=400.0)
    quick = group(12, ago_s=40.0, latency_s=30.0)
    plot, live = latency([*without, slow, quick], NOW_S, limit_s=309.24)
    assert (live, [dot.kind for dot in plot.dots]) == (True, ["late", "done"])
    assert plot.line_y is not None
    assert latency([], NOW_S, limit_s=309.24)[0].dots == ()


def test_steps_begin_where_the_one_before_ended() -> None:
    seconds = {"wait": 1.0, "rows": 2.0, "parts": 6.0, "reduce": 1.0, "publish": 2.0, "total": 10.0}
    bars = {bar.kind: bar for bar in steps(seconds).bars}
    assert bars["step-rows"].x == bars["step-parts"].x
    assert bars["step-parts"].x == pytest.approx(bars["step-wait"].x + bars["step-wait"].width)
    end = bars["step-parts"].x + bars["step-parts"].width
    assert bars["step-reduce"].x == pytest.approx(end)
    assert bars["step-publish"].x + bars["step-publish"].width == pytest.approx(WIDTH - 8)
    assert steps({"total": 0.0}).bars == ()


@given(value=st.floats(min_value=1e-3, max_value=1e9))
def test_an_axis_ends_at_a_round_number_that_is_not_much_more(value: float) -> None:
    assert value * (1 - 1e-6) <= nice(value) <= value * 2.5 * (1 + 1e-6)


@given(values=st.lists(st.floats(0, 1e6), min_size=1), part=st.floats(0.01, 1.0))
def test_a_quantile_is_a_value_that_so_many_do_not_exceed(values: list[float], part: float) -> None:
    found = quantile(values, part)
    assert found in values
    assert sum(value <= found for value in values) >= part * len(values) - 1e-9


def test_a_timeline_shows_every_failure_however_much_was_published() -> None:
    many = [group(n, ago_s=1.0 + n * 0.1) for n in range(700)]
    lost = [group(1000 + n, ago_s=300.0 + n, state="failed", reason="truncated") for n in range(5)]
    (hour,) = timeline([*many, *lost], (), NOW_S)
    assert hour.text == "14:00"
    assert len(hour.tiles) + hour.more == 705
    assert sum(tile.state == "failed" for tile in hour.tiles) == 5
    assert [tile.letter for tile in hour.tiles[:5]] == ["F"] * 5
    assert "truncated" in hour.tiles[0].detail


def test_hours_without_a_group_are_shown_between_others_only() -> None:
    hours = timeline([group(1, ago_s=3 * 3600.0)], (), NOW_S)
    assert [(hour.text, len(hour.tiles)) for hour in hours] == [
        ("14:00", 0), ("13:00", 0), ("12:00", 0), ("11:00", 1),
    ]  # fmt: skip


def test_a_level_of_logs_is_set_and_taken_back() -> None:
    before = logging.getLogger().level
    assert logged_from("debug", None) == "debug"
    assert logging.getLogger().level == logging.DEBUG
    assert logged_from(None, "debug") is None
    assert logging.getLogger().level == before
