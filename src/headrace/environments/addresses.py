"""Addresses of schedulers: who answers there, and by which protocol.

Dask tries an address for as long as it may, whoever answers: a scheduler with TLS to one who comes without looks to it
like one that is slow, and the other way round. Here it is found out at once, and said.
"""

from __future__ import annotations

import atexit
import logging
import socket
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import WeakSet

from headrace.environments.encryption import as_security, context_of
from headrace.environments.options import check_names, names_of
from headrace.errors import SetupError

if TYPE_CHECKING:
    from distributed import Client, Security

#: Seconds within which a connection must be taken.
CONNECT = 10.0
#: Seconds within which a scheduler, who speaks first, has said something, unless it is busy or waits for TLS.
GREETING = 1.5
#: Seconds for one who waits for TLS to answer to it.
HELLO = 5.0
#: Seconds for which connections to a cluster are tried that break while they are made, and between two attempts.
SETTLED, PAUSE = 10.0, 0.25
#: Most seconds for a good-bye.
GOODBYE = 3.0
#: What is said of one who hangs up.
ENDED = "it ended the connection"
#: Those that were made here, and are in use.
_clients: WeakSet[Client] = WeakSet()


def is_address(text: str) -> bool:
    """Whether a text is the address of a scheduler."""
    return "://" in text


def connected(address: str, *, timeout: float, **options: Any) -> Any:
    """Connect to a scheduler.

    Parameters
    ----------
    address : str
        Like ``tcp://host:8786``.
    timeout : float
        Seconds.
    **options
        Of ``distributed.Client``; ``security`` may be what ``as_security`` takes.

    Returns
    -------
    Client
        Connected.

    Raises
    ------
    SetupError
        Says what is wrong with the address, the certificates, or whoever answers there.
    """
    from distributed import Client

    # Dask's client takes any others, for a cluster that it would make, and ignores them.
    check_names(options, names_of(Client), f"DaskEnvironment({address!r})")
    if options.get("security") is True:
        raise SetupError(
            f"security=True makes new certificates, but {address} is a scheduler that is there already; name those "
            "that its cluster was made with"
        )
    security = as_security(options.pop("security", None))
    try:
        return client_of(address, timeout, security=security, **options)
    except (OSError, TimeoutError) as error:
        raise _no_answer(address, error) from error


def client_of(cluster: Any, timeout: float, **options: Any) -> Any:
    """Connect to a cluster that is there, or comes up just now.

    Until its scheduler listens, connections that lead through others (a tunnel, a proxy, the API server of Kubernetes)
    are taken and break; those, Dask does not try again, and with TLS it may stumble over them.

    Parameters
    ----------
    cluster : Cluster or str
        As ``distributed.Client`` takes it; see ``check_answers`` for an address.
    timeout : float
        Seconds.
    **options
        Of ``distributed.Client``.
    """
    end = time.monotonic() + min(SETTLED, timeout)
    while True:
        try:
            if isinstance(cluster, str):
                check_answers(cluster, options.get("security"))
            return _remembered(_new_client(cluster, timeout=timeout, set_as_default=False, **options))
        except OSError as error:
            if isinstance(error, TimeoutError) or time.monotonic() > end:
                raise
        time.sleep(PAUSE)


def _new_client(cluster: Any, **options: Any) -> Client:
    from distributed import Client

    client = Client.__new__(Client)  # so that there is one to be ended, should Ctrl-C come while it connects
    try:
        Client.__init__(client, cluster, **options)
    except BaseException:
        if hasattr(client, "preloads"):  # the last that it gets; without it, it did not begin to connect
            _end(client)
        raise
    return client


def _remembered(client: Client) -> Client:
    """Have a client say good-bye when the interpreter ends, as Dask's default client does.

    A scheduler takes one that does not for one whose connection broke, and keeps what its runs hold for it.
    """
    if not _clients:
        atexit.unregister(_say_goodbye)
        atexit.register(_say_goodbye)
    _clients.add(client)
    return client


def _say_goodbye() -> None:
    for client in list(_clients):
        if client.status == "running":
            with suppress(TimeoutError, RuntimeError):
                client.close(timeout=GOODBYE)
        _forget(client)


def _forget(client: Client) -> None:
    """Keep a client from closing itself when it is deleted.

    That may be at the very end, where no loop runs any more, and it would wait for one for minutes.
    """
    client.status = "closed"


def _end(client: Client) -> None:
    """End a client that did not come up, and its thread, which Dask leaves."""
    with suppress(TimeoutError, RuntimeError):
        client.close(timeout=GOODBYE)
    _forget(client)
    client._loop_runner.stop()


def disconnect(client: Client) -> None:
    """Close a client; if its scheduler is gone, without what Dask logs of the attempts to find it that this ends.

    Parameters
    ----------
    client : Client
        That is ours to close.
    """
    log = logging.getLogger("distributed.client")

    def is_news(record: logging.LogRecord) -> bool:
        return False

    if client.status == "connecting":
        log.addFilter(is_news)
    try:
        client.close()
    finally:
        log.removeFilter(is_news)


