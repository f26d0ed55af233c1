"""A secret is a name: it travels, and each use of it as a text says what to do instead."""

from __future__ import annotations

import copy
import operator
import pickle

import cloudpickle
import pytest

import headrace as hr
from headrace.core.secret import Secret, with_secrets
from headrace.errors import FlowError, NodeUsedAsValue

SECRET = Secret("PASSWORD")


@hr.task
def use(x, y=0):
    return x


@pytest.mark.parametrize(
    "use",
    [
        str, len, bool, int, float, list, abs,
        lambda secret: f"{secret}",
        lambda secret: f"{secret:>5}",
        lambda secret: "{}".format(*[secret]),
        lambda secret: secret + "x",
        lambda secret: "x" + secret,
        lambda secret: secret == "x",
        lambda secret: secret != "x",
        lambda secret: secret < "x",
        lambda secret: secret[0],
        lambda secret: "x" in secret,
        lambda secret: secret.upper(),
        lambda secret: secret(),
        lambda secret: operator.mul(secret, 2),
    ],
)  # fmt: skip
def test_a_secret_is_no_text(use):
    with pytest.raises(NodeUsedAsValue, match=r"the secret 'PASSWORD' as a value.*argument.*Secret\('PASSWORD'\).get"):
        use(SECRET)


def test_a_secret_shows_its_name():
    assert repr(SECRET) == "Secret('PASSWORD')"
    assert repr([SECRET]) == "[Secret('PASSWORD')]"


def test_secrets_of_one_name_are_equal():
    assert Secret("PASSWORD") == SECRET != Secret("OTHER")
    assert len({SECRET, Secret("PASSWORD")}) == 1


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, *(
    lambda secret, dumps=dumps: pickle.loads(dumps(secret)) for dumps in (pickle.dumps, cloudpickle.dumps)
)])  # fmt: skip
def test_a_secret_can_be_copied_and_travels_as_its_name(again):
    assert again(SECRET) == SECRET


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\0", None, 5, b"x"])
def test_a_secret_needs_a_name(name):
    with pytest.raises(FlowError, match="a secret needs a name"):
        Secret(name)


def test_no_secret_is_looked_up_while_a_flow_is_drawn(monkeypatch):
    monkeypatch.setenv("PASSWORD", "hush-hush")

    @hr.flow
    def drawing():
        return use(SECRET.get())

    with pytest.raises(NodeUsedAsValue, match=r"`.get\(\)` uses the secret 'PASSWORD'"):
        drawing.graph()
    assert hr.Secret("PASSWORD").get() == "hush-hush"


def test_a_secret_cannot_be_mapped_over():
    @hr.flow
    def mapping():
        return use.map(SECRET)

    with pytest.raises(FlowError, match=r"cannot map over Secret\('PASSWORD'\).*hr.unmapped"):
        mapping.graph()


@pytest.mark.parametrize("result", [SECRET, [SECRET], {"a": (SECRET,)}])
def test_a_flow_does_not_return_a_secret(result):
    @hr.flow
    def returning():
        use(1)
        return result

    with pytest.raises(FlowError, match=r"the flow returns hr.Secret\('PASSWORD'\)"):
        returning.graph()


def test_a_flow_built_by_hand_does_not_return_a_secret_either():
    with hr.Flow("built") as built:
        use(1)
        built.returns(hr.Parameter("x"))
    with pytest.raises(FlowError, match=r"the flow returns hr.Secret\('PASSWORD'\)"):
        built.run(x=SECRET)


def test_a_secret_is_no_key():
    @hr.flow
    def keyed():
        return use({SECRET: 1})

    with pytest.raises(FlowError, match="cannot be a key"):
        keyed.graph()


def test_the_digest_depends_on_the_name():
    def graph_of(secret):
        @hr.flow(name="digest")
        def digest():
            return use(secret)

        return digest.graph().digest()

    assert graph_of(SECRET) == graph_of(Secret("PASSWORD")) != graph_of(Secret("OTHER"))


def test_the_json_form_is_read_at_any_depth():
    data = {"a": {"$secret": "PASSWORD"}, "b": [1, {"c": {"$secret": "PASSWORD"}}], "d": {"$secret": "x", "e": 1}}
    assert with_secrets(data) == {"a": SECRET, "b": [1, {"c": SECRET}], "d": {"$secret": "x", "e": 1}}
