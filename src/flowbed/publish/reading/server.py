"""Reads a collection of a running Chroma server through its HTTP API, page by page."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import stamina

from flowbed.errors import Misconfigured, NotFound, Rejected, Transient
from flowbed.http.client import HttpClient
from flowbed.records.precomputed import PrecomputedRows
from flowbed.records.values import listing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.http.client import HttpResponse

# A page is answered as JSON: 8 kB a row at 384 dimensions. Chroma Cloud answers at most 300 rows a request.
ROWS = 300
ATTEMPTS, PATIENCE = 5, 60.0  # tries of one request, and seconds for all of them
LISTED = 1_000  # collections of one answer
READINGS = 5  # of all rows, where others delete some meanwhile
UNAUTHORIZED = frozenset({401, 403})
NOT_FOUND, TOO_MANY, SERVER = 404, 429, 500


@dataclass(frozen=True, kw_only=True)
class ChromaServer:
    """The rows of one collection of a Chroma server at `url`; without a name, of its only one.

    `token` is sent as Chroma's clients send it. `page` is at least 2.
    """

    url: str
    collection: str = ""
    token: str = ""
    tenant: str = "default_tenant"
    database: str = "default_database"
    page: int = ROWS

    async def count(self) -> int | None:
        """Return how many rows there are.

        Raises:
            Misconfigured: the address or the token cannot be one, or the token is refused.
            Rejected: there is no such collection.
            Transient: the server could not be reached.
        """
        async with self._open() as server:
            return int(await server.ask(f"{await server.find()}/count"))

    async def pages(self) -> AsyncIterator[PrecomputedRows]:
        """Iterate over the rows in pages, in the server's order; rows written meanwhile may be missed.

        Each page begins with the last row of the one before. If it does not, others have deleted rows, and as many have
        moved into pages that were read: all are read again.

        Raises:
            Misconfigured: the address or the token cannot be one, or the token is refused.
            Rejected: there is no such collection.
            Transient: the server could not be reached, or rows are deleted again and again.
        """
        async with self._open() as server:
            path = await server.find()
            for _ in range(READINGS):
                done = 0
                last: list[str] = []
                while True:
                    wanted = {
                        "limit": self.page,
                        "offset": done - len(last),
                        "include": ["embeddings", "documents", "metadatas"],
                    }
                    said = await server.ask(f"{path}/get", wanted)
                    before, rows = await asyncio.to_thread(_rows, said, self.url, len(last))
                    if before != last:
                        break
                    if not rows.ids:
                        return
                    done, last = done + len(rows.ids), [rows.ids[-1]]
                    yield rows
            raise Transient(
                f"rows of {self.url} were deleted each time that they were read: import again when nothing deletes any"
            )

    def _open(self) -> _Connection:
        return _Connection(self)


def _rows(said: Any, url: str, known: int) -> tuple[list[str], PrecomputedRows]:  # the server's answer
    """Return the ids of the first `known` rows, and the others."""
    try:
        ids = said["ids"]
        rows = PrecomputedRows(
            ids=ids[known:],
            vectors=(said["embeddings"] or [])[known:],
            texts=(said["documents"] or [None] * len(ids))[known:],
            metadata=(said["metadatas"] or [None] * len(ids))[known:],
        )
        return list(ids[:known]), rows
    except (TypeError, KeyError) as error:
        raise Rejected(f"{url} did not answer as a Chroma server does: {error!r} is missing") from error


class _Connection:
    """A connection to one database of the server."""

    def __init__(self, where: ChromaServer) -> None:
        if not (where.token.isascii() and where.token.isprintable()):
            raise Misconfigured("CHROMA_TOKEN has a character that no token has; set it again")
        headers = {"x-chroma-token": where.token, "Authorization": f"Bearer {where.token}"}
        try:
            self._client = HttpClient(
                where.url,
                vendor="chroma",
                headers=headers if where.token else {},
                secrets=[where.token] if where.token else [],
            )
        except Misconfigured:  # not repeated: it may have a password
            raise Misconfigured(
                "the address of the Chroma server has to be as https://host:8000, without a password or a query;"
                " set CHROMA_TOKEN to a token"
            ) from None
        self._where = where
        tenant, database = quote(where.tenant, safe=""), quote(where.database, safe="")
        self._root = f"/api/v2/tenants/{tenant}/databases/{database}/collections"
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._stack.push_async_callback(self._client.aclose)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def find(self) -> str:
        """Return the path of the collection."""
        wanted, found = self._where.collection, None
        if wanted:
            with contextlib.suppress(NotFound):
                found = await self.ask(f"{self._root}/{quote(wanted, safe='')}")
        listed = [found] if found else await self.ask(f"{self._root}?limit={LISTED}&offset=0")
        try:
            names = {each["name"]: each["id"] for each in listed}
        except (TypeError, KeyError) as error:
            raise Rejected(f"{self._where.url} did not answer as a Chroma server does") from error
        if len(names) == 1 and wanted in {"", *names}:
            (number,) = names.values()
            return f"{self._root}/{number}"
        what = f"no collection is called {wanted!r}" if wanted else "name the collection with --name"
        raise NotFound(f"{self._where.url}: {what}; there are: {listing(sorted(names), none='none')}")

    async def ask(self, path: str, body: dict[str, object] | None = None) -> Any:  # any JSON value
        """Request a path and return what was answered; what failed temporarily is tried again."""
        async for attempt in stamina.retry_context(
            on=Transient, attempts=ATTEMPTS, timeout=PATIENCE, wait_initial=0.2, wait_max=5.0
        ):
            with attempt:
                response = await (self._client.get(path) if body is None else self._client.post(path, body))
                return self._checked(response)
        raise Transient(f"{self._where.url} did not answer")

    def _checked(self, response: HttpResponse) -> Any:  # any JSON value
        if response.status < 300:  # noqa: PLR2004 - as HTTP counts
            return response.json
        said = response.json
        message = str(said.get("message", "")) if isinstance(said, dict) else ""
        told = f"{self._where.url} answered {response.status} {self._client.redacted(message)}".rstrip()
        if response.status in UNAUTHORIZED:
            raise Misconfigured(f"{told}: set CHROMA_TOKEN to a token that may read")
        if response.status == TOO_MANY or response.status >= SERVER:
            raise Transient(told)
        if response.status == NOT_FOUND:
            raise NotFound(f"{told}: it has to be a Chroma server of version 1 or later")
        raise Rejected(told)
