"""A cluster that was started elsewhere, and a project whose code has to arrive there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import headrace
from headrace.environments.dask import DaskEnvironment
from headrace.store import Storage
from tests.waiting import until

ROOT = str(Path(headrace.__file__).parents[1])

PACKAGE = {
    "__init__.py": "from .grain import Grain\n",
    "grain.py": """
        import dataclasses
        import functools

        @dataclasses.dataclass
        class Grain:
            kind: str
            weight: int

        class TooCoarse(Exception):
            def __init__(self, weight, most):
                super().__init__(f"{weight} is more than {most}")
                self.weight = weight

        class Stone(Exception):
            pass

        CALLS = []

        @functools.lru_cache(maxsize=None)
        def once(key):
            CALLS.append(key)
            return len(CALLS)
    """,
    "table.txt": "rye 3\nwheat 5\n",
    "reading.py": """
        from importlib import resources
        from pathlib import Path

        def table():
            text = resources.files(__package__).joinpath("table.txt").read_text()
            assert Path(__file__).with_name("table.txt").read_text() == text
            return dict(line.split() for line in text.splitlines())
    """,
}

FLOWS = """
    import functools
    import os
    import time
    from dataclasses import dataclass

    import headrace as hr
    from helpers import VERSION, shift
    from mill import Grain
    from mill import grain as grains
    from mill.grain import Stone, TooCoarse

    @dataclass
    class Own:
        value: int

    @hr.task
    def version():
        return VERSION

    @hr.task
    def slow_version(seconds, mark=None):
        import helpers
        if mark:
            open(mark, "w").close()
        time.sleep(seconds)
        import helpers as later
        assert later is helpers
        return helpers.VERSION

    @hr.task
    def make(kind, weight):
        return Grain(kind, weight)

    @hr.task
    def take(grain):
        assert type(grain) is Grain, type(grain)
        assert isinstance(grain, Grain)
        return grain.weight

    @hr.task
    def own(value):
        return Own(value)

    @hr.task
    def is_own(value):
        return type(value) is Own

    @hr.task
    def lazy():
        from mill import reading
        return reading.table()

    @hr.task
    def cached(key):
        time.sleep(0.01)
        return os.getpid(), grains.once(key), len(grains.CALLS)

    @hr.task
    def coarse(weight):
        raise TooCoarse(weight, 3)

    @hr.task
    def stone(weight):
        raise Stone(weight)

    @hr.task(trigger="all_finished")
    def rescued(value):
        return type(value) is Stone and value.args

    @hr.task(isolated=True)
    def apart(grain):
        assert type(grain) is Grain
        return Grain(grain.kind, shift(grain.weight))

    @hr.task(dynamic=True)
    def grown(n):
        return take(make("grown", n))

    @hr.task(target=hr.Target(lambda folder: folder + "/grain"))
    def kept(folder):
        return Grain("kept", 9)

    @hr.task(resources={"left": 1})
    def left(weight):
        return [Grain("left", weight)]

    @hr.task(resources={"right": 1})
    def right(grains):
        assert type(grains[0]) is Grain
        return grains[0].weight + 1

    @hr.task(resources={"late": 1})
    def late_version():
        return VERSION

    @hr.task(resources={"right": 1})
    def die(folder):
        mark = folder + "/died"
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), 9)
        return take.function(Grain("late", 4))

    @hr.task
    async def awaited(grain):
        import asyncio
        await asyncio.sleep(0)
        return take.function(grain)

    @hr.flow
    def versions(): return version()

    @hr.flow
    def slow(seconds: float, mark: str = ""): return slow_version(seconds, mark)

    @hr.flow
    def wide(n: int, seconds: float = 0.0):
        return slow_version.map([seconds] * n)

    @hr.flow
    def dataclasses(n: int = 20):
        return take.map(make.map(["rye"] * n, range(n)))

    @hr.flow
    def own_class(): return is_own(own(3))

    @hr.flow
    def returns(): return make("rye", 7)

    @hr.flow
    def looked_at(): return take(make("rye", 7))

    @hr.flow
    def lazy_imports(): return lazy()

    @hr.flow
    def caches(n: int = 40): return cached.map([1] * n)

    @hr.flow
    def fails(): return coarse(5)

    @hr.flow
    def rescues(): return rescued(stone(5))

    @hr.flow
    def isolates(): return take(apart(make("rye", 7)))

    @hr.flow
    def grows(): return grown(6)

    @hr.flow
    def targets(folder: str): return take(kept(folder))

    @hr.flow
    def travels(): return right(left(4))

    @hr.flow
    def dies(folder: str): return die(folder)

    @hr.flow
    def only_late(): return late_version()

    @hr.flow
    def awaits(): return awaited(make("rye", 7))

    @hr.flow
    def constants(): return take(Grain("constant", 8))

    @hr.flow
    def long_lists(n: int = 30_000): return take.map([Grain("some kind of grain " * 3, i) for i in range(n)])

    @hr.flow
    def large_constants(): return measured([Grain("large" * 20, i) for i in range(30_000)], 1)

    @hr.task
    def measured(grains, one):
        assert {type(grain) for grain in grains} == {Grain}
        return len(grains) + one

    ALL = [value for value in list(globals().values()) if isinstance(value, hr.Flow)]
