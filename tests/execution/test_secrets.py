"""Where secrets are looked up, and how they are kept out of texts."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from urllib.parse import quote

import pytest

import headrace as hr
from headrace import redaction
from headrace.errors import SecretNotFound
from headrace.execution import secrets
from headrace.execution.failure import capture, restore
from headrace.redaction import redact

VALUE = "sentinel-9d'\"\\\n ü1"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(secrets, "_KNOWN", secrets._Known())
    monkeypatch.setattr(redaction, "_KNOWN", redaction._Known())
    monkeypatch.setattr(secrets, "_providers", list)
    monkeypatch.setenv("HEADRACE_SECRETS", str(tmp_path))


def provided(monkeypatch, **providers):
    monkeypatch.setattr(secrets, "_providers", lambda: list(providers.items()))


def test_the_environment_goes_before_files_and_these_before_providers(monkeypatch, tmp_path):
    provided(monkeypatch, vault=lambda name: "of the provider")
    assert hr.Secret("TOKEN").get() == "of the provider"
    (tmp_path / "TOKEN").write_text("of the file\n")
    assert hr.Secret("TOKEN").get() == "of the file"
    monkeypatch.setenv("TOKEN", "of the environment")
    assert hr.Secret("TOKEN").get() == "of the environment"


@pytest.mark.parametrize(("content", "value"), [("a b \n", "a b "), ("x\n\n", "x\n"), ("x\r\n", "x"), ("x", "x")])
def test_one_newline_at_the_end_of_a_file_is_left_out(content, value, tmp_path):
    (tmp_path / "TOKEN").write_bytes(content.encode())
    assert hr.Secret("TOKEN").get() == value


def test_a_file_may_lie_deeper_but_not_outside(tmp_path):
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "password").write_text("deep")
    assert hr.Secret("db/password").get() == "deep"
    for name in (f"../{tmp_path.name}/db/password", str(tmp_path / "db" / "password")):
        with pytest.raises(SecretNotFound):
            hr.Secret(name).get()


def test_the_error_says_where_was_looked(monkeypatch, tmp_path):
    def broken(name):
        raise ConnectionError("no route")

    provided(monkeypatch, empty=lambda name: None, broken=broken, odd=lambda name: b"bytes")
    (tmp_path / "TOKEN").write_bytes(b"\xff")
    monkeypatch.setenv("TOKEN", "")
    with pytest.raises(SecretNotFound) as caught:
        hr.Secret("TOKEN").get()
    told = str(caught.value)
    assert caught.value.name == "TOKEN"
    assert isinstance(caught.value, LookupError)
    for part in (
        "variable TOKEN (which is empty)",
        f"file {tmp_path / 'TOKEN'} (which cannot be read: UnicodeDecodeError)",
        "provider 'empty'",
        "provider 'broken' (which failed: ConnectionError: no route)",
        "provider 'odd' (which gave a bytes, not a text)",
    ):
        assert part in told


def test_a_provider_is_not_asked_each_time(monkeypatch):
    asked = []
    provided(monkeypatch, vault=lambda name: asked.append(name) or "value")
    for _ in range(3):
        assert hr.Secret("TOKEN").get() == "value"
    assert asked == ["TOKEN"]
    monkeypatch.setattr(secrets, "FRESH", -1)
    hr.Secret("TOKEN").get()
    assert asked == ["TOKEN", "TOKEN"]


def test_providers_are_entry_points(tmp_path):
    """In an interpreter of its own, because entry points are read once."""
    info = tmp_path / "vault-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vault\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[headrace.secrets]\nvault = vault:find\n")
    (tmp_path / "vault.py").write_text("def find(name):\n    return name.lower()\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import headrace as hr; print(hr.Secret('ABCD').get())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "abcd\n"


@pytest.mark.parametrize(
    "form", [str, repr, json.dumps, lambda value: quote(value, safe=""), lambda value: f"<{value}|{value}>"]
)
def test_forms_that_are_struck_out(form, monkeypatch):
    assert "sentinel" in redact(form(VALUE))
    secrets.remember(VALUE)
    assert "sentinel" not in redact(form(VALUE))
    assert "***" in redact(form(VALUE))


def test_a_secret_within_a_secret_leaves_nothing_over():
    secrets.remember("pass")
    secrets.remember("password-1")
    assert redact("password-1 pass") == "*** ***"


def test_short_ones_are_left_alone():
    secrets.remember("abc")
    assert redact("abc abcd") == "abc abcd"
    assert not secrets.reveals("abc")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("long-enough", True),
        ("<long-enough>", True),
        (b"<long-enough>", True),
        ({"a": [("x", {"long-enough"})]}, True),
        ({"long-enough": 1}, True),
        ("short", True),
        ("shorter", False),
        ("other", False),
        ([1, 2.0, None, True, b"\xff"], False),
        (object(), False),
    ],
)
def test_what_reveals_a_secret(value, found):
    secrets.remember("long-enough")
    secrets.remember("short")
    assert secrets.reveals(value) is found


def test_a_list_that_holds_itself_is_looked_through():
    ring: list = []
    ring.append(ring)
    secrets.remember("long-enough")
    assert not secrets.reveals(ring)


class Holding(Exception):
    def __init__(self, held):
        super().__init__("nothing to see")
        self.held = held


@pytest.mark.parametrize("error", [ValueError(f"no {VALUE}"), Holding(VALUE), Holding({"deep": VALUE})])
def test_an_exception_with_a_secret_travels_as_text(error):
    secrets.remember(VALUE)
    try:
        raise error
    except Exception as caught:  # noqa: BLE001 - it is what it is
        failure, value = capture(caught)
    assert failure.exception is failure.pickled is None
    for text in (repr(failure), str(value), str(restore(failure)), repr(pickle.dumps(failure))):
        assert "sentinel" not in text
    assert failure.type_name.endswith(type(error).__name__)
    assert failure.traceback
