"""What to do about things that cannot travel, by what they are. Types are known by their names: nothing is imported."""

from __future__ import annotations

from collections.abc import Sequence

_OTHERWISE = "create it inside the task that uses it, or pass what is needed to create it"
_LOCK = (
    "a lock holds within one process only: create it inside the task, or, to bound what runs at once, use "
    "@hr.flow(max_running=...) with tags, or a distributed.Lock by name"
)
_FILE = "an open file belongs to one process: pass its path, and open it inside the task"
_GENERATOR = "a generator cannot be copied: pass a list, or call what makes it inside the task"
_THREAD = "threads, pools and event loops belong to one process: create them inside the task that uses them"
_CONNECTION = (
    "a connection belongs to one process: pass its address, and connect inside the task, or make it an @hr.resource"
)
_DASK = "call hr.get_client() inside the task, which connects to the cluster that the task runs on"
_SPARK = "Spark's driver cannot leave its process: call SparkSession.builder.getOrCreate() inside the task"
_LOGGER = "call logging.getLogger(...) inside the task; handlers with open streams do not travel"
_FRAME = "frames and tracebacks belong to one process: pass their text, traceback.format_exception(error)"
_MODULE = "import the module inside the task; a module that was made by hand does not travel"

#: (beginning of the module's name, part of the type's name) → advice; the first that fits, of the outermost object.
#: An empty text fits anything.
_BY_TYPE = (
    ("distributed", "Client", _DASK),
    ("distributed", "Cluster", _DASK),
    ("pyspark", "", _SPARK),
    ("py4j", "", _SPARK),
    ("sqlalchemy", "", _CONNECTION),
    ("sqlite3", "", _CONNECTION),
    ("psycopg", "", _CONNECTION),
    ("asyncpg", "", _CONNECTION),
    ("pymongo", "", _CONNECTION),
    ("redis", "", _CONNECTION),
    ("kafka", "", _CONNECTION),
    ("duckdb", "", _CONNECTION),
    ("grpc", "", _CONNECTION),
    ("botocore", "", _CONNECTION),
    ("boto3", "", _CONNECTION),
    ("paramiko", "", _CONNECTION),
    ("google.cloud", "Client", _CONNECTION),
    ("httpx", "Client", _CONNECTION),
    ("aiohttp", "Session", _CONNECTION),
    ("requests", "Session", _CONNECTION),
    ("ssl", "", _CONNECTION),
    ("_ssl", "", _CONNECTION),
    ("socket", "", _CONNECTION),
    ("_socket", "", _CONNECTION),
    ("logging", "", _LOGGER),
    ("_io", "", _FILE),
    ("tempfile", "", _FILE),
    ("threading", "Thread", _THREAD),
    ("concurrent.futures", "", _THREAD),
    ("multiprocessing", "Pool", _THREAD),
    ("asyncio", "", _THREAD),
    ("uvloop", "", _THREAD),
    ("_thread", "local", _THREAD),
    ("_thread", "", _LOCK),
    ("threading", "", _LOCK),
    ("multiprocessing.synchronize", "", _LOCK),
    ("builtins", "generator", _GENERATOR),
    ("builtins", "coroutine", _GENERATOR),
    ("builtins", "frame", _FRAME),
    ("builtins", "traceback", _FRAME),
    ("builtins", "module", _MODULE),
)


def advice_for(passed: Sequence[object]) -> str:
    """Return what to do about an object that cannot be pickled.

    Parameters
    ----------
    passed : sequence of object
        The way to it, outermost first: what holds a lock is more telling than the lock.
    """
    for obj in passed:
        for base in type(obj).__mro__:
            for module, name, advice in _BY_TYPE:
                if _is_within(base.__module__, module) and name in base.__name__:
                    return advice
    return _OTHERWISE


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
