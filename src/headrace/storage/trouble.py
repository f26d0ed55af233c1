"""Foreign exceptions of storage packages, turned into the errors of headrace.

The packages are known by the names of their exceptions only, so that none of them has to be imported here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from headrace.errors import AccessDenied, AlreadyExists, HeadraceError, NotFound, StorageError, Unreachable

_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "TokenRetrievalError"}
_NO_CREDENTIALS_WORDS = ("anonymous caller", "must provide either a connection_string or account_name")
_AWS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,"
_GOOGLE = "GOOGLE_APPLICATION_CREDENTIALS"
_AZURE = "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING,"
_CREDENTIALS = {
    "s3": _AWS, "s3a": _AWS, "gs": _GOOGLE, "gcs": _GOOGLE, "abfs": _AZURE, "abfss": _AZURE, "az": _AZURE,
}  # fmt: skip
_DENIED = _NO_CREDENTIALS | {
    "PermissionError", "UnauthorizedSSOTokenError", "ProfileNotFound", "ClientAuthenticationError", "RefreshError",
    "PermissionDenied", "SFTPPermissionDenied",
}  # fmt: skip
_DENIED_WORDS = (
    "accessdenied", "access denied", "forbidden", "invalidaccesskeyid", "signaturedoesnotmatch",
    "unauthorized", "expiredtoken", "invalidtoken", "authenticationfailed", "invalid credentials",
    "authorizationpermissionmismatch", "(403)", "(401)", *_NO_CREDENTIALS_WORDS,
)  # fmt: skip
_UNREACHABLE = {
    "ConnectionError", "TimeoutError", "FSTimeoutError", "gaierror", "EndpointConnectionError",
    "HTTPClientError", "ConnectTimeoutError", "ReadTimeoutError", "ServiceRequestError",
    "ServiceResponseError", "ClientConnectionError", "ClientConnectorError", "ServerDisconnectedError",
    "TransportError", "ConnectionLost", "ProxyConnectionError", "SFTPConnectionLost", "SFTPNoConnection",
    "ClientPayloadError", "IncompleteRead", "IncompleteReadError", "ResponseParserError", "ProxyError",
}  # fmt: skip
_NO_HOST = {"gaierror", "ClientConnectorDNSError"}
_NO_HOST_WORDS = ("name or service not known", "temporary failure in name resolution", "nodename nor servname")
_REFUSED_WORDS = ("connection refused", "connect call failed", "could not connect to the endpoint url")
_NO_BUCKET_WORDS = ("nosuchbucket", "bucket does not exist", "containernotfound", "invalidbucketname")
_MISSING = {"FileNotFoundError", "ResourceNotFoundError", "NotADirectoryError", "SFTPNoSuchFile", "SFTPNoSuchPath"}
_PRESENT = {"FileExistsError", "ResourceExistsError"}
_PRESENT_WORDS = ("(preconditionfailed)",)
#: where the packages put the HTTP status of an answer.
_STATUS = ("status_code", "status", "code")
#: of a store that may answer a moment later; 409 is what S3 says to two conditional puts at once.
_BUSY_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_BUSY_WORDS = ("ebusy", "serviceunavailable", "slowdown", "internalerror", "serverbusy", "conditionalrequestconflict")
_HOST_KEY = {"HostKeyNotVerifiable"}


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
    words = _words(error)
    return any(word in words for word in _NO_BUCKET_WORDS)


def meaning(error: Exception) -> type[HeadraceError]:
    """Return which error of headrace a foreign exception is; `Unreachable` may pass by itself."""
    if isinstance(error, HeadraceError):
        return type(error)
    own, names, words = _own_names(error), _names(error), _words(error)
    if own & _PRESENT or any(word in words for word in _PRESENT_WORDS):
        return AlreadyExists
    if own & _MISSING or names_no_bucket(error):
        return NotFound
    if names & _HOST_KEY:
        return StorageError
    if names & _DENIED or _status(error) in (401, 403) or any(word in words for word in _DENIED_WORDS):
        return AccessDenied
    if names & _UNREACHABLE or is_busy(error):
        return Unreachable
    return StorageError


def translate(
    error: Exception, *, asked: str, url: str, hint: str = "", secrets: tuple[str, ...] = (), deadline: float = 0
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
    deadline : float
        Seconds that the store had.
    """
    if isinstance(error, HeadraceError):
        return error
    kind, told = meaning(error), first_line(error, secrets)
    if kind is AlreadyExists:
        return AlreadyExists(f"cannot {asked} in {url}: it is there already, and it is never written twice")
    if kind is NotFound:
        return NotFound(f"cannot {asked}: {_missing(error, asked, url, told)}")
    if kind is AccessDenied:
        return AccessDenied(f"cannot {asked}: {_denied(error, url, told)}{hint}")
    if kind is Unreachable:
        return Unreachable(f"cannot {asked}: {_unreachable(error, url, told, deadline)}")
    if _names(error) & _HOST_KEY:
        return StorageError(
            f"cannot {asked}: the server of {url} could not prove to be the one it should be ({told}); add its key to "
            "~/.ssh/known_hosts, by connecting with ssh once, say, or give storage_options={'known_hosts': …}"
        )
    return StorageError(f"cannot {asked} in {url}: {told}; check the URL and storage_options")


