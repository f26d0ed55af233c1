"""The user always wins: properties of the merge, over specs as pods have them."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.environments.kubernetes.merging import merge

NAMES = st.sampled_from(["a", "b", "c"])
SCALARS = st.one_of(st.integers(0, 3), NAMES, st.booleans())
ITEMS = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(NAMES, SCALARS, max_size=2))
PLAIN = st.one_of(SCALARS, st.lists(ITEMS, max_size=2), st.dictionaries(NAMES, ITEMS, max_size=2))


def keyed(key, **others):
    return st.lists(st.fixed_dictionaries({key: NAMES}, optional=others), max_size=3, unique_by=lambda item: item[key])


VARIABLES = keyed("name", value=NAMES, valueFrom=st.just({"secretKeyRef": {"name": "s", "key": "k"}}))
CONTAINERS = keyed(
    "name",
    image=NAMES,
    args=st.lists(NAMES, max_size=3),
    env=VARIABLES,
    volumeMounts=keyed("mountPath", name=NAMES),
    ports=st.lists(
        st.fixed_dictionaries({"containerPort": st.integers(1, 3)}, optional={"name": NAMES}),
        unique_by=lambda item: item["containerPort"],
    ),
    resources=st.dictionaries(st.sampled_from(["limits", "requests"]), st.dictionaries(NAMES, NAMES)),
)
PODS = st.fixed_dictionaries(
    {},
    optional={
        "containers": CONTAINERS,
        "volumes": keyed("name", emptyDir=st.just({}), hostPath=st.just({"path": "/"})),
        "tolerations": st.lists(st.fixed_dictionaries({"key": NAMES}), max_size=3, unique_by=str),
        "nodeSelector": st.dictionaries(NAMES, NAMES),
        "affinity": st.dictionaries(NAMES, PLAIN),
        "priorityClassName": NAMES,
        "unheardOf": PLAIN,
    },
)


def holds(users: Any, merged: Any, field: str = "") -> None:
    """All that the user said is there, in the place that it was said of."""
    if isinstance(users, dict):
        for name, value in users.items():
            holds(value, merged[name], name)
    elif isinstance(users, list) and field in {"containers", "env", "volumes", "volumeMounts", "ports"}:
        for item in users:
            key = next(key for key in ("mountPath", "containerPort", "name") if key in item)
            [found] = [each for each in merged if each.get(key) == item[key]]
            holds(item, found)
            if field in {"env", "volumes"}:
                assert found == item  # a mix of two sources is none
    elif isinstance(users, list) and field == "tolerations":
        assert all(item in merged for item in users)
    else:
        assert merged == users


@given(PODS, PODS)
def test_the_user_always_wins(ours, users):
    holds(users, merge(ours, users))


@given(PODS, PODS)
def test_once_is_as_good_as_twice(ours, users):
    once = merge(ours, users)
    assert merge(once, users) == once


@given(PODS, PODS)
def test_neither_is_changed_nor_shared(ours, users):
    before = copy.deepcopy((ours, users))
    merged = merge(ours, users)
    spoil(merged)
    assert (ours, users) == before


def spoil(value):
    if isinstance(value, dict):
        for each in value.values():
            spoil(each)
        value["spoilt"] = True
    elif isinstance(value, list):
        for each in value:
            spoil(each)
        value.append("spoilt")


@given(PODS, PODS)
def test_what_the_user_does_not_speak_of_stays(ours, users):
    merged = merge(ours, users)
    for name in set(ours) - set(users):
        assert merged[name] == ours[name]
    assert set(merged) == set(ours) | set(users)


@given(PODS)
def test_nothing_said_is_nothing_changed(ours):
    assert merge(ours, {}) == ours
    assert merge({}, ours) == ours


@given(PODS, st.sets(st.sampled_from(["containers", "volumes", "affinity", "unheardOf"])))
def test_none_takes_away(ours, gone):
    assert merge(ours, dict.fromkeys(gone)) == {name: value for name, value in ours.items() if name not in gone}


def test_a_container_without_a_name_is_the_first():
    ours = {"containers": [{"name": "worker", "image": "a"}, {"name": "side", "image": "b"}]}
    merged = merge(ours, {"containers": [{"image": "mine"}]})
    assert merged["containers"] == [{"name": "worker", "image": "mine"}, {"name": "side", "image": "b"}]


def test_an_item_is_taken_away_by_its_key():
    ours = {"containers": [{"name": "worker", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]}
    merged = merge(ours, {"containers": [{"env": [{"name": "A", "$patch": "delete"}]}]})
    assert merged["containers"][0]["env"] == [{"name": "B", "value": "2"}]
