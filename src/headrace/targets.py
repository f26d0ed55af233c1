"""Targets: where tasks keep values that outlive runs, like the files that `make` makes.

A task with a target whose object is there is not executed: its value is read instead. The object is whole or absent,
so a writer that is killed leaves nothing behind that could be taken for a value. Pickles are signed and checked where
the task runs, with the keys that its process finds where the run's storage has them, or in ``HEADRACE_SIGNING_KEY``.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import pickle
import string
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from headrace import pickling
from headrace.errors import AlreadyExists, FlowError, NodeUsedAsValue, NotFound, UntrustedObject
from headrace.storage.confidential import has_password, without_secrets
from headrace.storage.envelope import open_envelope, pack
from headrace.storage.files import Files, normal_url
from headrace.storage.flows import StoredFlows
from headrace.storage.plain import plain_bytes, refusal
from headrace.storage.signing import Seal, sources_of
from headrace.storage.spec import StorageSpec

KIND = "value"
#: Where values lie: in a storage, or below a folder, as the process has it that executes the task; empty: unknown.
Whereabouts = StorageSpec | str


class Target:
    """Where a task keeps its value.

    Parameters
    ----------
    url : str or callable
        A path or fsspec URL. Names in braces are filled in: the task's arguments, the parameters of the run, and
        ``run_id``, ``flow_name``, ``task_name``, ``index``. Or a function that takes such names by keyword, or all of
        them as ``**names``, and returns the URL. With a ``storage``, a key within it.
    format : {"pickle", "json"}, optional
        Default: JSON where the URL ends with ``.json``, else a pickle.
    storage_options : mapping, optional
        Given to the fsspec file system. Credentials do not belong here, because tasks travel: let the workers find
        them where the provider's own tools do, or give a ``storage``.
    storage : Storage, optional
        Where values lie in place of a URL: it is reached on the workers by its URL and options, with the credentials
        that its own ``credentials`` or ``ship_credentials`` bring there.

    Raises
    ------
    FlowError
        If an option cannot be meant, or holds a secret.

    Examples
    --------
    >>> Target("rows/{day}.json").url_for({"day": "2026-11-01"})
    'rows/2026-11-01.json'
    """

    #: whether values may be pickles
    pickles = True
    #: where the keys are that sign pickles; empty: in the variable; None: they need not be signed
    signing: tuple[str, ...] | None = None

    def __init__(
        self,
        url: str | Callable[..., str],
        *,
        format: str | None = None,  # noqa: A002 - the word that people know
        storage_options: Mapping[str, Any] | None = None,
        storage: StoredFlows | None = None,
    ) -> None:
        if not callable(url) and not (isinstance(url, str) and url):
            raise FlowError(f"a target needs a URL or a function that returns one, got {url!r}")
        if format not in (None, "pickle", "json"):
            raise FlowError(f"a target's format is 'pickle' or 'json', got {format!r}")
        omitted = without_secrets(storage_options or {})[1]
        if omitted:
            raise FlowError(
                f"a target cannot hold {', '.join(omitted)}, because tasks travel and are stored; let the workers find "
                "credentials in their own environment, or give storage=, a Storage with credentials='module:function'"
            )
        if isinstance(url, str) and has_password(url):
            raise FlowError(
                "the URL of a target holds a password or a token, and URLs are shown and stored; leave it out"
            )
        if storage is not None and storage_options:
            raise FlowError(f"the target {url!r} has a storage and storage_options; give the options to the storage")
        self.url = url
        self.format = format
        self.storage_options = dict(storage_options or {})
        self._spec = None if storage is None else storage.spec
        self._opened: Files | None = None  # of the storage, in this process

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}

    def __repr__(self) -> str:
        return f"Target({self.url!r})"

    @property
    def whereabouts(self) -> Whereabouts:
        """Where all its values lie, as far as that is known before a run."""
        if self._spec is not None:
            return self._spec
        if callable(self.url):
            return ""
        folder, mark, _ = self.url.partition("{")[0].rpartition("/")
        if "://" in folder or folder.startswith("/"):
            return StorageSpec(folder, storage_options=self.storage_options)
        return f"{folder}/" if mark else "."

    def url_for(self, names: Mapping[str, Any]) -> str:
        """Return the URL for one task run.

        Parameters
        ----------
        names : mapping
            What may stand in braces.

        Raises
        ------
        FlowError
            If something is needed that there is not.
        NodeUsedAsValue
            If it is made of the text of a secret.
        """
        if callable(self.url):
            found = self.url(**_wanted(self.url, names))
            if not isinstance(found, str) or not found:
                raise FlowError(f"the function of {self!r} must return a URL, and returned {found!r}")
            return found
        try:
            return string.Formatter().vformat(self.url, (), names)
        except NodeUsedAsValue:
            raise
        except (LookupError, ValueError, AttributeError) as error:
            known = ", ".join(names)
            raise FlowError(f"{self!r} cannot be filled in ({error!r}); known here are {known}") from None

    def read(self, url: str) -> tuple[Any] | None:
        """Return the value that is kept at a URL, in a tuple; None if there is none.

        Raises
        ------
        EnvelopeError
            If what lies there is damaged, no value of ours, or, where this process has a signing key, not signed by it.
        """
        self._check_pickles(url)
        files, key = self._place(url)
        try:
            data = files.read(key)
        except NotFound:
            return None
        if self._is_json(url):
            try:
                return (json.loads(data),)
            except ValueError as error:
                raise FlowError(
                    f"what lies at {url} is no JSON ({error}); remove it, or choose another target"
                ) from None
        try:
            envelope = open_envelope(data, _signed_as(files, key), KIND, self._seal())
        except UntrustedObject as error:
            raise _untrusted(error, url) from None
        return (envelope.unpickle(),)

    def write(self, url: str, value: Any) -> Any:
        """Keep a value, and return it; the one that is there if another writer was first, so that all agree.

        Raises
        ------
        NotPicklable, FlowError
            If the value cannot be written.
        """
        self._check_pickles(url)
        files, key = self._place(url)
        try:
            files.create(key, self._dump(url, value, _signed_as(files, key)))
        except AlreadyExists:
            found = self.read(url)
            return value if found is None else found[0]
        return value

    def _dump(self, url: str, value: Any, where: str) -> bytes:
        if not self._is_json(url):
            return pack(KIND, {}, pickling.dumps(value, f"the value for {url}"), seal=self._seal(), where=where)
        try:
            return plain_bytes(value)
        except (TypeError, ValueError) as error:
            raise FlowError(f"a {type(value).__name__} cannot be kept at {url} as JSON: {error}; {_ADVICE}") from None

    def _is_json(self, url: str) -> bool:
        return self.format == "json" or (self.format is None and url.endswith(".json"))

    def without_pickles(self) -> Target:
        """Return the same target for a run that must neither write nor read pickles.

        Raises
        ------
        PickleRefused
            If its values would be pickles. Of a function, that is known at its first URL only.
        """
        same = copy.copy(self)
        same.pickles = False
        if not callable(self.url):
            same._check_pickles(self.url)
        return same

    def signed(self, signing: tuple[str, ...]) -> Target:
        """Return the same target for a run whose storage has signing keys: its pickles must be signed, too.

        Parameters
        ----------
        signing : tuple of str
            Where the keys are; empty: in the variable of the process that runs the task.
        """
        same = copy.copy(self)
        same.signing = signing
        return same

    def _seal(self) -> Seal:
        """What signs and checks values: the keys of the target's own storage, else those of the run's."""
        if self._spec is not None and self._spec.seal.active:
            return self._spec.seal
        # Without a run that has keys, too, a process that has some signs and checks.
        return Seal(None) if self.signing is None else Seal(sources_of(self.signing) or None, lacking=True)

    def _check_pickles(self, url: str) -> None:
        if not self.pickles and not self._is_json(url):
            raise refusal(f"a value kept at {url} would be", "keep it as JSON: Target(..., format='json')")

    def _place(self, url: str) -> tuple[Files, str]:
        if self._spec is not None:
            key = PurePosixPath(url).as_posix()  # "./flows" is "flows", and "a//b" is signed as "a/b"
            if "://" in url or key.partition("/")[0] in _TAKEN:
                raise FlowError(
                    f"{self!r} names {url!r}, but its values lie in {self._spec.url}: give a key within it, which does "
                    f"not begin with {', '.join(_TAKEN)}"
                )
            self._opened = self._opened or self._spec.open()
            return self._opened, key
        folder, _, name = url.rpartition("/")
        options = tuple(sorted(self.storage_options.items()))
        folder = folder or ("/" if url.startswith("/") else ".")
        return _files(normal_url(folder), pickle.dumps(options)), name  # what is relative, is to this moment's folder


#: What lies in a storage besides.
_TAKEN = ("flows", "runs", "cache")


def _signed_as(files: Files, key: str) -> str:
    """What the signature of a value is for."""
    return f"{files.url}/{key}"


def _untrusted(error: UntrustedObject, url: str) -> UntrustedObject:
    """The same error with advice that helps here: `headrace sign` knows storages, and no targets."""
    facts: dict[str, Any] = error.facts
    if facts["reason"] == "unsigned":
        told, advice = "is not signed, and values here are signed", "find out who wrote it, and remove it:"
    elif facts["reason"] == "other key":
        told = f"is signed by another key (id {facts['key_id']}) than those that are trusted here"
        advice = "if you trust that key, keep it in the list, behind the first one; else remove the value:"
    else:
        return error
    return UntrustedObject(
        f"the value at {url} {told}, so nothing of it was used; {advice} the task makes it anew then", **facts
    )


_ADVICE = "give plain lists, texts, numbers and dicts with texts for keys, or format='pickle'"


@functools.lru_cache(maxsize=100)
def _files(folder: str, options: bytes) -> Files:
    return Files(folder, dict(pickle.loads(options)))


def _wanted(function: Callable[..., str], names: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return dict(names)
    return {each.name: names[each.name] for each in parameters if each.name in names}
