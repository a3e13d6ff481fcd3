"""The tie between a store and the ledger that it was filled with: made on the first opening, and kept from then on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, Misconfigured, NotFound
from flowbed.records import canonical

if TYPE_CHECKING:
    from flowbed.ledger import Ledger
    from flowbed.storage import Store, Stored

FORMAT = 1  # of a store's layout
TIE = "flowbed.json"


async def tie(store: Store, ledger: Ledger, *, store_name: str, ledger_name: str) -> None:
    """Tie a new store to its ledger.

    Raises:
        Misconfigured: the store is tied to another ledger, or its tie is damaged, or the store was filled and is empty.
    """
    repair = "`flowbed verify --repair` ties it to this ledger all the same"
    stored: Stored | None
    try:
        # Read first: it is nearly always there, and a reader may have no permission to write.
        stored = await store.get(TIE)
    except NotFound:
        stored = await _made(store, ledger)
    if stored is not None:
        try:
            said = dict(json.loads(stored.body))
        except (ValueError, TypeError) as error:
            raise Misconfigured(
                f"{TIE} of store {store_name} is damaged ({error}); restore it, or {repair}"
            ) from error
        if said.get("format") != FORMAT:
            raise Misconfigured(
                f"store {store_name} has format {said.get('format')}; this Flowbed reads format {FORMAT}"
            ) from None
        if said.get("ledger") != ledger.id:
            raise Misconfigured(
                f"store {store_name} belongs to another ledger ({str(said.get('ledger'))[:8]}) than {ledger_name}"
                f" ({ledger.id[:8]}): put the ledger back that it was filled with, or set another store; {repair}"
            ) from None
    elif await ledger.chunks.counts():
        # What the ledger takes for indexed is not here: a run would find nothing to do, and a search nothing.
        await store.delete([TIE])
        raise Misconfigured(
            f"store {store_name} is empty, and ledger {ledger_name} knows of chunks in another one: put that"
            " store back, or set a new ledger to index everything again (vectors that are cached cost nothing);"
            f" {repair}"
        )


async def _made(store: Store, ledger: Ledger) -> Stored | None:
    """Make the tie, or give the one that another process has just made."""
    try:
        await store.create(TIE, _body(ledger))
    except Conflict:
        return await store.get(TIE)
    return None


async def tie_anew(store: Store, ledger: Ledger) -> str:
    """Tie a store to this ledger whatever it was tied to, and say what that changed: nothing, where it was already.

    Raises:
        Misconfigured: the store has a format that this Flowbed does not know.
    """
    try:
        stored = await store.get(TIE)
    except NotFound:
        await store.create(TIE, _body(ledger))
        return "the store was empty, and is tied to this ledger"
    try:
        said = dict(json.loads(stored.body))
    except (ValueError, TypeError):
        said = {"format": FORMAT}
    if said.get("format") != FORMAT:
        raise Misconfigured(f"the store has format {said.get('format')}; this Flowbed reads format {FORMAT}")
    if said.get("ledger") == ledger.id:
        return ""
    await store.replace(TIE, _body(ledger), etag=stored.etag)
    was = f"belonged to ledger {str(said['ledger'])[:8]}" if "ledger" in said else f"had a damaged {TIE}"
    return f"the store {was}, and is tied to this ledger now"


def _body(ledger: Ledger) -> bytes:
    return canonical({"format": FORMAT, "ledger": ledger.id})
