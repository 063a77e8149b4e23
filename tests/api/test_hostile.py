"""What was tried against the web interface, and what each got: the table in docs/api.md, row by row."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from contimg_dask.catalogue.jobs import list_jobs
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.cli import cli
from tests.api.site import TOKEN, Site, serving
from tests.postgres import Server
from tests.postgres import postgres as postgres  # the fixture

Night = dict[str, list[int]]


def raw(site: Site, *pieces: bytes, answer: bool = True, timeout_s: float = 25.0) -> bytes:
    """Send bytes as they are; return what comes back until the other side closes or a head is there."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=timeout_s) as connection:
        for piece in pieces:
            connection.sendall(piece)
        found = b""
        while answer and b"\r\n\r\n" not in found:
            if not (some := connection.recv(65536)):
                break
            found += some
        return found


@pytest.mark.parametrize(
    "path",
    [
        "/static/../serving.py",
        "/static/%2e%2e/serving.py",
        "/static/..%2f..%2fcli.py",
        "/static//etc/passwd",
        "/static/%00",
        "/api/v1/groups/..%2f..%2fetc%2fpasswd",
        "/api/v1/groups/1/quicklook/..%2f..%2fpasswd.png",
        "/api/v1/groups/1/quicklook/%2fetc%2fpasswd.png",
        "/groups/../../etc/passwd",
        "//etc/passwd",
    ],
)
def test_no_path_leads_out_of_what_is_served(site: Site, path: str) -> None:
    found = raw(site, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    assert found.split(b" ")[1] in (b"404", b"422", b"400"), found[:200]
    assert b"root:" not in found
    assert b"import" not in found


def test_no_job_reads_or_writes_outside_of_the_roots(
    site: Site, catalogue: Catalogue, tmp_path: Path
) -> None:
    (site.incoming / "good").mkdir(exist_ok=True)
    link = site.incoming / "link"
    if not link.is_symlink():
        link.symlink_to(tmp_path)
    (site.products / "out").unlink(missing_ok=True)
    (site.products / "out").symlink_to(tmp_path)
    good_in, good_out = str(site.incoming / "good"), str(site.products / "good")
    before = len(list_jobs(catalogue))
    for input_dir, output_dir in (
        ("/etc", good_out),
        (f"{good_in}/../../../etc", good_out),
        (str(link), good_out),
        (f"{link}/deeper", good_out),
        (f"{site.incoming}-beside", good_out),
        ("relative", good_out),
        (good_in, "/etc"),
        (good_in, str(site.products / "out")),
        (good_in, str(site.products / "out" / "new")),
        (good_in, f"{good_out}/../../elsewhere"),
        (good_in, str(site.incoming)),
    ):
        body = {"input_dir": input_dir, "output_dir": output_dir}
        found = site.ask("POST", "/api/v1/jobs", body, token=TOKEN)
        assert (found.status, found.json["code"]) == (403, "outside-roots"), body
    own = {"on_published": "id", "event_log": "/x", "catalogue": "/x", "api_host": "::"}
    for name, value in {**own, "scratch_dir": "/etc", "tmpfs_path": "/etc"}.items():
        body = {"input_dir": good_in, "output_dir": good_out, "options": {name: value}}
        found = site.ask("POST", "/api/v1/jobs", body, token=TOKEN)
        assert (found.status, found.json["code"]) == (400, "usage"), name
    assert len(list_jobs(catalogue)) == before


def test_no_manifest_is_shown_from_outside_of_the_roots(
    site: Site, catalogue: Catalogue, night: Night, tmp_path: Path
) -> None:
    outside = tmp_path / "product.ms"
    outside.mkdir()
    (outside / "contimg-manifest.json").write_text('{"secret": 1}')
    link = site.products / "linked.ms"
    link.symlink_to(outside)
    key = night["published"][0]
    with catalogue.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE groups SET path = ?, output_dir = ? WHERE key = ?",
            (str(link), str(site.products), key),
        )
    assert site.get(f"/api/v1/groups/{key}")["manifest"] is None
    assert site.ask("GET", f"/api/v1/groups/{key}/quicklook/waterfall.png").status == 404


def test_a_page_is_never_larger_than_its_bound(site: Site) -> None:
    for path in ("groups", "products", "jobs", "events"):
        for limit in ("0", "-1", "501", "1000000000", "9" * 40, "1e3", "", "ten"):
            found = site.ask("GET", f"/api/v1/{path}?limit={limit}")
            assert (found.status, found.json["code"]) == (422, "not-understood"), (path, limit)


