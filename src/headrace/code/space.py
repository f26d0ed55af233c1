"""Code spaces: while a bundle's space is active, its modules are those that this process imports.

A module can be in ``sys.modules`` once. So a space takes its names over when it becomes active, and what the process
had under them itself comes back when nobody uses the space any more. Modules keep their plain names, because the
pickles of users hold those. Module objects live as long as their space, so their state does, too.

A space consists of units, and two spaces share a unit if it, and all that it imports, is the same in both. They
conflict if one name means different units: such spaces are never active at the same time. Who comes first goes first.

A unit that this process can import itself, with the same content, is not loaded a second time but used as it is, so
that classes are the same here and there in the process of a flow's author.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import math
import os
import sys
import threading
import time
import types
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.machinery import ModuleSpec

from headrace.code.bundle import Bundle
from headrace.code.loaded import changes, holds
from headrace.code.places import FINDERS, find_elsewhere, is_importable, place_of
from headrace.code.units import Unit, unit_at
from headrace.code.unpacked import unpack
from headrace.errors import FlowError

#: Seconds that who comes later lets who waits go first. Not for ever: who waits may wait for who comes later.
POLITE = 10.0
#: Spaces beyond which idle ones are forgotten: in a notebook, each edit makes another one.
KEPT = 16
#: Seconds that a thread which is in one space waits for another one that conflicts with it.
NESTED = 30.0


class _Tenant:
    """A unit in this process: what answers to its root while it is in place.

    Attributes
    ----------
    unit : Unit
        Its sources.
    folder : _Folder
        Of the bundle that it came with.
    modules : dict
        Those that were loaded, while they are not in ``sys.modules``.
    users : Counter
        Thread → how many times it is inside. Threads, because one that waits for itself would wait for ever.
    adopted : bool
        Whether it is what the process has itself, and was when modules had changed ``checked`` times.
    yields : bool
        Whether the process has, or could have, something else under its name when nobody uses it.
    """

    def __init__(self, unit: Unit, folder: _Folder) -> None:
        self.unit = unit
        self.folder = folder
        self.modules: dict[str, types.ModuleType] = {}
        self.users: Counter[int] = Counter()
        self.adopted = False
        self.checked = 0
        self.yields = False

    @property
    def root(self) -> str:
        return self.unit.root

    def used_by_others(self, thread: int) -> bool:
        return any(count and user != thread for user, count in self.users.items())


class _Folder:
    """Where a bundle's files are; written when the first of them is imported."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._path: str | None = None

    @property
    def path(self) -> str:
        if self._path is None:
            files = {path: data for unit in self._bundle.units.values() for path, data in unit.files.items()}
            self._path = unpack(self._bundle.sha256, files)
        return self._path


class _Ticket:
    """A place in the queue."""

    def __init__(self, space: Space) -> None:
        self.space = space


