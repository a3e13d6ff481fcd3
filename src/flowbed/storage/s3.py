"""Objects in S3, or in a compatible store with conditional writes."""

from __future__ import annotations

import contextlib
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import obstore
from obstore.store import S3Store

from flowbed.errors import Error, Misconfigured, NotFound, Transient
from flowbed.storage import Listed, Location
from flowbed.storage.conditions import Conditions
from flowbed.storage.failures import RETRY_TIMEOUT, raise_if_permanent, why_not_connected, with_retries
from flowbed.storage.keys import RESERVED, checked, checked_prefix
from flowbed.storage.objects import Objects
from flowbed.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence

    from obstore import GetResult, ObjectMeta
    from obstore.store import BackoffConfig, ClientConfig, S3Config

    from flowbed.storage import Stored

OPTIONS = ("endpoint", "profile", "region", "virtual_hosted")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")

# A server that sends nothing for this long, before a small answer or in the middle of a body, will not answer.
SILENCE = timedelta(seconds=30)
# obstore retries a request this often, within some 3 seconds; what still fails, such as a listing that was cut short,
# is retried here.
RETRIES = 5
BACKOFF: BackoffConfig = {
    "init_backoff": timedelta(milliseconds=100),
    "max_backoff": timedelta(seconds=15),
    "base": 2,
}
# Until a server has answered once, its address may be wrong: then no more than these retries, and seconds to connect,
# pass until the user is told so.
FIRST_RETRIES, FIRST_CONNECT = 3, timedelta(seconds=3)

# Objects per page of a listing: S3's limit.
PAGE = 1000

# Bytes per part of an upload, and parts in flight: up to 80 GB with S3's limit of 10,000 parts.
PART, PARTS = 8 << 20, 2


def open_s3(url: str, *, options: Mapping[str, str]) -> S3:
    """Open the store below a prefix (`s3://bucket/prefix`), without contacting a server yet.

    Credentials come from the `AWS_*` variables, from the role of this container or machine, or, with the option
    `profile`, from the AWS command line's files.

    Raises:
        Misconfigured: the URL or an option is invalid, or the profile has no credentials.
    """
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if not BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
        raise Misconfigured(f"invalid store {url!r}: write s3://bucket or s3://bucket/prefix")
    if prefix:
        checked(prefix)
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise Misconfigured(
            f"store_options: an s3:// store has no option {', '.join(unknown)}; its options are: {', '.join(OPTIONS)}"
        )
    return S3(f"s3://{parts.netloc}/{prefix}".rstrip("/"), parts.netloc, prefix, options)


