"""Writing under a condition, and finding out what became of it whatever is answered.

Such a write is sent by a client that never tries again by itself, since it would take its own write, carried out and
answered with an error, for somebody else's. Where an answer does not say what became of a write (a timeout, a 5xx, a
cut connection), the object is read: what it holds decides.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from flowbed.errors import Conflict, Misconfigured, NotFound, Transient
from flowbed.storage.failures import attempts, first_line, require_sense
from flowbed.storage.keys import RESERVED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from obstore.store import ObjectStore

    from flowbed.storage import Stored

# What is written here says whether a store keeps to conditions. It is always the same, so that trying does no harm.
TRIED = f"{RESERVED}/conditions"
TRIAL = b"Flowbed tries here whether this store keeps to If-None-Match and If-Match.\n"
OTHER = '"00000000000000000000000000000000"'  # has the form of an etag, and is not that of TRIAL

# Such a write is one request of any size: it may take so many seconds, and one more for each so many bytes.
PATIENCE, SLOWEST = 30.0, 250_000


class Undecided(Transient):
    """The write was not applied, and nothing says that it never will be: it is sent again."""


class Conditions:
    """Writes under a condition to one store, which is tried before the first."""

    def __init__(self, url: str, once: ObjectStore, read: Callable[[str], Awaitable[Stored]]) -> None:
        """Write through `once`, which tries nothing again, and look after that with `read`."""
        self.url = url
        self._once, self._read = once, read
        self._trying = asyncio.Lock()
        self._kept = False

    async def write(self, key: str, body: bytes, *, etag: str | None) -> str:
        """Write in the place of `etag` (None: of nothing), and find out what became of it, whatever is answered."""
        unknown = False  # whether this write may have been applied already
        async for attempt in attempts(on=Undecided):
            with attempt:
                try:
                    return await self._send(key, body, etag)
                except (BaseError, OSError) as error:
                    require_sense(error, key, self.url)
                    if etag is not None and isinstance(error, PreconditionError) and not unknown:
                        raise Conflict(f"{key!r} in {self.url} has changed since it was read") from error
                    unknown = unknown or not isinstance(error, (AlreadyExistsError, PreconditionError))
                    return await self._decide(key, body, etag, unknown=unknown, reason=error)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _send(self, key: str, body: bytes, etag: str | None) -> str:
        """Write once, under a condition."""
        mode: Any = "create" if etag is None else {"e_tag": etag}
        async with asyncio.timeout(PATIENCE + len(body) / SLOWEST):
            return (await obstore.put_async(self._once, key, body, mode=mode))["e_tag"] or ""

    async def _decide(
        self, key: str, body: bytes, etag: str | None, *, unknown: bool, reason: Exception
    ) -> str:
        """Tell by what is there what became of a write: its etag where it was applied.

        Raises:
            Conflict: another was.
            Undecided: nothing was, yet.
            Transient: another was, and this one may have been before it.
        """
        what, why = f"{key!r} in {self.url}", first_line(reason)
        try:
            present = await self._read(key)
        except NotFound:
            if etag is not None:
                raise Conflict(f"{what} is gone since it was read") from reason
            # It was there and is gone, or the write was refused with 409: two at once, and neither is decided.
            raise Undecided(f"{what} could not be written: {why}") from reason
        if unknown and present.body == body:
            return present.etag
        if etag is None:
            raise Conflict(f"{what} exists already") from reason
        if present.etag == etag:
            raise Undecided(f"{what} could not be replaced: {why}") from reason
        if unknown:
            raise Transient(
                f"{what} has changed since it was read, and whether it was replaced before that is not known: read it"
                f" again ({why})"
            ) from reason
        raise Conflict(f"{what} has changed since it was read") from reason

    async def require_kept(self) -> None:
        """Refuse a store that ignores conditions: two writers would both believe that they were first.

        Raises:
            Misconfigured: it wrote what it was asked not to.
        """
        async with self._trying:
            if self._kept:
                return
            created, replaced = await asyncio.gather(self._tried(None), self._tried(OTHER))
            created = created and await self._tried(None)  # the very first time, there was nothing there
            ignored = [name for name, wrote in (("If-None-Match", created), ("If-Match", replaced)) if wrote]
            if ignored:
                raise Misconfigured(
                    f"store {self.url} ignores {' and '.join(ignored)}: it writes over what it was asked to leave, and"
                    " of two runs at once one would be lost silently; use a store with conditional writes, such as"
                    " Amazon S3, or a folder"
                )
            self._kept = True

    async def _tried(self, etag: str | None) -> bool:
        """Whether the store wrote the trial object, under a condition that does not hold."""
        async for attempt in attempts(on=Undecided):
            with attempt:
                try:
                    await self._send(TRIED, TRIAL, etag)
                except (AlreadyExistsError, PreconditionError) as error:
                    require_sense(error, TRIED, self.url)
                    return False
                except (BaseError, OSError) as error:
                    require_sense(error, TRIED, self.url)
                    raise Undecided(f"cannot reach {self.url}: {first_line(error)}") from error
                return True
        raise AssertionError("unreachable: the last attempt returns or raises")
