"""The files of the page, compressed once; they hold no data, so that they need no key."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from flowbed.errors import NotFound
from flowbed.server.http.responses import RawResponse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

    from flowbed.services.service import Service

INDEX = "index.html"
TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# Nothing comes from elsewhere, nothing is inline, and no string becomes markup or code.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    b" form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    # Asked for again each time, and answered by a tag: an upgraded server shows its own page at once.
    (b"cache-control", b"no-cache"),
    (b"vary", b"accept-encoding"),
)
UNCHANGED = 304


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A file of the page."""

    body: bytes
    compressed: bytes
    type: bytes
    tag: bytes


def routes(_: Service) -> APIRouter:
    """Create the routes of the page's files."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page(request: Request) -> Response:
        """Return the page."""
        return _answer(request, INDEX)

    @router.get("/page/{name:path}")
    async def asset(request: Request, name: str) -> Response:
        """Return a file that the page loads."""
        return _answer(request, name)

    return router


@cache
def assets() -> Mapping[str, Asset]:
    """Read the files of the page, by their path below its folder."""
    return dict(_read(files("flowbed.server.page") / "files", ""))


def _read(folder: Traversable, path: str) -> Iterator[tuple[str, Asset]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _read(each, f"{path}{each.name}/")
        elif kind := TYPES.get(each.name[each.name.rfind(".") :]):
            body = each.read_bytes()
            yield (
                f"{path}{each.name}",
                Asset(
                    body=body,
                    compressed=gzip.compress(body, mtime=0),
                    type=kind,
                    tag=b'"%s"' % hashlib.sha256(body).hexdigest()[:16].encode(),
                ),
            )


def _answer(request: Request, name: str) -> Response:
    found = assets().get(name)
    if found is None:
        raise NotFound(f"the page has no file {name[:64]!r}", code="unknown_url")
    headers = [*HEADERS, (b"etag", found.tag), (b"content-type", found.type)]
    if request.headers.get("if-none-match", "").encode("latin-1") == found.tag:
        return RawResponse(b"", headers, UNCHANGED)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return RawResponse(found.compressed, [*headers, (b"content-encoding", b"gzip")])
    return RawResponse(found.body, headers)