class Space:
    """The modules of one bundle in this process; ``space_of`` returns it.

    Parameters
    ----------
    bundle : Bundle
        Its sources.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.sha256 = bundle.sha256
        self.modules = bundle.modules
        folder = _Folder(bundle)
        keys = _keys(bundle)
        self._tenants = [_tenant(keys[root], unit, folder) for root, unit in bundle.units.items()]

    def __repr__(self) -> str:
        return f"<Space {self.sha256[:8]}: {', '.join(self.modules)}>"

    @contextmanager
    def active(self, timeout: float | None = None) -> Iterator[None]:
        """Make its modules those that this process imports, and that pickles find.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait while a space that conflicts is in use. Default: until it is not; but in a thread that is
            itself in such a space, half a minute.

        Raises
        ------
        TimeoutError
            If the other space was in use all the time.
        FlowError
            If this thread is in a space that conflicts, and other threads are, too.
        """
        self.enter(timeout)
        try:
            yield
        finally:
            self.leave()

    def enter(self, timeout: float | None = None) -> None:
        """Begin to use it, as ``with space.active()`` does; ``leave`` in the same thread ends that."""
        thread = threading.get_ident()
        with _TURN:
            _wait(self, thread, timeout)
            displaced: list[_Tenant] = []
            _STAYS.setdefault(thread, []).append((self, displaced))
            for tenant in self._tenants:
                tenant.users[thread] += 1
            try:
                for tenant in self._tenants:
                    displaced += _settle(tenant)
            except BaseException:
                self.leave()
                raise

    def leave(self) -> None:
        """Stop to use it."""
        thread = threading.get_ident()
        with _TURN:
            stays = _STAYS[thread]
            position = max(index for index, (space, _) in enumerate(stays) if space is self)
            _, displaced = stays.pop(position)
            if not stays:
                del _STAYS[thread]
            for tenant in self._tenants:
                tenant.users[thread] -= 1
                if tenant.users[thread] <= 0:
                    del tenant.users[thread]
            for tenant in displaced:  # which this thread uses further outside
                _settle(tenant)
            for tenant in self._tenants:
                _retire(tenant)
            _TURN.notify_all()

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it, and no module was loaded for it that holds state."""
        return not any(
            tenant.users or tenant.modules or (_IN_PLACE.get(tenant.root) is tenant and not tenant.adopted)
            for tenant in self._tenants
        )

    def conflicts(self, other: Space) -> bool:
        """Whether the two cannot be active at the same time."""
        roots = {tenant.root: tenant for tenant in other._tenants}
        return any(roots.get(tenant.root, tenant) is not tenant for tenant in self._tenants)


_TURN = threading.Condition(threading.RLock())
_SPACES: dict[str, Space] = {}
_TENANTS: weakref.WeakValueDictionary[tuple[str, str], _Tenant] = weakref.WeakValueDictionary()
#: root → who answers to it now, in use or not.
_IN_PLACE: dict[str, _Tenant] = {}
#: thread → the spaces that it is in, in order, each with the tenants that it displaced, which the thread uses as well.
_STAYS: dict[int, list[tuple[Space, list[_Tenant]]]] = {}
#: root → modules that the process had itself.
_OWN: dict[str, dict[str, types.ModuleType]] = {}
#: who waits, in order of arrival.
_WAITING: list[_Ticket] = []


def space_of(bundle: Bundle) -> Space:
    """Return the space of a bundle: one for each content, as long as this process lives or ``forget`` is called.

    Parameters
    ----------
    bundle : Bundle
        Its sources.
    """
    with _TURN:
        space = _SPACES.get(bundle.sha256)
        if space is None:
            if len(_SPACES) >= KEPT:
                for each in [each for each in _SPACES.values() if each.is_idle]:
                    forget(each.sha256)
            space = _SPACES[bundle.sha256] = Space(bundle)
        return space


def active(bundle: Bundle | None) -> AbstractContextManager[None]:
    """Make the modules of a bundle those that this process imports; without a bundle, nothing changes.

    Parameters
    ----------
    bundle : Bundle or None
        Of a flow.
    """
    return nullcontext() if bundle is None else space_of(bundle).active()


def forget(sha256: str) -> None:
    """Let a space go, with its modules; it ends when nobody uses it any more.

    Parameters
    ----------
    sha256 : str
        Of its bundle.
    """
    with _TURN:
        space = _SPACES.pop(sha256, None)
        for tenant in space._tenants if space is not None else ():
            kept = any(tenant in other._tenants for other in _SPACES.values())
            if not kept and not tenant.users and _IN_PLACE.get(tenant.root) is tenant:
                _take_away(tenant)


def vacate(root: str) -> None:
    """Let the process load a module of its own under a name that a space left in place, if nobody uses that now.

    Parameters
    ----------
    root : str
        The name.
    """
    with _TURN:
        tenant = _IN_PLACE.get(root)
        if tenant is not None and not tenant.users:
            _take_away(tenant)


@contextmanager
def unchanging() -> Iterator[None]:
    """Let no other thread put modules in place meanwhile, unless this one waits in ``wait_for_own``."""
    with _TURN:
        yield


