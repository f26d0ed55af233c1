from __future__ import annotations

import pickle
import threading
import traceback

import pytest

from headrace.errors import TaskFailed
from headrace.execution.failure import capture, restore


class Plain(Exception):
    pass


class OtherArguments(Exception):
    def __init__(self, code, *, where):
        super().__init__(f"code {code} at {where}")
        self.code = code


class Prefixed(Exception):
    """Pickle makes it again without complaint, but with its text prefixed twice."""

    def __init__(self, text):
        super().__init__(f"prefix {text}")


class Locked(Exception):
    def __init__(self):
        super().__init__("locked")
        self.lock = threading.Lock()


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raised(error):
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - any kind is to be tried
        return caught


def travelled(error):
    """An exception after its journey from a worker to the driver."""
    failure, _ = capture(raised(error))
    return restore(pickle.loads(pickle.dumps(failure)))


@pytest.mark.parametrize(
    "error",
    [
        Plain("text"),
        Plain(),
        ValueError("a", 1),
        KeyError("k"),
        FileNotFoundError(2, "No such file", "/x"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        OtherArguments(7, where="home"),
        Prefixed("text"),
        SystemExit(3),
        TaskFailed("told", type_name="x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_type_text_and_attributes_arrive(error):
    arrived = travelled(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert arrived.args == error.args
    assert {k: v for k, v in vars(arrived).items() if k != "__notes__"} == vars(error)


def test_the_users_frames_arrive():
    frames = traceback.extract_tb(travelled(Plain("x")).__traceback__)
    assert [(frame.name, frame.line) for frame in frames] == [("raised", "raise error")]


@pytest.mark.parametrize(("error", "text"), [(Locked(), "Locked: locked"), (Mute(), "its text could not be made")])
def test_what_cannot_travel_arrives_as_its_text(error, text):
    arrived = travelled(error)
    assert type(arrived) is TaskFailed
    assert text in str(arrived)
    assert "raise error" in arrived.traceback
    assert arrived.type_name.endswith(type(error).__name__)


def test_in_the_process_that_raised_it_the_exception_is_itself():
    error = raised(Locked())
    failure, _ = capture(error)
    assert restore(failure) is error


@pytest.mark.parametrize(
    ("error", "kind"),
    [(Plain("x"), Plain), (OtherArguments(1, where="x"), TaskFailed), (Locked(), TaskFailed)],
)
def test_what_a_task_receives_in_place_of_a_value_can_be_pickled(error, kind):
    _, value = capture(raised(error))
    assert type(pickle.loads(pickle.dumps(value))) is kind


def test_names_of_types():
    assert capture(raised(KeyError("k")))[0].type_name == "KeyError"
    assert capture(raised(Plain("k")))[0].type_name.endswith("test_failure.Plain")
    assert str(capture(raised(ValueError("why")))[0]) == "ValueError: why"
    assert str(capture(raised(ValueError()))[0]) == "ValueError"
