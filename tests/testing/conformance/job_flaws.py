"""What is put between a server and a client to make flaws of files and batches."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.testing.conformance.flaws import Told, read_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.testing.conformance.flaws import Asked, Fields, Flaw, Inner


def told_at(method: str, path: str, change: Callable[[Any], object]) -> Flaw:
    """Change what is told with success at the paths that match a pattern."""
    at = re.compile(f"/v1/{path}")

    async def flaw(asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        if asked.method == method and at.fullmatch(asked.path) and told.status == 200:
            change(told.said)
        return told

    return flaw


def asked_at(method: str, path: str, change: Callable[[Any], Any]) -> Flaw:
    """Change the JSON of requests to the paths that match a pattern."""
    at = re.compile(f"/v1/{path}")

    async def flaw(asked: Asked, inner: Inner) -> Told:
        hit = asked.method == method and at.fullmatch(asked.path)
        return await inner(change(asked.said) if hit else asked.said)

    return flaw


def query_at(path: str, change: Callable[[dict[str, str]], dict[str, str]]) -> Flaw:
    """Change what lists are asked for with."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        if asked.method == "GET" and asked.path == f"/v1/{path}":
            query = urlencode(change(asked.query)).encode()
            return await inner(asked.said, query_string=query)
        return await inner(asked.said)

    return flaw


def objects(kind: str, change: Callable[[Fields], object]) -> Flaw:
    """Change what is said of files or batches, wherever it is."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        if isinstance(told.said, dict) and told.status == 200:
            for row in told.said.get("data", [told.said]):
                if row.get("object") == kind and "deleted" not in row:
                    change(row)
        return told

    return flaw


def contents(change: Callable[[bytes], bytes]) -> Flaw:
    """Change the content of files, and tell the size that those that batches make then have."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        if asked.path.endswith("/content") and told.status == 200:
            told.said = change(told.said)
        elif isinstance(told.said, dict) and told.said.get("purpose") == "batch_output":
            content = await inner(asked.said, path=f"{asked.path}/content")
            told.said["bytes"] = len(change(content.said))
        return told

    return flaw


def results(change: Callable[[Fields], Fields | None]) -> Flaw:
    """Change the lines of what batches make, or drop those for which nothing is given."""

    def of(content: bytes) -> bytes:
        lines = [json.loads(line) for line in content.splitlines()]
        if not all("response" in line for line in lines):
            return content
        changed = [each for line in lines if (each := change(line)) is not None]
        return b"".join(json.dumps(line).encode() + b"\n" for line in changed)

    return contents(of)


def rewriting(change: Callable[[bytes], bytes]) -> Flaw:
    """Change the forms with which files are sent."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        if (asked.method, asked.path) == ("POST", "/v1/files"):
            return await inner(asked.said, rewrite=change)
        return await inner(asked.said)

    return flaw


def inputs(change: Callable[[Fields], Fields | None]) -> Flaw:
    """Change the lines that batches are to answer as they are sent, or drop those for which nothing is given."""

    def of(body: bytes) -> bytes:
        kept = []
        for line in body.split(b"\n"):
            read = read_json(line)
            # The other lines of a form are no JSON objects.
            changed = change(read) if isinstance(read, dict) else line
            kept += [] if changed is None else [changed]
        return b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in kept)

    return rewriting(of)
