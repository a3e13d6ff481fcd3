"""Whether a request without a key comes from this machine, and from which page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

# Host names that a web page cannot make a browser use for another machine: without keys, neither a page under its own
# name that resolves here nor a request of another machine's page gets an answer.
LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})


def is_here(headers: dict[bytes, bytes], allowed: Collection[str]) -> bool:
    """Tell whether the client addresses this server by a loopback name, and is no page of another machine.

    Pages of `allowed` origins may be of any machine.
    """
    if _name_of(headers.get(b"host", b"")) not in LOOPBACK:
        return False
    # Browsers send it with every request of a page that may have effects.
    origin = headers.get(b"origin")
    return origin is None or _text(origin) in allowed or _name_of(origin.rpartition(b"://")[2]) in LOOPBACK


def is_other_page(headers: dict[bytes, bytes], allowed: Collection[str]) -> bool:
    """Tell whether a page of an origin that is neither the addressed one nor `allowed` sends the request."""
    origin = headers.get(b"origin")
    if origin is None:
        return False
    return (
        _text(origin) not in allowed
        and origin.lower().rpartition(b"://")[2] != headers.get(b"host", b"").lower()
    )


def _text(origin: bytes) -> str:
    return origin.decode("latin-1").lower()


def _name_of(address: bytes) -> bytes:
    """Return the host of an address, without the port."""
    host = address.lower()
    return host[: host.index(b"]") + 1] if host.startswith(b"[") and b"]" in host else host.partition(b":")[0]