"""
HELPERS = "VERSION = {version}\ndef shift(x): return x + VERSION\n"
STORE = """
import sys, headrace as hr, flow
storage = hr.Storage(sys.argv[1])
for each in flow.ALL:
    storage.add_flow(each, replace=True)
storage.build()
"""


def write_project(folder: Path, version: int) -> None:
    """Write a project: a script with flows, a module beside it, and a package."""
    for name, text in PACKAGE.items():
        place = folder / "mill" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(textwrap.dedent(text))
    (folder / "flow.py").write_text(textwrap.dedent(FLOWS))
    set_version(folder, version)


def set_version(folder: Path, version: int) -> None:
    """Edit the module beside the script."""
    (folder / "helpers.py").write_text(HELPERS.format(version=version))


def author(folder: Path, code: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program in the project's folder, as its author does."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        check=check,
        timeout=100,
    )


def stored(folder: Path, version: int, url: Path) -> Storage:
    """Store a project's flows, and return the storage, as somebody sees it who has not the project."""
    folder.mkdir(exist_ok=True)
    write_project(folder, version)
    author(folder, STORE, str(url))
    return Storage(url)


class Cluster:
    """A scheduler, and workers, in a folder of their own.

    Parameters
    ----------
    folder : Path
        Where they are started.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        self.address = ""
        self.count = 0

    def start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        self.count += 1
        log = open(self.folder / f"log-{self.count}", "w+")  # noqa: SIM115 - the process writes to it
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": ROOT, "HEADRACE_CACHE": str(self.folder / "cache")},
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def log(self, number: int) -> str:
        return (self.folder / f"log-{number}").read_text()

    def start_scheduler(self) -> None:
        self.start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        until(lambda: re.search(r"Scheduler at:\s+(tcp://\S+)", self.log(1)))
        found = re.search(r"Scheduler at:\s+(tcp://\S+)", self.log(1))
        assert found is not None
        self.address = found[1]

    def start_worker(self, *arguments: str) -> subprocess.Popen[str]:
        return self.start(
            "dask_worker", self.address, "--host", "127.0.0.1", "--nthreads", "2", "--dashboard-address",
            "127.0.0.1:0", *arguments,
        )  # fmt: skip

    def environment(self) -> DaskEnvironment:
        return DaskEnvironment(self.address)

    def close(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def cluster(folder: Path, *workers: tuple[str, ...]) -> Iterator[Cluster]:
    """Start a cluster, and take it down at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Cluster(folder)
    try:
        made.start_scheduler()
        for arguments in workers:
            made.start_worker(*arguments)
        with made.environment() as environment:
            environment.setup(None)
            until(lambda: len(environment.client.nthreads()) == len(workers))
        yield made
    finally:
        made.close()


def carried(source: str) -> Any:
    """Return a function that is pickled by value: workers have not the tests."""
    return eval(source, {"__name__": "__main__"})


#: which code a worker holds, and which the scheduler gives to each worker
HELD = carried("lambda: sorted(__import__('headrace.execution.arrival').execution.arrival.CODES._spaces)")
BROUGHT = carried(
    "lambda dask_scheduler: sorted(n for n in dask_scheduler.worker_plugins if n.startswith('headrace-code-'))"
)
