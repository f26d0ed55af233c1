"""Where the code of a stored flow lies: in the storage, as a pickle; in an installed module; or in a script.

Of a module or a script, a storage holds the name and what the code must be: the graph that it draws, the sha256 of a
file, the commit of a repository. Loading gets the code from there, and refuses other code than was stored.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any, Protocol

from headrace import parameters
from headrace.code.bundle import Bundle
from headrace.code.space import active
from headrace.code.units import imported_by
from headrace.core.flow import FlowDefinition, draw_twice
from headrace.errors import (
    ChangedSource,
    FlowError,
    HeadraceError,
    MissingModule,
    NewerFormat,
    NotFound,
    ParameterError,
)
from headrace.storage import capture, git
from headrace.storage.capture import Captured, manifest_of
from headrace.storage.confidential import has_password
from headrace.storage.envelope import Envelope, digest_of, pack
from headrace.storage.files import normal_url
from headrace.storage.imports import foreign, lacking, packages_of
from headrace.storage.picking import pick_flow, variable_of
from headrace.storage.plain import refusal
from headrace.storage.scripts import bundle_of_script, run_script

PICKLE, MODULE, SCRIPT = KINDS = "pickle", "module", "script"
_FILE = re.compile(r"(?P<place>.+\.py)(?:[:#](?P<name>[^:#/]+))?")
_GIT = re.compile(r"git\+(?P<repository>[^#]+)@(?P<commit>[^@#/]+)#(?P<path>[^:#]+\.py)(?::(?P<name>[^:#/]+))?")
_GIT_URL = re.compile(r"(file|https|ssh)://\S+")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_EXAMPLE = "'git+https://host/repository@<commit>#path/flow.py:etl'"

Reader = Callable[[str], bytes]


class Source(Protocol):
    """Where code lies, and what it must be."""

    def bundle(self, read: Reader) -> Bundle | None:
        """Return the code, if it is not installed; ``read`` returns the bytes at a URL."""

    def load(self, bundle: Bundle | None) -> FlowDefinition:
        """Return the flow."""

    def data(self) -> dict[str, Any]:
        """Return it as the header of a flow's object holds it."""

    def changed(self) -> str:
        """Say how the code can differ from what was stored, and what to do."""


@dataclass(frozen=True)
class ModuleSource:
    """Code that is installed where the flow is stored and where it runs.

    Attributes
    ----------
    module, name : str
        Where the flow is found: an import path, and a variable of that module.
    distributions : dict of str to str
        Versions of the distributions that the module came from when it was stored.
    """

    module: str
    name: str
    distributions: Mapping[str, str]

    @classmethod
    def of(cls, target: FlowDefinition | str, read: Reader) -> ModuleSource:
        """Return the source of a flow, or of what ``package.module:flow`` names."""
        if isinstance(target, str):
            module, _, name = target.partition(":")
        else:
            module, name = _module_of(target), target.name
            if module in ("", "__main__"):
                raise FlowError(
                    f"flow {target.name!r} of {module or 'a `with` block'} cannot be stored by import path, because it "
                    "has none; move it to a module that is installed where it runs, and give 'package.module:FLOW' "
                    "with source='module', or store its script with source='script'"
                )
        found = _imported(module)
        return cls(module, variable_of(found, pick_flow(found, name, module)), packages_of([module]))

    def bundle(self, read: Reader) -> None:
        """Nothing is brought."""
        return

    def load(self, bundle: Bundle | None) -> FlowDefinition:
        """Import the module, and return its flow."""
        return pick_flow(_imported(self.module), self.name, self.module)

    def data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {"kind": MODULE, **asdict(self)}

    def changed(self) -> str:
        """Name the versions."""
        here = packages_of([self.module])
        told = f"it was stored with {_versions(self.distributions)}, and here is {_versions(here)}"
        remedy = (
            "install the version that was stored" if here != self.distributions else "bring the code of both in line"
        )
        return f"{told}; {remedy}, or store the flow again"


