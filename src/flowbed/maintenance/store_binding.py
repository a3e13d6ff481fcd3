"""Binds a store to the ledger that describes it: written when the store is first opened, checked from then on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, Misconfigured, Newer, NotFound
from flowbed.records import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.ledger import Ledger
    from flowbed.storage import Store, Stored

FORMAT = 1  # of the store's layout
KEY = "flowbed.json"


REBIND = "flowbed verify --repair; flowbed run"
ANYWAY = "`flowbed verify --repair` binds it to this ledger anyway"
LOOK_AGAIN = "flowbed doctor"


class Unbound(Misconfigured):
    """A store and a ledger that do not belong together; `fix` is a command that takes nothing from another project."""

    def __init__(self, message: str, *, fix: str = REBIND) -> None:
        """Store the command with the message."""
        super().__init__(message)
        self.fix = fix


async def bind(store: Store, ledger: Ledger, *, store_name: str, ledger_name: str) -> None:
    """Bind a new store to its ledger, or check that they belong together.

    Raises:
        Unbound: the store belongs to another ledger, its `flowbed.json` is damaged, or its contents are gone.
        Newer: a newer Flowbed wrote the store.
    """
    stored: Stored | None
    try:
        # Read first: it nearly always exists, and a reader may not have permission to write.
        stored = await store.get(KEY)
    except NotFound:
        stored = await _create(store, ledger)
    if stored is not None:
        await _require_own(stored, ledger, store_name=store_name, ledger_name=ledger_name)
    elif await ledger.chunks.counts():
        # The objects of the chunks that the ledger has as indexed are gone: runs and searches would find nothing.
        await store.delete([KEY])
        raise _emptied(store_name, ledger_name)


async def require_bound(store: Store, ledger: Ledger, *, store_name: str, ledger_name: str) -> None:
    """Check that a store and a ledger belong together, or are both new; change nothing.

    Raises:
        Unbound: as `bind`.
        Newer: a newer Flowbed wrote the store.
    """
    try:
        stored = await store.get(KEY)
    except NotFound:
        if await ledger.chunks.counts():
            raise _emptied(store_name, ledger_name) from None
        return
    await _require_own(stored, ledger, store_name=store_name, ledger_name=ledger_name)


async def _require_own(stored: Stored, ledger: Ledger, *, store_name: str, ledger_name: str) -> None:
    try:
        binding = dict(json.loads(stored.body))
    except (ValueError, TypeError) as error:
        raise Unbound(f"{KEY} of store {store_name} is damaged ({error}); restore it, or {ANYWAY}") from error
    if _is_newer(binding):
        raise _newer(f"store {store_name}", binding.get("format"))
    if binding.get("format") == FORMAT and binding.get("ledger") == ledger.id:
        return
    said = (
        f"store {store_name} belongs to another ledger ({str(binding.get('ledger'))[:8]}) than {ledger_name}"
        f" ({ledger.id[:8]})"
    )
    if "ledger" in binding and await ledger.chunks.counts():
        # Both are in use: to bind them would take the store from another project.
        raise Unbound(
            f"{said}, which knows of chunks in another store: two projects have swapped a store or a ledger. Set"
            f" `store` or `ledger` back, so that ledger {str(binding['ledger'])[:8]} has this store again; nothing was"
            " changed",
            fix=LOOK_AGAIN,
        )
    raise Unbound(f"{said}: restore the ledger that it was filled with, or set another store; {ANYWAY}")


def _emptied(store_name: str, ledger_name: str) -> Unbound:
    return Unbound(
        f"store {store_name} is empty, but ledger {ledger_name} knows of chunks in another one: restore that"
        " store, or set a new ledger to index everything again (cached vectors cost nothing);"
        f" {ANYWAY}"
    )


async def _create(store: Store, ledger: Ledger) -> Stored | None:
    """Create the binding and return None, or return the one that another process has just created."""
    try:
        await store.create(KEY, _body(ledger))
    except Conflict:
        return await store.get(KEY)
    return None


async def rebind(store: Store, ledger: Ledger) -> str:
    """Bind a store to this ledger, even if it belonged to another; return what changed, or an empty text.

    Raises:
        Newer: a newer Flowbed wrote the store.
    """
    try:
        stored = await store.get(KEY)
    except NotFound:
        await store.create(KEY, _body(ledger))
        return "the store was empty and is bound to this ledger"
    try:
        binding = dict(json.loads(stored.body))
    except (ValueError, TypeError):
        binding = {"format": FORMAT}
    if _is_newer(binding):
        raise _newer("the store", binding.get("format"))
    if binding == {"format": FORMAT, "ledger": ledger.id}:
        return ""
    await store.replace(KEY, _body(ledger), etag=stored.etag)
    was = (
        f"belonged to ledger {str(binding['ledger'])[:8]}" if "ledger" in binding else f"had a damaged {KEY}"
    )
    return f"the store {was} and is now bound to this ledger"


def _is_newer(binding: Mapping[str, object]) -> bool:
    """Return whether a newer Flowbed wrote the store; a format that is no number is damage, and has no ledger."""
    found = binding.get("format")
    return isinstance(found, int) and found > FORMAT


def _newer(what: str, found: object) -> Newer:
    return Newer(
        f"{what} has format {found}, made by a newer Flowbed; this one reads format {FORMAT}: upgrade Flowbed"
    )


def _body(ledger: Ledger) -> bytes:
    return canonical({"format": FORMAT, "ledger": ledger.id})