@pytest.mark.parametrize(
    "query",
    [
        "groups?state=nothing", "groups?job=abc", "groups?job=99999999999999999999",
        "groups?after=-1", "groups?reason=%27%20OR%201=1", "groups?start=yesterday",
        "groups?output=%00", "groups?start=2025-13-01", "groups/abc", "groups/0",
        "groups/99999999999999999999", "products?declination=nan", "products?declination=91",
        "products?tolerance=-1", "products?format=xml", "products?kind=%00", "events?after=-5",
        "status?job=0", "groups/1/quicklook/A%20B.png", "products?end=99999-01-01",
        "groups?job=" + "9" * 5000,
    ],
)  # fmt: skip
def test_a_bad_parameter_is_told_in_one_line(site: Site, query: str) -> None:
    found = site.ask("GET", f"/api/v1/{query}")
    assert found.status in (400, 404, 422), found.text
    assert set(found.json) == {"code", "message"}
    assert "\n" not in found.json["message"]
    assert "Traceback" not in found.text


def test_a_body_that_makes_no_sense_is_refused(site: Site) -> None:
    for body in (b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"groups": 1}',
                 b'{"all": "yes"}', b'{"all": true, "more": 1}', b'{"groups": ["\\ud800"]}',
                 b'{"groups": ["a\\u0000b"]}', b"[" * 20000,
                 b'{"groups": ' + b"9" * 5000 + b"}"):  # fmt: skip
        sent = {"Content-Type": "application/json"}
        found = site.ask("POST", "/api/v1/retry", body, token=TOKEN, headers=sent)
        assert found.status in (400, 422), (body, found.text)
        assert set(found.json) == {"code", "message"}


def test_a_giant_body_is_not_taken_in(site: Site) -> None:
    giant = b"x" * (1 << 20)
    found = site.ask("POST", "/api/v1/retry", b"x" * 70_000, token=TOKEN)
    assert (found.status, found.json["code"]) == (413, "too-large")
    head = b"POST /api/v1/retry HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n"
    assert b" 413 " in raw(site, head)
    chunked = (
        b"POST /api/v1/retry HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    piece = b"%x\r\n%s\r\n" % (70_000, giant[:70_000])
    assert b" 413 " in raw(site, chunked, piece)
    with suppress(ConnectionError):  # closed before all of it was sent
        assert b" 400 " in raw(site, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", giant)
    assert site.get("/healthz") == {"ok": True}


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8790", "127.0.0.1.evil.example", "127.0.0.1@evil.example",
     "10.0.0.1", "2130706433", "", "localhost.", "[::1", "127.0.0.1/x"],
)  # fmt: skip
def test_another_name_is_not_ours(site: Site, host: str) -> None:
    for path in ("/", "/api/v1/status", "/metrics", "/static/page.js"):
        found = site.ask("GET", path, headers={"Host": host})
        assert (found.status, found.json["code"]) == (421, "wrong-host"), path


def test_a_page_of_another_site_changes_nothing(site: Site) -> None:
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        f"{site.url}.evil.example",
    ):
        sent = {"Origin": origin}
        found = site.ask("POST", "/api/v1/resume", token=TOKEN, headers=sent)
        assert (found.status, found.json["code"]) == (403, "wrong-origin"), origin
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = site.ask("OPTIONS", "/api/v1/resume", headers=asked)
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert site.ask("POST", "/api/v1/pause", b"reason=x", token=TOKEN, headers=form).status == 422
    own = site.ask("POST", "/api/v1/resume", token=TOKEN, headers={"Origin": site.url})
    assert own.status == 200


