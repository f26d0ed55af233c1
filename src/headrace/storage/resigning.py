"""Signing anew what a storage holds: after a new key was put before the old one, or where there was none before.

Contents stay as they are, so locations do, too; whoever reads meanwhile finds the old signature or the new one.

What others remove meanwhile does not come back: each object is looked for right before it is written. What remains: one
that is removed between that look and the write, milliseconds later, is there again, because stores cannot be asked to
replace only what is there. It must be removed again; best is to sign while nobody removes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.errors import EnvelopeError, SigningKeyError, UntrustedObject
from headrace.storage.capture import open_flow
from headrace.storage.envelope import open_envelope, signed
from headrace.storage.files import Files
from headrace.storage.records import from_bytes, to_bytes
from headrace.storage.runs import KIND as OUTCOME
from headrace.storage.signing import UNSEALED, Seal
from headrace.storage.versions import all_at_once

#: how many objects are held in memory at the same time.
_AT_ONCE = 32


@dataclass
class SignedAgain:
    """What became of the objects of a storage.

    Attributes
    ----------
    signed : int
        How many have a new signature.
    kept : int
        How many had it already.
    refused : dict of str to EnvelopeError
        Those that are not trusted or not intact, and were left alone, by key.
    """

    signed: int = 0
    kept: int = 0
    refused: dict[str, EnvelopeError] = field(default_factory=dict)


def sign_again(files: Files, *, unsigned: bool) -> SignedAgain:
    """Sign all objects with the first key of a storage; see `StoredFlows.sign_again`.

    An object that is removed between the last look for it and the write comes back; see above.
    """
    if not files.seal.active:
        raise SigningKeyError(f"{files.url} has no signing key to sign with; set HEADRACE_SIGNING_KEY")
    done = SignedAgain()
    # Bundles of code have no signature of their own: the flows hold their digests.
    keys = [key for key in [*files.list("flows"), *files.list("runs")] if not key.endswith(".zip")]
    for start in range(0, len(keys), _AT_ONCE):
        changed = {}
        for key, data in files.read_many(keys[start : start + _AT_ONCE]).items():
            try:
                found = _signed_again(key, data, files.seal, unsigned=unsigned)
            except EnvelopeError as error:
                done.refused[key] = error
                continue
            if found == data:
                done.kept += 1
            else:
                changed[key] = found
        done.signed += sum(all_at_once(lambda item: _write_if_there(files, *item), list(changed.items())))
    return done


def _write_if_there(files: Files, key: str, data: bytes) -> bool:
    """Replace an object, unless it was removed since it was read; return whether it was there."""
    there = files.exists(key)
    if there:
        files.replace(key, data)
    return there


def _signed_again(key: str, data: bytes, seal: Seal, *, unsigned: bool) -> bytes:
    try:
        return opened(key, data, seal, seal)
    except UntrustedObject as error:
        if not (unsigned and error.reason == "unsigned"):  # type: ignore[attr-defined]
            raise
        return opened(key, data, UNSEALED, seal)


def opened(key: str, data: bytes, trusted: Seal, seal: Seal) -> bytes:
    """Return an object of a storage, checked with one seal and signed with another.

    Parameters
    ----------
    key : str
        Where it lies.
    data : bytes
        As it was found.
    trusted, seal : Seal
        Whose signature it must have, and whose it gets.

    Raises
    ------
    EnvelopeError
        If it is not trusted, not intact, or nothing that headrace writes.
    """
    if key.startswith("flows/") and key.endswith(".flow"):
        open_flow(data, key, trusted)
        return signed(data, key, seal)
    if key.endswith("/outcome"):
        open_envelope(data, key, OUTCOME, trusted)
        return signed(data, key, seal)
    return to_bytes(from_bytes(data, key, trusted), key, seal)
