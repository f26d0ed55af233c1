"""Certificates made for one cluster: for its scheduler, its workers, and those who connect to it.

``distributed.Security.temporary()`` makes some, too. They are valid from the very second on, so that a machine whose
clock is behind refuses them: good enough within one machine, not for a cluster of several. And each process that holds
them could issue others, because the one certificate is its own authority.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from headrace.errors import MissingPackage

if TYPE_CHECKING:
    from distributed import Security

#: Since when they are valid, so that clocks may differ.
SKEW = timedelta(hours=1)
#: For how long they are valid: longer than any cluster lives. They open nothing but that cluster, so more does no harm.
LIFE = timedelta(days=365)


@dataclass(frozen=True)
class Pems:
    """An authority, and a certificate of it with its key, as text in the PEM format.

    Parameters
    ----------
    ca, cert, key : str
        The key opens the cluster to whoever has it.
    """

    ca: str
    cert: str
    key: str = field(repr=False)


def make_certificates() -> Pems:
    """Make an authority and one certificate of it, for all roles. The authority's own key is not kept.

    Dask compares no names, so whoever has the certificate is let in, wherever he runs.

    Returns
    -------
    Pems
        Newly made.

    Raises
    ------
    MissingPackage
        If ``cryptography`` is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID
    except ImportError as error:
        raise MissingPackage(
            f"certificates for a cluster are made with the package {error.name}: pip install 'headrace[tls]'"
        ) from error
    authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _named("headrace cluster authority")
    identity = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    ca = _signed(
        issuer, issuer, authority.public_key(), authority,
        (x509.BasicConstraints(ca=True, path_length=0), True), (_usage(key_cert_sign=True), True), (identity, False),
    )  # fmt: skip
    cert = _signed(
        _named("headrace cluster"), issuer, own.public_key(), authority,
        (x509.BasicConstraints(ca=False, path_length=None), True), (_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity), False),
    )  # fmt: skip
    return Pems(ca, cert, _private(own))


def security_of(pems: Pems) -> Security:
    """Return what Dask takes: TLS on all connections, and nobody is let in without such a certificate.

    Parameters
    ----------
    pems : Pems
        For all roles.
    """
    from distributed import Security

    roles = ("client", "scheduler", "worker")
    certs = {f"tls_{role}_cert": pems.cert for role in roles}
    keys = {f"tls_{role}_key": pems.key for role in roles}
    return Security(require_encryption=True, tls_ca_file=pems.ca, **certs, **keys)


def _signed(subject: Any, issuer: Any, public_key: Any, signer: Any, *extensions: tuple[Any, bool]) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, subject, public_key, x509.random_serial_number(), now - SKEW, now + LIFE)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _named(name: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _usage(**granted: bool) -> Any:
    from cryptography import x509

    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: granted.get(name, False) for name in names})


def _private(key: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()  # type: ignore[no-any-return]
