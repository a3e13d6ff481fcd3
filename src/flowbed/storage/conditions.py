"""Conditional writes to a remote store, whose outcome is found out even if the answer is lost.

They use a client without retries: a retry would take its own first attempt, applied but answered with an error, for
another writer's. If an answer leaves the outcome open (a timeout, a 5xx, a cut connection), the object is read, and its
content decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
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
# Where the outcome of the whole trial is kept, so that each store is tried once. Another trial gets another name.
TRIED_KEY = f"{RESERVED}/tried-1"
QUOTED, BARE = b"If-Match takes etags as they are.\n", b"If-Match takes etags without their quotes.\n"
# Concurrent creators of one object, of which one may win. Servers that check first and write then let most of them win.
RACERS = 8
OTHER_ETAG = '"00000000000000000000000000000000"'  # looks like an etag, but is not that of TEST_BODY

# A write is one request of any size: it may take `PATIENCE` seconds, and one more per `SLOWEST` bytes.
PATIENCE, SLOWEST = 30.0, 250_000


class Undecided(Transient):
    """The write was not applied, but still may be: it is sent again."""


class Conditions:
    """Conditional writes to one store, whose support of conditions is tested before the first."""

    def __init__(
        self,
        url: str,
        once: ObjectStore,
        read: Callable[[str], Awaitable[Stored]],
        *,
        new_name: Callable[[], str] = lambda: secrets.token_hex(12),
    ) -> None:
        """Write through `once`, a client without retries; find out outcomes with `read`.

        `new_name` returns a unique name for an object that only one trial uses.
        """
        self.url = url
        self._once, self._read = once, read
        self._testing = asyncio.Lock()
        self._is_tested = False
        self._new_name = new_name
        self._bare = False  # whether If-Match takes etags without their quotes

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
        mode: Any = "create" if etag is None else {"e_tag": etag.strip('"') if self._bare else etag}
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

        What takes more requests is tested once for each store, and its outcome kept there.

        Raises:
            Misconfigured: the store ignores a condition, refuses one that holds, or lets several creators win.
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
            tried = await self._look(TRIED_KEY)
            if tried is None:
                await self._try_all()
            else:
                self._bare = tried[0] == BARE
            self._is_tested = True

    async def _try_all(self) -> None:
        """Find out how the store takes etags, let creators race, and keep the outcome."""
        if not await self._replaces():
            self._bare = True
            if not await self._replaces():
                raise Misconfigured(
                    f"store {self.url} refuses If-Match with the etag that it has answered with, so that nothing could"
                    " ever be replaced; use a store with conditional writes, such as Amazon S3, or a folder"
                )
        winners = await self._race()
        if winners > 1:
            raise Misconfigured(
                f"store {self.url} lets {winners} of {RACERS} concurrent creators of one object win: it checks"
                " If-None-Match before it writes, and not with it, so that concurrent runs would overwrite each other;"
                " upgrade its server, or use another store with conditional writes"
            )
        # Any process may write it, and all write the same; one that cannot leaves the trial to the next.
        with contextlib.suppress(BaseError, OSError):
            await self._send(TRIED_KEY, BARE if self._bare else QUOTED, None)

    async def _replaces(self) -> bool:
        """Return whether the store replaces the test object where the condition holds."""
        async for attempt in attempts(on=Undecided):
            with attempt:
                present = await self._look(TEST_KEY)
                try:
                    await self._send(TEST_KEY, TEST_BODY, "" if present is None else present[1])
                except PreconditionError as error:
                    raise_if_permanent(error, TEST_KEY, self.url)
                    if await self._look(TEST_KEY) == present:
                        return False
                    # Another trial has replaced it, and this store gives equal bytes another etag.
                    raise Undecided(f"{TEST_KEY!r} in {self.url} keeps changing") from error
                except (BaseError, OSError) as error:
                    raise_if_permanent(error, TEST_KEY, self.url)
                    raise Undecided(f"cannot reach {self.url}: {first_line(error)}") from error
                return True
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _look(self, key: str) -> tuple[bytes, str] | None:
        """Return the body and the etag of an object of the trial; None if it is not there."""
        async for attempt in attempts(on=Undecided):
            with attempt:
                try:
                    answer = await obstore.get_async(self._once, key)
                    return bytes(await answer.bytes_async()), answer.meta["e_tag"] or ""
                except (BaseError, OSError) as error:
                    raise_if_permanent(error, key, self.url)
                    if isinstance(error, FileNotFoundError):
                        return None
                    raise Undecided(f"cannot reach {self.url}: {first_line(error)}") from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _race(self) -> int:
        """Create one object several times at once; return how often the store said that it was created."""
        key = f"{RESERVED}/race-{self._new_name()}"

        async def create(number: int) -> bool:
            try:
                await self._send(key, f"racer {number}\n".encode(), None)
            except (BaseError, OSError) as error:
                raise_if_permanent(error, key, self.url)
                return False  # refused, or no answer
            return True

        won = await asyncio.gather(*map(create, range(RACERS)))
        with contextlib.suppress(BaseError, OSError):  # an object of a few bytes, which nobody reads
            await obstore.delete_async(self._once, key)
        return sum(won)

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
