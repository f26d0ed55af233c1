"""What counts as a secret among storage options, and what of foreign exceptions is shown."""

from __future__ import annotations

import base64
import json
import traceback
from urllib.parse import quote

import pytest

from headrace import redaction
from headrace.errors import AccessDenied, StorageError
from headrace.storage.confidential import has_password, looks_secret, secret_texts, without_secrets
from headrace.storage.files import Files, normal_url

CONNECTION = "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=abcd+efgh/ijkl==;EndpointSuffix=core.windows.net"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(redaction, "_KNOWN", redaction._Known())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", "K"),
        ("secret", "S"),
        ("aws_session_token", "T"),
        ("account_key", "x"),
        ("sas_token", "?sv=1"),
        ("passphrase", "p"),
        ("Authorization", "Bearer x"),
        ("X-Api-Key", "x"),
        ("sig", "x"),
        ("x", "Bearer abcdef"),
        ("x", CONNECTION),
        ("x", "https://host/path?sv=2020&sig=abc%2F"),
        ("x", "http://me:pw@proxy"),
        ("x", "https://ghp_token@host"),
        ("x", "-----BEGIN RSA PRIVATE KEY-----\nMII"),
        ("x", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("x", "eyJhbGciOiJIUzI1NiJ9AbCdEf0123.eyJzdWIi"),
        ("token", 12345),
    ],
)
def test_looks_secret(name, value):
    assert looks_secret(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("anon", True),
        ("token", "anon"),
        ("token", "google_default"),
        ("key", None),
        ("use_auth", False),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("USE_AUTH", "1"),
        ("endpoint_url", "http://localhost:9000/deep/path-with-a-long-name-20261101"),
        ("region_name", "us-east-1"),
        ("profile", "production-2026"),
        ("project", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"),
        ("cache_dir", "/home/someone/Projects2026/AVeryLongFolderName1"),
        ("username", "someone"),
        ("host", "sftp://user@host"),
        ("user_agent", "headrace-1.0 for-a-long-project-name"),
        ("timeout", 30),
    ],
)
def test_looks_harmless(name, value):
    assert not looks_secret(name, value)


def test_secrets_inside_of_others_are_known_alone():
    found = set(
        secret_texts(
            {
                "connection_string": CONNECTION,
                "client_kwargs": {"headers": {"Authorization": "Bearer token-1234"}, "extra": [("X-Key", "pair-5678")]},
                "proxy": "http://me:pass-word@proxy",
                "presigned": "https://host/?X-Amz-Signature=0a0b0c0d",
                "private_key": b"bytes-as-well",
                "endpoint_url": "http://localhost:9000",
            }
        )
    )
    assert {
        CONNECTION,
        "abcd+efgh/ijkl==",
        "token-1234",
        "pair-5678",
        "pass-word",
        "0a0b0c0d",
        "bytes-as-well",
    } <= found
    assert not any("localhost" in text for text in found)


def test_pairs_and_objects_are_left_out():
    options = {"headers": [("Authorization", "x")], "auth": object(), "session": object(), "hosts": ["a", "b"]}
    assert without_secrets(options) == ({"hosts": ["a", "b"]}, ["headers", "auth", "session"])


@pytest.mark.parametrize(
    "url",
    [
        "https://me:pw@host/x",
        "https://token@host/x",
        "sftp://me:pw@host/x",
        "https://account.blob.core.windows.net/c?sv=2022&sig=abcdef",
        "https://bucket.s3.amazonaws.com/x?X-Amz-Credential=a&X-Amz-Signature=b",
    ],
)
def test_urls_with_secrets_are_refused_without_repeating_them(url):
    assert has_password(url)
    with pytest.raises(StorageError, match="holds a password or a token") as caught:
        normal_url(url)
    assert not any(part in str(caught.value) for part in ("pw", "token@", "sig=", "Signature="))


def test_a_user_in_a_url_is_no_secret():
    assert normal_url("sftp://me@host/x") == "sftp://me@host/x"
    assert normal_url("what?sig=1").endswith("/what?sig=1")  # a file may be named so


class Echo(Exception):
    """As stores do: it repeats what it was asked, in more than one place."""

    def __init__(self, said):
        super().__init__(f"403 Forbidden: no such credential {said}")
        self.response = {"Key": said}
        self.add_note(f"asked with {quote(said, safe='')}")


class Refusing:
    """A file system whose every answer repeats the key, in errors of errors."""

    protocol = "echo"
    async_impl = asynchronous = False

    def __init__(self, said):
        self.said = said

    @classmethod
    def _strip_protocol(cls, url):
        return url.partition("://")[2]

    def __getattr__(self, verb):
        def refuse(*args, **kwargs):
            try:
                raise Echo(self.said)
            except Echo as error:
                raise PermissionError(f"denied to {base64.b64encode(self.said.encode()).decode()}") from error

        return refuse


SECRET = "sentinel key/with+odd=characters & more"


def whole_text(error):
    """All that Python, or a tool that looks at exceptions, may show of one."""
    texts, seen, waiting = ["".join(traceback.format_exception(error))], set(), [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            texts += [str(each), repr(each), repr(vars(each)), *getattr(each, "__notes__", [])]
            waiting += [each.__cause__, each.__context__]
    return "\n".join(texts)


FORMS = [SECRET, json.dumps(SECRET)[1:-1], quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode()]


def test_errors_that_repeat_secrets_are_no_causes():
    files = Files("echo://bucket/x", {"secret": SECRET}, Refusing(SECRET))
    with pytest.raises(AccessDenied, match="refuses access") as caught:
        files.read("a")
    told = whole_text(caught.value)
    assert "PermissionError: denied to ***" in told
    assert not any(form in told for form in FORMS)
    leaky = Files("echo://bucket/x", {}, Refusing(SECRET))  # so that it is known that this test looks
    with pytest.raises(AccessDenied) as caught:
        leaky.read("a")
    assert isinstance(caught.value.__cause__, PermissionError)
    assert all(form in whole_text(caught.value) for form in FORMS)


def test_what_others_say_about_it_is_struck_out_too():
    Files("echo://bucket/x", {"secret": SECRET, "key": "short"}, Refusing(SECRET))
    assert redaction.redact(f"a task says {SECRET}") == "a task says ***"
    assert redaction.exposes(SECRET.encode())
    assert redaction.redact("a short word") == "a short word"
