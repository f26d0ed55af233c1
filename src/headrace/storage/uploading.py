"""How a captured flow gets into a storage: its code before the flow that names it, and last the version."""

from __future__ import annotations

from headrace.code.bundle import Bundle, open_bundle
from headrace.errors import AlreadyExists, EnvelopeError, NotFound
from headrace.storage.capture import Captured, code_key, open_flow
from headrace.storage.envelope import signed
from headrace.storage.files import Files
from headrace.storage.versions import Version, Versions


def upload(files: Files, captured: Captured, *, replace: bool) -> None:
    """Write a flow as the newest version of its name; what is there already is not written again.

    Parameters
    ----------
    files : Files
        Of the storage.
    captured : Captured
        The flow.
    replace : bool
        Whether it may take the name of a flow of another origin.

    Raises
    ------
    AlreadyExists
        If a flow of another origin has the name.
    """

    def fits(newest: Version) -> None:
        if not replace:
            check_origin(files, captured, newest.origin)

    versions = Versions(files)
    seen = versions.see(captured.name)
    if seen.newest is not None:
        fits(seen.newest)
    location, data = captured.location, signed(captured.data, captured.location, files.seal)
    written = {location: data}
    bundle = captured.bundle if captured.holds_code else None
    if bundle is not None:  # first, so that nobody finds the flow without it
        key = code_key(captured.name, bundle.sha256)
        _upload_code(files, key, bundle)
        written[key] = bundle.data
    taken = files.create_many({location: data})
    if taken:
        _mend(files, location, data)
    versions.add(captured.name, captured.sha256, captured.origin, seen, fits)
    if taken or seen.highest:  # who removed older versions meanwhile may have taken this for a part of them
        for key in sorted(written.keys() - files.exists_many(written)):
            files.replace(key, written[key])


def check_origin(files: Files, captured: Captured, origin: str | None) -> None:
    """Refuse a flow whose name belongs to a flow that is defined elsewhere.

    Parameters
    ----------
    files : Files
        Of the storage.
    captured : Captured
        The flow.
    origin : str or None
        Of the flow that has the name; None if none has.

    Raises
    ------
    AlreadyExists
        If the two are not of the same place.
    """
    if origin is not None and not _is_same(origin, captured.origin):
        raise AlreadyExists(
            f"flow {captured.name!r} of {captured.origin} cannot be stored in {files.url}: the name "
            f"belongs to the flow of {origin}; give it another name, or say add_flow(..., replace=True)",
            flow=captured.name,
            asked=captured.origin,
            origin=origin,
        )


def _is_same(one: str, other: str) -> bool:
    """Whether two flows come from the same place; a script that is run calls itself ``__main__``."""
    (module, _, name), (other_module, _, other_name) = one.partition(":"), other.partition(":")
    return name == other_name and (module == other_module or "__main__" in (module, other_module))


def _upload_code(files: Files, key: str, bundle: Bundle) -> None:
    """Write a bundle. What is there is the same, unless it is damaged."""
    if not files.create_many({key: bundle.data}):
        return
    try:
        open_bundle(files.read(key), bundle.sha256, bundle.modules, key)
    except (EnvelopeError, NotFound):
        files.replace(key, bundle.data)


def _mend(files: Files, location: str, data: bytes) -> None:
    """The name stands for the content, so what is there is the same, unless it is damaged: then it is replaced.

    It is also replaced if it is not signed by the key that signs now.
    """
    try:
        found = open_flow(files.read(location), location, files.seal)
    except (EnvelopeError, NotFound):
        found = None
    if found is None or not files.seal.is_newest(found.signature):
        files.replace(location, data)
