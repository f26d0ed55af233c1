r"""Who wrote an object: signatures by keys that a storage's owners share, and nobody else has.

A signature is an HMAC-SHA256 over three lines::

    headrace signature 1\n
    <where: the object's key in its storage>\n
    <sha256 of what is signed, as hexadecimal digits>\n

so an object that is brought to another place is as little trusted as one that was changed. It is written as
``hmac-sha256:<id of the key>:<hexadecimal digits>``, so that whoever has another key can be told which one it was.

Keys stay in their process. What travels is where they are found: a variable, a file, or a function.
"""

from __future__ import annotations

import base64
import hmac
import os
import pkgutil
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from headrace.errors import HeadraceError, NotPicklable, SigningKeyError, UntrustedObject
from headrace.redaction import know

#: The variable that holds the signing keys, separated by commas: the first signs, all of them are trusted. Or ``@``
#: and the path of a file that holds them, one a line.
VARIABLE = "HEADRACE_SIGNING_KEY"
#: bytes; whoever sees a signature can try out shorter keys.
SHORTEST = 16

_METHOD = "hmac-sha256"
_SIGNATURE = re.compile(rf"{_METHOD}:([0-9a-f]{{8}}):([0-9a-f]{{64}})")
_PROVIDER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_MAKE_ONE = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'

#: Where a key comes from: the key itself, ``"env:NAME"``, a path or ``"file:PATH"``, a function or its
#: ``"module:name"``.
KeySource = bytes | str | os.PathLike[str] | Callable[[], Any]
KeySources = KeySource | Iterable[KeySource]


def sources_of(signing_keys: KeySources | None) -> tuple[KeySource, ...] | None:
    """Return where keys come from, one by one; None: the variable of whichever process uses them; (): no keys.

    Parameters
    ----------
    signing_keys : str, bytes, path, callable, or iterable of them, optional
        As a user gives them.

    Raises
    ------
    SigningKeyError
        If one cannot be meant, or is too short.
    """
    if signing_keys is None:
        return None
    single = not isinstance(signing_keys, Iterable) or isinstance(signing_keys, (bytes, str))
    sources = (signing_keys,) if single else tuple(signing_keys)  # type: ignore[arg-type]
    for source in sources:
        if not (isinstance(source, (bytes, str, os.PathLike)) or callable(source)):
            raise SigningKeyError(
                f"a signing key is a text, bytes, a path, or a function that returns one, got a {type(source).__name__}"
            )
        if isinstance(source, bytes) or (isinstance(source, str) and _reference(source) is None):
            _checked(source, "signing_keys")
    return sources  # type: ignore[return-value]


def _reference(source: KeySource) -> str | None:
    """How another process finds the same key, if it can; a key itself, and a function without a name, stay here."""
    if isinstance(source, str) and source.startswith("file:"):
        source = Path(source.removeprefix("file:").removeprefix("//"))
    if isinstance(source, os.PathLike):
        return f"file:{Path(source).expanduser().absolute()}"
    if isinstance(source, str) and (source.startswith("env:") or _PROVIDER.fullmatch(source)):
        return source
    return None


def references_of(sources: tuple[KeySource, ...] | None) -> list[str] | None:
    """Return JSON data by which another process finds the same keys; None if it cannot find all of them."""
    found = [_reference(source) for source in sources or ()]
    return None if sources is None or None in found else found  # type: ignore[return-value]


