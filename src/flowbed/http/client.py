"""An HTTP client for one API: a pool of connections, and every network failure translated into Flowbed's errors."""

from __future__ import annotations

import codecs
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from flowbed.errors import Misconfigured, Transient
from flowbed.http.proxies import password_in, proxy_for
from flowbed.http.waits import parse_duration, retry_after, wait_in_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    import aiohttp

    from flowbed.errors import Error

__all__ = ["HttpClient", "HttpResponse", "parse_duration", "retry_after", "wait_in_message"]

# Connections in the pool: more than a run has requests in flight, fewer than the files a process may open.
CONNECTIONS = 256
# Seconds to connect, and seconds without a byte of the response; the option `timeout` changes the latter.
CONNECT, IDLE = 10.0, 60.0
# Seconds that one request may take in total, against a response that trickles in byte by byte.
TOTAL = 600.0
# Most bytes of a response, unless its request says otherwise: a list of 1,000 files has a tenth of it.
LIMIT = 2**24
# Encodings by the mark that a body may begin with; without one it is UTF-8, as JSON has to be.
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Statuses of a proxy that refuses the user, the password or the host.
PROXY_REFUSALS = (401, 403, 407)
# Bytes of a body that are passed to the connection at once.
CHUNK = 2**19
# Longest message of a server that is repeated, in characters.
MESSAGE_LIMIT = 300
# Shortest piece of a text that is recognised, and removed, in a server's message.
SNIPPET = 24


