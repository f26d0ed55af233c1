"""Mail between the processes of a gang, without a cluster: who is let in, what comes late, who does not answer."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import pytest

from headrace.core.state import State
from headrace.execution import mail
from headrace.execution.mail import Mailbox, PostOffice, Wires

LETTER = {7: (State.SUCCESS, 42)}


@pytest.fixture
def office(monkeypatch):
    office = PostOffice()
    office.open("run")
    monkeypatch.setattr(mail, "OFFICE", office)
    return office


def soon(seconds=30.0):
    return time.perf_counter() + seconds


def knock(where, key):
    return Client(tuple(where), authkey=key)


def test_a_letter_arrives_before_or_after_it_is_asked_for(office):
    where, key = Wires().listen("127.0.0.1")
    with knock(where, key) as wire:
        wire.send_bytes(pickle.dumps(("run", 1, 0, pickle.dumps(LETTER), False)))
        assert office.box("run", 1).take(7, 0, soon()) == (State.SUCCESS, 42)


def test_who_does_not_know_the_key_is_not_let_in(office):
    wires = Wires()
    where, key = wires.listen("127.0.0.1")
    with pytest.raises((AuthenticationError, EOFError, OSError)):
        knock(where, b"another").recv_bytes()
    with knock(where, key) as wire:  # others still are
        wire.send_bytes(pickle.dumps(("run", 1, 0, LETTER, False)))
        assert office.box("run", 1).take(7, 0, soon()) == (State.SUCCESS, 42)


def test_a_silent_stranger_keeps_nobody_out(office):
    where, key = Wires().listen("127.0.0.1")
    with socket.create_connection(tuple(where)), knock(where, key) as wire:
        wire.send_bytes(pickle.dumps(("run", 1, 0, LETTER, False)))
        assert office.box("run", 1).take(7, 0, soon()) == (State.SUCCESS, 42)


def test_who_cannot_be_reached_costs_nothing_the_second_time(monkeypatch, caplog):
    wires = Wires()
    calls = []
    monkeypatch.setattr(wires, "_connect", lambda worker, address: calls.append(address) or 1 / 0)
    wires.send(None, "tcp://nobody:1", b"")
    wires.send(None, "tcp://nobody:1", b"")
    assert calls == ["tcp://nobody:1"]
    assert "cannot be reached" in caplog.text


def test_nothing_goes_where_dask_would_encrypt_it(caplog):
    Wires().send(None, "tls://127.0.0.1:1", b"")
    assert "without encryption" in caplog.text


def test_what_comes_too_late_is_dropped(office):
    office.deliver("run", 1, 0, LETTER, False)
    assert len(office) == 1
    office.remove("run", 1)
    office.deliver("run", 1, 0, LETTER, True)
    office.deliver("another run", 1, 0, LETTER, True)
    assert len(office) == 0
    office.remove("run")
    office.deliver("run", 2, 0, LETTER, False)
    assert len(office) == 0


def test_nobody_waits_for_what_will_not_come():
    box = Mailbox()
    closing = threading.Timer(0.05, box.put, (0, {}, True))
    closing.start()
    assert box.take(7, 0, soon()) is None
    closing.join()
    assert Mailbox().take(7, 0, time.perf_counter() - 1) is None
