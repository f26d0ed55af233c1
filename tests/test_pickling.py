from __future__ import annotations

import asyncio
import functools
import logging
import os
import pickle
import socket
import sqlite3
import sys
import threading
import types
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace import pickling
from headrace.core.flow import FlowDefinition, parameter
from headrace.core.task import task
from headrace.errors import MissingModule, NotPicklable

LOCK = threading.Lock()


class Holder:
    def __init__(self, inside):
        self._lock = inside


def path_of(obj, what="the thing"):
    with pytest.raises(NotPicklable) as caught:
        pickling.dumps(obj, what)
    error = caught.value
    assert error.path in str(error)
    assert "_thread.lock" in str(error)
    assert "inside the task" in str(error)
    assert pickle.loads(pickle.dumps(error)).path == error.path
    return error.path


def local_task():
    client = Holder(LOCK)

    @task
    def load():
        return client

    return load


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (threading.Lock, r"@hr.flow\(max_running=...\)"),
        (lambda: Holder(threading.Event()), r"@hr.flow\(max_running=...\)"),
        (lambda: open(os.devnull, "wb"), "pass its path, and open it inside the task"),  # noqa: SIM115
        (lambda: (number for number in range(3)), "pass a list, or call what makes it"),
        (lambda: threading.Thread(target=print), "threads, pools and event loops"),
        (threading.local, "threads, pools and event loops"),
        (lambda: ThreadPoolExecutor(1), "threads, pools and event loops"),
        (asyncio.new_event_loop, "threads, pools and event loops"),
        (socket.socket, "connect inside the task, or make it an @hr.resource"),
        (lambda: sqlite3.connect(":memory:"), "connect inside the task, or make it an @hr.resource"),
        (sys._getframe, "pass their text"),
        (lambda: logging.StreamHandler(sys.stdout), "call logging.getLogger"),
        (zlib.compressobj, "create it inside the task that uses it"),
    ],
)
def test_advice_fits_what_it_is(make, told):
    obj = make()
    try:
        with pytest.raises(NotPicklable, match=told):
            pickling.dumps({"it": obj}, "the thing")
    finally:
        getattr(obj, "close", getattr(obj, "shutdown", lambda: None))()


def test_advice_is_for_the_outermost_thing_that_is_known():
    class Client(Holder):
        pass

    Client.__module__ = "distributed.client"
    for known, told in ((Client(LOCK), "hr.get_client"), (Holder(LOCK), "max_running")):
        with pytest.raises(NotPicklable, match=told):
            pickling.dumps([known], "the thing")
    Client.__module__ = "distributed_else"  # whose name only begins alike
    with pytest.raises(NotPicklable, match="max_running"):
        pickling.dumps([Client(LOCK)], "the thing")


def test_round_trip():
    add = 3
    function = pickling.loads(pickling.dumps(lambda x: x + add, "it"), "it")
    assert function(4) == 7


def test_from_flow_through_task_to_attribute():
    load = local_task()
    flow = FlowDefinition("etl", lambda: load())
    assert path_of(flow, "flow 'etl'") == "task 'load' → closure variable 'client' → attribute '_lock'"


def test_a_constant_of_the_flow_function():
    lock = LOCK
    flow = FlowDefinition("etl", lambda: lock)
    assert path_of(flow, "flow 'etl'") == "flow 'etl' → closure variable 'lock'"


def test_globals_of_functions_inside_functions():
    namespace = {"__name__": "__main__", "CLIENT": Holder([1, LOCK])}
    exec("def outer():\n    def inner():\n        return CLIENT\n    return inner", namespace)
    assert path_of(namespace["outer"]) == "the thing → global variable 'CLIENT' → attribute '_lock' → [1]"


def test_defaults_keywords_and_annotations():
    def positional(a=LOCK):
        return a

    def keyword(*, a=LOCK):
        return a

    assert path_of(positional).startswith("the thing → default value <unlocked _thread.lock")
    assert path_of(keyword) == "the thing → default of 'a'"


def test_containers():
    assert path_of({"a": [1, {"b": (2, LOCK)}]}) == "the thing → ['a'] → [1] → ['b'] → [1]"
    assert path_of(functools.partial(print, 1, end=LOCK)) == "the thing → argument 'end'"
    assert path_of({1, LOCK}) == "the thing → an element"


def test_bound_methods():
    class Local(Holder):
        def method(self):
            return self

    path = path_of(Local(LOCK).method)
    assert path == "the thing → the object it is bound to → attribute '_lock'"


def test_constants_of_a_flow_built_by_hand():
    @task
    def show(value, key=None):
        return value

    with FlowDefinition("hand") as flow:
        first = show(1)
        show([first, 2], key={"deep": LOCK})
    assert path_of(flow, "flow 'hand'") == "flow 'hand' → argument 'key' of node 'show-2' → ['deep']"

    with FlowDefinition("hand") as flow:
        show(parameter("p", default=LOCK))
    assert path_of(flow, "flow 'hand'") == "flow 'hand' → default of parameter 'p'"


def test_an_object_whose_own_hook_fails_is_the_culprit():
    class Stubborn:
        def __reduce__(self):
            raise RuntimeError("I stay here")

    with pytest.raises(NotPicklable, match=r"\['a'\] is of type .*Stubborn.*I stay here"):
        pickling.dumps({"a": Stubborn()}, "the thing")


def test_cycles_end():
    holder = Holder(None)
    holder._lock = [holder, LOCK]
    assert path_of(holder) == "the thing → attribute '_lock' → [1]"


def test_missing_module_is_named(monkeypatch):
    module = types.ModuleType("soon_gone")
    exec("def f():\n    return 1", module.__dict__)
    monkeypatch.setitem(sys.modules, "soon_gone", module)
    data = pickle.dumps(module.f)
    del module.f
    with pytest.raises(MissingModule, match=r"flow 'x' needs module 'soon_gone'.*install") as caught:
        pickling.loads(data, "flow 'x'")
    assert caught.value.module == "soon_gone"
    monkeypatch.delitem(sys.modules, "soon_gone")
    with pytest.raises(MissingModule, match="'soon_gone'") as caught:
        pickling.loads(data, "flow 'x'")
    assert caught.value.module == "soon_gone"


def test_errors_of_the_objects_own_code_pass():
    with pytest.raises(ZeroDivisionError):
        pickling.loads(b"\x80\x04\x8c\x08operator\x8c\x07truediv\x93K\x01K\x00\x86R.", "x")


def test_references():
    load = local_task()
    assert pickling.references(lambda: (load, LOCK)) == [load, LOCK]
    assert pickling.references(print) == []
