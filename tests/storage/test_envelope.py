from __future__ import annotations

import hashlib
import json
import pickle
import platform
from importlib.metadata import version

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
from headrace.errors import (
    DamagedObject,
    EnvelopeError,
    ForeignObject,
    IncompatibleObject,
    NewerFormat,
    TruncatedObject,
)
from headrace.storage.capture import capture, load_flow, location_of, open_flow
from headrace.storage.envelope import FORMAT, check_versions, digest_of, open_envelope, pack
from headrace.storage.records import from_bytes, to_bytes
from headrace.storage.signing import UNSEALED

_SEEN: list[str] = []


def _notice(what: str) -> str:
    _SEEN.append(what)
    return what


class Tattletale:
    """Unpickling it is seen."""

    def __reduce__(self):
        return _notice, ("unpickled",)


TATTLE = pickle.dumps(Tattletale())
WHOLE = pack("thing", {"name": "größe", "rows": [1, 2.5, None]}, TATTLE)

names = st.text(min_size=1).filter(lambda name: name not in ("kind", "format", "payload", "versions"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def nothing_seen():
    _SEEN.clear()


def refused(data: bytes) -> None:
    """Each way in must refuse it, before anything was unpickled."""
    with pytest.raises(EnvelopeError) as caught:
        open_envelope(data, "x/y", "thing").unpickle()
    assert "x/y" in str(caught.value)
    assert _SEEN == []


@given(st.dictionaries(names, values, max_size=4), st.binary(max_size=300))
def test_what_goes_in_comes_out(header, payload):
    data = pack("thing", header, payload)
    envelope = open_envelope(data, "here", "thing")
    assert envelope.payload == payload
    assert {name: envelope.header[name] for name in header} == header
    assert pack("thing", header, payload) == data


def test_large_payloads_are_looked_at_where_they_are():
    data = pack("thing", {}, {"a": b"x" * 1000, "b": TATTLE})
    envelope = open_envelope(data, "here", "thing")
    assert envelope.part("a").obj is envelope.part("b").obj is envelope.payload.obj is data
    assert envelope.unpickle(envelope.part("b")) == "unpickled"


def test_headers_have_a_line_for_each_name():
    lines = pack("thing", {"größe": "ä\n", "rows": [{"a": 1}, {"a": 2}]}, b"").decode().splitlines()
    assert lines[2:4] == ["{", ' "kind": "thing",']
    assert lines[-3:] == [' "größe": "ä\\n",', ' "rows": [{"a": 1}, {"a": 2}]', "}"]


def test_intact_payloads_are_unpickled():
    assert open_envelope(WHOLE, "x/y", "thing").unpickle() == "unpickled"
    assert _SEEN == ["unpickled"]


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(position, change):
    data = bytearray(WHOLE)
    data[position] ^= change
    refused(bytes(data))


@given(st.integers(0, len(WHOLE) - 1))
def test_anything_cut_off_is_refused_as_truncated(length):
    with pytest.raises(TruncatedObject):
        open_envelope(WHOLE[:length], "x/y", "thing")
    refused(WHOLE[:length])


@given(st.binary(min_size=1, max_size=40))
def test_anything_added_is_refused(more):
    with pytest.raises(DamagedObject):
        open_envelope(WHOLE + more, "x/y", "thing")


@given(st.integers(0, len(WHOLE)), st.binary(min_size=1, max_size=8))
def test_anything_put_in_between_is_refused(position, more):
    data = WHOLE[:position] + more + WHOLE[position:]
    if data != WHOLE:
        refused(data)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 20))
def test_anything_taken_out_is_refused(position, count):
    refused(WHOLE[:position] + WHOLE[position + count :])


@given(st.binary(max_size=200))
def test_noise_is_refused(noise):
    refused(noise)


@given(st.binary(max_size=100))
def test_noise_after_our_first_words_is_refused(noise):
    refused(b"headrace object, format 1\n" + noise)


def test_foreign():
    with pytest.raises(ForeignObject, match=r"not written by headrace.*check the URL"):
        open_envelope(TATTLE, "x/y", "thing")


def test_newer_format_says_how_to_upgrade():
    data = WHOLE.replace(b"format 1\n", b"format %d\n" % (FORMAT + 1), 1) + b"unknown things"
    with pytest.raises(NewerFormat, match="pip install --upgrade headrace") as caught:
        open_envelope(data, "x/y", "thing")
    assert caught.value.format == FORMAT + 1


def test_other_kind():
    with pytest.raises(EnvelopeError, match="holds 'thing', not 'flow'"):
        open_envelope(WHOLE, "x/y", "flow")


def forged(number: str, package: str = "python") -> bytes:
    """As another Python, or package, would have written it: correct digests, another version."""
    first, _, rest = WHOLE.partition(b"\n")
    _, _, rest = rest.partition(b"\n")
    header = open_envelope(WHOLE, "", "thing").header
    payload = rest[len(rest) - header["payload"]["length"] :]
    header["versions"][package] = number
    text = json.dumps(header).encode()
    second = f"{len(text)} {hashlib.sha256(text).hexdigest()}".encode()
    return b"\n".join([first, second, text, payload])


