"""How a client speaks to a scheduler: encrypted and with certificates, or plainly where that is safe.

Whoever can speak to a scheduler can run any program on its workers. So plain TCP is taken on this
machine only, or when it is asked for by name.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import dask
from distributed import Security

from contimg_dask.errors import ClusterError

_PROBE_TIMEOUT_S = 3.0
_OPTIONS = {"ca_file": "--tls-ca", "cert_file": "--tls-cert", "key_file": "--tls-key"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files: the authority, the certificate to show, its key; None where not given."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


def security_for(address: str, files: TlsFiles, *, allow_plain_tcp: bool) -> Security | None:
    """Return how to connect to a scheduler; None for plain TCP.

    Parameters
    ----------
    address
        ``tls://HOST:PORT``, ``tcp://HOST:PORT`` or ``HOST:PORT``.
    files
        When none is given, those of Dask's own configuration are taken.
    allow_plain_tcp
        Also to another machine.

    Raises
    ------
    ClusterError
        Code ``tls``: files are missing or do not fit together, or plain TCP would leave this
        machine.
    """
    scheme, _, rest = address.rpartition("://")
    if scheme != "tls":
        if dask.config.get("distributed.comm.require-encryption", None):
            raise _refusal(
                f"{address}: Dask's own configuration requires encryption: use tls:// with "
                f"certificates, or change distributed.comm.require-encryption"
            )
        if scheme in ("", "tcp") and not (allow_plain_tcp or _is_loopback(rest)):
            raise _refusal(
                f"{address}: without encryption anyone on the way may run programs on the workers: "
                f"use tls:// with certificates, or --allow-plain-tcp if that network is trusted"
            )
        return None
    if files == TlsFiles():
        files = _configured_files()
    missing = [option for name, option in _OPTIONS.items() if not getattr(files, name)]
    if missing:
        raise _refusal(f"{address}: needs certificates: {', '.join(missing)} not given")
    check_files(files)
    return Security(
        require_encryption=True,
        tls_ca_file=files.ca_file,
        tls_client_cert=files.cert_file,
        tls_client_key=files.key_file,
    )


def _configured_files() -> TlsFiles:
    return TlsFiles(
        ca_file=dask.config.get("distributed.comm.tls.ca-file", None),
        cert_file=dask.config.get("distributed.comm.tls.client.cert", None),
        key_file=dask.config.get("distributed.comm.tls.client.key", None),
    )


def _is_loopback(host_and_port: str) -> bool:
    host = host_and_port.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_files(files: TlsFiles) -> ssl.SSLContext:
    """Read the files and return a context with them.

    Raises
    ------
    ClusterError
        Code ``tls``: one of them cannot be read, or the key is not that of the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # as Dask has it: the authority is the cluster's own
    for name in _OPTIONS:
        path = Path(getattr(files, name))
        try:
            path.read_bytes()
        except OSError as error:
            raise _refusal(f"{path}: cannot be read ({error.strerror})") from error
    try:
        context.load_verify_locations(files.ca_file)
    except ssl.SSLError as error:
        raise _refusal(f"{files.ca_file}: is no certificate authority in PEM format") from error
    try:
        context.load_cert_chain(str(files.cert_file), files.key_file)
    except ssl.SSLError as error:
        raise _refusal(
            f"{files.cert_file}, {files.key_file}: are no certificate and the key of it "
            f"({error.reason})"
        ) from error
    return context


def explain_refused(address: str, files: TlsFiles) -> ClusterError | None:
    """Tell why a connection failed, when certificates are the reason; None when they are not.

    Dask only says that it has timed out, so the connection is made once more, without Dask.
    """
    scheme, _, rest = address.rpartition("://")
    if scheme == "tls" and files == TlsFiles():
        files = _configured_files()
    host, _, port = rest.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PROBE_TIMEOUT_S) as plain:
            plain.settimeout(_PROBE_TIMEOUT_S)
            if scheme == "tls":
                return _try_encrypted(address, plain, files)
            return _try_plain(address, plain)
    except (OSError, ValueError):
        return None  # nobody is there: that is not a matter of certificates


def _try_encrypted(address: str, plain: socket.socket, files: TlsFiles) -> ClusterError | None:
    try:
        with check_files(files).wrap_socket(plain) as encrypted, contextlib.suppress(TimeoutError):
            # With TLS 1.3 the other side's refusal comes with the first bytes it sends.
            encrypted.recv(1)
    except ssl.SSLCertVerificationError as error:
        return _refusal(
            f"{address}: the scheduler's certificate is not of {files.ca_file} "
            f"({error.verify_message}): use the cluster's own authority"
        )
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        if "wrong version" in reason or "record layer" in reason:
            return _refusal(f"{address}: the scheduler does not speak TLS: use tcp:// or set it up")
        return _refusal(
            f"{address}: the scheduler refuses {files.cert_file} ({reason}): use a certificate of "
            f"the cluster's own authority that has not expired"
        )
    except OSError:
        return _refusal(f"{address}: closes the connection: the scheduler does not speak TLS")
    return None


def _try_plain(address: str, plain: socket.socket) -> ClusterError | None:
    # A scheduler with TLS waits for the client to begin; one without sends at once.
    try:
        plain.recv(1)
    except TimeoutError:
        return _refusal(
            f"{address}: takes a connection and says nothing, as a scheduler with encryption does: "
            f"use tls:// with certificates"
        )
    except OSError:
        return None
    return None


def _refusal(text: str) -> ClusterError:
    return ClusterError(text, code="tls")
