"""How many workers there should be: the rule by itself, and on a cluster with a clock of its own."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core.ready import Work, merged
from headrace.core.scaling import LONGEST, RENEW, Group, Present, Scaling, bounds_of, deserved
from headrace.errors import SetupError

PLAIN, GPU = (), (("GPU", 1.0),)
LOOK = 0.25


def group(name="default", threads=1, resources=None, least=0, most=10):
    return Group(name, threads, resources or {}, least, most)


def work(seconds, task_runs, resources=PLAIN):
    return Work(resources, seconds, task_runs)


@pytest.mark.parametrize(
    ("works", "number"),
    [
        ([], 0),
        ([work(0.001, 1)], 1),  # the first worker comes for anything
        ([work(10.0, 200)], 2),  # done within five seconds
        ([work(1000.0, 3)], 3),  # no more than could take part
        ([work(1000.0, 200)], 10),  # no more than there may be
        ([work(6.0, 3), work(6.0, 3)], 4),
    ],
)
def test_work_deserves_what_gets_it_done_in_time(works, number):
    assert deserved(works, [group()], 5.0) == {"default": number}


def test_threads_are_counted_and_least_is_kept():
    assert deserved([work(100.0, 200)], [group(threads=4)], 5.0) == {"default": 5}
    assert deserved([], [group(least=2)], 5.0) == {"default": 2}


def test_work_that_asks_for_something_raises_only_those_that_offer_it():
    groups = [group(), group("gpu", 4, {"GPU": 2}, most=3), group("tpu", 4, {"TPU": 1})]
    assert deserved([work(100.0, 5, GPU)], groups, 5.0) == {"default": 0, "gpu": 3, "tpu": 0}
    assert deserved([work(100.0, 5)], groups, 5.0) == {"default": 5, "gpu": 0, "tpu": 0}
    assert deserved([work(100.0, 5, (("GPU", 3.0),))], groups, 5.0) == dict.fromkeys(["default", "gpu", "tpu"], 0)


def test_plain_work_goes_to_special_workers_only_where_there_are_no_others():
    gpu = group("gpu", 1, {"GPU": 1}, most=3)
    assert deserved([work(1000.0, 100)], [gpu, group()], 5.0) == {"gpu": 0, "default": 10}
    assert deserved([work(1000.0, 100)], [gpu], 5.0) == {"gpu": 3}
    assert deserved([work(1000.0, 100)], [gpu, group(most=0)], 5.0) == {"gpu": 3, "default": 0}


def test_workers_of_which_nothing_is_known_may_offer_anything():
    assert deserved([work(1000.0, 100, GPU)], [group("?")._replace(resources=None)], 5.0) == {"?": 10}


def test_groups_that_are_alike_are_filled_in_turn():
    groups = [group("a", 2, most=2), group("b", 1, most=8)]
    assert deserved([work(30.0, 100)], groups, 5.0) == {"a": 2, "b": 2}


def test_different_work_shares_workers():
    groups = [group("gpu", 4, {"GPU": 4})]
    assert deserved([work(10.0, 2), work(10.0, 2, GPU)], groups, 5.0) == {"gpu": 1}


@pytest.mark.parametrize("wrong", [(2, 1), (-1, 2), (0, 0), (1,), 3, "ab", (0.5, 2)])
def test_bounds_that_are_none_are_told(wrong):
    with pytest.raises(SetupError, match="adapt must be"):
        bounds_of(wrong, "adapt")


def test_works_that_ask_for_the_same_are_summed():
    assert merged([work(1.0, 2), work(2.0, 1, GPU), work(0.5, 3)]) == (work(1.5, 5), work(2.0, 1, GPU))


# -- with a clock --------------------------------------------------------------------------------------------------


@dataclass
class Workers:
    """A cluster with a clock: workers come late, and do plain work one second at a time, or what asks for a GPU."""

    scaling: Scaling
    delay: float
    now: float = 0.0
    todo: dict = field(default_factory=dict)  # resources → task runs of a second each
    coming: list = field(default_factory=list)  # (when, group)
    there: dict = field(default_factory=dict)  # address → group
    busy: dict = field(default_factory=dict)  # address → until when
    ordered: dict = field(default_factory=dict)
    downs: int = 0
    names: int = 0

    def __post_init__(self):
        for each in self.scaling.groups:
            self.order(each.name, each.least)

    def order(self, name, number):
        counted = sum(here == name for here in self.there.values()) + sum(name == each for _, each in self.coming)
        self.coming += [(self.now + self.delay, name)] * (number - counted)

    def works(self):
        running = [0 for until in self.busy.values() if until > self.now]
        return [work(float(n), n, asked) for asked, n in self.todo.items() if n] + [work(1.0, 1) for _ in running]

    def step(self, seconds=LOOK):
        self.now += seconds
        for entry in [entry for entry in self.coming if entry[0] <= self.now]:
            self.coming.remove(entry)
            self.names += 1
            self.there[f"w{self.names}"] = entry[1]
        groups = {each.name: each for each in self.scaling.groups}
        for address, name in self.there.items():
            if self.busy.get(address, 0.0) <= self.now:
                asked = next((a for a, n in self.todo.items() if n and groups[name].slots(a)), None)
                if asked is not None:
                    self.todo[asked] -= 1
                    self.busy[address] = self.now + 1.0
        idle = {address for address in self.there if self.busy.get(address, 0.0) <= self.now}
        present = [Present(address, name, address, address in idle) for address, name in self.there.items()]
        orders = self.scaling.decide(self.now, self.works(), present)
        for name, number in orders.up.items():
            assert number <= groups[name].most + len(self.scaling.leaving)
            self.order(name, number)
        for unit in orders.down:
            assert idle.issuperset(unit)  # whoever does something stays
            self.downs += 1
            for address in unit:
                del self.there[address]
            self.scaling.left(unit)
        for name, each in groups.items():
            have = sum(here == name for here in self.there.values())
            assert have <= each.most
            assert each.least <= self.scaling.asked[name] <= each.most
        return orders


def scaling(*groups, patience=3.0):
    return Scaling(groups or [group()], within=5.0, patience=patience)


def test_it_goes_up_at_once_and_orders_nothing_twice():
    cluster = Workers(scaling(), delay=4.0)
    cluster.todo[PLAIN] = 40
    assert cluster.step().up == {"default": 8}
    assert not any(cluster.step().up for _ in range(12))  # they are on their way
    cluster.todo[PLAIN] = 100
    assert cluster.step().up == {"default": 10}


def test_workers_that_do_not_come_are_ordered_again():
    cluster = Workers(scaling(), delay=1e9)
    cluster.todo[PLAIN] = 40
    cluster.step()
    again = [cluster.now for _ in range(200) if cluster.step().up]
    assert len(again) == 5
    assert again[1] - again[0] == pytest.approx(RENEW, abs=LOOK)


@pytest.mark.parametrize(("delay", "patience"), [(0.5, 3.0), (60.0, 60.0), (2 * LONGEST, LONGEST)])
def test_a_worker_goes_when_it_was_idle_for_as_long_as_another_takes_to_come(delay, patience):
    cluster = Workers(scaling(), delay=delay)
    cluster.todo[PLAIN] = 50
    while cluster.todo[PLAIN] or any(until > cluster.now for until in cluster.busy.values()) or not cluster.there:
        assert not cluster.step().down
    since = cluster.now
    while cluster.there:
        cluster.step()
    assert cluster.now - since == pytest.approx(patience, abs=1.0 + 2 * LOOK)


def test_a_worker_that_is_used_again_and_again_stays():
    cluster = Workers(scaling(group(most=4)), delay=0.5)
    cluster.todo[PLAIN] = 40
    for _ in range(400):  # each round, work for four workers that one could do within the target
        cluster.step()
        if not cluster.todo[PLAIN] and not any(until > cluster.now for until in cluster.busy.values()):
            cluster.todo[PLAIN] = 4
    assert len(cluster.there) == 4
    assert not cluster.downs


def test_processes_of_one_job_go_together_or_not_at_all():
    rule = scaling(group(most=4))
    crew = [Present(f"w{i}", "default", f"job{i // 2}", i != 0) for i in range(4)]
    for now in (0.0, 2.0):
        assert not rule.decide(now, [work(1.0, 1)], crew).down
    assert rule.decide(4.0, [work(1.0, 1)], crew).down == [["w2", "w3"]]
    assert rule.counted("default") == 4
    rule.left(["w2", "w3"])
    assert rule.counted("default") == 2


def test_a_worker_that_could_not_go_counts_again_and_is_not_asked_at_once():
    rule = scaling()
    crew = [Present("w", "default", "w", idle=True)]
    rule.decide(0.0, [], crew)
    assert rule.decide(4.0, [], crew).down == [["w"]]
    assert not rule.decide(8.0, [], crew).down  # it is on its way out
    rule.stayed(["w"])
    assert rule.counted("default") == 1
    assert not rule.decide(9.0, [], crew).down
    assert rule.decide(13.0, [], crew).down == [["w"]]


@settings(max_examples=60)
@given(
    bounds=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=2, max_size=2),
    delay=st.sampled_from([0.0, 0.3, 2.0, 20.0]),
    loads=st.lists(st.tuples(st.sampled_from([PLAIN, GPU]), st.integers(0, 60), st.integers(0, 40)), max_size=6),
)
def test_any_work_is_done_within_bounds_and_then_only_the_least_are_left(bounds, delay, loads):
    (least, more), (least_gpu, more_gpu) = bounds
    groups = group(least=least, most=least + more or 1), group("gpu", 1, {"GPU": 1}, least_gpu, least_gpu + more_gpu)
    cluster = Workers(scaling(*groups), delay)
    for asked, number, steps in loads:
        if asked == PLAIN or groups[1].most:
            cluster.todo[asked] = cluster.todo.get(asked, 0) + number
        for _ in range(steps):
            cluster.step()
    end = cluster.now + 1000.0
    while any(cluster.todo.values()):
        cluster.step()
        assert cluster.now < end
    while len(cluster.there) != least + least_gpu or cluster.coming:
        cluster.step()
        assert cluster.now < end
    number = cluster.names
    for _ in range(100):
        orders = cluster.step()
        assert not orders.up
        assert not orders.down
    assert cluster.names == number