def _missing(error: Exception, asked: str, url: str, told: str) -> str:
    if names_no_bucket(error):
        return f"there is no such bucket or container at {url}; create it, or correct the URL"
    if asked.startswith(("create", "write")):
        return f"{url} is not there and cannot be made ({told}); create it, or correct the URL"
    return f"there is no such object in {url}; check the name and the URL"


def _denied(error: Exception, url: str, told: str) -> str:
    if not (_names(error) & _NO_CREDENTIALS or any(word in _words(error) for word in _NO_CREDENTIALS_WORDS)):
        return f"{url} refuses access ({told}); check the credentials and their permissions"
    where = _CREDENTIALS.get(url.partition("://")[0], "those of the provider")
    return f"found no credentials for {url}; set {where} in the environment, or give storage_options"


def _unreachable(error: Exception, url: str, told: str, deadline: float) -> str:
    words = _words(error)
    if _names(error) & _NO_HOST or any(word in words for word in _NO_HOST_WORDS):
        return f"{url} does not answer, because its host is not known ({told}); check the address, and storage_options"
    if any(word in words for word in _REFUSED_WORDS):
        return (
            f"{url} does not answer, because nothing listens there ({told}); check the address and port, and "
            "storage_options"
        )
    if is_busy(error):
        return f"{url} is too busy to answer, also when asked again ({told}); try again later"
    within = f" within {deadline:g} s" if deadline and isinstance(error, TimeoutError) else ""
    return f"{url} does not answer{within} ({told}); check the network, the address and storage_options, then try again"


def _names(error: BaseException) -> set[str]:
    return {base.__name__ for link in chain(error) for base in type(link).__mro__}


def _own_names(error: BaseException) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def _words(error: BaseException) -> str:
    return " ".join(str(link).lower() for link in chain(error))


def _status(error: Exception) -> int | None:
    """The HTTP status of the answer that an exception tells of."""
    for link in chain(error):
        found = next((code for name in _STATUS if isinstance(code := getattr(link, name, None), int)), None)
        response = getattr(link, "response", None)
        if found is None and isinstance(response, Mapping):  # botocore's
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if found is not None:
            return found
    return None


def is_busy(error: Exception) -> bool:
    """Whether a store answered that it cannot answer now."""
    if getattr(error, "errno", None) in (errno.EBUSY, errno.EREMOTEIO) or _status(error) in _BUSY_STATUS:
        return True
    words = _words(error)
    return any(word in words for word in _BUSY_WORDS)


def first_line(error: BaseException, secrets: tuple[str, ...] = ()) -> str:
    """One line for people: type and text, cut, without secrets."""
    text = str(error).strip()
    for secret in secrets:
        text = text.replace(secret, "…")
    line = text.splitlines()[0] if text else ""
    line = line if len(line) <= 200 else line[:199] + "…"
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
