"""Conditional writes to a remote store, whose outcome is found out even if the answer is lost.

They use a client without retries: a retry would take its own first attempt, applied but answered with an error, for
another writer's. If an answer leaves the outcome open (a timeout, a 5xx, a cut connection), the object is read, and its
content decides.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from flowbed.errors import Conflict, Misconfigured, NotFound, Transient
from flowbed.storage.failures import attempts, first_line, raise_if_permanent
from flowbed.storage.keys import RESERVED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from obstore.store import ObjectStore

    from flowbed.storage import Stored

# The object that a store's support of conditions is tested with. Its content is always the same, so tests do no harm.
TEST_KEY = f"{RESERVED}/conditions"
TEST_BODY = b"Flowbed tries here whether this store keeps to If-None-Match and If-Match.\n"
OTHER_ETAG = '"00000000000000000000000000000000"'  # looks like an etag, but is not that of TEST_BODY

# A write is one request of any size: it may take `PATIENCE` seconds, and one more per `SLOWEST` bytes.
PATIENCE, SLOWEST = 30.0, 250_000


class Undecided(Transient):
    """The write was not applied, but still may be: it is sent again."""


class Conditions:
    """Conditional writes to one store, whose support of conditions is tested before the first."""

    def __init__(self, url: str, once: ObjectStore, read: Callable[[str], Awaitable[Stored]]) -> None:
        """Write through `once`, a client without retries; find out outcomes with `read`."""
        self.url = url
        self._once, self._read = once, read
        self._testing = asyncio.Lock()
        self._is_tested = False

    async def write(self, key: str, body: bytes, *, etag: str | None) -> str:
        """Replace the object with `etag`, or create one (None); find out the outcome even if the answer is lost."""
        unknown = False  # whether this write may have been applied already
        async for attempt in attempts(on=Undecided):
            with attempt:
                try:
                    return await self._send(key, body, etag)
                except (BaseError, OSError) as error:
                    raise_if_permanent(error, key, self.url)
                    if etag is not None and isinstance(error, PreconditionError) and not unknown:
                        raise Conflict(f"{key!r} in {self.url} has changed since it was read") from error
                    unknown = unknown or not isinstance(error, (AlreadyExistsError, PreconditionError))
                    return await self._decide(key, body, etag, unknown=unknown, reason=error)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _send(self, key: str, body: bytes, etag: str | None) -> str:
        """Send one conditional write."""
        mode: Any = "create" if etag is None else {"e_tag": etag}
        async with asyncio.timeout(PATIENCE + len(body) / SLOWEST):
            return (await obstore.put_async(self._once, key, body, mode=mode))["e_tag"] or ""

    async def _decide(
        self, key: str, body: bytes, etag: str | None, *, unknown: bool, reason: Exception
    ) -> str:
        """Read the object to find out the outcome of a write; return its etag if it was applied.

        Raises:
            Conflict: another write was applied instead.
            Undecided: no write was applied yet.
            Transient: another write was applied, and this one may have been before it.
        """
        what, why = f"{key!r} in {self.url}", first_line(reason)
        try:
            present = await self._read(key)
        except NotFound:
            if etag is not None:
                raise Conflict(f"{what} was deleted since it was read") from reason
            # The object was deleted since, or the write was refused with 409: two concurrent writes, neither decided.
            raise Undecided(f"{what} could not be written: {why}") from reason
        if unknown and present.body == body:
            return present.etag
        if etag is None:
            raise Conflict(f"{what} exists already") from reason
        if present.etag == etag:
            raise Undecided(f"{what} could not be replaced: {why}") from reason
        if unknown:
            raise Transient(
                f"{what} has changed since it was read, and it is unknown whether this write was applied before: read"
                f" it again ({why})"
            ) from reason
        raise Conflict(f"{what} has changed since it was read") from reason

    async def require_support(self) -> None:
        """Test once that the store honours conditions: if not, two concurrent writers would both believe to be first.

        Raises:
            Misconfigured: the store ignores a condition.
        """
        async with self._testing:
            if self._is_tested:
                return
            created, replaced = await asyncio.gather(self._ignores(None), self._ignores(OTHER_ETAG))
            created = created and await self._ignores(None)  # the very first time, the object did not exist
            ignored = [name for name, wrote in (("If-None-Match", created), ("If-Match", replaced)) if wrote]
            if ignored:
                raise Misconfigured(
                    f"store {self.url} ignores {' and '.join(ignored)}: it overwrites objects that it must keep, so"
                    " that one of two concurrent runs would be lost silently; use a store with conditional writes, such"
                    " as Amazon S3, or a folder"
                )
            self._is_tested = True

    async def _ignores(self, etag: str | None) -> bool:
        """Return whether the store wrote the test object although the condition does not hold."""
        async for attempt in attempts(on=Undecided):
            with attempt:
                try:
                    await self._send(TEST_KEY, TEST_BODY, etag)
                except (AlreadyExistsError, PreconditionError) as error:
                    raise_if_permanent(error, TEST_KEY, self.url)
                    return False
                except (BaseError, OSError) as error:
                    raise_if_permanent(error, TEST_KEY, self.url)
                    raise Undecided(f"cannot reach {self.url}: {first_line(error)}") from error
                return True
        raise AssertionError("unreachable: the last attempt returns or raises")
