"""The script that makes certificates: names, modes, renewal, and what it refuses."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "make-certificates"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def make(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr.strip()


def shown(file: Path) -> str:
    words = ["openssl", "x509", "-in", str(file), "-noout", "-text"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates") / "tls"
    assert make(directory, "--days", "30", "node1=10.0.0.11", "node2=fd00::12") == (0, "")
    return directory


def test_hosts_and_clients_have_certificates_of_one_authority(made: Path) -> None:
    for name in ("node1", "node2", "client"):
        words = ["openssl", "verify", "-CAfile", str(made / "ca.pem"), str(made / f"{name}.pem")]
        assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    assert "IP Address:10.0.0.11, DNS:node1" in shown(made / "node1.pem")
    assert "Web Server Authentication" in shown(made / "node2.pem")
    assert "Web Server Authentication" not in shown(made / "client.pem")


def test_nobody_else_may_read_any_of_it(made: Path) -> None:
    assert {stat.S_IMODE(file.stat().st_mode) for file in made.iterdir()} == {0o600}
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert {file.name for file in made.iterdir()} == {
        "ca.pem", "ca-key.pem", "client.pem", "client-key.pem",
        "node1.pem", "node1-key.pem", "node2.pem", "node2-key.pem",
    }  # fmt: skip


def test_what_is_there_is_not_overwritten(made: Path) -> None:
    before = {file.name: file.read_bytes() for file in made.iterdir()}
    code, said = make(made, "node3=10.0.0.13", "node1=10.0.0.99")
    assert (code, "node1.pem is there already" in said) == (1, True)
    assert {file.name: file.read_bytes() for file in made.iterdir()} == before


def test_a_host_is_added_and_one_renewed_under_its_old_names(made: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(made, tmp_path / "tls")
    authority = (directory / "ca.pem").read_bytes()
    old = shown(directory / "node2.pem")
    assert make(directory, "node3=10.0.0.13")[0] == 0
    assert make(directory, "--renew", "--days", "7", "node2", "client")[0] == 0
    assert (directory / "ca.pem").read_bytes() == authority
    new = shown(directory / "node2.pem")
    assert new != old
    (names,) = [line.strip() for line in old.splitlines() if "IP Address:" in line]
    assert names in new
    assert "Web Server Authentication" not in shown(directory / "client.pem")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("node1=host.example",), "is not an IP address"),
        (("a/b=10.0.0.1",), "is not a name"),
        (("ca=10.0.0.1",), "call the host otherwise"),
        (("client=10.0.0.1",), "made unasked"),
        (("node1",), "write NAME=IP"),
        (("--days", "0", "node1=10.0.0.1"), "--days 0"),
        (("--renew", "node1"), "ca-key.pem is not there"),
        (("a=10.0.0.1", "a=10.0.0.2"), "given twice"),
        (("--force", "a=10.0.0.1"), "there is no such option"),
    ],
)
def test_wrong_use_is_one_line_and_makes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, said = make(tmp_path / "tls", *arguments)
    assert code == 1
    assert words in said
    assert "\n" not in said
    assert list(tmp_path.glob("tls/*")) == []
