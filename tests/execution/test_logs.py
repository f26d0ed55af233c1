import logging
import os
import sys
import threading

import pytest

import headrace as hr
from headrace.execution import logs
from headrace.execution.aside import Aside
from headrace.execution.context import Context, Parameters, pinned
from headrace.execution.logs import LOGS, Logged, Outlet, leaving, row_of
from headrace.execution.prints import logged_prints
from headrace.execution.reading import MOST_WAITING, Reading

HERE = Context("run-1", "flow", "task", 3, 1, Parameters({}), "task[3]", "tcp://here")
log = logging.getLogger("tests.logs")


@pytest.fixture
def opened():
    """A run of another driver, in this process; yields what is sent to it."""
    sent = []
    levels = {"": logging.ERROR, "tests.logs": logging.INFO}
    LOGS.open("run-1", logs.LogSettings("elsewhere", 0, levels), Outlet(sent.append, "w", 1000))
    yield sent
    LOGS.close_run("run-1")


def heard(caplog):
    """What is ours: in this process, clusters of other tests may be at work."""
    return [found for found in caplog.records if found.name.startswith(("tests.", "headrace."))]


def record(message="text", *args, **kwargs):
    return log.makeRecord(log.name, logging.INFO, "path.py", 1, message, args, kwargs.pop("exc_info", None), **kwargs)


def test_an_outlet_keeps_the_latest_lines_and_counts_the_others():
    sent = []
    outlet = Outlet(sent.append, "w", 3)
    for number in range(5):
        outlet.add(row_of(record(f"line {number}")))
    outlet.flush()
    outlet.flush()
    assert [[row["msg"] for row in logged.rows] for logged in sent] == [["line 2", "line 3", "line 4"]]
    assert sent[0].dropped == 2
    outlet.add(row_of(record("more")))
    outlet.flush()
    assert sent[1].dropped == 0


def test_what_is_sent_at_the_same_time_is_sent_in_order():
    sent, gate, entered = [], threading.Event(), threading.Event()

    def send(logged):
        entered.set()
        assert gate.wait(30)
        sent.append(logged.rows[0]["msg"])

    outlet = Outlet(send, "w", 10)
    threads = []
    for number in range(2):
        outlet.add(row_of(record(f"line {number}")))
        threads.append(threading.Thread(target=outlet.flush))
        threads[-1].start()
        assert entered.wait(30)
    gate.set()
    for thread in threads:
        thread.join()
    assert sent == ["line 0", "line 1"]


def test_an_outlet_keeps_no_more_than_so_many_characters():
    sent = []
    outlet = Outlet(sent.append, "w", 1000)
    for _ in range(100):
        outlet.add(row_of(record("x" * 50_000)))
    outlet.flush()
    assert sum(len(row["msg"]) for row in sent[0].rows) <= logs.MOST_CHARACTERS
    assert sent[0].dropped == 100 - len(sent[0].rows)


def test_one_text_has_an_end():
    assert leaving("short") == "short"
    assert leaving("x" * (logs.LONGEST + 7)).endswith("… (7 more characters)")


def test_a_row_is_plain():
    try:
        raise ValueError("inner")
    except ValueError:
        row = row_of(record("%s of %s", object, {1}, exc_info=sys.exc_info(), extra={"lock": threading.Lock()}))
    assert row["msg"] == "<class 'object'> of {1}"
    assert row["args"] is row["exc_info"] is None
    assert 'ValueError("inner")' in row["exc_text"]
    assert row["lock"].startswith("<unlocked")
    assert all(type(value) in (str, int, float, bool, type(None)) for value in row.values())


def test_a_record_that_cannot_be_formatted_says_so():
    assert row_of(record("%d", "word"))["msg"].startswith("%d with arguments ('word',) (TypeError")


def test_what_a_task_logs_is_sent_and_what_others_log_is_not(opened):
    with pinned(HERE):
        log.info("mine")
        logging.getLogger("tests.other").info("too low")
    log.info("not of a task")
    LOGS.flush()
    (logged,) = opened
    (row,) = logged.rows
    assert (row["msg"], row["task"], row["child"], row["worker"]) == ("mine", "task", 3, "tcp://here")


def test_levels_are_those_of_the_driver_and_then_what_they_were(opened):
    before = logging.getLogger("tests.logs").level, logging.getLogger().level
    assert before == (logging.INFO, logging.ERROR)
    LOGS.open("run-2", logs.LogSettings("third", 0, {"": logging.DEBUG}), Outlet(print, "w", 1000))
    assert logging.getLogger().level == logging.DEBUG
    LOGS.close_run("run-2")
    assert logging.getLogger().level == logging.ERROR


def test_levels_are_put_back():
    before = logging.getLogger().level, logging.getLogger("tests.logs").level
    LOGS.open("run-1", logs.LogSettings("elsewhere", 0, {"": 1, "tests.logs": 2}), Outlet(print, "w", 1000))
    LOGS.close_run("run-1")
    assert (logging.getLogger().level, logging.getLogger("tests.logs").level) == before
    assert LOGS not in logging.getLogger().handlers


