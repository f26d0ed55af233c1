"""Lists that are mapped over and too long to go to every worker."""

import pickle

import headrace as hr
from headrace.core.events import Dispatch
from headrace.execution.dask import DaskExecutor
from headrace.execution.worker import PlanPlugin


@hr.task
def length(text, number):
    return len(text) + number


@hr.task
def total(values):
    return sum(values)


@hr.flow
def long_list(texts: list[str]):
    numbers = list(range(len(texts)))
    return total(length.map(texts, number=numbers))


def test_a_long_list_travels_in_slices(place, monkeypatch):
    texts = [chr(97 + i % 26) * 20_000 for i in range(200)]
    sizes = []
    reduce = PlanPlugin.__init__

    def spying(self, run_id, plan, *more):
        sizes.append(len(plan))
        reduce(self, run_id, plan, *more)

    monkeypatch.setattr(PlanPlugin, "__init__", spying)
    run = long_list.run(texts=texts, environment=place)
    assert run.result() == sum(map(len, texts)) + sum(range(200))
    assert len(pickle.dumps(texts)) > 1 << 21
    assert all(size < 1 << 16 for size in sizes)


@hr.task
def make_texts(count):
    return [chr(97 + i % 26) * 20_000 for i in range(count)]


@hr.task
def both(text, length):
    return len(text) + length


@hr.flow
def list_of_a_task(count: int):
    texts = make_texts(count)
    lengths = length.map(texts, number=list(range(count)))
    return total(both.map(texts, lengths)), total(length.map(texts, number=hr.unmapped(0)))


def test_a_long_list_that_a_task_returns_is_cut(place, monkeypatch):
    cuts = []
    if place is not None and hasattr(place, "client"):
        send = DaskExecutor.send

        def spying(self, commands):
            cuts.extend(cut for command in commands if isinstance(command, Dispatch) for cut in command.cuts.items())
            send(self, commands)

        monkeypatch.setattr(DaskExecutor, "send", spying)
    run = list_of_a_task.run(count=200, environment=place)
    assert run.result() == (2 * 20_000 * 200 + sum(range(200)), 20_000 * 200)
    assert cuts or not hasattr(place, "client")
