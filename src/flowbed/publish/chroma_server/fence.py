"""A fence: of several publishers to one server, the last one to begin goes on, and the others stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Conflict, NotFound
from flowbed.publish.records import FOLDER
from flowbed.records import canonical

if TYPE_CHECKING:
    from flowbed.publish import PublishContext


class Fence:
    """An object in the store that names who writes to a server, since the server itself has no conditional writes."""

    def __init__(self, context: PublishContext, collection: str) -> None:
        """Take nothing yet."""
        self._store = context.store
        self._key = f"{collection}/{FOLDER}/{context.name}.writer.json"
        self._body = canonical({"worker": context.worker, "since": context.clock()})
        self._collection = collection

    async def take(self) -> None:
        """Become the writer."""
        while True:
            try:
                before = await self._store.get(self._key)
            except NotFound:
                before = None
            try:
                if before is None:
                    await self._store.create(self._key, self._body)
                elif before.body != self._body:
                    await self._store.replace(self._key, self._body, etag=before.etag)
            except Conflict:
                continue
            return

    async def check(self) -> None:
        """Stop if another publisher has begun since.

        Raises:
            Conflict: one has.
        """
        try:
            held = (await self._store.get(self._key)).body == self._body
        except NotFound:
            held = False
        if not held:
            raise Conflict(
                f"another process publishes {self._collection} to the same server; it goes on, this one stops"
            )
