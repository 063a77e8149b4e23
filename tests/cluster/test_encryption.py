"""Who gets to a scheduler: with the cluster's certificates, encrypted, and nobody else."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dask
import pytest

from contimg_dask.errors import ClusterError
from contimg_dask.execution.cluster import connected_client, connected_cluster
from contimg_dask.execution.encryption import TlsFiles, explain_refused, security_for
from tests.acceptance.conftest import make_groups, run

SCRIPT = Path(__file__).parents[2] / "cluster" / "make-certificates"
DASK = str(Path(sys.executable).with_name("dask"))

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@dataclass(frozen=True)
class Certificates:
    directory: Path

    def files(self, name: str) -> TlsFiles:
        return TlsFiles(
            ca_file=str(self.directory / "ca.pem"),
            cert_file=str(self.directory / f"{name}.pem"),
            key_file=str(self.directory / f"{name}-key.pem"),
        )


def make_certificates(directory: Path) -> Certificates:
    subprocess.run([str(SCRIPT), str(directory), "host=127.0.0.1"], check=True, capture_output=True)
    return Certificates(directory)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("theirs"))


@pytest.fixture(scope="module")
def scheduler(ours: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler on loopback that takes nobody without a certificate; it has no workers."""
    file = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
    tls = ours.files("host")
    words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--protocol", "tls"]
    words += ["--no-dashboard", "--scheduler-file", str(file)]
    words += ["--tls-ca-file", str(tls.ca_file), "--tls-cert", str(tls.cert_file)]
    words += ["--tls-key", str(tls.key_file)]
    process = subprocess.Popen(
        [DASK, *words],
        env=os.environ | {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            if file.exists() and '"address"' in file.read_text():
                break
            time.sleep(0.1)
        yield file.read_text().split('"address": "')[1].split('"')[0]
    finally:
        process.terminate()
        process.wait(timeout=30)


def refused(address: str, files: TlsFiles, **options: bool) -> str:
    with pytest.raises(ClusterError) as caught, connected_client(address, tls=files, **options):
        pass
    assert caught.value.code == "tls"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_clusters_own_client_gets_in(scheduler: str, ours: Certificates) -> None:
    assert scheduler.startswith("tls://127.0.0.1:")
    with (
        pytest.raises(ClusterError, match="has no workers"),
        connected_cluster(scheduler, tls=ours.files("client")),
    ):
        pass


def test_certificates_of_dasks_own_configuration_are_taken_when_none_are_given(
    scheduler: str, ours: Certificates
) -> None:
    tls = ours.files("client")
    names = {"ca-file": tls.ca_file, "client": {"cert": tls.cert_file, "key": tls.key_file}}
    with (
        dask.config.set({"distributed.comm.tls": dask.config.get("distributed.comm.tls") | names}),
        connected_client(scheduler) as client,
    ):
        assert client.status == "running"


def test_a_certificate_of_another_authority_is_refused(
    scheduler: str, ours: Certificates, theirs: Certificates
) -> None:
    said = refused(scheduler, theirs.files("client"))
    assert "the scheduler's certificate is not of" in said
    # Who knows the authority, but has no certificate of it.
    mixed = TlsFiles(
        ca_file=ours.files("client").ca_file,
        cert_file=theirs.files("client").cert_file,
        key_file=theirs.files("client").key_file,
    )
    said = refused(scheduler, mixed)
    assert f"the scheduler refuses {mixed.cert_file}" in said


def test_without_certificates_nobody_gets_in(scheduler: str) -> None:
    assert "--tls-ca, --tls-cert, --tls-key not given" in refused(scheduler, TlsFiles())
    plain = scheduler.replace("tls://", "tcp://")
    assert "as a scheduler with encryption does" in refused(plain, TlsFiles())


def test_dasks_own_configuration_is_heard_when_it_requires_encryption() -> None:
    with (
        dask.config.set({"distributed.comm.require-encryption": True}),
        pytest.raises(ClusterError, match="configuration requires encryption"),
    ):
        security_for("tcp://127.0.0.1:1", TlsFiles(), allow_plain_tcp=True)


def test_files_that_do_not_fit_are_named(ours: Certificates, theirs: Certificates) -> None:
    address = "tls://127.0.0.1:1"
    right = ours.files("client")
    here = str(Path(__file__))
    for files, words in (
        (TlsFiles(ca_file=right.ca_file), ["--tls-cert, --tls-key not given"]),
        (TlsFiles(ca_file="/nowhere", cert_file=right.cert_file, key_file=right.key_file),
         ["/nowhere: cannot be read", "No such file"]),
        (TlsFiles(ca_file=here, cert_file=right.cert_file, key_file=right.key_file),
         [here, "no certificate authority"]),
        (TlsFiles(ca_file=right.ca_file, cert_file=right.cert_file,
                  key_file=theirs.files("client").key_file), ["the key of it"]),
    ):  # fmt: skip
        with pytest.raises(ClusterError) as caught:
            security_for(address, files, allow_plain_tcp=False)
        assert caught.value.code == "tls"
        assert [word for word in words if word not in str(caught.value)] == []


def test_plain_tcp_leaves_this_machine_only_when_asked_for() -> None:
    for address in ("tcp://10.77.0.1:8786", "10.77.0.1:8786", "tcp://scheduler:8786"):
        with pytest.raises(ClusterError, match="--allow-plain-tcp") as caught:
            security_for(address, TlsFiles(), allow_plain_tcp=False)
        assert caught.value.code == "tls"
        assert security_for(address, TlsFiles(), allow_plain_tcp=True) is None
    for address in ("tcp://127.0.0.1:8786", "127.0.0.7:1", "tcp://[::1]:1", "tcp://localhost:1"):
        assert security_for(address, TlsFiles(), allow_plain_tcp=False) is None


def test_a_scheduler_that_is_not_there_is_no_matter_of_certificates(ours: Certificates) -> None:
    with (
        pytest.raises(ClusterError, match="no Dask scheduler answers") as caught,
        connected_client("tls://127.0.0.1:1", tls=ours.files("client")),
    ):
        pass
    assert caught.value.code == "no-scheduler"


def test_the_command_takes_the_files_as_options(
    scheduler: str, ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    make_groups(tmp_path / "in", groups=1, subbands=2)
    words = ["convert", tmp_path / "in", tmp_path / "out", "--expected-subbands", "2"]
    for names, said in ((ours, "has no workers"), (theirs, "certificate is not of")):
        files = names.files("client")
        done = run(
            *words, "--scheduler", scheduler, "--tls-ca", str(files.ca_file),
            "--tls-cert", str(files.cert_file), "--tls-key", str(files.key_file),
        )  # fmt: skip
        assert done.code == 1
        assert said in done.err
        assert "Traceback" not in done.err


def test_a_scheduler_without_tls_is_told(ours: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"what a scheduler says first, without encryption")
                connection.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        address = f"tls://127.0.0.1:{server.getsockname()[1]}"
        error = explain_refused(address, ours.files("client"))
        thread.join()
    assert error is not None
    assert "does not speak TLS" in str(error)