def test_handlers_are_heard_again_when_the_run_is_over(caplog):
    LOGS.open("run-1", logs.LogSettings("elsewhere", os.getppid()), Outlet(print, "w", 1000))
    LOGS.mute(logs.LogSettings("elsewhere", os.getppid()))
    LOGS.close_run("run-1")
    with pinned(HERE):
        log.error("heard")
    assert [found.getMessage() for found in heard(caplog)] == ["heard"]


def test_a_run_that_two_workers_of_a_process_open_is_closed_by_the_second():
    for _ in range(2):
        LOGS.open("run-1", logs.LogSettings("elsewhere", 0, {}), Outlet(print, "w", 1000))
    LOGS.close_run("run-1")
    assert LOGS in logging.getLogger().handlers
    LOGS.close_run("run-1")
    assert LOGS not in logging.getLogger().handlers


def test_a_child_process_leaves_to_its_driver_what_is_sent_there(opened, caplog):
    LOGS.mute(logs.LogSettings("elsewhere", os.getppid()))
    with pinned(HERE):
        log.error("sent")
    log.error("stays")
    LOGS.flush()
    assert [row["msg"] for row in opened[0].rows] == ["sent"]
    assert [found.getMessage() for found in heard(caplog)] == ["stays"]


def test_a_process_elsewhere_shows_to_its_own_handlers_too(opened, caplog):
    LOGS.mute(logs.LogSettings("elsewhere", os.getpid()))
    with pinned(HERE):
        log.error("sent")
    LOGS.flush()
    assert [row["msg"] for row in opened[0].rows] == ["sent"]
    assert [found.getMessage() for found in heard(caplog)] == ["sent"]


def test_in_the_drivers_own_process_records_are_marked_only(caplog):
    LOGS.open("run-1", logs.settings(1), Outlet(pytest.fail, "w", 1000))
    try:
        with pinned(HERE):
            log.warning("mine %s", 1, extra={"task": "my own"})
    finally:
        LOGS.close_run("run-1")
    (found,) = heard(caplog)
    assert (found.task, found.child, found.run_id) == ("my own", 3, "run-1")
    assert found.__dict__["child"] == 3
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = found.nothing


def test_somebodys_own_class_of_records_is_marked_too(caplog):
    class Own(logging.LogRecord):
        pass

    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(Own)
    try:
        LOGS.open("run-1")
        with pinned(HERE):
            log.warning("mine")
        LOGS.close_run("run-1")
        assert logging.getLogRecordFactory() is Own
    finally:
        logging.setLogRecordFactory(before)
    assert type(heard(caplog)[0]) is Own
    assert heard(caplog)[0].child == 3


def test_prints_are_cut_into_lines_that_are_not_too_long(caplog):
    LOGS.open("run-1")
    with pinned(HERE), logged_prints():
        print("x" * (3 << 15))
        print("end", end="")
    LOGS.close_run("run-1")
    assert [len(found.getMessage()) for found in heard(caplog)] == [1 << 16, 1 << 15, 3]


def test_standard_output_is_as_it_was_and_looked_like_itself(capsys):
    before = sys.stdout
    with logged_prints():
        assert sys.stdout is not before
        assert sys.stdout.encoding == before.encoding
        assert sys.stdout.isatty() is before.isatty()
        with logged_prints():
            pass
        sys.stdout.flush()
    assert sys.stdout is before


def test_who_replaces_standard_output_meanwhile_is_left_alone():
    before, own = sys.stdout, object()
    try:
        with logged_prints():
            sys.stdout = own
        assert sys.stdout is own
    finally:
        sys.stdout = before


def test_a_driver_whose_handlers_are_slow_drops_and_counts(caplog):
    gate, entered = threading.Event(), threading.Event()

    class Slow(logging.Handler):
        def emit(self, record):
            entered.set()
            assert gate.wait(30)

    slow = Slow()
    logger = logging.getLogger("tests.slow")
    logger.addHandler(slow)
    try:
        reading = Reading("run-1", [])
        row = {**row_of(record()), "name": "tests.slow", "levelno": logging.ERROR}
        reading.sift([Logged([row], 0, "w")])
        assert entered.wait(30)
        others = [object()]
        assert reading.sift([*(Logged([row], 0, "w") for _ in range(MOST_WAITING + 5)), *others]) == others
        gate.set()
        reading.close()
    finally:
        logger.removeHandler(slow)
    told = [found for found in heard(caplog) if found.name == "headrace.logs"]
    assert [found.args[0] for found in told] == ["5"]
    assert sum(found.name == "tests.slow" for found in heard(caplog)) == MOST_WAITING + 1


def test_calls_aside_are_in_order_and_waited_for():
    aside, seen = Aside("test"), []
    for number in range(100):
        aside.put(seen.append, number)
    aside.close()
    aside.close()
    assert seen == list(range(100))
    aside.put(seen.append, "again")
    aside.close()
    assert seen[-1] == "again"


def test_no_context_outside_of_tasks():
    assert hr.context(None) is None
    with pytest.raises(hr.errors.NotInTask, match=r"copy_context\(\)\.run.*Give a default"):
        hr.context()


def test_withheld_parameters_say_why():
    given = Parameters({"small": 1}, ("large",))
    assert dict(given) == {"small": 1}
    with pytest.raises(KeyError, match="did not travel"):
        _ = given["large"]