@dataclass(frozen=True)
class FileSource:
    """One Python file at a URL.

    Attributes
    ----------
    url : str
        Any that fsspec reads.
    sha256 : str
        Of the file.
    name : str
        Of the flow in it; empty for the only one.
    """

    url: str
    sha256: str
    name: str

    @classmethod
    def of(cls, target: str, read: Reader) -> FileSource:
        """Return the source that ``path/or/url/flow.py:flow`` names."""
        match = _FILE.fullmatch(target)
        if match is None:
            raise FlowError(
                f"{target!r} names no script; give a Python file at any URL, such as 'flow.py:etl', or one in a git "
                f"repository, {_EXAMPLE}"
            )
        url = normal_url(match["place"])
        if "?" in url:
            raise FlowError(
                f"the URL of the script {url.partition('?')[0]} goes on with a query, which may hold a secret and "
                "would be stored; give it without"
            )
        return cls(url, hashlib.sha256(read(url)).hexdigest(), match["name"] or "")

    def bundle(self, read: Reader) -> Bundle:
        """Read the file, and compare it with what was stored."""
        data = read(self.url)
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise ChangedSource(
                f"the script {self.url} is not the one that was stored: its sha256 is {found[:12]}…, and was "
                f"{self.sha256[:12]}…; nothing of it was run. Restore the file, or look at what changed and store the "
                "flow again",
                expected=self.sha256,
                found=found,
            )
        return bundle_of_script(self.url, {self._file: data}, self._file)

    @property
    def _file(self) -> str:
        return self.url.rpartition("/")[2]

    def load(self, bundle: Bundle | None) -> FlowDefinition:
        """Execute the file as a module, and return its flow."""
        return pick_flow(run_script(self.url, bundle, self._file), self.name, self.url)

    def data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {"kind": SCRIPT, **asdict(self)}

    def changed(self) -> str:
        """The script was compared already."""
        return _OUTSIDE


@dataclass(frozen=True)
class GitSource:
    """A Python file in a commit of a git repository, with the modules that lie beside it.

    Attributes
    ----------
    repository : str
        A URL as git takes it.
    commit : str
        Its full id.
    path : str
        Of the file.
    name : str
        Of the flow in it; empty for the only one.
    """

    repository: str
    commit: str
    path: str
    name: str

    @classmethod
    def of(cls, target: str, read: Reader) -> GitSource:
        """Return the source that ``git+URL@COMMIT#path/flow.py:flow`` names."""
        match = _GIT.fullmatch(target)
        if match is None or not _GIT_URL.fullmatch(match["repository"]):
            raise FlowError(
                f"{target!r} names no script in a git repository; give {_EXAMPLE}, or git+ssh://…, git+file://…"
            )
        if has_password(match["repository"]):
            raise FlowError(
                "the URL of the git repository holds a password, and it would be stored; leave it out, and let git "
                "find its credentials where it runs"
            )
        if not _COMMIT.fullmatch(match["commit"]):
            raise FlowError(
                f"{match['commit']!r} is not the full id of a commit, and a branch, a tag or a short id may mean other "
                f"code tomorrow; give what `git rev-parse {match['commit']}` says"
            )
        path = PurePosixPath(match["path"])
        if path.is_absolute() or ".." in path.parts:
            raise FlowError(f"{match['path']!r} leads out of the repository; give a path from its top folder")
        return cls(match["repository"], match["commit"], str(path), match["name"] or "")

    @property
    def _where(self) -> str:
        return f"git+{self.repository}@{self.commit}#{self.path}"

    def bundle(self, read: Reader) -> Bundle:
        """Have git bring the commit."""
        folder, _, name = self.path.rpartition("/")
        files = git.files_of(self.repository, self.commit, folder)
        if name not in files:
            raise NotFound(f"there is no file {self.path} in {self.repository} at commit {self.commit}; check the path")
        return bundle_of_script(self._where, files, name)

    def load(self, bundle: Bundle | None) -> FlowDefinition:
        """Execute the file as a module, and return its flow."""
        return pick_flow(run_script(self._where, bundle, self.path.rpartition("/")[2]), self.name, self._where)

    def data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {"kind": SCRIPT, **asdict(self)}

    def changed(self) -> str:
        """The commit was compared already."""
        return _OUTSIDE


_OUTSIDE = (
    "its script is as it was stored, so what it imports from elsewhere is not; install the same versions, or store the "
    "flow again"
)


