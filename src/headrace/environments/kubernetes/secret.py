"""The Secret with the certificates of one cluster: made before it, handed over to it, found again by who joins it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.environments.certificates import Pems, make_certificates, security_of
from headrace.environments.encryption import FILES, as_security
from headrace.environments.kubernetes.manifests import LABEL, tls_secret_manifest
from headrace.errors import KubernetesError, SetupError

if TYPE_CHECKING:
    from distributed import Security

    from headrace.environments.kubernetes.api import Api
    from headrace.environments.kubernetes.spec import KubernetesSpec


def create(api: Api, spec: KubernetesSpec, name: str, owner: Mapping[str, Any] | None = None) -> Security | None:
    """Create the Secret of a cluster that will be made. Pods that came before it would wait for it for long.

    Parameters
    ----------
    api : Api
        Where.
    spec : KubernetesSpec
        Of the cluster.
    name : str
        Of the cluster, and of the Secret.
    owner : mapping, optional
        Reference to the pod that this process runs in, with which the Secret goes until there is a cluster.

    Returns
    -------
    Security or None
        With which one connects to the cluster; None, if it has no TLS.
    """
    if spec.security is False:
        return None
    own = None if spec.security is True else as_security(spec.security)
    pems = make_certificates() if own is None else _texts(own)
    api.create(tls_secret_manifest(name, pems, labels={LABEL: name}, owner=owner))
    return own or security_of(pems)


def hand_over(api: Api, name: str, owner: Mapping[str, Any]) -> None:
    """Have the Secret go with the cluster.

    Parameters
    ----------
    api : Api
        Where.
    name : str
        Of the cluster.
    owner : mapping
        Reference to the cluster.
    """
    api.patch("Secret", name, {"metadata": {"ownerReferences": [dict(owner)]}})


def find(api: Api, spec: KubernetesSpec, name: str) -> Security | None:
    """Return with what one connects to a cluster that is there.

    Parameters
    ----------
    api : Api
        Where.
    spec : KubernetesSpec
        Says whether TLS is wanted, and may bring the certificates.
    name : str
        Of the cluster.

    Raises
    ------
    SetupError
        If there are no certificates for it, or they may not be read.
    """
    if spec.security is not True:
        return as_security(spec.security)
    otherwise = (
        "give security=False to talk to it without encryption, or, if it does encrypt, the distributed.Security that "
        "it was made with"
    )
    try:
        secret = api.get("Secret", name)
    except KubernetesError as error:
        raise SetupError(f"the certificates of the cluster {name!r} cannot be read: {error}; or {otherwise}") from error
    data = (secret or {}).get("data") or {}
    keys = ("ca.crt", "tls.crt", "tls.key")
    if any(key not in data for key in keys):
        raise SetupError(
            f"the cluster {name!r} in namespace {api.namespace!r} has no Secret of its name with certificates, so it "
            f"was made elsewhere, or without TLS; {otherwise}"
        )
    return security_of(Pems(*(base64.b64decode(data[key]).decode() for key in keys)))


def _texts(security: Security) -> Pems:
    """What pods need of the user's own certificates."""
    given = {name: getattr(security, name) for name in FILES}
    ca = given["tls_ca_file"]
    for role in ("scheduler", "worker", "client"):
        if ca and (cert := given[f"tls_{role}_cert"]):
            return Pems(_text(ca), _text(cert), _text(given[f"tls_{role}_key"] or cert))
    raise SetupError(
        "security= holds no authority, or no certificate for the pods; give tls_ca_file, and tls_scheduler_cert with "
        "tls_scheduler_key, or True for certificates made for this cluster"
    )


def _text(given: str) -> str:
    return given if "\n" in given else Path(given).read_text(encoding="ascii")
