"""Many processes that write into one storage at the same moment, while another one reads: a program for tests.

``python writers.py URL OPTIONS_AS_JSON COUNT`` imports once and forks, so that fifty processes are up in a second. Each
has its own storage object, connections and file system. The answer is one JSON object.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
import traceback

from headrace.storage.flows import StoredFlows
from tests.storage.test_flows import make_flow

#: seconds for anything; a machine with two cores takes a while until fifty processes are up.
PATIENCE = 200


def write(number, url, options, barrier, said):
    """Build a flow of its own, a version of one that all share, and the very content that all build; then label."""
    try:
        stored = StoredFlows(url, options, deadline=PATIENCE / 2)
        for flow in (
            make_flow(name=f"mine-{number}", factor=number),
            make_flow(name="shared", factor=number),
            make_flow(name="same", factor=7),
        ):
            stored.add_flow(flow)
        location = next(key for key, name in stored._waiting().items() if name == "shared")
        barrier.wait(PATIENCE)
        stored.build(check=False)
        version = next(each for each in stored.versions("shared") if each.location == location)
        stored.tag("shared", "prod", version.number)
        said.put([number, version.number])
    except BaseException:  # noqa: BLE001 - the test shall see it
        said.put([number, traceback.format_exc()])
        barrier.abort()  # else the others wait for this one


def read(url, options, barrier, over, said):
    """Look at all that is listed, again and again: what is listed loads, and numbers have no gaps."""
    looks, flows = 0, 0
    try:
        stored = StoredFlows(url, options, deadline=PATIENCE / 2)
        barrier.wait(PATIENCE)
        while True:
            last = over.is_set()
            for name, location in stored.flows.items():
                assert stored.load(location).name == name
                flows += 1
            numbers = [version.number for version in stored.versions("shared")]
            assert numbers == [*range(1, len(numbers) + 1)], numbers
            for label, number in stored.labels("shared").items():
                assert stored.resolve(f"shared@{label}")
                assert number in numbers or number <= len(stored.versions("shared"))
            looks += 1
            if last:
                break
        said.put(["reader", {"looks": looks, "flows": flows}])
    except BaseException:  # noqa: BLE001 - the test shall see it
        said.put(["reader", traceback.format_exc()])


def main(url, options, count):
    fork = multiprocessing.get_context("fork")
    barrier, over, said = fork.Barrier(count + 2), fork.Event(), fork.Queue()
    # Daemons, so that they end with this process, however it ends.
    writers = [
        fork.Process(target=write, args=(number, url, options, barrier, said), daemon=True) for number in range(count)
    ]
    reader = fork.Process(target=read, args=(url, options, barrier, over, said), daemon=True)
    for process in (*writers, reader):
        process.start()
    try:
        barrier.wait(PATIENCE)
    except threading.BrokenBarrierError:
        sys.exit(f"not all were ready at the same time; the first that told why: {said.get(timeout=PATIENCE)}")
    answers = [said.get(timeout=PATIENCE) for _ in writers]
    over.set()
    answers.append(said.get(timeout=PATIENCE))
    for process in (*writers, reader):
        process.join()
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
