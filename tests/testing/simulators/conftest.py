"""Requests to simulators without an SDK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    Post = Callable[..., Awaitable["Response"]]


@dataclass(frozen=True, kw_only=True)
class Response:
    """What a simulator answered; `json` is its body, parsed."""

    status: int
    json: Any
    headers: Mapping[str, str]


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    async with aiohttp.ClientSession() as session:

        async def post(url: str, request: Any, *, key: str = "key", method: str = "POST") -> Response:
            body = request if isinstance(request, bytes) else orjson.dumps(request)
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            async with session.request(method, url, data=body, headers=headers) as answer:
                return Response(
                    status=answer.status, json=orjson.loads(await answer.read()), headers=answer.headers
                )

        yield post