class Seal:
    """Signs what is written to a storage, and checks what is read from it. Without keys it does neither.

    Parameters
    ----------
    sources : tuple of key sources, optional
        See `sources_of`. Keys are looked up when the first is needed, and kept.
    lacking : bool, default False
        Whether the storage had keys that could not be written down; then the variable must hold them.
    """

    def __init__(self, sources: tuple[KeySource, ...] | None = (), *, lacking: bool = False) -> None:
        self._sources = sources
        self._lacking = lacking
        self._found: tuple[tuple[str, bytes], ...] | None = () if sources == () and not lacking else None

    def __repr__(self) -> str:
        return "<Seal>"

    def __reduce__(self) -> NoReturn:
        raise NotPicklable("signing keys do not travel; pickle or serialize the storage")

    @property
    def active(self) -> bool:
        """Whether there are keys."""
        return bool(self._keys)

    @property
    def references(self) -> tuple[str, ...] | None:
        """Where other processes find the same keys; empty: in their variable; None: there are none."""
        return tuple(references_of(self._sources) or ()) if self.active else None

    @property
    def _keys(self) -> tuple[tuple[str, bytes], ...]:
        """(id, key), the one that signs first."""
        if self._found is None:
            keys = self._look_up()
            if self._lacking and not keys:
                raise SigningKeyError(
                    "what the storage holds is signed with a key that does not travel with it, and this process does "
                    f"not have it: set {VARIABLE} here, or give it again, deserialize(..., signing_keys=...)"
                )
            self._found = tuple((key_id(key), key) for key in keys)
        return self._found

    def _look_up(self) -> list[bytes]:
        if self._sources:
            return [key for source in self._sources for key in _keys_from(source)]
        return _from_variable(VARIABLE) if VARIABLE in os.environ else []

    def sign(self, where: str, digest: str) -> str:
        """Return the signature of an object; empty without keys.

        Parameters
        ----------
        where : str
            The object's key in its storage.
        digest : str
            sha256 of what is signed.
        """
        if not self._keys:
            return ""
        name, key = self._keys[0]
        return f"{_METHOD}:{name}:{_mac(key, where, digest)}"

    def check(self, where: str, digest: str, signature: str) -> None:
        """Refuse what is not signed by one of the keys; without keys, nothing.

        Parameters
        ----------
        where, digest : str
            As they were signed.
        signature : str
            What was found; empty: none.

        Raises
        ------
        UntrustedObject
            If it is not signed, changed, from another place, or signed by another key.
        """
        if not self._keys:
            return
        match = _SIGNATURE.fullmatch(signature)
        if match is None:
            raise _unsigned(where)
        trusted = [key for name, key in self._keys if name == match[1]]
        if not trusted:
            raise _other_key(where, match[1], [name for name, _ in self._keys])
        if not any(hmac.compare_digest(_mac(key, where, digest), match[2]) for key in trusted):
            raise _forged(where)

    def is_newest(self, signature: str) -> bool:
        """Whether a signature, which was checked, is by the key that signs now; without keys, any."""
        return not self._keys or signature.startswith(f"{_METHOD}:{self._keys[0][0]}:")


#: of storages without keys
UNSEALED = Seal()


def key_id(key: bytes) -> str:
    """Return eight hexadecimal digits by which people can tell keys apart; they say nothing else about the key."""
    return hmac.digest(key, b"headrace key id 1\n", "sha256").hex()[:8]


def _mac(key: bytes, where: str, digest: str) -> str:
    message = f"headrace signature 1\n{where}\n{digest}\n".encode(errors="surrogatepass")
    return hmac.digest(key, message, "sha256").hex()


# -- where keys come from ------------------------------------------------------------------------------------


def _keys_from(source: KeySource) -> list[bytes]:
    if isinstance(source, bytes):
        return [_checked(source, "signing_keys")]
    if callable(source):
        return _provided(source, getattr(source, "__qualname__", "the function"))
    reference = _reference(source)
    if reference is None:
        return [_checked(str(source), "signing_keys")]
    kind, _, rest = reference.partition(":")
    if kind == "file":
        return _from_file(rest, reference)
    if kind == "env":
        if rest not in os.environ:
            raise SigningKeyError(f"the signing key is in the variable {rest}, which is not set in this process")
        return _from_variable(rest)
    return _provided(_imported(kind, rest, reference), reference)


