"""Foreign exceptions of storage packages, turned into the errors of headrace.

The packages are known by the names of their exceptions only, so that none of them has to be imported here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from headrace.errors import AccessDenied, AlreadyExists, HeadraceError, NotFound, StorageError, Unreachable

_DENIED = {
    "PermissionError", "NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError",
    "UnauthorizedSSOTokenError", "ProfileNotFound", "ClientAuthenticationError", "DefaultCredentialsError",
    "RefreshError", "PermissionDenied",
}  # fmt: skip
_DENIED_WORDS = (
    "accessdenied", "access denied", "forbidden", "invalidaccesskeyid", "signaturedoesnotmatch",
    "unauthorized", "expiredtoken", "invalidtoken", "authenticationfailed",
    "authorizationpermissionmismatch", "(403)", "(401)",
)  # fmt: skip
_UNREACHABLE = {
    "ConnectionError", "TimeoutError", "FSTimeoutError", "gaierror", "EndpointConnectionError",
    "HTTPClientError", "ConnectTimeoutError", "ReadTimeoutError", "ServiceRequestError",
    "ServiceResponseError", "ClientConnectionError", "ClientConnectorError", "ServerDisconnectedError",
    "TransportError", "ConnectionLost", "ProxyConnectionError",
}  # fmt: skip
_NO_BUCKET_WORDS = ("nosuchbucket", "bucket does not exist", "containernotfound", "invalidbucketname")
_MISSING = {"FileNotFoundError", "ResourceNotFoundError", "NotADirectoryError"}
_PRESENT = {"FileExistsError", "ResourceExistsError"}
#: where the packages put the HTTP status of an answer.
_STATUS = ("status_code", "code", "status")
_BUSY = {"EBUSY", "ServiceUnavailable", "SlowDown"}


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it was raised from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def names_no_bucket(error: BaseException) -> bool:
    """Whether the store said that not the object but its bucket is missing."""
    return any(word in str(link).lower() for link in chain(error) for word in _NO_BUCKET_WORDS)


def translate(
    error: Exception, *, asked: str, url: str, hint: str = "", secrets: tuple[str, ...] = ()
) -> HeadraceError:
    """Return the error of headrace that says what a foreign exception means.

    Parameters
    ----------
    error : Exception
        What a storage package raised.
    asked : str
        What was asked, e.g. ``"read flows/etl"``.
    url : str
        Root of the storage.
    hint : str, optional
        Added where access was denied.
    secrets : tuple of str
        Texts that must not appear in the message.
    """
    if isinstance(error, HeadraceError):
        return error
    told = first_line(error, secrets)
    names = {base.__name__ for link in chain(error) for base in type(link).__mro__}
    own = {base.__name__ for base in type(error).__mro__}
    words = " ".join(str(link).lower() for link in chain(error))
    status = next((found for name in _STATUS if (found := getattr(error, name, None))), None)
    if own & _PRESENT:
        return AlreadyExists(f"cannot {asked} in {url}: it is there already, and it is never written twice")
    if names_no_bucket(error):
        return NotFound(f"cannot {asked}: there is no such bucket or container at {url}; create it, or correct the URL")
    if own & _MISSING and asked.startswith(("create", "write")):
        return NotFound(
            f"cannot {asked}: {url} is not there and cannot be made ({told}); create it, or correct the URL"
        )
    if own & _MISSING:
        return NotFound(f"cannot {asked}: there is no such object in {url}; check the name and the URL")
    if names & _DENIED or status in (401, 403) or any(word in words for word in _DENIED_WORDS):
        return AccessDenied(_denied(names, asked, url, told) + hint)
    if names & _UNREACHABLE or _is_busy(error, words):
        return Unreachable(
            f"cannot {asked}: {url} does not answer ({told}); check the network, the address and "
            "storage_options, then try again"
        )
    return StorageError(f"cannot {asked} in {url}: {told}; check the URL and storage_options")


def _is_busy(error: Exception, words: str) -> bool:
    return getattr(error, "errno", None) == errno.EBUSY or any(word.lower() in words for word in _BUSY)


def _denied(names: set[str], asked: str, url: str, told: str) -> str:
    if names & {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}:
        return (
            f"cannot {asked}: found no credentials for {url}; set those of the provider in the environment "
            "(for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE), or give storage_options"
        )
    return f"cannot {asked}: {url} refuses access ({told}); check the credentials and their permissions"


def first_line(error: BaseException, secrets: tuple[str, ...] = ()) -> str:
    """One line for people: type and text, cut, without secrets."""
    text = str(error).strip()
    for secret in secrets:
        text = text.replace(secret, "…")
    line = text.splitlines()[0] if text else ""
    line = line if len(line) <= 200 else line[:199] + "…"
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
