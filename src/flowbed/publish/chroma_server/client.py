"""A client of Chroma's HTTP API (version 2), for one database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import orjson
import pybase64
import stamina

from flowbed.errors import Conflict, Misconfigured, NotFound, Rejected, Transient
from flowbed.http.client import HttpClient, HttpResponse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.records import Scalar

OK, CONFLICT, UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 200, 409, 401, 403, 404
TOO_MANY, SERVER_ERROR = 429, 500
ATTEMPTS, PATIENCE = 5, 60.0  # of one request, and seconds for all of them


class ChromaDatabase:
    """One database of a Chroma server. Every call is safe to repeat, and is repeated after a network failure."""

    def __init__(self, url: str, *, token: str, tenant: str, database: str) -> None:
        """Connect to nothing yet.

        Raises:
            Misconfigured: the address is not one.
        """
        headers = {"X-Chroma-Token": token} if token else {}
        self.url = url
        self._http = HttpClient(
            f"{url.rstrip('/')}/api/v2", vendor="chroma", headers=headers, secrets=[token]
        )
        self._root = f"/tenants/{quote(tenant, safe='')}/databases/{quote(database, safe='')}"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def collection(self, name: str) -> dict[str, Any] | None:
        """Return a collection by its name; None if there is none."""
        try:
            found: dict[str, Any] = await self._call("GET", f"/collections/{quote(name, safe='')}")
        except NotFound:
            return None
        return found

    async def create(
        self, name: str, *, graph: Mapping[str, int], metadata: Mapping[str, Scalar]
    ) -> dict[str, Any]:
        """Create a collection with cosine distances, or return the one that has the name."""
        made: dict[str, Any] = await self._call(
            "POST",
            "/collections",
            {
                "name": name,
                "get_or_create": True,
                "configuration": {"hnsw": {"space": "cosine", **graph}},
                "metadata": dict(metadata),
            },
        )
        return made

    async def set_metadata(self, collection: str, metadata: Mapping[str, Scalar]) -> None:
        """Replace the metadata of a collection (by its id)."""
        await self._call("PUT", f"/collections/{collection}", {"new_metadata": dict(metadata)})

    async def count(self, collection: str) -> int:
        """Count the rows."""
        return int(await self._call("GET", f"/collections/{collection}/count"))

    async def get(
        self,
        collection: str,
        *,
        include: Sequence[str],
        ids: Sequence[str] | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> dict[str, Any]:
        """Return rows: those of `ids`, or a page."""
        body: dict[str, Any] = {"include": list(include)}
        body |= {"ids": list(ids)} if ids is not None else {"limit": limit, "offset": offset}
        found: dict[str, Any] = await self._call("POST", f"/collections/{collection}/get", body)
        return found

    async def upsert(
        self,
        collection: str,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        documents: Sequence[str | None],
        metadatas: Sequence[Mapping[str, Scalar | None] | None],
    ) -> None:
        """Insert or replace rows; Chroma merges metadata, and a key with the value None goes."""
        little = np.ascontiguousarray(vectors, dtype="<f4")
        await self._call(
            "POST",
            f"/collections/{collection}/upsert",
            {
                "ids": list(ids),
                "embeddings": [pybase64.b64encode(row.tobytes()).decode() for row in little],
                "documents": list(documents),
                "metadatas": [dict(each) if each else None for each in metadatas],
                "uris": None,
            },
        )

    async def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Delete rows; missing ones are ignored."""
        await self._call("POST", f"/collections/{collection}/delete", {"ids": list(ids)})

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Any:  # any JSON value
        async for attempt in stamina.retry_context(on=_Again, attempts=ATTEMPTS, timeout=PATIENCE):
            with attempt:
                return self._answer(await self._send(method, f"{self._root}{path}", body), path)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> HttpResponse:
        data = None if body is None else orjson.dumps(body)
        try:
            async with self._http.stream(method, path, data=data) as response:
                content = await self._http.read(response)
                return HttpResponse(status=response.status, headers=response.headers, body=content)
        except Transient as error:
            raise _Again(str(error)) from error

    def _answer(self, response: HttpResponse, path: str) -> Any:  # any JSON value
        said = response.json
        if response.status < CONFLICT and response.status // 100 == OK // 100:
            return said
        message = said.get("message", "") if isinstance(said, dict) else ""
        what = (
            f"{self._http.label} answers {path} with {response.status}: {self._http.redacted(str(message))}"
        )
        if response.status == NOT_FOUND:
            raise NotFound(what)
        if response.status in {UNAUTHORIZED, FORBIDDEN}:
            raise Misconfigured(f"{what}; set options.token of the publication to a key that may write")
        if response.status == CONFLICT:
            raise Conflict(what)
        if response.status >= SERVER_ERROR or response.status == TOO_MANY:
            raise _Again(what)
        raise Rejected(what)


class _Again(Transient):
    """The server did not answer, or answers that it cannot at the moment."""
