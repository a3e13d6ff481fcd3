"""Requests to simulators without an SDK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    Post = Callable[..., Awaitable["Told"]]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a simulator answered; `said` is its JSON."""

    status: int
    said: Any
    headers: Mapping[str, str]


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    async with aiohttp.ClientSession() as session:

        async def post(url: str, said: Any, *, key: str = "key", method: str = "POST") -> Told:
            body = said if isinstance(said, bytes) else orjson.dumps(said)
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            async with session.request(method, url, data=body, headers=headers) as answer:
                return Told(
                    status=answer.status, said=orjson.loads(await answer.read()), headers=answer.headers
                )

        yield post
