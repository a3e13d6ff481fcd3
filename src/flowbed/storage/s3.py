"""Objects in S3, or in another store that speaks its protocol and keeps to the conditions of a write.

A conditional write is sent by a client that never tries again by itself, since it would take its own write, answered
with an error after all, for somebody else's. Where an answer does not say what became of a write (a timeout, a 5xx, a
cut connection), the object is read: what it holds decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import obstore
import stamina
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from flowbed.errors import Conflict, Error, Misconfigured, NotFound, Transient
from flowbed.storage import Listed, Location
from flowbed.storage.keys import RESERVED, checked, checked_prefix
from flowbed.storage.objects import Objects
from flowbed.storage.streams import Stream
from flowbed.telemetry import RETRIED, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from obstore import GetResult, ObjectMeta
    from obstore.store import ClientConfig, S3Config

    from flowbed.storage import Stored

Answer = TypeVar("Answer")

OPTIONS = ("endpoint", "profile", "region", "virtual_hosted")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")

# What is written here says whether a store keeps to conditions. It is always the same, so that trying does no harm.
TRIED = f"{RESERVED}/conditions"
TRIAL = b"Flowbed tries here whether this store keeps to If-None-Match and If-Match.\n"
OTHER = '"00000000000000000000000000000000"'  # has the form of an etag, and is not that of TRIAL

# A server that is silent for so long when asked for little, or amid a body, is not going to answer.
SILENCE = timedelta(seconds=30)
# A conditional write is one request of any size: it may take so many seconds, and one more for each so many bytes.
PATIENCE, SLOWEST = 30.0, 250_000
# S3 answers 409 and 503 for moments, not for minutes.
SETTLED = timedelta(seconds=60)
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


class _Undecided(Transient):
    """The write was not applied, and nothing says that it never will be: it is sent again."""


class S3(Objects):
    """A store in a bucket, shared with any number of machines; before the first write it is tried."""

    def __init__(self, url: str, bucket: str, prefix: str, options: Mapping[str, str]) -> None:
        """Keep objects in `bucket` below `prefix`."""
        endpoint = options.get("endpoint", "")
        plain = endpoint.startswith("http://")
        config: S3Config = {}
        self._for_lance: dict[str, str] = {"allow_http": "true"} if plain else {}
        if endpoint:
            config["endpoint"] = self._for_lance["aws_endpoint"] = endpoint
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
        self._once = S3Store(bucket, client_options=client, retry_config={"max_retries": 0}, **named)
        self._bucket, self._prefix = bucket, prefix
        self._trying = asyncio.Lock()
        self._keeps = False

    async def get(self, key: str) -> Stored:
        """Read an object whole; raises `NotFound`."""
        return await _repeated(super().get, key)

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """Read an object in pieces; raises `NotFound` at the first."""
        answer = await _repeated(self._begin, checked(key))
        with self._translated(key):
            async for piece in answer.stream():
                yield bytes(piece)

    async def put(self, key: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Write an object, in the place of any that is there; a stream is never held whole in memory."""
        checked(key)
        await self._require_conditions()
        if isinstance(body, bytes):
            await _repeated(super().put, key, body)
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
        await self._require_conditions()
        return await self._settle(key, body, etag=None)

    async def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Write an object in the place of the one with `etag`; raises `Conflict` when that is no longer there.

        Raises:
            Transient: among others, the answer was lost, and the object has changed again before it could be read.

        """
        checked(key)
        await self._require_conditions()
        return await self._settle(key, body, etag=etag)

    async def list(self, prefix: str) -> AsyncIterator[Listed]:
        """List the objects below `prefix` in no particular order, in pages."""
        folder, last = checked_prefix(prefix), None
        while page := await _repeated(self._page, folder, last):
            for found in page:
                if not found["path"].startswith(f"{RESERVED}/"):
                    modified = int(found["last_modified"].timestamp() * 1_000_000)
                    yield Listed(key=found["path"], size=found["size"], modified=modified)
            if len(page) < PAGE:
                return
            last = page[-1]["path"]

    async def folders(self, prefix: str) -> Sequence[str]:
        """Name the folders right below `prefix`, in order."""
        found = await _repeated(super().folders, prefix)
        return [name for name in found if prefix or name != RESERVED]

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        names = [checked(key) for key in keys]
        if names:
            await _repeated(self._remove, names)

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

    async def _settle(self, key: str, body: bytes, *, etag: str | None) -> str:
        """Write in the place of `etag` (None: of nothing), and find out what became of it, whatever is answered."""
        unknown = False  # whether this write may have been applied already
        async for attempt in _attempts(on=_Undecided):
            with attempt:
                try:
                    return await self._write(key, body, etag)
                except (BaseError, OSError) as error:
                    self._require_sense(key, error)
                    if etag is not None and isinstance(error, PreconditionError) and not unknown:
                        raise Conflict(f"{key!r} in {self.url} has changed since it was read") from error
                    unknown = unknown or not isinstance(error, (AlreadyExistsError, PreconditionError))
                    return await self._decide(key, body, etag, unknown=unknown, reason=error)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _write(self, key: str, body: bytes, etag: str | None) -> str:
        """Write once, under a condition."""
        mode: Any = "create" if etag is None else {"e_tag": etag}
        async with asyncio.timeout(PATIENCE + len(body) / SLOWEST):
            return (await obstore.put_async(self._once, key, body, mode=mode))["e_tag"] or ""

    async def _decide(
        self, key: str, body: bytes, etag: str | None, *, unknown: bool, reason: Exception
    ) -> str:
        """Tell by what is there what became of a write: its etag where it was applied.

        Raises:
            Conflict: another was.
            _Undecided: nothing was, yet.
            Transient: another was, and this one may have been before it.

        """
        what, why = f"{key!r} in {self.url}", first_line(reason)
        try:
            present = await self.get(key)
        except NotFound:
            if etag is not None:
                raise Conflict(f"{what} is gone since it was read") from reason
            # It was there and is gone, or the write was refused with 409: two at once, and neither is decided.
            raise _Undecided(f"{what} could not be written: {why}") from reason
        if unknown and present.body == body:
            return present.etag
        if etag is None:
            raise Conflict(f"{what} exists already") from reason
        if present.etag == etag:
            raise _Undecided(f"{what} could not be replaced: {why}") from reason
        if unknown:
            raise Transient(
                f"{what} has changed since it was read, and whether it was replaced before that is not known: read it"
                f" again ({why})"
            ) from reason
        raise Conflict(f"{what} has changed since it was read") from reason

    async def _require_conditions(self) -> None:
        """Refuse a store that ignores conditions: two writers would both believe that they were first.

        Raises:
            Misconfigured: it wrote what it was asked not to.

        """
        async with self._trying:
            if self._keeps:
                return
            created, replaced = await asyncio.gather(self._tried(None), self._tried(OTHER))
            created = created and await self._tried(None)  # the very first time, there was nothing there
            ignored = [name for name, wrote in (("If-None-Match", created), ("If-Match", replaced)) if wrote]
            if ignored:
                raise Misconfigured(
                    f"store {self.url} ignores {' and '.join(ignored)}: it writes over what it was asked to leave, and"
                    " of two runs at once one would be lost silently; use a store with conditional writes, such as"
                    " Amazon S3, or a folder"
                )
            self._keeps = True

    async def _tried(self, etag: str | None) -> bool:
        """Whether the store wrote the trial object, under a condition that does not hold."""
        async for attempt in _attempts(on=_Undecided):
            with attempt:
                try:
                    await self._write(TRIED, TRIAL, etag)
                except (AlreadyExistsError, PreconditionError) as error:
                    self._require_sense(TRIED, error)
                    return False
                except (BaseError, OSError) as error:
                    self._require_sense(TRIED, error)
                    raise _Undecided(f"cannot reach {self.url}: {first_line(error)}") from error
                return True
        raise AssertionError("unreachable: the last attempt returns or raises")

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Say in Flowbed's own errors what obstore raises within."""
        try:
            with super()._translated(key):
                yield
        except Error as error:
            if isinstance(error.__cause__, Exception):
                self._require_sense(key, error.__cause__)
            raise

    def _require_sense(self, key: str, error: Exception) -> None:
        """Raise `Misconfigured` for what no other attempt will mend: its kinds are told apart only by their text."""
        said = str(error)
        why = f": {first_line(error)}"
        if "NoSuchBucket" in said:
            fault, why = f"there is no bucket for store {self.url}; make it, or set another store", ""
        elif "169.254.169.254" in said:
            fault = (
                f"no keys to store {self.url} were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
                " AWS_PROFILE, or run where a role gives them"
            )
        elif "incorrectly configured region" in said or "AuthorizationHeaderMalformed" in said:
            fault = f"the bucket of store {self.url} is in another region; set AWS_REGION"
        elif "501 Not Implemented" in said:
            fault = f"store {self.url} has no conditional writes; use one that has, such as Amazon S3, or a folder"
        elif isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or "403 Forbidden" in said:
            fault = (
                f"no permission for {key!r} in {self.url}; the keys have to be right and allow s3:GetObject,"
                " s3:PutObject, s3:DeleteObject and s3:ListBucket (without it, S3 says so of what is not there too)"
            )
        else:
            return
        raise Misconfigured(fault + why) from error


