"""Whether the processes of a cluster fit this one, by what they told. Pure.

What stops a run is an error: another minor version of Python, another headrace, a cloudpickle whose pickles are not
understood. What often goes well is a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from packaging.version import InvalidVersion, Version

from headrace.environments.checks.facts import CORE, spelled
from headrace.environments.checks.sites import Told, who
from headrace.storage.findings import ERROR, NOTE, WARNING, Finding

#: Seconds by which a clock may be off. What is signed for a store is refused when it is some minutes old.
SKEW = 5.0
#: Bytes that a worker should have free where it spills to: what a few values of a task may well take.
ROOM = 1 << 30


def about_cluster(mine: Mapping[str, Any], told: Told) -> list[Finding]:
    """Return what is worth telling about a cluster, whatever runs on it.

    Parameters
    ----------
    mine : mapping
        The facts of this process.
    told : Told
        Those of the others.
    """
    found = [*_silent(told), *_differing("python", "Python", mine, told)]
    for name in CORE:
        found += _broken(name, mine, told)
        found += _differing(name, name, mine, told)
    return [*found, *_clocks(told), *_disks(told)]


def about_packages(imports: Mapping[str, str | None], told: Told) -> list[Finding]:
    """Return what is worth telling about the packages that a flow imports.

    Parameters
    ----------
    imports : mapping of str to str or None
        Versions by name, where the flow was stored.
    told : Told
        What the workers have.
    """
    found = []
    workers = told.workers
    for name, version in imports.items():
        there = {address: facts["packages"].get(spelled(name)) for address, facts in workers.items()}
        wanted = f"{name}=={version}" if version else name
        if lacking := [address for address, has in there.items() if has is None]:
            found.append(
                Finding(
                    WARNING,
                    f"package {name}",
                    f"the flow imports it, and it is missing on {who(lacking, workers)}",
                    f"install {wanted} where the workers run",
                )
            )
        for other in sorted({has for has in there.values() if has and version and not _same(has, version)}):
            where = [address for address, has in there.items() if has == other]
            found.append(
                Finding(
                    WARNING,
                    f"package {name}",
                    f"the flow was stored with {version}, and {who(where, workers)} has {other}",
                    f"install {wanted} where the workers run, or store the flow again with {other}",
                )
            )
    return found


def _same(one: str, other: str) -> bool:
    """Whether two versions are the same: folders are named by another spelling than manifests."""
    if one == other:
        return True
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return False


def _silent(told: Told) -> Iterator[Finding]:
    for address, why in told.silent.items():
        yield Finding(WARNING, address, f"does not tell of itself ({why})", "look at its log, or start it again")


def _broken(name: str, mine: Mapping[str, Any], told: Told) -> Iterator[Finding]:
    """Those on which one of the packages cannot be imported that everything needs."""
    errors = {address: facts["errors"][name] for address, facts in told.facts.items() if name in facts["errors"]}
    for error in sorted(set(errors.values())):
        where = [address for address, other in errors.items() if other == error]
        yield Finding(
            ERROR,
            name,
            f"cannot be imported on {who(where, told.facts)} ({error})",
            f"install {name} {mine['loaded'].get(name, '')} there".replace("  ", " "),
        )


def _differing(name: str, shown: str, mine: Mapping[str, Any], told: Told) -> Iterator[Finding]:
    """Those that have another version than this process."""
    here = _version(mine, name)
    there = {address: version for address, facts in told.facts.items() if (version := _version(facts, name))}
    for version in sorted(set(there.values()) - {here}):
        level = _SEVERITY[name](here or "", version)
        if level is None:
            continue
        where = [address for address, other in there.items() if other == version]
        yield Finding(
            level,
            shown,
            f"{who(where, told.facts)} has {version}, this process has {here}",
            f"install {shown} {_minor(here or '') if name == 'python' else here} there, or {version} here",
        )


def _version(facts: Mapping[str, Any], name: str) -> str | None:
    found: str | None = facts["python"] if name == "python" else facts["loaded"].get(name)
    return found


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


#: What another version means, of this process's and of the other's; None: nothing.
_SEVERITY: dict[str, Callable[[str, str], str | None]] = {
    # Pickled code holds bytecode.
    "python": lambda here, there: ERROR if _minor(here) != _minor(there) else None,
    "headrace": lambda here, there: ERROR,
    # Dask itself goes on, and mostly it works; when it does not, nothing says why.
    "dask": lambda here, there: WARNING,
    "distributed": lambda here, there: WARNING,
    # Pickles of one major version are not read by an earlier one, and they go both ways.
    "cloudpickle": lambda here, there: NOTE if here.partition(".")[0] == there.partition(".")[0] else ERROR,
}


def _clocks(told: Told) -> Iterator[Finding]:
    # A clock was read at some time between question and answer, so that a slow network is no wrong clock.
    ahead = {address: facts["time"] - told.answered for address, facts in told.facts.items()}
    behind = {address: told.asked - facts["time"] for address, facts in told.facts.items()}
    for way, seconds in (("ahead of", ahead), ("behind", behind)):
        off = {address: by for address, by in seconds.items() if by > SKEW}
        if off:
            yield Finding(
                WARNING,
                "clock",
                f"{who(list(off), told.facts)} is {max(off.values()):.0f} s {way} this process; by a wrong time, "
                "stores refuse requests, and certificates are not valid",
                "have the clocks set by NTP, here and there",
            )


def _disks(told: Told) -> Iterator[Finding]:
    free = {address: facts["free"] for address, facts in told.workers.items() if facts["free"] is not None}
    low = [address for address in free if free[address] < ROOM]
    if low:
        least = min(low, key=free.__getitem__)
        yield Finding(
            WARNING,
            "disk",
            f"{who(low, told.facts)} has {free[least] / (1 << 20):.0f} MiB free in {told.facts[least]['folder']}, "
            "where it spills to",
            "make room there, or give it another folder: dask worker --local-directory",
        )