def test_every_answer_says_what_a_browser_must_not_do(site: Site) -> None:
    for path in ("/", "/api/v1/status", "/nothing", "/static/page.css", "/metrics"):
        headers = site.ask("GET", path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in headers
        assert "server" not in headers
    page = site.ask("GET", "/").text
    assert "<style" not in page
    assert " style=" not in page
    assert "onclick" not in page


def test_what_names_say_is_text_on_the_page(site: Site, catalogue: Catalogue) -> None:
    label = "<img src=x onerror=alert(1)>"
    site.change("POST", "/api/v1/pause", {"reason": label})
    page = site.ask("GET", "/").text
    assert label not in page
    assert "&lt;img src=x" in page
    site.change("POST", "/api/v1/resume")


def test_methods_that_there_are_not_are_refused(site: Site) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT"):
        found = site.ask(method, "/api/v1/status", token=TOKEN)
        assert found.status in (400, 404, 405), (method, found.status)


def test_a_slow_client_is_let_go_and_holds_up_nobody(site: Site) -> None:
    held: list[socket.socket] = []
    with ExitStack() as stack:
        for start in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: "):
            for _ in range(60):
                one = stack.enter_context(socket.create_connection(("127.0.0.1", site.port)))
                one.sendall(start)
                held.append(one)
        body = b"POST /api/v1/retry HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{"
        slow = stack.enter_context(socket.create_connection(("127.0.0.1", site.port)))
        slow.sendall(body)
        assert site.get("/healthz") == {"ok": True}
        for one in (held[0], held[60], held[120]):
            one.settimeout(25)
            assert one.recv(100) == b""  # closed by the other side
        slow.settimeout(25)
        assert b" 408 " in slow.recv(1000)
    assert site.get("/healthz") == {"ok": True}


def test_a_client_that_reads_nothing_holds_up_nobody(site: Site) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            one.connect(("127.0.0.1", site.port))
            stack.enter_context(one)
            one.sendall(b"GET /api/v1/groups?limit=500 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3)
        assert len(site.get("/api/v1/groups?limit=5")["groups"]) == 5


def open_stream(site: Site, stack: ExitStack) -> socket.socket:
    one = stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=20))
    one.sendall(b"GET /api/v1/events/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return one


def test_there_is_a_bound_to_event_streams_and_it_is_given_back(site: Site) -> None:
    with ExitStack() as stack:
        first = [open_stream(site, stack).recv(300).split(b" ")[1] for _ in range(70)]
        assert first.count(b"200") == 64
        assert first.count(b"503") == 6
        assert site.get("/healthz") == {"ok": True}
        busy = site.ask("GET", "/api/v1/events/stream")
        assert (busy.status, busy.json["code"]) == (503, "busy")
    deadline_s = time.monotonic() + 30
    while True:  # those that are gone are noticed
        with ExitStack() as stack:
            if open_stream(site, stack).recv(300).split(b" ")[1] == b"200":
                break
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


def test_it_stops_in_a_bounded_time_with_streams_and_slow_clients(
    tmp_path: Path, catalogue: Catalogue
) -> None:
    with ExitStack() as stack, serving(tmp_path, catalogue.url_shown) as site:
        for _ in range(10):
            assert b"200" in open_stream(site, stack).recv(300)
            held = stack.enter_context(socket.create_connection(("127.0.0.1", site.port)))
            held.sendall(
                b"POST /api/v1/retry HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n"
            )
        site.process.send_signal(signal.SIGTERM)
        assert site.process.wait(timeout=15) == 0


def test_without_a_token_file_nothing_can_be_changed(tmp_path: Path, catalogue: Catalogue) -> None:
    with serving(tmp_path, catalogue.url_shown, token=False) as site:
        found = site.ask("POST", "/api/v1/pause", {}, token=TOKEN)
        assert (found.status, found.json["code"]) == (403, "read-only")
        page = site.ask("GET", "/").text
        assert "Retry" not in page
        assert "token-form" not in page


def refused(*arguments: str) -> str:
    """Run the command here: what it refuses, it refuses before it listens."""
    done = CliRunner().invoke(cli, ["api", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_it_does_not_listen_for_others_unless_that_is_said(
    tmp_path: Path, catalogue: Catalogue
) -> None:
    place = ("--catalogue", catalogue.url_shown)
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(f"{TOKEN}\n")
    assert "--allow-remote-reads" in refused("--host", "0.0.0.0", *place)  # noqa: S104 - refused
    assert "--allow-remote-reads" in refused("--host", "::", "--token-file", str(token), *place)
    assert "--token-file" in refused("--host", "0.0.0.0", "--allow-remote-reads", *place)  # noqa: S104
    assert "IP address" in refused("--host", "localhost", *place)
    token.write_text("short\n")
    assert "16" in refused("--token-file", str(token), *place)
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o640)
    assert "chmod 600" in refused("--token-file", str(token), *place)
    assert "token-file" not in refused("--token-file", str(tmp_path / "none"), *place)


def test_a_port_that_is_taken_is_said(site: Site) -> None:
    assert "cannot listen" in refused("--port", str(site.port), "--catalogue", site.catalogue)


def test_a_catalogue_that_goes_away_is_said_and_comes_back(
    tmp_path: Path, postgres: Server
) -> None:
    url = postgres.empty_database()
    open_catalogue(url).close()
    with serving(tmp_path / "site", url) as site:
        assert site.get("/api/v1/jobs") == {"jobs": []}
        postgres.stop()
        try:
            gone = site.ask("GET", "/api/v1/jobs")
            assert (gone.status, gone.json["code"]) == (503, "catalogue")
            assert site.ask("GET", "/").status == 503
            assert site.ask("GET", "/readyz").json["catalogue"] is False
            assert site.get("/healthz") == {"ok": True}
        finally:
            postgres.start()
        assert site.get("/api/v1/jobs") == {"jobs": []}
        assert site.ask("GET", "/").status == 200
    postgres.drop(url)
