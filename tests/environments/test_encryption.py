"""TLS: on this machine, to schedulers that are there, and what is said when the two do not fit together."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from cryptography import x509
from distributed import LocalCluster, Security

import headrace as hr
from headrace.environments import addresses, certificates
from headrace.environments.certificates import make_certificates, security_of
from headrace.errors import SetupError
from tests.clusters import LOOPBACK, local_cluster
from tests.environments import flows
from tests.environments.test_dask import children, nothing_left, ports  # noqa: F401 - a fixture
from tests.semantics import test_gangs
from tests.semantics.test_gangs import expected, flow_of, gangs, mixed  # noqa: F401 - a fixture


@hr.task
def cell(step, place, *values):
    time.sleep(0.003)
    return mixed(step, place, *values)


@contextmanager
def scheduler_with(security=None):
    options = {"security": security} if security else {"protocol": "tcp"}
    with local_cluster(n_workers=1, **options) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def pems():
    return make_certificates()


@pytest.fixture
def paths(pems, tmp_path):
    """The certificates as a user has them: files."""
    (tmp_path / "ca.pem").write_text(pems.ca)
    (tmp_path / "cert.pem").write_text(pems.cert)
    (tmp_path / "key.pem").write_text(pems.key)
    names = {"tls_ca_file": "ca.pem", "tls_client_cert": "cert.pem", "tls_client_key": "key.pem"}
    return {name: str(tmp_path / file) for name, file in names.items()}


def spoken_at(address, security):
    """What is spoken at a port: by web servers, by Dask's servers without TLS, who speak first, and with TLS."""
    with socket.create_connection(address, timeout=60) as plug, suppress(ConnectionError):
        plug.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        heard = plug.recv(5)
        if heard == b"HTTP/":
            return "http"
        if heard[:1] not in (b"", b"\x15"):  # an alert of TLS
            return "plain"
    context = security.get_connection_args("client")["ssl_context"]
    with socket.create_connection(address, timeout=60) as plug, context.wrap_socket(plug) as wire:
        return "tls" if wire.recv(1) else "unknown"


@contextmanager
def server_with(security):
    """Something that talks TLS, and is no scheduler, for they cannot be had with such certificates."""
    context = security.get_listen_args("scheduler")["ssl_context"]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with suppress(OSError), listener.accept()[0] as plug:
                context.wrap_socket(plug, server_side=True)

        thread = threading.Thread(target=serve)
        thread.start()
        yield "tls://{}:{}".format(*listener.getsockname())
        thread.join()


# -- on this machine ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_left")
def test_a_local_cluster_with_tls_is_encrypted_everywhere(gangs, monkeypatch):  # noqa: F811
    monkeypatch.setattr(test_gangs, "STEPS", 12)
    before = ports([psutil.Process(), *children()])  # of other tests
    with hr.DaskEnvironment("local", n_workers=2, security=True) as env:
        run = flow_of(cell).run(environment=env)
        assert run.result() == expected()
        assert not gangs  # for their mail is not encrypted
        listening = ports([psutil.Process(), *children()]) - before
        spoken = Counter(spoken_at(address, env.client.security) for address in listening)
        assert spoken["tls"] == 5  # the scheduler, two nannies, two workers
        assert set(spoken) == {"tls", "http"}
        assert env.serialize()["options"] == {"security": True}


def test_each_cluster_has_certificates_of_its_own(pems):
    with scheduler_with(security_of(make_certificates())) as address:
        env = hr.DaskEnvironment(address, security=security_of(pems))
        with pytest.raises(SetupError, match=r"shows a certificate that security= does not accept.*tls_ca_file"):
            env.setup()


def test_certificates_are_valid_for_machines_whose_clocks_differ(pems):
    now = datetime.now(UTC)
    for pem in (pems.ca, pems.cert):
        certificate = x509.load_pem_x509_certificate(pem.encode())
        assert certificate.not_valid_before_utc < now - timedelta(minutes=55)
        assert certificate.not_valid_after_utc > now + timedelta(days=300)


def test_who_has_a_certificate_cannot_make_others(pems):
    authority, own = (x509.load_pem_x509_certificate(pem.encode()) for pem in (pems.ca, pems.cert))
    own.verify_directly_issued_by(authority)
    assert not own.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert pems.key not in repr(pems)


# -- schedulers that are there -----------------------------------------------------------------------------------------