@dataclass(frozen=True, kw_only=True)
class HttpResponse:
    """A complete response; look `headers` up in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @cached_property
    def json(self) -> Any:  # any JSON value
        """The body as JSON, with or without a byte order mark; None if it is not JSON."""
        try:
            return orjson.loads(_unmarked(self.body))
        except ValueError:  # of its encoding, or of JSON
            return None

    @cached_property
    def retry_after(self) -> float | None:
        """Seconds to wait before the next request, if the headers say so."""
        return retry_after(self.headers)


class HttpClient:
    """An API at one base URL, with one key. Use it, and close it, on one event loop."""

    def __init__(
        self,
        base_url: str,
        *,
        vendor: str,
        table: str = "",
        headers: Mapping[str, str],
        secrets: Sequence[str] = (),
        secret_query: str = "",
        timeout: float | None = None,
        proxy: str = "",
        no_proxy: str = "",
    ) -> None:
        """Check the address; the first request connects. `secrets` never appear in a message.

        `table` names the table of its settings, `[providers.NAME]`, if that is not `vendor`.

        `secret_query` is added to the query of each request, for APIs that take their key nowhere else.

        `timeout` is in seconds without a byte; `proxy` is a URL, `no_proxy` a comma-separated list of hosts to reach
        directly.

        Raises:
            Misconfigured: `base_url` or `proxy` is invalid, or a header cannot be sent.
        """
        table = table or vendor
        try:
            parts = urlsplit(base_url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Misconfigured(
                f"base_url of {vendor} is not a URL; write it as https://host/path, in [providers.{table}]"
            )
        if parts.username or parts.password or parts.query:
            raise Misconfigured(
                f"base_url of {vendor} contains a password or a query; remove it, and use the options instead"
            )
        for name, value in headers.items():
            if not (value.isascii() and value.isprintable()):
                raise Misconfigured(
                    f"header {name} for {vendor} has an invalid character; check api_key in "
                    f"[providers.{table}]"
                )
        self.vendor, self.table = vendor, table
        self.label = f"{vendor} at {parts.hostname}" + (f":{port}" if port else "")
        self._base_url = base_url.rstrip("/")
        self._headers = {"Content-Type": "application/json", "User-Agent": "flowbed", **headers}
        self._proxy = proxy_for(parts.hostname, proxy, no_proxy, vendor=vendor, table=table)
        self._secret_query = secret_query
        self._secrets = [secret for secret in (*secrets, password_in(proxy)) if secret]
        self.idle_timeout = timeout or IDLE
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._errors = _TranslateErrors(self)

    async def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, limit: int = LIMIT
    ) -> HttpResponse:
        """Send `body` as JSON, or no body, to `path` below the base URL; return the response of any status.

        Raises:
            Transient: there was no connection, no response in time, or only part of one.
            Misconfigured: the server's certificate is not trusted, the server redirects, or its response has more than
                `limit` bytes.
        """
        data = None if body is None else _in_chunks(orjson.dumps(body))
        return await self._request("POST", path, data, limit)

    async def get(self, path: str, *, limit: int = LIMIT) -> HttpResponse:
        """Request `path` below the base URL; return the response of any status, of at most `limit` bytes.

        Raises:
            Transient, Misconfigured: as `post`.
        """
        return await self._request("GET", path, None, limit)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        data: Any = None,  # anything that aiohttp can send
        headers: Mapping[str, str] | None = None,
        idle_timeout: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield its response while the body still arrives; errors in the block are translated too.

        With `idle_timeout` only that many seconds of silence end the request, not its total duration.

        Raises:
            Transient, Misconfigured: as `post`.
        """
        with self._errors:
            async with self._send(method, path, data, headers=headers, idle_timeout=idle_timeout) as response:
                self._refuse_redirect(response)
                yield response

    async def read(self, response: aiohttp.ClientResponse, *, limit: int = LIMIT) -> bytes:
        """Read the body of a response within `stream`, and stop where it has more than `limit` bytes.

        Raises:
            Misconfigured: it has more.
        """
        pieces, size = [], 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > limit:
                raise self.too_large(limit)
            pieces.append(piece)
        return b"".join(pieces)

    def too_large(self, limit: int) -> Misconfigured:
        """Return the error of a response that has more than `limit` bytes."""
        error = Misconfigured(
            f"{self.label} answered with more than {limit:,} bytes, which this request cannot need",
            advice=f"check the model, its dimensions and base_url in [providers.{self.table}]",
        )
        error.perhaps_billed = error.perhaps_input = True
        return error

    async def _request(
        self, method: str, path: str, data: bytes | BytesIO | None, limit: int
    ) -> HttpResponse:
        """Do what `stream` does for callers that want the whole response, without the cost of a generator."""
        with self._errors:
            async with self._send(method, path, data) as response:
                self._refuse_redirect(response)
                body = await self.read(response, limit=limit)
                return HttpResponse(status=response.status, headers=response.headers, body=body)

    def _send(
        self,
        method: str,
        path: str,
        data: Any,  # anything that aiohttp can send
        *,
        headers: Mapping[str, str] | None = None,
        idle_timeout: float | None = None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        import aiohttp  # takes 100 ms to import

        timeout = aiohttp.ClientTimeout(
            total=None if idle_timeout else TOTAL,
            sock_connect=CONNECT,
            sock_read=idle_timeout or self.idle_timeout,
        )
        return self._open_session().request(
            method,
            self._address(path),
            data=data,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,  # the key would be sent there too
        )

    def _address(self, path: str) -> str:
        if not self._secret_query:
            return self._base_url + path
        return f"{self._base_url}{path}{'&' if '?' in path else '?'}{self._secret_query}"

    def _refuse_redirect(self, response: aiohttp.ClientResponse) -> None:
        """Refuse a redirect."""
        if 300 <= response.status < 400:  # noqa: PLR2004 - as HTTP counts
            error = Misconfigured(
                f"{self.label} redirects to another address ({response.status})",
                advice="change base_url to that one",
            )
            error.perhaps_input = True  # a firewall may redirect what it refuses
            raise error

    async def aclose(self) -> None:
        """Close the connections; later requests fail."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def redacted(self, message: str, texts: Sequence[str] = ()) -> str:
        """Remove secrets and texts from a server's message, and cut it to a readable length."""
        for secret in self._secrets:
            message = message.replace(secret, "***")
        for text in texts:
            start = message.find(text[:SNIPPET]) if len(text.strip()) >= SNIPPET // 2 else -1
            if start >= 0:
                message = message[:start] + "..."
        if len(message) > MESSAGE_LIMIT:
            message = message[:MESSAGE_LIMIT] + "..."
        # Also finds the middle of a text: anything twice as long as a snippet contains a whole one.
        for start in range(0, len(message) - SNIPPET + 1, SNIPPET):
            piece = message[start : start + SNIPPET]
            if any(piece in text for text in texts):
                message = message[:start] + "..."
                break
        return " ".join(message.split())

    def translate(self, error: BaseException) -> Error | None:
        """Translate a network failure; None for any other exception."""
        import aiohttp

        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return Misconfigured(
                f"{self.label}: its certificate is not trusted; set SSL_CERT_FILE to yours, or change base_url"
            )
        if isinstance(error, aiohttp.InvalidURL):
            return Misconfigured(
                f"{self.label}: requests cannot be sent to this address; check base_url and proxy in "
                f"[providers.{self.table}]"
            )
        if isinstance(error, aiohttp.ClientHttpProxyError) and error.status in PROXY_REFUSALS:
            return Misconfigured(
                f"{self.label}: the proxy refuses the connection ({error.status}); check the user, the password "
                "and the address in proxy or HTTPS_PROXY, or name the host in no_proxy"
            )
        if isinstance(error, TimeoutError):
            translated = Transient(f"{self.label} did not answer in time")
        elif isinstance(error, (aiohttp.ClientError, OSError)):
            translated = Transient(f"{self.label} could not be reached: {self.redacted(_message_of(error))}")
        else:
            return None
        # A connection that existed may have broken after the work was done, or because of what was sent.
        sent = not isinstance(error, _errors_before_sending())
        translated.perhaps_billed = translated.perhaps_input = sent
        return translated

    def _open_session(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._closed:
            raise Transient(f"{self.label} is closed; open the model again")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS),
                headers=self._headers,
                proxy=self._proxy,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class _TranslateErrors:
    """A context that translates network failures into Flowbed's errors."""

    __slots__ = ("_provider",)

    def __init__(self, provider: HttpClient) -> None:
        self._provider = provider

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and (translated := self._provider.translate(error)) is not None:
            raise translated from error


@cache
def _errors_before_sending() -> tuple[type[Exception], ...]:
    """List the failures that happen before anything is sent."""
    import aiohttp

    return (
        aiohttp.ClientConnectorError,
        aiohttp.ConnectionTimeoutError,
        aiohttp.ClientHttpProxyError,
    )


def _unmarked(body: bytes) -> bytes | str:
    """Return a body without its byte order mark, decoded if it is not UTF-8."""
    for mark, encoding in MARKS:
        if body.startswith(mark):
            return body.decode(encoding)
    return body


def _in_chunks(content: bytes) -> bytes | BytesIO:
    """Make a large body be sent in chunks, so that other requests do not wait for all of it."""
    return content if len(content) <= CHUNK else BytesIO(content)


def _message_of(error: Exception) -> str:
    return str(error) or type(error).__name__
