"""What users say about TLS: ``security=`` of an environment, as Dask takes it, and as data."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from headrace.environments.certificates import make_certificates, security_of
from headrace.environments.options import check_names, names_of, takes_any
from headrace.errors import SetupError

if TYPE_CHECKING:
    from distributed import Security

#: Arguments of ``distributed.Security`` that name a file, or hold what would be in it.
FILES = (
    "tls_ca_file", "tls_client_cert", "tls_client_key", "tls_scheduler_cert", "tls_scheduler_key", "tls_worker_cert",
    "tls_worker_key",
)  # fmt: skip
_PLAIN = (*FILES, "require_encryption", "tls_ciphers")
_EXAMPLE = (
    "security={'tls_ca_file': 'ca.pem', 'tls_client_cert': 'cert.pem', 'tls_client_key': 'key.pem'} (a key of its own "
    "may be left out, if it is in the certificate's file), or a distributed.Security"
)


def as_security(given: Any) -> Security | None:
    """Return what Dask takes, checked as far as can be done from here.

    Parameters
    ----------
    given : bool, mapping, Security or None
        True: certificates made now. A mapping: arguments of ``distributed.Security``, with paths of files.

    Raises
    ------
    SetupError
        If a file is missing, or cannot be used.
    """
    from distributed import Security

    if given is None or given is False:
        return None
    if given is True:
        return security_of(make_certificates())
    if isinstance(given, Mapping):
        check_names(given, _PLAIN, "security=")
        given = Security(**{"require_encryption": True, **given})
    if not isinstance(given, Security):
        raise SetupError(f"security= must be True, or {_EXAMPLE}; got a {type(given).__name__}")
    for name, path in _paths(given):
        if not os.path.isfile(path):
            raise SetupError(f"{name}={path!r} of security= is not there; give the path of a file on this machine")
    context_of(given)
    return given


def as_data(given: Any) -> Any:
    """Return ``security=`` as plain JSON data: names of files, never what is in them.

    Parameters
    ----------
    given : bool, mapping, Security or None
        As the user gave it.

    Raises
    ------
    SetupError
        If it holds certificates or keys themselves, or what has no JSON form.
    """
    if given is None or isinstance(given, bool):
        return given
    if not isinstance(given, Mapping):
        from distributed import Security

        if not isinstance(given, Security):
            raise SetupError(f"security= must be True, or {_EXAMPLE}; got a {type(given).__name__}")
        versions = [getattr(given, f"tls_{which}_version") for which in ("min", "max")]
        if given.extra_conn_args or versions != [ssl.TLSVersion.TLSv1_2, None]:
            raise SetupError(
                "security= cannot be written down, because it sets versions of TLS or extra_conn_args; set them in "
                "Dask's configuration, where the environment is used"
            )
        given = {name: getattr(given, name) for name in _PLAIN if getattr(given, name) is not None}
    for name, value in given.items():
        if isinstance(value, str) and "\n" in value:
            raise SetupError(
                f"security= cannot be written down, because its {name} is the text of a certificate or a key; write it "
                "to a file that only its owner may read, and give the path"
            )
    return dict(given)


def context_of(security: Security) -> ssl.SSLContext | None:
    """Return how this process, as a client, talks TLS; None if it does not.

    Parameters
    ----------
    security : Security
        The user's, or that of Dask's configuration.

    Raises
    ------
    SetupError
        If a certificate or a key cannot be used.
    """
    try:
        context: ssl.SSLContext | None = security.get_connection_args("client")["ssl_context"]
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        names = ", ".join(f"{name}={path!r}" for name, path in _paths(security)) or "certificates as text"
        raise SetupError(
            f"the certificates of security= cannot be used ({error}): {names}; they must be in the PEM format, without "
            "a password, and the key must be that of its certificate"
        ) from error
    return context


def made(cls: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Make a cluster; one that was to be encrypted is, or is closed again.

    Parameters
    ----------
    cls : callable
        The class of the cluster.
    options : mapping
        Its arguments. ``security`` may be what ``as_security`` takes.
    """
    options = dict(options)
    security = as_security(options.pop("security", None))
    name = getattr(cls, "__qualname__", repr(cls))
    if not takes_any(cls):
        check_names(options, names_of(cls), f"the cluster class {name}")
    if security is None:
        return cls(**options)
    if not takes_any(cls) and "security" not in names_of(cls):
        raise SetupError(
            f"the cluster class {name} takes no security=; if its scheduler and workers read Dask's configuration, "
            "name the certificates there (distributed.comm.tls), and leave security= out"
        )
    cluster = cls(**options, security=security)
    if not str(cluster.scheduler_address).startswith(("tls://", "inproc://")):
        cluster.close()
        raise SetupError(
            f"the cluster class {name} was given security=, but its scheduler listens at {cluster.scheduler_address}, "
            "without encryption; look in its documentation how it is told to talk TLS (protocol='tls', perhaps)"
        )
    return cluster


def _paths(security: Security) -> Iterator[tuple[str, str]]:
    for name in FILES:
        value = getattr(security, name)
        if value is not None and "\n" not in value:
            yield name, value