def _attempts(*, on: type[Transient]) -> AsyncIterator[stamina.Attempt]:
    """Try, and try again while `on` is raised."""

    def again(error: Exception) -> bool:
        if not isinstance(error, on):
            return False
        reached(RETRIED, reason=str(error))
        return True

    return stamina.retry_context(
        on=again, attempts=None, timeout=SETTLED, wait_initial=0.05, wait_max=2.0, wait_jitter=0.1
    )


async def _repeated(call: Callable[..., Awaitable[Answer]], *args: object) -> Answer:
    """Make a call that may be repeated as often as one likes."""
    async for attempt in _attempts(on=Transient):
        with attempt:
            return await call(*args)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _profile(name: str) -> Any:  # noqa: ANN401 - obstore takes anything that gives keys when called
    try:
        from boto3 import Session  # noqa: PLC0415 - slow to load, and needed for profiles alone
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415
    except ImportError as error:
        raise Misconfigured(
            f"AWS profile {name!r} is read by boto3, which is not installed: pip install 'flowbed[aws]', or set"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    try:
        return Boto3CredentialProvider(Session(profile_name=name))
    except (BotoCoreError, ValueError) as error:
        raise Misconfigured(f"AWS profile {name!r} gives no keys: {error}") from error


def first_line(error: Exception) -> str:
    """Shorten what obstore says: below its first line it describes its own insides."""
    return (str(error) or type(error).__name__).splitlines()[0]
