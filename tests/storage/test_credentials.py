"""Credentials by reference: named providers."""

from __future__ import annotations

import json
import pickle
import sys
import threading

import pytest

from headrace import redaction
from headrace.errors import AccessDenied, StorageError
from headrace.storage import credentials
from headrace.storage.credentials import Renewing, ask, provider_name
from headrace.storage.flows import StoredFlows
from headrace.storage.spec import StorageSpec

PROVIDER = """
asked = []
def give():
    asked.append(None)
    return {options}
def fail():
    raise ConnectionError("no vault")
def odd():
    return "a text"
class Vault:
    def read(): return {{}}
"""


@pytest.fixture
def provider(tmp_path, monkeypatch):
    """Write a module that gives options; returns the module."""

    def write(options):
        (tmp_path / "credentials_here.py").write_text(PROVIDER.format(options=options))
        monkeypatch.syspath_prepend(tmp_path)
        import credentials_here

        return credentials_here

    monkeypatch.setattr(redaction, "_KNOWN", redaction._Known())
    yield write
    sys.modules.pop("credentials_here", None)


def test_they_are_asked_for_when_first_needed_and_never_written(s3, provider):
    module = provider(repr({**s3.storage_options, "secret": "sentinel-provided"}))
    storage = StoredFlows(s3.new_bucket(), {"endpoint_url": s3.endpoint}, credentials="credentials_here:give")
    assert module.asked == []
    storage.files.create("a", b"1")
    storage.files.create("b", b"2")
    assert len(module.asked) == 1
    data = storage.serialize()
    assert data["credentials"] == "credentials_here:give"
    assert data["omitted"] == []
    assert "sentinel" not in json.dumps(data) + repr(pickle.dumps(storage)) + repr(storage) + repr(storage.spec)
    assert pickle.loads(pickle.dumps(storage)).files.read("a") == b"1"
    assert StoredFlows.deserialize(data).serialize() == data
    assert redaction.redact("sentinel-provided") == "***"


def test_a_callable_is_known_by_its_name(provider):
    module = provider("{}")
    assert provider_name(module.give) == "credentials_here:give"
    assert provider_name(module.Vault.read) == "credentials_here:Vault.read"
    assert ask("credentials_here:Vault.read") == {}
    assert provider_name(None) == provider_name("") == ""

    def local():
        return {}

    for lost in (local, lambda: {"key": "K"}, type("Odd", (), {"__call__": local})()):
        with pytest.raises(StorageError, match="cannot be found by other processes"):
            provider_name(lost)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("credentials_here:fail", r"failed \(ConnectionError: no vault\)"),
        ("credentials_here:odd", "must return storage options as a dict, and returned a str"),
        ("credentials_here:nothing", "is not here .*install its module wherever the storage is used"),
        ("no_such_module:give", "is not here .*No module named 'no_such_module'"),
        ("vault", "there is no provider 'vault'.*entry points of the group 'headrace.credentials' are none"),
    ],
)
def test_what_goes_wrong_with_a_provider(name, told, provider):
    provider("{}")
    storage = StoredFlows("memory://x", credentials=name)
    with pytest.raises(StorageError, match=told):
        storage.files.read("a")


def test_entry_points(monkeypatch):
    class Point:
        name = "vault"

        def load(self):
            return lambda: {"key": "K"}

    monkeypatch.setattr(credentials, "entry_points", lambda **which: [Point()] if which["name"] == "vault" else [])
    assert ask("vault") == {"key": "K"}


class Door:
    """A medium that lets in whoever has today's key."""

    today = 1

    def __init__(self, options):
        self.key = options["key"]
        self.calls = 0

    def read(self, path):
        self.calls += 1
        if self.key != Door.today:
            raise PermissionError("ExpiredToken")
        return b"in"


def test_refused_credentials_are_asked_for_anew_once():
    Door.today, given, opened = 1, [1], []

    def open_medium(options):
        opened.append(Door(options))
        return opened[-1]

    medium = Renewing(lambda: {"key": given[-1]}, open_medium)
    assert medium.read("a") == medium.read("b") == b"in"
    assert len(opened) == 1
    Door.today = 2
    given.append(2)
    assert medium.read("c") == b"in"
    assert len(opened) == 2
    Door.today = 3  # and the provider knows nothing newer: no second attempt
    with pytest.raises(PermissionError):
        medium.read("d")
    assert len(opened) == 2
    assert opened[-1].calls == 2
    given.append(99)  # what is new is not let in, either
    with pytest.raises(PermissionError):
        medium.read("e")
    assert opened[-1].calls == 1


class Gate(Door):
    """Refuses from the third call on, until there is a new key."""

    there: dict[str, bytes] = {}  # noqa: RUF012 - shared by all, as a store is

    def create(self, key, data):
        self.calls += 1
        if self.key == 1 and self.calls > 2:
            raise PermissionError("ExpiredToken")
        if key in Gate.there:
            raise FileExistsError(key)
        Gate.there[key] = data

    def read(self, key):
        return Gate.there[key]

    def each(self, verb, calls):
        outcomes = [None] * len(calls)
        for index, call in enumerate(calls):
            try:
                outcomes[index] = getattr(self, verb)(*call)
            except FileExistsError as error:
                outcomes[index] = error
            except PermissionError as error:
                outcomes[index] = error
                break
        return outcomes


def test_many_at_once_go_on_where_they_were_refused():
    Gate.there, given = {"b": b"of another"}, [1]
    medium = Renewing(lambda: {"key": given[-1]}, Gate)
    medium.create("first", b"")  # the credentials expire later
    given.append(2)
    outcomes = medium.each("create", [(key, key.encode()) for key in "abcd"])
    assert [type(outcome) for outcome in outcomes] == [type(None), FileExistsError, type(None), type(None)]
    assert Gate.there == {"first": b"", "a": b"a", "b": b"of another", "c": b"c", "d": b"d"}


def test_other_errors_ask_nobody():
    asked = []
    medium = Renewing(lambda: asked.append(None) or {}, lambda options: Broken())
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            medium.read("a")
    assert len(asked) == 1


class Broken:
    def read(self, path):
        raise FileNotFoundError(path)


def test_threads_ask_together():
    asked, barrier = [], threading.Barrier(8)
    medium = Renewing(lambda: asked.append(None) or {"key": Door.today}, Door)

    def read():
        barrier.wait()
        medium.read("a")

    threads = [threading.Thread(target=read) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(asked) == 1


def test_a_spec_without_a_provider_looks_as_before():
    assert set(StorageSpec("memory://x").serialize()) == {"url", "name", "storage_options", "omitted"}


def test_denied_and_no_newer_ones_is_told(s3, provider, monkeypatch, tmp_path):
    provider("{}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    storage = StoredFlows("s3://bucket/x", {"endpoint_url": s3.endpoint}, credentials="credentials_here:give")
    with pytest.raises(AccessDenied, match="found no credentials"):
        storage.files.read("a")
