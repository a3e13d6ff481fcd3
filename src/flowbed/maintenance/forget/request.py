"""A request to forget, in the store while it is carried out, so that a killed one can be resumed.

forgotten/requests/{id}.json    what to erase; deleted at the end
forgotten/receipts/{id}.json    what was erased, without a name of any row
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import Conflict, Damaged, NotFound
from flowbed.index.forgotten import FOLDER
from flowbed.records import canonical

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.maintenance.forget import Receipt
    from flowbed.storage import Store

REQUESTS, RECEIPTS = f"{FOLDER}/requests", f"{FOLDER}/receipts"


@dataclass(frozen=True, kw_only=True)
class ChunkToForget:
    """A chunk to erase; `source` and `document` are empty if only the index knows it."""

    collection: str
    id: str
    source: str = ""
    document: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to erase. `texts` are text hashes that no other row has, `keys` those of their vectors in caches, in hex.

    `mentions` are objects of the server that contain one of the texts. No text itself is kept.
    """

    id: str
    chunks: Sequence[ChunkToForget]
    documents: Sequence[tuple[str, str]]
    texts: Sequence[str]
    keys: Sequence[str]
    mentions: Sequence[str] = ()
    kept: int = 0


def request_key(request: str) -> str:
    """Return the key of a request."""
    return f"{REQUESTS}/{request}.json"


async def write_request(store: Store, request: Request) -> None:
    """Write a request; the same one again changes nothing."""
    try:
        await store.create(request_key(request.id), canonical(asdict(request)))
    except Conflict:
        return


async def open_requests(store: Store) -> list[Request]:
    """Read the requests that are not done.

    Raises:
        Damaged: one cannot be read.
    """
    found = []
    for key in sorted([listed.key async for listed in store.list(REQUESTS)]):
        try:
            body = (await store.get(key)).body
        except NotFound:
            continue  # another process has finished it
        try:
            said = orjson.loads(body)
            said["chunks"] = [ChunkToForget(**each) for each in said["chunks"]]
            said["documents"] = [(source, document) for source, document in said["documents"]]
            found.append(Request(**said))
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(
                f"{key} cannot be read ({error}): delete it, and forget the same rows again"
            ) from error
    return found


async def write_receipt(store: Store, receipt: Receipt) -> None:
    """Write a receipt; once the request is complete, it is deleted."""
    await store.put(f"{RECEIPTS}/{receipt.id}.json", canonical(asdict(receipt)))
    if receipt.complete:
        await store.delete([request_key(receipt.id)])
