"""Lists that are mapped over and too long to go to every worker."""

import pickle

import headrace as hr
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

    def spying(self, run_id, plan):
        sizes.append(len(plan))
        reduce(self, run_id, plan)

    monkeypatch.setattr(PlanPlugin, "__init__", spying)
    run = long_list.run(texts=texts, environment=place)
    assert run.result() == sum(map(len, texts)) + sum(range(200))
    assert len(pickle.dumps(texts)) > 1 << 21
    assert all(size < 1 << 16 for size in sizes)