def source_of(target: FlowDefinition | str, kind: str, read: Reader) -> Source:
    """Return where the code of a flow lies.

    Parameters
    ----------
    target : FlowDefinition or str
        A flow, or a text that names one.
    kind : {"module", "script"}
        How.
    read : callable
        Returns the bytes at a URL.

    Raises
    ------
    FlowError, NotFound, MissingModule
        If it has no such source.
    """
    if kind == MODULE:
        return ModuleSource.of(target, read)
    if kind != SCRIPT:
        raise FlowError(f"the source of a flow is {', '.join(map(repr, KINDS))}, got {kind!r}")
    text = target if isinstance(target, str) else _script_of(target)
    return GitSource.of(text, read) if text.startswith("git+") else FileSource.of(text, read)


def source_from(data: Mapping[str, Any], where: str) -> Source:
    """Return a source from the header of a flow's object.

    Raises
    ------
    NewerFormat
        If its kind is not known here.
    """
    for cls in (ModuleSource, FileSource, GitSource):
        names = {field.name for field in fields(cls)}
        if names == set(data) - {"kind", "code"}:
            return cls(**{name: data[name] for name in names})
    raise NewerFormat(
        f"{where} says where its code lies in a way that this headrace does not know (kind {data.get('kind')!r}); "
        "upgrade: pip install --upgrade headrace"
    )


def captured(
    target: FlowDefinition | str, kind: str, example: Mapping[str, Any] | None, read: Reader, *, pickles: bool
) -> Captured:
    """Capture a flow as it is now, as a pickle, or as the name of where its code lies.

    Parameters
    ----------
    target : FlowDefinition or str
        A flow, or, but for pickles, a text that names one.
    kind : {"pickle", "module", "script"}
        How.
    example : mapping, optional
        Parameter values, over the defaults, that the manifest's graph is drawn for.
    read : callable
        Returns the bytes at a URL.
    pickles : bool
        Whether one may be made.

    Raises
    ------
    PickleRefused, NotPicklable, ParameterError, UnstableFlow, FlowError, NotFound, MissingModule
        If it cannot be captured so.
    """
    if kind != PICKLE:
        source = source_of(target, kind, read)
        bundle = source.bundle(read)
        with active(bundle):
            return _captured_by_name(source.load(bundle), source, bundle, example)
    if not pickles:
        raise refusal("a flow with source='pickle' would be", "add it with source='module' or source='script'")
    if isinstance(target, str):
        raise FlowError(f"{target!r} is a text, not a flow; give the flow, or say source='module' or source='script'")
    return capture.capture(target, example)


def _captured_by_name(
    flow: FlowDefinition, source: Source, bundle: Bundle | None, example: Mapping[str, Any] | None
) -> Captured:
    """The object of a flow whose code lies elsewhere; nothing in it is a pickle."""
    values = parameters.example_values(flow, example)
    graph, digest = draw_twice(flow, values) if values is not None else (None, None)
    if values is not None and _digest_again(flow, values) != digest:
        if example:
            raise ParameterError(
                f"flow {flow.name!r}: its example values do not come back from JSON as they are, and there shall be no "
                "pickle of them; give plain values, or parameters with annotations that make them of plain values"
            )
        graph, values = None, None  # a default that has no JSON form: nothing can be compared later
    known = manifest_of(flow, graph, values, "")
    content = _digest_of(known)
    where = source.data() if bundle is None else {**source.data(), "code": bundle.facts()}
    units = bundle.units if bundle is not None else {}
    modules = imported_by(bundle.modules, units) if bundle is not None else set()
    header = {**known, "content": content, "imports": packages_of(modules), "source": where}
    data = pack(capture.KIND, header, b"")
    return Captured(
        flow.name, flow.qualified_name, content, data, digest_of(data), bundle, holds_code=False,
        imports=frozenset(foreign(modules)), lacking=lacking(modules, set(), units),
    )  # fmt: skip


#: what is known of a flow without its code
_CONTENT = ("origin", "parameters", "tasks", "digest")


def _digest_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([manifest[name] for name in _CONTENT]).encode()).hexdigest()


