"""How the fsspec file system of a URL is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.errors import MissingPackage, StorageError
from headrace.storage.media.medium import Place


def filesystem_class(place: Place, extra: str = "") -> Any:
    """Find the fsspec class of a URL's protocol.

    Parameters
    ----------
    place : Place
        Where.
    extra : str
        Of headrace, that installs the package.

    Raises
    ------
    MissingPackage, StorageError
        If the protocol needs a package that is not installed, or nobody knows it.
    """
    import fsspec

    try:
        return fsspec.get_filesystem_class(place.protocol)
    except ImportError as error:
        raise missing_package(place, extra or _package_of(place.protocol, error)) from error
    except ValueError:
        raise StorageError(
            f"cannot use {place.url}: no package on this machine knows the protocol {place.protocol!r}; common ones "
            "are file, memory, s3, gs, abfs, sftp, https. Correct the URL, or install the fsspec package for it",
            protocol=place.protocol,
        ) from None


def _package_of(protocol: str, error: ImportError) -> str:
    from fsspec.registry import known_implementations

    known = known_implementations.get(protocol, {})
    package: str = known.get("class", "").partition(".")[0]
    if package and package != "fsspec":
        return package
    return f"the package that is named here: {known.get('err') or error}"  # a class of fsspec itself


def missing_package(place: Place, what: str) -> MissingPackage:
    """Return the error that says what to install."""
    return MissingPackage(
        f"{place.url} needs a package for {place.protocol}:// that is not installed; pip install {what}",
        protocol=place.protocol,
    )


def make_filesystem(place: Place, cls: Any, ours: Mapping[str, Any] | None = None) -> Any:
    """Make the file system of a URL, unless the user gave one.

    Parameters
    ----------
    place : Place
        Where.
    cls : type
        Of the file system.
    ours : mapping, optional
        Our settings, below what the URL says and the user's options.
    """
    if place.filesystem is not None:
        if getattr(place.filesystem, "asynchronous", False):
            raise StorageError(
                f"the file system given for {place.url} is for use on one event loop only; "
                "make it with asynchronous=False"
            )
        return place.filesystem
    return cls(**{**(ours or {}), **cls._get_kwargs_from_urls(place.url), **place.options})
