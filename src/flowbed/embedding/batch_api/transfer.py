"""Uploads and downloads files piece by piece, for as long as data keeps flowing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from flowbed.errors import Rejected, Transient
from flowbed.http.client import HttpResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from flowbed.http.client import HttpClient

# Bytes per piece: small enough that even 2 kB/s shows progress within the idle timeout.
PIECE = 2**16
# The response to an upload may take this many times the idle timeout: megabytes may still be in local buffers, and the
# provider has to store everything before it answers.
RESPONSE_FACTOR = 5
# Most bytes of a file, unless the caller knows better: 50,000 vectors of 3,072 numbers take 5 GB at most.
LIMIT = 2**33
# Separates the parts of a form. It cannot occur in JSON lines: a carriage return precedes it, which JSON escapes.
BOUNDARY = "flowbed-7d1f4c0b9a3e4f6c8e2a"


async def upload(
    provider: HttpClient,
    path: str,
    *,
    fields: Mapping[str, str],
    name: str,
    read: Callable[[], AsyncIterator[bytes]],
    size: int,
) -> HttpResponse:
    """Upload a file of JSON lines, of `size` bytes, in a form; return the response of any status.

    Raises:
        Transient: there was no connection, no progress for too long, or no response.
        Rejected: `read` does not read `size` bytes.
        Misconfigured: as `HttpClient.post`.
    """
    head, tail = _form(fields, name)
    headers = {
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Content-Length": str(len(head) + size + len(tail)),
    }
    response_timeout = provider.idle_timeout * RESPONSE_FACTOR
    failures: list[Exception] = []

    async def form(patience: asyncio.Timeout) -> AsyncGenerator[bytes, None]:
        yield head
        try:
            async with aclosing(_pieces(read(), size)) as pieces:
                async for piece in pieces:
                    # A piece is requested once the one before is sent: that is progress.
                    patience.reschedule(asyncio.get_running_loop().time() + provider.idle_timeout)
                    yield piece
        except Exception as error:
            failures.append(error)
            raise
        patience.reschedule(None)
        yield tail

    try:
        async with (
            asyncio.timeout(provider.idle_timeout) as patience,
            _closing(form(patience)) as body,
            provider.stream(
                "POST", path, data=body, headers=headers, idle_timeout=response_timeout
            ) as response,
        ):
            # Only the content: the response as a whole waits until everything is sent, even after an early refusal.
            content = await provider.read(response)
            return HttpResponse(status=response.status, headers=response.headers, body=content)
    except TimeoutError as error:
        raise Transient(
            f"{provider.label} accepted nothing of {name} for {provider.idle_timeout:g} seconds"
        ) from error
    except Transient:
        if failures:
            raise failures[0] from None
        raise


async def download(
    provider: HttpClient, path: str, error_of: Callable[[HttpResponse], Exception], *, limit: int = LIMIT
) -> AsyncGenerator[bytes, None]:
    """Read `path` piece by piece, up to `limit` bytes; a status other than 200 raises what `error_of` returns.

    Raises:
        Transient: there was no connection, no data for too long, or it broke off.
        Misconfigured: as `HttpClient.post`; or the file has more than `limit` bytes.
    """
    size = 0
    async with provider.stream("GET", path, idle_timeout=provider.idle_timeout) as response:
        if response.status != 200:  # noqa: PLR2004 - as HTTP counts
            body = await provider.read(response)
            raise error_of(HttpResponse(status=response.status, headers=response.headers, body=body))
        async for piece in response.content.iter_chunked(PIECE):
            size += len(piece)
            if size > limit:
                raise provider.too_large(limit)
            yield piece


@contextlib.asynccontextmanager
async def _closing(pieces: AsyncGenerator[bytes, None]) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """Close the pieces, however many were sent."""
    try:
        yield pieces
    finally:
        # The sender may still be reading; it has been cancelled, and then closes them itself.
        with contextlib.suppress(RuntimeError):
            await pieces.aclose()


async def _pieces(content: AsyncIterator[bytes], size: int) -> AsyncGenerator[bytes, None]:
    """Split a file into small pieces, and refuse one of another size."""
    seen = 0
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(content, AsyncGenerator):
            await stack.enter_async_context(aclosing(content))
        async for part in content:
            seen += len(part)
            if seen > size:
                break
            for start in range(0, len(part), PIECE):
                yield part[start : start + PIECE]
    if seen != size:
        raise Rejected(f"a file of {size} bytes has {'more' if seen > size else seen} now: it has changed")


def _form(fields: Mapping[str, str], name: str) -> tuple[bytes, bytes]:
    """Return the bytes of a form before its file and after it."""
    texts = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    )
    file = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return (texts + file).encode(), f"\r\n--{BOUNDARY}--\r\n".encode()