def check_answers(address: str, security: Security | None = None) -> None:
    """Find out within seconds whether a scheduler can be talked to, of which Dask would make a minute.

    Parameters
    ----------
    address : str
        Like ``tcp://host:8786``.
    security : Security, optional
        The certificates. Default: those of Dask's configuration.

    Raises
    ------
    SetupError
        If it is not an address, the connection is refused, or the two do not understand each other.
    ConnectionResetError, BrokenPipeError
        If the connection breaks, as one does through a tunnel to a scheduler that does not listen yet.
    """
    protocol, _, rest = address.partition("://")
    if protocol not in ("tcp", "tls"):
        return
    from distributed import Security

    security = security or Security()
    context = context_of(security)
    if protocol == "tcp" and security.require_encryption:
        raise SetupError(
            f"encryption is required (security=, or Dask's configuration), and {address} is without; give the "
            "address of a scheduler with TLS, 'tls://host:8786', or leave security= out"
        )
    if protocol == "tls" and context is None:
        raise SetupError(
            f"{address} talks TLS, which needs certificates: an authority, and a certificate of it with its key. Give "
            "security={'tls_ca_file': 'ca.pem', 'tls_client_cert': 'cert.pem', 'tls_client_key': 'key.pem'}, or name "
            "the files in Dask's configuration (distributed.comm.tls)"
        )
    place = _place(address, rest)
    try:
        if context is not None and protocol == "tls":
            _talk_tls(address, place, context)
        else:
            _talk_plainly(address, place)
    except (ConnectionResetError, BrokenPipeError):
        raise
    except OSError as error:
        raise _no_answer(address, error) from error


def _place(address: str, rest: str) -> tuple[str, int]:
    parts = urlsplit(f"//{rest}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise SetupError(f"{address!r} is not the address of a scheduler; give one like 'tcp://host:8786'")
    return host, port


def _talk_plainly(address: str, place: tuple[str, int]) -> None:
    with socket.create_connection(place, timeout=CONNECT) as plug:
        plug.settimeout(GREETING)
        try:
            if plug.recv(1):
                return
            raise ConnectionResetError(ENDED)
        except TimeoutError:
            pass
    _refuse_http(address, place)
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it is asked who it is, and told nothing
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    with socket.create_connection(place, timeout=CONNECT) as plug:
        plug.settimeout(HELLO)
        try:
            anyone.wrap_socket(plug).close()
        except (TimeoutError, ssl.SSLError):
            return  # it may be busy, for which Dask has the patience
    raise SetupError(
        f"the scheduler at {address} talks TLS; give its address as tls://{place[0]}:{place[1]}, and its certificates: "
        "security={'tls_ca_file': 'ca.pem', 'tls_client_cert': 'cert.pem', 'tls_client_key': 'key.pem'}"
    )


def _talk_tls(address: str, place: tuple[str, int], context: ssl.SSLContext) -> None:
    with socket.create_connection(place, timeout=CONNECT) as plug:
        plug.settimeout(HELLO)
        try:
            with context.wrap_socket(plug) as wire:
                if not wire.recv(1):  # the scheduler speaks first, and with TLS 1.3 only after it looked at us
                    raise ConnectionResetError(ENDED)
        except TimeoutError:
            _refuse_http(address, place)
        except ssl.SSLCertVerificationError as error:
            raise SetupError(
                f"the scheduler at {address} shows a certificate that security= does not accept: "
                f"{error.verify_message}. Look whether tls_ca_file is the authority that the cluster was made with, "
                "and whether both clocks are right"
            ) from error
        except ssl.SSLError as error:
            _refuse_http(address, place)  # some web servers answer what they do not understand
            if isinstance(error, ssl.SSLEOFError):
                raise ConnectionResetError(ENDED) from error
            raise _misunderstood(address, place, error) from error


def _refuse_http(address: str, place: tuple[str, int]) -> None:
    """Raise if it is a web server, for whom neither Dask's nor TLS's first words end in anything."""
    with socket.create_connection(place, timeout=CONNECT) as plug:
        plug.settimeout(GREETING)
        try:
            plug.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            if plug.recv(5) != b"HTTP/":
                return
        except OSError:
            return
    raise SetupError(
        f"what answers at {address} is a web server and no Dask scheduler: its dashboard, perhaps; the scheduler's own "
        "port is 8786 as a rule"
    )


def _misunderstood(address: str, place: tuple[str, int], error: ssl.SSLError) -> SetupError:
    reason = (error.reason or str(error)).lower().replace("_", " ")
    if "alert" in reason:
        return SetupError(
            f"the scheduler at {address} does not accept this client's certificate ({reason}); look whether it is of "
            "the authority that the cluster was made with, and whether it is still valid"
        )
    return SetupError(
        f"what answers at {address} does not talk TLS ({reason}); if it is a scheduler without encryption, its address "
        f"is tcp://{place[0]}:{place[1]}"
    )


def _no_answer(address: str, error: BaseException) -> SetupError:
    return SetupError(
        f"no Dask scheduler answers at {address} ({type(error).__name__}: {error}); check the address (the "
        "scheduler's, not the dashboard's), and that this machine may connect to it"
    )
