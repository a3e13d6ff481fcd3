"""A store that fails on demand: late, before its work, after its work, or by ending the process."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NoReturn

from flowbed.errors import Transient

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Sequence

    from flowbed.storage import Listed, Location, Store, Stored


def unavailable() -> Exception:
    """Make the error of a store that is unavailable."""
    return Transient("the store did not answer (a fault to order)")


def die() -> NoReturn:
    """End this process as `kill -9` does: nothing is flushed, closed or released."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process went on")  # pragma: no cover


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong, and in which calls.

    `operation` (get, stream, put, create, replace, list, delete) and `key` (for `list`, the prefix) are shell patterns;
    `calls` numbers the matching calls, from 1; None means all. A random share of `probability` of these is affected:
    they come `delay` seconds late; then `before` happens instead of the call, or `after` once it is done, as when an
    answer is lost. Either returns the error to raise, or is `die`.
    """

    operation: str = "*"
    key: str = "*"
    calls: Collection[int] | None = None
    probability: float = 1.0
    delay: float = 0.0
    before: Callable[[], Exception] | None = None
    after: Callable[[], Exception] | None = None


class FaultyStore:
    """A store with faults, which records its `calls` as (operation, key)."""

    def __init__(self, store: Store, faults: Sequence[Fault] = (), *, seed: int = 0) -> None:
        """Apply faults to `store`; the same seed and calls give the same faults."""
        self.url = store.url
        self.calls: list[tuple[str, str]] = []
        self._store = store
        self._faults = tuple(faults)
        self._matched = [0] * len(self._faults)
        self._random = random.Random(seed)  # noqa: S311 - chance that can be repeated is the point

    async def get(self, key: str) -> Stored:
        """Read an object whole, unless a fault is due."""
        due = await self._before("get", key)
        answer = await self._store.get(key)
        self._after(due)
        return answer

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """Read an object in pieces; `after` applies when all but the end has been read."""
        due = await self._before("stream", key)
        async for piece in self._store.stream(key):
            yield piece
        self._after(due)

    async def put(self, key: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Write an object, unless a fault is due."""
        due = await self._before("put", key)
        await self._store.put(key, body)
        self._after(due)

    async def create(self, key: str, body: bytes) -> str:
        """Write an object that must not exist, unless a fault is due."""
        due = await self._before("create", key)
        answer = await self._store.create(key, body)
        self._after(due)
        return answer

    async def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Replace an object, unless a fault is due."""
        due = await self._before("replace", key)
        answer = await self._store.replace(key, body, etag=etag)
        self._after(due)
        return answer

    async def list(self, prefix: str) -> AsyncIterator[Listed]:
        """List objects; `after` applies when all have been listed."""
        due = await self._before("list", prefix)
        async for listed in self._store.list(prefix):
            yield listed
        self._after(due)

    async def folders(self, prefix: str) -> Sequence[str]:
        """List folders, unless a fault is due."""
        due = await self._before("folders", prefix)
        found = await self._store.folders(prefix)
        self._after(due)
        return found

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, unless a fault is due for one of them."""
        due = [fault for key in keys for fault in await self._before("delete", key)]
        await self._store.delete(keys)
        self._after(due)

    def location(self, key: str) -> Location:
        """Return where Lance may keep a dataset: its own I/O there has no faults."""
        return self._store.location(key)

    async def _before(self, operation: str, key: str) -> Sequence[Fault]:
        self.calls.append((operation, key))
        due = [
            fault for number, fault in enumerate(self._faults) if self._is_due(number, fault, operation, key)
        ]
        for fault in due:
            if fault.delay:
                await asyncio.sleep(fault.delay)
            if fault.before is not None:
                raise fault.before()
        return due

    def _is_due(self, number: int, fault: Fault, operation: str, key: str) -> bool:
        if not (fnmatchcase(operation, fault.operation) and fnmatchcase(key, fault.key)):
            return False
        self._matched[number] += 1
        if fault.calls is not None and self._matched[number] not in fault.calls:
            return False
        return self._random.random() < fault.probability

    @staticmethod
    def _after(due: Sequence[Fault]) -> None:
        for fault in due:
            if fault.after is not None:
                raise fault.after()