def test_other_python_minor_is_refused_only_where_it_would_be_unpickled():
    envelope = open_envelope(forged("3.9.1"), "x/y", "thing")
    with pytest.raises(IncompatibleObject, match=r"Python 3\.9\.1.*use Python 3\.9") as caught:
        envelope.unpickle()
    assert caught.value.here == platform.python_version()
    assert _SEEN == []


def test_other_python_patch_level_is_fine():
    minor = ".".join(platform.python_version_tuple()[:2])
    assert open_envelope(forged(f"{minor}.999"), "x/y", "thing").unpickle() == "unpickled"


def test_a_later_major_version_of_cloudpickle_is_refused_before_it_would_be_unpickled():
    major = int(version("cloudpickle").split(".")[0])
    with pytest.raises(IncompatibleObject, match=rf"pip install --upgrade 'cloudpickle>={major + 1}\.0'"):
        open_envelope(forged(f"{major + 1}.0", "cloudpickle"), "x/y", "thing").unpickle()
    assert _SEEN == []
    for fine in (f"{major}.999", f"{major - 1}.0", "unknown"):
        assert open_envelope(forged(fine, "cloudpickle"), "x/y", "thing").unpickle() == "unpickled"


def test_names_that_a_later_headrace_may_add_are_kept():
    data = pack("thing", {"later": {"deep": [1]}}, b"")
    assert open_envelope(data, "x/y", "thing").header["later"] == {"deep": [1]}


def test_text_that_is_no_unicode():
    header = {"doc": "half a pair: \ud83d"}
    assert open_envelope(pack("thing", header, b""), "x", "thing").header["doc"] == header["doc"]
    data = to_bytes(header, "x", UNSEALED)
    assert data.isascii()
    assert from_bytes(data, "x", UNSEALED) == header


def test_an_unknown_python_is_refused():
    with pytest.raises(IncompatibleObject, match="unknown"):
        check_versions({}, "x/y")


def test_reserved_names_are_refused():
    with pytest.raises(ValueError, match="versions"):
        pack("thing", {"versions": {}}, b"")


def crafted(payload=None, **facts):
    """An intact object whose header says what somebody made up, and where it lies."""

    @hr.flow
    def etl(n: int = 3):
        return hr.task(abs, name="abs")(n)

    header = open_envelope(capture(etl).data, "x", "flow").header
    header = {name: told for name, told in {**header, **facts}.items() if told != "missing"}
    for name in ("kind", "format", "payload", "versions"):
        header.pop(name)
    data = pack("flow", header, {"flow": b"x"} if payload is None else payload)
    return data, location_of("etl", digest_of(data))


NODE = {"name": "a", "task": "a", "mapped": False, "upstream": []}


@pytest.mark.parametrize(
    "fact",
    [
        *({name: "missing"} for name in ("origin", "content", "parameters", "tasks", "example", "graph", "digest")),
        *({name: 5} for name in ("origin", "doc", "content", "parameters", "tasks", "example", "graph", "digest")),
        *({name: 5} for name in ("environment", "imports", "code", "source")),
        {"origin": None},
        {"parameters": None},
        {"parameters": [5]},
        {"parameters": [{"name": "n"}]},
        {"parameters": [{"name": "n", "annotation": 5, "required": True, "default": None}]},
        {"tasks": [{"name": "a"}]},
        {"graph": [{"name": "a"}]},
        {"graph": [NODE, NODE]},
        {"graph": [{**NODE, "upstream": ["b"]}]},
        {"graph": [{**NODE, "upstream": [[]]}]},
        {"code": {}},
        {"code": {"sha256": "0", "modules": [5]}},
        {"imports": {"dask": 5}},
        {"source": {}},
        {"source": {"kind": 5}},
        {"source": {"kind": "pickle"}},
        {"source": {"kind": "module", "module": "a", "name": "b"}},
        {"source": {"kind": "script", "url": "a"}},
        {"source": {"kind": "later", "code": 5}},
    ],
    ids=str,
)
def test_a_flow_that_tells_something_not_as_headrace_does_is_damage(fact):
    with pytest.raises(DamagedObject, match=f"tells {next(iter(fact))} not as headrace does"):
        open_flow(*crafted(**fact))


def test_a_flow_without_a_digest_of_its_graph_is_damage():
    with pytest.raises(DamagedObject, match="tells example, graph, digest not as"):
        open_flow(*crafted(digest=None))


def test_what_later_versions_tell_is_let_through():
    facts = {"later": [1], "source": {"kind": "later", "place": 5}, "tasks": [{"name": "a", "origin": "b", "c": 1}]}
    assert open_flow(*crafted(**facts)).header["later"] == [1]


@pytest.mark.parametrize("payload", [{"flow": b""}, {"other": b"x"}, {"flow": b"x", "example": b""}])
def test_a_flow_without_its_pickles_is_damage(payload):
    with pytest.raises(DamagedObject, match=r"its payload lacks it|an example that is empty"):
        open_flow(*crafted(payload))


@pytest.mark.parametrize("pickled", [b"x", b"\x80\x05K", pickle.dumps(5)])
def test_what_is_no_pickle_of_a_flow_is_damage(pickled):
    with pytest.raises(DamagedObject, match=r"no whole pickle|pickle of a int, not of a flow"):
        load_flow(open_flow(*crafted({"flow": pickled})))
