"""Which names an object may have."""

from __future__ import annotations

from flowbed.errors import Rejected

# S3 takes keys of 1,024 bytes, file systems names of 255; the same key must be good in every store.
MAX_KEY_BYTES = 1024
MAX_NAME_BYTES = 255

# Where a store in a folder keeps its locks and unfinished writes, below its root.
RESERVED = ".store"


def checked(key: str) -> str:
    """Return `key` if every store can hold it; raises `Rejected`, saying what is wrong with it."""
    if fault := _fault(key):
        raise Rejected(f"object key {key!r} {fault}")
    return key


def checked_prefix(prefix: str) -> str:
    """Return `prefix` as a folder name without its closing `/`, or "" for everything; raises `Rejected`."""
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
        return "holds a control character"
    if max(map(len, names)) > MAX_NAME_BYTES or len(key.encode()) > MAX_KEY_BYTES:
        return f"is too long: at most {MAX_NAME_BYTES} bytes for a name, {MAX_KEY_BYTES} in all"
    if names[0] == RESERVED.encode():
        return f"starts with {RESERVED}, which stores keep for themselves"
    return None
