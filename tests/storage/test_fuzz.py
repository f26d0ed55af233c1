"""Thousands of flows that were changed in all ways: each is refused with an error of ours, and nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

import headrace as hr
from headrace.errors import EnvelopeError, UntrustedObject
from headrace.storage.capture import capture, load_flow, location_of, open_flow
from headrace.storage.envelope import open_envelope, signed
from headrace.storage.records import from_bytes, to_bytes
from headrace.storage.signing import UNSEALED, Seal, sources_of

SEED, ROUNDS = 20261125, 10_000
SEAL = Seal(sources_of("k" * 32))


@hr.task
def double(x):
    return 2 * x


@hr.flow
def etl(n: int = 3):
    return double(n)


FLOW = capture(etl)
SIGNED = signed(FLOW.data, FLOW.location, SEAL)

Parts = tuple[bytes, bytes, bytes]  # first line; header; payload
NOISE = [
    b"", b"\x00", b"\xff\xfe\xfd", "\ud800".encode(errors="surrogatepass"), b"NaN", b"-1", b"1e999", b"9" * 5000,
    b"null", b'"', b"{", b"}", b"[" * 2000, b'{"a":' * 2000, b"\n", b"headrace object, format 1\n", b"\xc3",
    b"18446744073709551616", b"-9223372036854775809", b"true", b'{"length": 99999999999}', b"\xed\xa0\x80",
]  # fmt: skip


def split(data: bytes) -> Parts:
    first, second, rest = data.split(b"\n", 2)
    length = int(second.split()[0])
    return first, rest[:length], rest[length + 1 :]


def signature_of(data: bytes) -> bytes:
    """The signature, with the space before it; empty if there is none."""
    return b"".join(b" " + word for word in data.split(b"\n", 2)[1].split()[2:])


def fitted(first: bytes, header: bytes, payload: bytes, signature: bytes = b"") -> bytes:
    """An object with digests that fit, as whoever can write but has no key makes it."""
    second = b"%d %s" % (len(header), hashlib.sha256(header).hexdigest().encode())
    return b"\n".join([first, second + signature, header, payload])


def cut(random: random.Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    return random.choice([data[:at], data[at:], data[:at] + data[at + random.randint(1, 50) :]])


def put_in(random: random.Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + random.choice([*NOISE, random.randbytes(random.randint(1, 40))]) + data[at:]


def flip(random: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        changed[random.randrange(len(changed))] ^= random.randint(1, 255)
    return bytes(changed)


def swap(random: random.Random, data: bytes) -> bytes:
    a, b, c, d = sorted(random.randint(0, len(data)) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def number(random: random.Random, data: bytes) -> bytes:
    """Another number in the place of one, in the lengths say."""
    spans = [at for at in range(len(data)) if data[at : at + 1].isdigit()]
    at = random.choice(spans)
    return data[:at] + random.choice([b"0", b"-1", b"99999999999999999999", b"1e9", b"4294967296"]) + data[at + 1 :]


def value(random: random.Random, data: bytes) -> bytes:
    """A header that is JSON, with something else in it than there should be."""
    first, text, payload = split(data)
    header = json.loads(text)
    place = random.choice([header, header["payload"], header["payload"]["parts"], header["versions"]])
    name = random.choice([*place, "new"])
    odd = random.choice([None, True, -1, 0, 10**30, 1.5, float("nan"), "", "x" * 5000, [], {}, [[[]]], {"a": -1}])
    if random.random() < 0.3:
        place.pop(name, None)
    else:
        place[name] = odd
    text = json.dumps(header).encode()
    if random.random() < 0.2:  # a name twice
        text = text[:-1] + b', "payload": {"length": 0, "sha256": "' + b"0" * 64 + b'"}}'
    return fitted(first, text, payload, signature_of(data))


CHANGES: list[Callable[[random.Random, bytes], bytes]] = [cut, put_in, flip, swap, number, value]


def mutants(data: bytes, rounds: int) -> Iterator[tuple[str, bytes]]:
    """Changed objects, each with the name of what was done to it."""
    dice = random.Random(SEED)
    while rounds:
        change = dice.choice(CHANGES)
        if change is not value and dice.random() < 0.4:  # changed on purpose: the digests are made to fit
            first, header, payload = split(data)
            if dice.random() < 0.5:
                header = change(dice, header)
            else:
                payload = change(dice, payload)
            changed = fitted(first, header, payload, signature_of(data))
        else:
            changed = change(dice, data)
            if dice.random() < 0.1:
                changed = dice.choice(CHANGES[:4])(dice, changed or b"x")
        if changed != data:
            rounds -= 1
            yield change.__name__, changed


def where_it_fits(data: bytes) -> str:
    """The location that a changed object would have, as far as it has one."""
    match = re.match(rb"[^\n]*\n\d+ ([0-9a-f]{64})", data)
    return location_of("etl", match[1].decode() if match else "0" * 64)


def test_with_a_key_every_changed_flow_is_refused(no_unpickling):
    told = Counter()
    for name, changed in mutants(SIGNED, ROUNDS):
        for where in (FLOW.location, where_it_fits(changed)):
            with pytest.raises(EnvelopeError) as caught:
                load_flow(open_flow(changed, where, SEAL))
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 600
            told[name, type(caught.value).__name__] += 1
    assert sum(told.values()) == 2 * ROUNDS
    assert {name for name, _ in told} == {change.__name__ for change in CHANGES}
    assert {error for _, error in told} >= {"UntrustedObject", "DamagedObject", "TruncatedObject", "ForeignObject"}


def test_without_a_key_every_changed_flow_is_refused_in_its_place(no_unpickling):
    for _, changed in mutants(FLOW.data, ROUNDS):
        with pytest.raises(EnvelopeError):
            load_flow(open_flow(changed, FLOW.location))


def test_without_a_key_what_was_made_to_fit_opens_or_is_refused_and_nothing_else(no_unpickling):
    opened = 0
    for _, changed in mutants(FLOW.data, 2000):
        try:
            envelope = open_envelope(changed, "x", "flow")
        except EnvelopeError:
            continue
        opened += 1
        assert len(envelope.payload) == envelope.header["payload"]["length"]
        parts = envelope.header["payload"].get("parts")
        assert parts is None or b"".join(map(envelope.part, parts)) == envelope.payload
    assert opened > 20


def test_time_and_memory_are_bounded():
    first, header, payload = split(SIGNED)
    bombs = [
        fitted(first, b"[" * 1_000_000, payload),
        fitted(first, b'{"a":' * 500_000, payload, signature_of(SIGNED)),
        fitted(first, header.replace(b'"length": ', b'"length": ' + b"9" * 4000), payload),
        fitted(first, header.replace(b'"length": ', b'"length": 9999999999'), payload),
        fitted(first, b'{"kind": "flow", "kind": ' + b"1" * 1_000_000 + b"}", payload),
        b"headrace object, format 1\n9999999999 " + b"0" * 64 + b"\n{}\n",
        b"headrace object, format 1\n" + b"9" * 1_000_000,
        b"headrace object, format " + b"9" * 1_000_000,
        b"\n" * 1_000_000,
    ]
    for bomb in bombs:
        for known in (SEAL, UNSEALED):
            tracemalloc.start()
            begin = time.process_time()
            with pytest.raises(EnvelopeError):
                open_flow(bomb, FLOW.location, known)
            took, (_, most) = time.process_time() - begin, tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert took < 5
            assert most < 20 * len(bomb) + 1_000_000


def test_records(no_unpickling):
    facts = {"run_id": "r", "flow": "etl", "parameters": {"n": [1, 2.5, "größe"]}}
    dice = random.Random(SEED)
    for known in (SEAL, UNSEALED):
        data = to_bytes(facts, "runs/r/run.json", known)
        for _ in range(3000):
            changed = dice.choice(CHANGES[:5])(dice, data)
            if changed == data:
                continue
            try:
                found = from_bytes(changed, "runs/r/run.json", known)
            except EnvelopeError:
                continue
            assert not known.active  # without a key, what is JSON counts
            assert isinstance(found, dict)


def test_a_record_that_was_signed_for_another_place():
    data = to_bytes({"a": 1}, "runs/r/run.json", SEAL)
    with pytest.raises(UntrustedObject):
        from_bytes(data, "runs/r2/run.json", SEAL)