def contents_of(flow: FlowDefinition) -> set[str]:
    """Return what ``Captured.content`` would be: of its pickle, and of what is known of it without its code."""
    values = parameters.example_values(flow)
    graph = flow.draw(values) if values is not None else None
    return {capture.content_of(flow), _digest_of(manifest_of(flow, graph, values, ""))}


def _digest_again(flow: FlowDefinition, values: Mapping[str, Any]) -> str | None:
    """The digest of the graph for values that went through JSON; None if they do not fit any more."""
    try:
        return flow.draw(_from_json(flow, parameters.to_json(values))).digest()
    except HeadraceError:
        return None


def _from_json(flow: FlowDefinition, example: Mapping[str, Any]) -> dict[str, Any]:
    return parameters.validate(flow, parameters.from_json(example))


def load(envelope: Envelope, bundle: Bundle | None, *, pickles: bool = True) -> FlowDefinition:
    """Return the flow of a checked object.

    Parameters
    ----------
    envelope : Envelope
        Checked.
    bundle : Bundle or None
        The code that its header names.
    pickles : bool, default True
        Whether one may be read.

    Raises
    ------
    PickleRefused, ChangedSource, MissingModule, IncompatibleObject
        If its code must not, or cannot, be loaded.
    """
    header = envelope.header
    if kind_of(header) == PICKLE:
        if not pickles:
            raise refusal(
                f"the flow at {envelope.where} is",
                "store it anew with source='module' or source='script', or open the storage without pickle=False if "
                "you trust whoever writes to it",
            )
        return capture.load_flow(envelope, bundle)
    source = source_from(header["source"], envelope.where)
    with active(bundle):
        flow = source.load(bundle)
        _compare(flow, source, header)
    flow.bundle = flow.arrived = bundle
    return flow


def _compare(flow: FlowDefinition, source: Source, header: Mapping[str, Any]) -> None:
    """Refuse a flow that draws another graph than when it was stored."""
    if header["digest"] is None:
        return
    try:
        digest = flow.draw(_from_json(flow, header["example"])).digest()
    except ParameterError as error:
        digest = str(error)
    if digest != header["digest"]:
        raise ChangedSource(
            f"flow {flow.name!r} draws another graph here than when it was stored, for the same parameters: "
            f"{source.changed()}"
        )


def fetched(envelope: Envelope, read: Reader, known: Bundle | None) -> Bundle | None:
    """Return the code of a script from where it lies, compared with what was stored.

    Parameters
    ----------
    envelope : Envelope
        Checked.
    read : callable
        Returns the bytes at a URL.
    known : Bundle or None
        The same, if it is known already.

    Raises
    ------
    ChangedSource, NotFound, AccessDenied, Unreachable
        If it cannot be had, or is not what it was.
    """
    if known is not None:
        return known
    bundle = source_from(envelope.header["source"], envelope.where).bundle(read)
    expected = (code_of(envelope.header) or {})["sha256"]
    if bundle is None or bundle.sha256 != expected:
        raise ChangedSource(
            f"the code of {envelope.where} is not what was stored, although it has the same name; somebody forged it, "
            "or the flow was stored by another version of headrace: look at what changed, and store it again"
        )
    return bundle


def code_of(header: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return sha256 and modules of the bundle that a flow's header names, in the storage or elsewhere."""
    return header.get("code") or (header.get("source") or {}).get("code")


def kind_of(header: Mapping[str, Any]) -> str:
    """Return the kind of source that a flow's header names."""
    return str((header.get("source") or {}).get("kind", PICKLE))


def _module_of(flow: FlowDefinition) -> str:
    return getattr(flow.function, "__module__", None) or ""


def _script_of(flow: FlowDefinition) -> str:
    """The script that a flow object came from, as text."""
    file = getattr(sys.modules.get(_module_of(flow)), "__file__", None)
    if file is None or not file.endswith(".py"):
        raise FlowError(
            f"flow {flow.name!r} comes from no Python file, so it cannot be stored with source='script'; give the file "
            "as text, add_flow('flow.py:etl', source='script')"
        )
    return f"{file}:{flow.name}"


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingModule(
            f"the flow's module {module!r} cannot be imported here ({error}); install it where the flow runs",
            module=error.name or module,
        ) from error


def _versions(distributions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in distributions.items()) or "a module that is not installed"
