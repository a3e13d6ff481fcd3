"""Files on their way to a provider and from one: piece by piece, for as long as they get on."""

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

# Bytes that go out, or come in, at a time: so few that two kilobytes a second still are seen to get on before silence
# has lasted for too long.
PIECE = 2**16
# How many times as long the answer to a file is waited for: megabytes of it may still lie in buffers here,
# and the provider has to put all of it somewhere before it answers.
RESPONSE_FACTOR = 5
# Between the parts of a form. No file of JSON lines can hold it: it stands behind a carriage return, which they escape.
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
    """Send a file of JSON lines, of `size` bytes, in a form, and read the whole answer, whatever its status.

    Raises:
        Transient: there was no connection, nothing of the file was taken for too long, or no answer came.
        Rejected: what `read` reads is not of that size.
        Misconfigured: as `Provider.post`.
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
                    # Each is asked for once the one before is on the line: that is how it is seen to get on.
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
            # Of the content alone: the response as a whole waits until all is sent, even where it says no.
            content = await response.content.read()
            return HttpResponse(status=response.status, headers=response.headers, body=content)
    except TimeoutError as error:
        raise Transient(
            f"{provider.label} took nothing of {name} for {provider.idle_timeout:g} seconds"
        ) from error
    except Transient:
        if failures:
            raise failures[0] from None
        raise


async def download(
    provider: HttpClient, path: str, error_of: Callable[[HttpResponse], Exception]
) -> AsyncGenerator[bytes, None]:
    """Read what is at `path`, piece by piece; an answer of another status than 200 is raised as `refused` tells it.

    Raises:
        Transient: there was no connection, nothing came for too long, or it broke off.
        Misconfigured: as `Provider.post`.
    """
    async with provider.stream("GET", path, idle_timeout=provider.idle_timeout) as response:
        if response.status != 200:  # noqa: PLR2004 - as HTTP counts
            body = await response.read()
            raise error_of(HttpResponse(status=response.status, headers=response.headers, body=body))
        async for piece in response.content.iter_chunked(PIECE):
            yield piece


@contextlib.asynccontextmanager
async def _closing(pieces: AsyncGenerator[bytes, None]) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """Close what is sent, however far that got."""
    try:
        yield pieces
    finally:
        # Whoever sends may still be at it; then it has been told to end, and closes what it reads on its way out.
        with contextlib.suppress(RuntimeError):
            await pieces.aclose()


async def _pieces(content: AsyncIterator[bytes], size: int) -> AsyncGenerator[bytes, None]:
    """Cut a file into small pieces, and refuse one of another size."""
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
        raise Rejected(f"a file of {size} bytes has {'more' if seen > size else seen} now: it was changed")


def _form(fields: Mapping[str, str], name: str) -> tuple[bytes, bytes]:
    """Write what stands before a file in a form, and what stands after it."""
    texts = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    )
    file = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return (texts + file).encode(), f"\r\n--{BOUNDARY}--\r\n".encode()