def test_a_scheduler_with_tls_by_paths_or_by_a_security(pems, paths, tmp_path):
    storage = hr.Storage(tmp_path / "flows")
    location = storage.add_flow(flows.doubled)
    with scheduler_with(security_of(pems)) as address:
        for security in (paths, Security(require_encryption=True, **paths), security_of(pems)):
            with hr.DaskEnvironment(address, security=security) as env:
                assert env.execute(storage, location).result() == 90


@pytest.mark.parametrize("as_object", [False, True])
def test_it_is_written_down_by_its_paths(as_object, paths):
    given = Security(**paths) if as_object else paths
    data = hr.DaskEnvironment("tls://host:8786", security=given).serialize()
    assert data["options"]["security"].items() >= paths.items()
    assert hr.Environment.deserialize(data).serialize() == data


def test_a_key_is_never_written_down(pems):
    for security in (security_of(pems), {"tls_client_key": pems.key}):
        with pytest.raises(SetupError, match=r"is the text of a certificate or a key; write it to a file") as caught:
            hr.DaskEnvironment("tls://host:8786", security=security).serialize()
        assert pems.key[40:80] not in str(caught.value)


def fails(address, message, **options):
    began = time.monotonic()
    with pytest.raises(SetupError, match=message):
        hr.DaskEnvironment(address, **options).setup()
    assert time.monotonic() - began < 25  # Dask makes half a minute of it


def test_what_does_not_fit_together_is_said_at_once(pems, paths, monkeypatch):
    with scheduler_with(security_of(pems)) as encrypted:
        fails(encrypted, r"talks TLS, which needs certificates")
        fails(encrypted, r"security=True makes new certificates.*is there already", security=True)
        fails(encrypted.replace("tls:", "tcp:"), r"talks TLS; give its address as tls://127.0.0.1:\d+, and its cert")
        other = make_certificates()
        stranger = security_of(other)
        stranger.tls_ca_file = pems.ca  # knows the scheduler, but is not known to it
        fails(encrypted, r"does not accept this client's certificate \(.*unknown ca", security=stranger)
    with scheduler_with() as plain:
        fails(plain.replace("tcp:", "tls:"), r"does not talk TLS.*its address is tcp://127", security=paths)
        fails(plain, r"encryption is required .*'tls://host:8786', or leave security= out", security=paths)
    monkeypatch.setattr(certificates, "SKEW", timedelta(days=400))
    monkeypatch.setattr(certificates, "LIFE", timedelta(days=-1))
    expired = security_of(make_certificates())
    with server_with(expired) as encrypted:
        fails(encrypted, r"does not accept: certificate has expired", security=expired)


def test_a_dashboard_is_not_taken_for_a_scheduler(pems, monkeypatch):
    monkeypatch.setattr(addresses, "HELLO", 1.0)
    with local_cluster(n_workers=0, protocol="tcp") as cluster:
        place = f"127.0.0.1:{cluster.scheduler.http_server.port}"
        fails(f"tcp://{place}", r"is a web server and no Dask scheduler: its dashboard")
        fails(f"tls://{place}", r"is a web server and no Dask scheduler", security=security_of(pems))


def test_files_that_are_missing_or_no_certificates(paths, tmp_path):
    missing = {**paths, "tls_client_key": "/nowhere"}
    fails("tls://127.0.0.1:1", r"tls_client_key='/nowhere' of security= is not there", security=missing)
    (tmp_path / "cert.pem").write_text("nonsense")
    fails("tls://127.0.0.1:1", r"cannot be used .*cert\.pem'.*must be in the PEM format", security=paths)
    fails("tls://127.0.0.1:1", r"no option 'tls_ca'; did you mean 'tls_ca_file'", security={"tls_ca": "ca.pem"})
    fails("local", r"security= must be True, or .* got a str", security="yes")


# -- cluster classes ---------------------------------------------------------------------------------------------------


class Deaf(LocalCluster):
    """Takes everything, and listens to nothing."""

    def __init__(self, n_workers=0, **options):
        super().__init__(n_workers=n_workers, processes=False, protocol="tcp", **LOOPBACK)


class Bare:
    def __init__(self, n_workers=0):
        raise AssertionError


@pytest.mark.usefixtures("nothing_left")
def test_a_cluster_class_is_encrypted_or_refused(tmp_path):
    options = {"processes": False, "n_workers": 1, **LOOPBACK}
    storage = hr.Storage(tmp_path)
    with hr.DaskEnvironment("distributed.LocalCluster", security=True, **options) as env:
        assert env.execute(storage, storage.add_flow(flows.doubled)).result() == 90
        assert env.client.scheduler.address.startswith("tls://")
    fails(Deaf, r"was given security=, but its scheduler listens at tcp://", security=True)
    fails(Bare, r"Bare takes no security=", security=True)
