"""Valid object keys."""

from __future__ import annotations

from flowbed.errors import Rejected

# S3 allows keys of 1,024 bytes, file systems names of 255; a key must be valid in every store.
MAX_KEY_BYTES = 1024
MAX_NAME_BYTES = 255

# Where a store keeps its own files, below its root: locks, unfinished writes, tests of conditions.
RESERVED = ".store"


def checked(key: str) -> str:
    """Return `key` if it is valid in every store; otherwise raises `Rejected` with the reason."""
    if fault := _fault(key):
        raise Rejected(f"object key {key!r} {fault}")
    return key


def checked_prefix(prefix: str) -> str:
    """Return `prefix` as a folder name without a trailing `/`, or "" for everything; raises `Rejected`."""
    folder = prefix.removesuffix("/")
    return checked(folder) if folder else ""


def _fault(key: str) -> str | None:
    try:
        names = [name.encode() for name in key.split("/")]
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if any(name in {b"", b".", b".."} for name in names):
        return "must be names joined by single slashes, none of them empty, . or .."
    if any(ord(character) < ord(" ") or ord(character) == 0x7F for character in key):  # noqa: PLR2004 - DEL
        return "contains a control character"
    if max(map(len, names)) > MAX_NAME_BYTES or len(key.encode()) > MAX_KEY_BYTES:
        return f"is too long: at most {MAX_NAME_BYTES} bytes for a name, {MAX_KEY_BYTES} in all"
    if names[0] == RESERVED.encode():
        return f"starts with {RESERVED}, which is reserved for the store"
    return None
