"""Objects in S3, or in another store that speaks its protocol and keeps to the conditions of a write."""

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
from flowbed.storage.failures import SETTLED, repeated, require_sense
from flowbed.storage.keys import RESERVED, checked, checked_prefix
from flowbed.storage.objects import Objects
from flowbed.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence

    from obstore import GetResult, ObjectMeta
    from obstore.store import ClientConfig, S3Config

    from flowbed.storage import Stored

OPTIONS = ("endpoint", "profile", "region", "virtual_hosted")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")

# A server that is silent for so long when asked for little, or amid a body, is not going to answer.
SILENCE = timedelta(seconds=30)
# obstore itself sends a request so many times more, within some 3 seconds; what it leaves, such as a listing that was
# cut short, is asked for again here.
RETRIES = 5

# S3 lists so many at a time.
PAGE = 1000

# A stream is sent in parts of so many bytes, and so many parts at a time: 80 GB at S3's limit of 10,000 parts.
PART, PARTS = 8 << 20, 2


def open_s3(url: str, *, options: Mapping[str, str]) -> S3:
    """Open the store below the prefix that `url` names (`s3://bucket/prefix`), without asking a server anything yet.

    Keys come from the `AWS_*` variables or the role of this container or machine, and, with the option `profile`,
    from the files of the AWS command line.

    Raises:
        Misconfigured: the address or an option cannot be used, or the profile has no keys.
    """
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if not BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
        raise Misconfigured(f"store {url!r} cannot be used; write s3://bucket or s3://bucket/prefix")
    if prefix:
        checked(prefix)
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise Misconfigured(
            f"store_options: an s3:// store has no {', '.join(unknown)}; it has {', '.join(OPTIONS)}"
        )
    return S3(f"s3://{parts.netloc}/{prefix}".rstrip("/"), parts.netloc, prefix, options)


class S3(Objects):
    """A store in a bucket, shared with any number of machines; before the first write it is tried."""

    def __init__(self, url: str, bucket: str, prefix: str, options: Mapping[str, str]) -> None:
        """Keep objects in `bucket` below `prefix`."""
        endpoint = options.get("endpoint", "")
        plain = endpoint.startswith("http://")
        config: S3Config = {}
        self._for_lance: dict[str, str] = {"allow_http": "true"} if plain else {}
        if endpoint:
            # Under both names: the second, which the environment may have too, would win over the first.
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
        super().__init__(
            url,
            S3Store(
                bucket,
                client_options={**client, "read_timeout": SILENCE},
                retry_config={"max_retries": RETRIES, "retry_timeout": SETTLED},
                **named,
            ),
        )
        # A server is silent for as long as it is sent a large body: this client has no read_timeout.
        once = S3Store(bucket, client_options=client, retry_config={"max_retries": 0}, **named)
        self._conditions = Conditions(url, once, self.get)
        self._bucket, self._prefix = bucket, prefix

    async def get(self, key: str) -> Stored:
        """Read an object whole; raises `NotFound`."""
        return await repeated(super().get, key)

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """Read an object in pieces; raises `NotFound` at the first."""
        answer = await repeated(self._begin, checked(key))
        with self._translated(key):
            async for piece in answer.stream():
                yield bytes(piece)

    async def put(self, key: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Write an object, in the place of any that is there; a stream is never held whole in memory."""
        checked(key)
        await self._conditions.require_kept()
        if isinstance(body, bytes):
            await repeated(super().put, key, body)
            return
        # Cancelled as it is, the upload would leave parts behind that S3 keeps, and bills: its stream fails instead.
        stream = Stream(body)
        try:
            with self._translated(key):
                await stream.into(
                    obstore.put_async(self._objects, key, stream, chunk_size=PART, max_concurrency=PARTS)  # type: ignore[arg-type]
                )
        except NotFound as error:
            # Its parts are put together already, or given up: the answer to that was lost.
            raise Transient(
                f"whether {key!r} in {self.url} was written is not known: write it again"
            ) from error

    async def create(self, key: str, body: bytes) -> str:
        """Write an object that must not exist, and return its etag; raises `Conflict` when it does."""
        checked(key)
        await self._conditions.require_kept()
        return await self._conditions.write(key, body, etag=None)

    async def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Write an object in the place of the one with `etag`; raises `Conflict` when that is no longer there.

        Raises:
            Transient: among others, the answer was lost, and the object has changed again before it could be read.
        """
        checked(key)
        await self._conditions.require_kept()
        return await self._conditions.write(key, body, etag=etag)

    async def list(self, prefix: str) -> AsyncIterator[Listed]:
        """List the objects below `prefix` in no particular order, in pages."""
        folder, last = checked_prefix(prefix), None
        while page := await repeated(self._page, folder, last):
            for found in page:
                if not found["path"].startswith(f"{RESERVED}/"):
                    modified = int(found["last_modified"].timestamp() * 1_000_000)
                    yield Listed(key=found["path"], size=found["size"], modified=modified)
            if len(page) < PAGE:
                return
            last = page[-1]["path"]

    async def folders(self, prefix: str) -> Sequence[str]:
        """Name the folders right below `prefix`, in order."""
        found = await repeated(super().folders, prefix)
        return [name for name in found if prefix or name != RESERVED]

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        names = [checked(key) for key in keys]
        if names:
            await repeated(self._remove, names)

    def location(self, key: str) -> Location:
        """Say where Lance may keep a dataset under `key`; it finds the same keys to the store by itself."""
        path = f"{self._prefix}/{checked(key)}".lstrip("/")
        # Unquoted, Lance would take what follows a # for no part of the path.
        return Location(uri=f"s3://{self._bucket}/{quote(path)}", options=self._for_lance)

    async def _remove(self, names: Sequence[str]) -> None:
        with self._translated(names[0]):
            await obstore.delete_async(self._objects, names)

    async def _begin(self, key: str) -> GetResult:
        with self._translated(key):
            return await obstore.get_async(self._objects, key)

    async def _page(self, folder: str, last: str | None) -> Sequence[ObjectMeta]:
        """List the next objects after the key `last`: one request, so that nothing is lost when it fails."""
        with self._translated(folder):
            async for page in obstore.list(self._objects, folder or None, offset=last, chunk_size=PAGE):
                return page
        return ()

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Say in Flowbed's own errors what obstore raises within."""
        try:
            with super()._translated(key):
                yield
        except Error as error:
            if isinstance(error.__cause__, Exception):
                require_sense(error.__cause__, key, self.url)
            raise


def _profile(name: str) -> Any:  # obstore takes anything that gives keys when called
    try:
        from boto3 import Session  # slow to load, and needed for profiles alone
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise Misconfigured(
            f"AWS profile {name!r} is read by boto3, which is not installed: pip install 'flowbed[aws]', or set"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    try:
        return Boto3CredentialProvider(Session(profile_name=name))
    except (BotoCoreError, ValueError) as error:
        raise Misconfigured(f"AWS profile {name!r} gives no keys: {error}") from error