class S3(Objects):
    """A store in a bucket, shared by any number of machines. Its support of conditions is tested before any write."""

    def __init__(self, url: str, bucket: str, prefix: str, options: Mapping[str, str]) -> None:
        """Store objects in `bucket` below `prefix`."""
        endpoint = options.get("endpoint", "")
        plain = endpoint.startswith("http://")
        config: S3Config = {}
        self._for_lance: dict[str, str] = {"allow_http": "true"} if plain else {}
        if endpoint:
            # Set both names: the second would otherwise win over the first if the environment has it.
            for name in ("aws_endpoint", "aws_endpoint_url_s3"):
                self._for_lance[name] = endpoint
            config["endpoint"] = config["aws_endpoint_url_s3"] = endpoint
        if "region" in options:
            config["region"] = self._for_lance["aws_region"] = options["region"]
        if "virtual_hosted" in options:
            virtual = options["virtual_hosted"].lower()
            config["virtual_hosted_style_request"] = virtual == "true"
            self._for_lance["aws_virtual_hosted_style_request"] = virtual
        named: dict[str, Any] = {"prefix": prefix or None, "config": config}
        if "profile" in options:
            named["credential_provider"] = _profile(options["profile"])
        client: ClientConfig = {"allow_http": plain, "timeout": "1h"}
        patient: ClientConfig = {**client, "read_timeout": SILENCE}
        first = S3Store(
            bucket,
            client_options={**patient, "connect_timeout": FIRST_CONNECT},
            retry_config={
                "max_retries": FIRST_RETRIES,
                "retry_timeout": RETRY_TIMEOUT,
                "backoff": BACKOFF,
            },
            **named,
        )
        super().__init__(url, first)
        self._patient = S3Store(
            bucket,
            client_options=patient,
            retry_config={"max_retries": RETRIES, "retry_timeout": RETRY_TIMEOUT, "backoff": BACKOFF},
            **named,
        )
        # No read_timeout here: a server sends nothing while it receives a large body.
        once = S3Store(bucket, client_options=client, retry_config={"max_retries": 0}, **named)
        self._conditions = Conditions(url, once, self.get)
        self._bucket, self._prefix = bucket, prefix
        self._endpoint = endpoint

    async def get(self, key: str) -> Stored:
        """Return an object; raises `NotFound`."""
        return await with_retries(super().get, key)

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """Iterate over the bytes of an object; raises `NotFound` at the first piece."""
        answer = await with_retries(self._begin, checked(key))
        with self._translated(key):
            async for piece in answer.stream():
                yield bytes(piece)

    async def put(self, key: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Write an object, replacing any existing one; a stream is never held in memory whole."""
        checked(key)
        await self._require_server()
        await self._conditions.require_support()
        if isinstance(body, bytes):
            await with_retries(super().put, key, body)
            return
        # Cancelling the upload would leave parts behind that S3 keeps and bills, so its stream fails instead.
        stream = Stream(body)
        try:
            with self._translated(key):
                await stream.into(
                    obstore.put_async(self._objects, key, stream, chunk_size=PART, max_concurrency=PARTS)  # type: ignore[arg-type]
                )
        except NotFound as error:
            # Its parts were joined or discarded already, and the answer to that was lost.
            raise Transient(
                f"it is unknown whether {key!r} in {self.url} was written: write it again"
            ) from error

    async def create(self, key: str, body: bytes) -> str:
        """Write a new object and return its etag; raises `Conflict` if the key exists."""
        checked(key)
        await self._require_server()
        await self._conditions.require_support()
        return await self._conditions.write(key, body, etag=None)

    async def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Replace the object that has `etag`, return its new etag; raises `Conflict` if it changed or is gone.

        Raises:
            Transient: among others, the answer was lost, and the object changed again before it was read.
        """
        checked(key)
        await self._require_server()
        await self._conditions.require_support()
        return await self._conditions.write(key, body, etag=etag)

    async def list(self, prefix: str) -> AsyncIterator[Listed]:
        """Iterate over the objects below `prefix` in no particular order."""
        folder, last = checked_prefix(prefix), None
        while page := await with_retries(self._page, folder, last):
            for found in page:
                if not found["path"].startswith(f"{RESERVED}/"):
                    modified = int(found["last_modified"].timestamp() * 1_000_000)
                    yield Listed(key=found["path"], size=found["size"], modified=modified)
            if len(page) < PAGE:
                return
            last = page[-1]["path"]

    async def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders directly below `prefix`, in order."""
        found = await with_retries(super().folders, prefix)
        return [name for name in found if prefix or name != RESERVED]

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; missing ones are ignored."""
        names = [checked(key) for key in keys]
        if names:
            await with_retries(self._remove, names)

    def location(self, key: str) -> Location:
        """Return where Lance may keep a dataset under `key`; Lance finds the credentials by itself."""
        path = f"{self._prefix}/{checked(key)}".lstrip("/")
        # Quoted, since Lance would drop everything from a `#` on.
        return Location(uri=f"s3://{self._bucket}/{quote(path)}", options=self._for_lance)

    async def _remove(self, names: Sequence[str]) -> None:
        with self._translated(names[0]):
            await obstore.delete_async(self._objects, names)

    async def _begin(self, key: str) -> GetResult:
        with self._translated(key):
            return await obstore.get_async(self._objects, key)

    async def _page(self, folder: str, last: str | None) -> Sequence[ObjectMeta]:
        """List one page of objects after the key `last`, in one request, so that a failure loses nothing."""
        with self._translated(folder):
            async for page in obstore.list(self._objects, folder or None, offset=last, chunk_size=PAGE):
                return page
        return ()

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Translate the errors that obstore raises within.

        Raises:
            Misconfigured: among others, no server was ever reached.
        """
        try:
            with super()._translated(key):
                yield
        except Error as error:
            why = why_not_connected(error.__cause__)
            if why is None:
                self._objects = self._patient
            if isinstance(error.__cause__, Exception):
                raise_if_permanent(error.__cause__, key, self.url)
            if why is not None and self._objects is not self._patient:
                raise Misconfigured(self._unreachable(why)) from error
            raise
        self._objects = self._patient

    async def _require_server(self) -> None:
        """Make sure that the first request is a read, whose failure is reported soon."""
        if self._objects is not self._patient:
            with contextlib.suppress(NotFound):
                await self.get("flowbed.json")  # any key will do; most stores have this one

    def _unreachable(self, why: str) -> str:
        if self._endpoint:
            return (
                f"no server was reached at {self._endpoint} ({why}), so store {self.url} cannot be used; correct"
                " endpoint in [store_options], or start the server"
            )
        return (
            f"Amazon S3 was not reached ({why}), so store {self.url} cannot be used; check region in [store_options]"
            " and the network, or set endpoint for another server"
        )


def _profile(name: str) -> Any:  # obstore accepts any callable that returns credentials
    try:
        from boto3 import Session  # slow to load, and only profiles need it
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise Misconfigured(
            f"AWS profile {name!r} needs boto3, which is not installed: pip install 'flowbed[aws]', or set"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    try:
        return Boto3CredentialProvider(Session(profile_name=name))
    except (BotoCoreError, ValueError) as error:
        raise Misconfigured(f"AWS profile {name!r} has no credentials: {error}") from error
