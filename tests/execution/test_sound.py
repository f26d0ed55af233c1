"""Whether a result can travel is told without copying it."""

from __future__ import annotations

import pickle
import threading
import time

import numpy as np
import pytest

from headrace.errors import NotPicklable
from headrace.execution import sound


class Counts:
    """Counts how often it is pickled."""

    pickled = 0

    def __reduce__(self):
        Counts.pickled += 1
        return Counts, ()


class Buffered:
    """Hands out a buffer that says when it is copied."""

    def __init__(self):
        self.data = bytearray(1 << 24)

    def __reduce_ex__(self, protocol):
        return bytearray, (pickle.PickleBuffer(self.data),)


@pytest.mark.parametrize(
    "value",
    [None, 1, "a", b"b", [1, "a"], {"a": [1, (2, {3})]}, np.ones(3), np.float64(1), [np.ones(2)], frozenset({1})],
    ids=repr,
)
def test_plain_values_are_told_by_their_types(value, monkeypatch):
    monkeypatch.setattr(pickle, "Pickler", None)
    sound.check(value, "it")


@pytest.mark.parametrize(
    "value",
    [
        threading.Lock(),
        [1, threading.Lock()],
        {"a": {"b": threading.Lock()}},
        [[number] for number in range(50)] + [[threading.Lock()]],
        np.array([threading.Lock()]),
        [lambda lock=threading.Lock(): lock],  # noqa: B008 - that is the point
        (number for number in range(3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_pickled_is_refused_by_name(value):
    with pytest.raises(NotPicklable, match="cannot pickle the value of task 'x': the value of task 'x'"):
        sound.check(value, "the value of task 'x'")


def test_all_else_is_pickled_once():
    Counts.pickled = 0
    sound.check([Counts(), 1], "it")
    assert Counts.pickled == 1


def test_buffers_are_not_copied():
    value = Buffered()
    began = time.thread_time()
    for _ in range(100):
        sound.check(value, "it")
    assert time.thread_time() - began < 0.3  # copying 1.6 GB takes longer


def test_what_pickle_cannot_and_cloudpickle_can_is_sound():
    class Local:
        pass

    for value in (lambda: 1, Local, Local(), [Local()] * 20):
        sound.check(value, "it")
