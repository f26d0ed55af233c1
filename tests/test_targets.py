"""Targets: where they lie, what comes back, and what is refused."""

import json

import pytest

from headrace.errors import DamagedObject, FlowError, ForeignObject, NotPicklable, UntrustedObject
from headrace.storage.signing import VARIABLE
from headrace.store import Storage
from headrace.targets import Target


def test_names_are_filled_in():
    assert Target("a/{day}/{n:03d}.json").url_for({"day": "today", "n": 7}) == "a/today/007.json"
    assert Target("{box[left]}").url_for({"box": {"left": "x"}}) == "x"


def test_a_function_gets_the_names_that_it_asks_for():
    names = {"day": "today", "n": 7}
    assert Target(lambda day: f"a/{day}").url_for(names) == "a/today"
    assert Target(lambda **every: ",".join(every)).url_for(names) == "day,n"


def test_a_name_that_there_is_not():
    with pytest.raises(FlowError, match=r"Target\('a/\{hour\}'\) cannot be filled in .*hour.*known here are day"):
        Target("a/{hour}").url_for({"day": 1})


def test_a_function_that_returns_no_url():
    with pytest.raises(FlowError, match="must return a URL, and returned None"):
        Target(lambda: None).url_for({})


@pytest.mark.parametrize("value", [None, 0, "text", [1, {"a": [None]}]])
@pytest.mark.parametrize("name", ["x.json", "x"])
def test_values_come_back(tmp_path, value, name):
    target, url = Target("any"), str(tmp_path / "new" / name)
    assert target.read(url) is None
    assert target.write(url, value) == value
    assert target.read(url) == (value,)


def test_json_is_plain_json(tmp_path):
    Target("any").write(str(tmp_path / "x.json"), {"a": 1})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


def test_the_first_writer_wins(tmp_path):
    url = str(tmp_path / "x")
    Target("any").write(url, 1)
    assert Target("any").write(url, 2) == 1


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {1}, float("nan"), object()])
def test_what_json_would_change_is_refused(tmp_path, value):
    with pytest.raises(FlowError, match=r"x.json.*format='pickle'"):
        Target("any").write(str(tmp_path / "x.json"), value)
    assert not (tmp_path / "x.json").exists()


def test_a_pickle_on_demand(tmp_path):
    target = Target("any", format="pickle")
    target.write(str(tmp_path / "x.json"), (1, 2))
    assert target.read(str(tmp_path / "x.json")) == ((1, 2),)


def test_what_cannot_be_pickled(tmp_path):
    with pytest.raises(NotPicklable, match="the value for"):
        Target("any").write(str(tmp_path / "x"), (each for each in ()))
    assert not (tmp_path / "x").exists()


def test_damage_is_told_before_anything_is_unpickled(tmp_path):
    url = tmp_path / "x"
    Target("any").write(str(url), list(range(100)))
    data = bytearray(url.read_bytes())
    data[-3] ^= 1
    url.write_bytes(data)
    with pytest.raises(DamagedObject):
        Target("any").read(str(url))


def test_what_others_wrote(tmp_path):
    (tmp_path / "x").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ForeignObject):
        Target("any").read(str(tmp_path / "x"))
    (tmp_path / "x.json").write_bytes(b"{")
    with pytest.raises(FlowError, match="is no JSON"):
        Target("any").read(str(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"url": ""}, "needs a URL"),
        ({"url": 5}, "needs a URL"),
        ({"url": "x", "format": "parquet"}, "'pickle' or 'json', got 'parquet'"),
        ({"url": "x", "storage_options": {"secret": "s3cr3t"}}, "cannot hold secret, because tasks travel"),
    ],
)
def test_what_cannot_be_meant(given, told):
    with pytest.raises(FlowError, match=told) as caught:
        Target(**given)
    assert "s3cr3t" not in str(caught.value)


def test_with_a_key_pickles_are_signed_for_their_place(tmp_path, monkeypatch):
    target, url, other = Target("any"), str(tmp_path / "x"), str(tmp_path / "y")
    target.write(other, 1)
    monkeypatch.setenv(VARIABLE, "a key of 16 bytes or more")
    target.write(url, 2)
    assert target.read(url) == (2,)
    with pytest.raises(UntrustedObject, match="not signed"):
        target.read(other)
    (tmp_path / "y").write_bytes((tmp_path / "x").read_bytes())
    with pytest.raises(UntrustedObject, match="another place"):
        target.read(other)
    monkeypatch.setenv(VARIABLE, "another key of 16 bytes or more")
    with pytest.raises(UntrustedObject, match="another key"):
        target.read(url)


def test_of_a_value_that_is_not_trusted_the_error_says_what_helps(tmp_path, monkeypatch):
    """`headrace sign` does not: it knows storages, and no targets."""
    target, url = Target("any"), str(tmp_path / "x")
    target.write(url, 1)
    monkeypatch.setenv(VARIABLE, "a key of 16 bytes or more")
    with pytest.raises(UntrustedObject, match=r"not signed.*remove it") as caught:
        target.read(url)
    assert "headrace sign" not in str(caught.value)
    assert caught.value.reason == "unsigned"
    (tmp_path / "x").unlink()
    target.write(url, 2)
    monkeypatch.setenv(VARIABLE, "another key of 16 bytes or more")
    with pytest.raises(UntrustedObject, match=r"another key \(id .*keep it in the list.*remove the value") as caught:
        target.read(url)
    assert "headrace sign" not in str(caught.value)
    monkeypatch.setenv(VARIABLE, "another key of 16 bytes or more,a key of 16 bytes or more")
    assert target.read(url) == (2,)


def test_with_a_key_a_forged_value_is_no_value_that_was_there_before(tmp_path, monkeypatch):
    target, url = Target("any"), str(tmp_path / "x")
    target.write(url, 1)
    monkeypatch.setenv(VARIABLE, "a key of 16 bytes or more")
    with pytest.raises(UntrustedObject):
        target.write(url, 2)


def test_json_is_not_signed(tmp_path, monkeypatch):
    target, url = Target("any"), str(tmp_path / "x.json")
    target.write(url, 1)
    monkeypatch.setenv(VARIABLE, "a key of 16 bytes or more")
    assert target.read(url) == (1,)


def test_a_relative_target_is_relative_to_the_folder_of_the_moment(tmp_path, monkeypatch):
    target = Target("{x}.json")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert target.read("x.json") is None
        target.write("x.json", name)
        assert (tmp_path / name / "x.json").read_text() == f'"{name}"'


@pytest.mark.parametrize("key", ["flows/etl/a.json", "./runs/a.json", "flows//a.json"])
def test_what_the_storage_itself_keeps_is_not_written(tmp_path, key):
    with pytest.raises(FlowError, match="does not begin with flows, runs, cache"):
        Target(key, storage=Storage(tmp_path)).write(key, 1)


def test_two_spellings_of_a_key_are_one(tmp_path):
    target = Target("x", storage=Storage(tmp_path, signing_keys="file:" + str(_key_file(tmp_path))))
    target.write("values//x", 1)
    assert target.read("values/x") == (1,)


def _key_file(folder):
    path = folder / "key"
    path.write_text("a key of 16 bytes or more")
    return path