def wait_for_own(roots: Sequence[str], seconds: float = NESTED) -> bool:
    """Wait until no other thread is in a space that has taken names over from this process; return whether one was.

    Parameters
    ----------
    roots : sequence of str
        The names. To be called in ``unchanging``.
    seconds : float
        How long.

    Raises
    ------
    FlowError
        If one is all the time.
    """
    thread = threading.get_ident()

    def taken() -> list[str]:
        there = {root: _IN_PLACE[root].users for root in roots if _OWN.get(root)}
        return [root for root, users in there.items() if users and thread not in users]

    if not taken():
        return False
    if not _TURN.wait_for(lambda: not taken(), seconds):
        raise FlowError(
            f"another version of {', '.join(taken())} is at work in this process (waited {seconds:g} s); wait for the "
            "runs that were started here, or run them in an environment of their own"
        )
    return True


def _keys(bundle: Bundle) -> dict[str, str]:
    """Root → a digest of the unit and of all that it imports; only units whose digests agree can be shared."""
    units = bundle.units
    needs = {root: {own for name in unit.imports if (own := _root_of(name, units))} for root, unit in units.items()}
    found = {}
    for root in units:
        closure, waiting = {root}, [root]
        while waiting:
            more = needs[waiting.pop()] - closure
            closure |= more
            waiting += more
        told = "\n".join(f"{each} {units[each].digest}" for each in sorted(closure))
        found[root] = hashlib.sha256(told.encode()).hexdigest()
    return found


def _root_of(name: str, roots: object) -> str | None:
    while name:
        if name in roots:  # type: ignore[operator]
            return name
        name = name.rpartition(".")[0]
    return None


def _tenant(key: str, unit: Unit, folder: _Folder) -> _Tenant:
    tenant = _TENANTS.get((unit.root, key))
    if tenant is None:
        tenant = _TENANTS[unit.root, key] = _Tenant(unit, folder)
    return tenant


# -- taking turns --------------------------------------------------------------------------------------------------


def _wait(space: Space, thread: int, timeout: float | None) -> None:
    """Wait until a space may be entered. The caller holds the lock."""
    ticket = _Ticket(space)
    if _is_free(space, thread) and not _is_others_turn(ticket, thread):
        return
    nested = any(_IN_PLACE.get(tenant.root, tenant).users.get(thread) for tenant in space._tenants)
    limit = timeout if timeout is not None else NESTED if nested else math.inf
    began = time.monotonic()
    _WAITING.append(ticket)
    try:
        while (waited := time.monotonic() - began) <= limit:
            if _is_free(space, thread) and (waited > POLITE or not _is_others_turn(ticket, thread)):
                return
            _TURN.wait(min(1.0, limit - waited + 0.001))
        raise _refused(space, nested, limit)
    finally:
        _WAITING.remove(ticket)
        _TURN.notify_all()


def _refused(space: Space, nested: bool, limit: float) -> Exception:
    names = ", ".join(sorted(t.root for t in space._tenants if _IN_PLACE.get(t.root, t) is not t))
    if not nested:
        return TimeoutError(f"another version of {names} was in use for {limit:.0f} s")
    return FlowError(
        f"a task that uses one version of {names} cannot run a flow that holds another one while other tasks are at "
        f"work in the same process (waited {limit:.0f} s); store both flows anew, with the same code, or run the "
        "inner one in an environment of its own"
    )


def _is_free(space: Space, thread: int) -> bool:
    """Whether no other thread is in a space that conflicts."""
    for tenant in space._tenants:
        there = _IN_PLACE.get(tenant.root)
        if there is not None and there is not tenant and there.used_by_others(thread):
            return False
    return True


def _is_others_turn(ticket: _Ticket, thread: int) -> bool:
    """Whether somebody who came earlier waits for a space that conflicts; who is inside already need not care."""
    if all(tenant.users.get(thread) for tenant in ticket.space._tenants):
        return False
    earlier = itertools.takewhile(lambda other: other is not ticket, _WAITING)
    return any(other.space.conflicts(ticket.space) for other in earlier)


