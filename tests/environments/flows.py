"""Flows that the tests of environments run; a module of its own, so that workers find it by name."""

import os
import threading
import time

import headrace as hr


@hr.task
def double(x: int) -> int:
    return 2 * x


@hr.task
def total(values: list[int]) -> int:
    return sum(values)


@hr.flow
def doubled(n: int = 10):
    return total(double.map(range(n)))


@hr.task
def process_id(x: int) -> int:
    time.sleep(0.05)  # long enough that one process cannot take all of them
    return os.getpid()


@hr.flow
def processes(n: int = 20):
    return process_id.map(range(n))


@hr.task
def killer(x: int) -> int:
    if x == 5:
        os.kill(os.getpid(), 9)
    return x


@hr.flow
def killing(n: int = 8):
    return killer.map(range(n))


@hr.task
def nap(seconds: float) -> int:
    """Return which thread it was."""
    time.sleep(seconds)
    return threading.get_ident()


@hr.flow
def napping(seconds: float = 0.0, n: int = 12):
    return nap.map([seconds] * n)


@hr.task
def interrupted() -> None:
    raise KeyboardInterrupt


@hr.flow
def interrupting():
    return [nap(0.0), interrupted()]