def _from_variable(name: str) -> list[bytes]:
    text = os.environ[name].strip()
    if text.startswith("@"):
        return _from_file(text[1:], name)
    return _several(text.split(","), name)


def _from_file(path: str, named: str) -> list[bytes]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or type(error).__name__
        raise SigningKeyError(
            f"the file of signing keys {path!r} ({named}) cannot be read: {told}; it holds one key a line"
        ) from None
    return _several(text.splitlines(), path)


def _several(texts: Iterable[str], place: str) -> list[bytes]:
    keys = [_checked(text.strip(), place) for text in texts if text.strip()]
    if not keys:
        raise SigningKeyError(f"{place} is to hold a signing key, and is empty; {_MAKE_ONE}")
    return keys


def _imported(module: str, name: str, reference: str) -> Callable[[], Any]:
    try:
        found = pkgutil.resolve_name(f"{module}:{name}")
    except (ImportError, AttributeError) as error:
        # The text might be a key with a colon in it, so it is not shown.
        raise SigningKeyError(
            f"the function that provides signing keys cannot be imported here ({type(error).__name__}); install its "
            "module, or, if the text was meant as a key that has a colon in it, give it as bytes"
        ) from None
    return found  # type: ignore[no-any-return]


def _provided(provider: Callable[[], Any], named: str) -> list[bytes]:
    try:
        found = provider()
    except HeadraceError:
        raise
    except Exception as error:
        raise SigningKeyError(f"{named} was to provide signing keys, and raised {type(error).__name__}") from error
    several = [found] if isinstance(found, (str, bytes)) else found
    if not isinstance(several, (list, tuple)) or not several:
        raise SigningKeyError(f"{named} must return a signing key or a list of them, got a {type(found).__name__}")
    return [_checked(key, named) for key in several]


def _checked(key: Any, place: str) -> bytes:
    if not isinstance(key, (str, bytes)):
        raise SigningKeyError(f"a signing key of {place} is a {type(key).__name__}; give text or bytes")
    if isinstance(key, str) and os.path.isfile(key):
        raise SigningKeyError(
            f"a signing key of {place} is the name of a file, which others may guess; if the key is in that file, give "
            f"'file:…' or a Path in code, '@…' in {VARIABLE}"
        )
    found = key.encode() if isinstance(key, str) else key
    if len(found) < SHORTEST:
        raise SigningKeyError(
            f"a signing key of {place} has {len(found)} bytes, and needs {SHORTEST} or more, so that nobody finds it "
            f"by trying; {_MAKE_ONE}"
        )
    know(*_texts_of(found))
    return found


def _texts_of(key: bytes) -> list[str]:
    """A key as it may stand in texts; `redaction` adds the forms that any text has."""
    try:
        return [key.decode()]
    except UnicodeDecodeError:
        return [key.hex(), base64.b64encode(key).decode().rstrip("="), repr(key)[2:-1]]


# -- what is not trusted -------------------------------------------------------------------------------------


def _unsigned(where: str) -> UntrustedObject:
    return UntrustedObject(
        f"{where} is not signed, and this storage has a signing key, so nothing of it was used; find out who "
        "wrote it, and delete it, or, if all that is unsigned there is your own: headrace sign URL --unsigned",
        reason="unsigned",
    )


def _other_key(where: str, found: str, known: list[str]) -> UntrustedObject:
    return UntrustedObject(
        f"{where} is signed by another key (id {found}) than those that are trusted here (id {', '.join(known)}), so "
        "nothing of it was used; if you trust that key, put it behind the first one, and: headrace sign URL",
        reason="other key",
        key_id=found,
    )


def _forged(where: str) -> UntrustedObject:
    return UntrustedObject(
        f"{where} does not match its signature: it was changed after it was signed, or brought here from another "
        "place; nothing of it was used. Find out who can write to the storage, and restore it from a copy",
        reason="forged",
    )