# -- taking over names ---------------------------------------------------------------------------------------------


def _settle(tenant: _Tenant) -> list[_Tenant]:
    """Put a tenant in place, and return whom it displaces who is still in use, by this thread.

    The caller holds the lock, and nobody else uses who is in place.
    """
    root = tenant.root
    there = _IN_PLACE.get(root)
    if there is tenant and (not tenant.adopted or tenant.checked == changes() or holds(tenant.unit)):
        tenant.checked = changes()
        return []
    if there is not None:
        _take_away(there)
    _IN_PLACE[root] = tenant
    tenant.adopted = not tenant.modules and _is_own(tenant.unit)
    tenant.checked = changes()
    if not tenant.adopted:
        _OWN[root] = _remove(root)
        tenant.yields = bool(_OWN[root]) or is_importable(root)
        _put(root, tenant.modules)
        tenant.modules = {}
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
    return [there] if there is not None and there is not tenant and there.users else []


def _retire(tenant: _Tenant) -> None:
    """When the last user left, give the process back what it had, or could have, itself."""
    if tenant.yields and not tenant.users and not tenant.adopted and _IN_PLACE.get(tenant.root) is tenant:
        _take_away(tenant)
    # Else it stays: values of its classes may still be pickled, and nothing else answers to the name.


def _take_away(tenant: _Tenant) -> None:
    root = tenant.root
    del _IN_PLACE[root]
    if tenant.adopted:
        tenant.adopted = False
        return
    tenant.modules = _remove(root)
    _put(root, _OWN.pop(root, {}))


def _is_own(unit: Unit) -> bool:
    """Whether the process has, or would import, the same by itself."""
    place = place_of(unit.root)
    if place is None or place.root != unit.root:
        return False
    try:
        own = unit_at(place)
    except (OSError, FlowError):  # changing just now, or too large: not the same
        return False
    return own is not None and own.digest == unit.digest and holds(unit)


def _remove(root: str) -> dict[str, types.ModuleType]:
    """Take a module and what is below it out of ``sys.modules``."""
    inner = root + "."
    names = [name for name in list(sys.modules) if name == root or name.startswith(inner)]
    found = {name: module for name in names if (module := sys.modules.pop(name, None)) is not None}
    parent, _, last = root.rpartition(".")
    if parent in sys.modules:
        vars(sys.modules[parent]).pop(last, None)
    return found


def _put(root: str, modules: dict[str, types.ModuleType]) -> None:
    sys.modules.update(modules)
    parent, _, last = root.rpartition(".")
    if parent in sys.modules and root in modules:
        setattr(sys.modules[parent], last, modules[root])


class _Finder:
    """Finds the modules of the tenants that are in place, before anybody else does."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a unit's root, and of the namespace packages above it; what is below finds itself."""
        tenant = _IN_PLACE.get(name)
        if tenant is not None:
            return None if tenant.adopted else _spec_in(tenant)
        inner = name + "."
        above = [each for root, each in list(_IN_PLACE.items()) if root.startswith(inner) and not each.adopted]
        if not above:
            return None
        spec = find_elsewhere(name, path)
        if spec is None:
            spec = ModuleSpec(name, None, is_package=True)
        if spec.submodule_search_locations is not None and spec.origin is None:
            folders = dict.fromkeys(os.path.join(each.folder.path, *name.split(".")) for each in above)
            spec.submodule_search_locations = [*folders, *spec.submodule_search_locations]
        return spec


def _spec_in(tenant: _Tenant) -> ModuleSpec | None:
    stem = os.path.join(tenant.folder.path, *tenant.root.split("."))
    if tenant.unit.is_package:
        initial = os.path.join(stem, "__init__.py")
        return importlib.util.spec_from_file_location(tenant.root, initial, submodule_search_locations=[stem])
    return importlib.util.spec_from_file_location(tenant.root, stem + ".py")


_FINDER = _Finder()
FINDERS.append(_FINDER)
