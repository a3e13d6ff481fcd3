"""One Lance dataset per collection and space: creates and opens it."""

from __future__ import annotations

import asyncio
import contextlib
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final, TypeVar

from flowbed.errors import Damaged, Error, Misconfigured, NotFound, OutOfSpace, Rejected, Transient
from flowbed.index.active_space import Live, begin_space
from flowbed.index.native import new_session, open_dataset
from flowbed.telemetry import INDEX_CREATED, reached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import lance

    from flowbed.index.native import Dataset, Session
    from flowbed.records import Space
    from flowbed.storage import Store

Answer = TypeVar("Answer")
Opened = TypeVar("Opened", "lance.LanceDataset", "Dataset")  # public or native

# Lance's message about a missing file of a version.
NOT_FOUND = "Not found"
# Its message about a first version that another process wrote, or was writing.
ALREADY_EXISTS = "Dataset already exists"
# Its message about a pattern, which names the reason in a line after "error: ".
NO_REGEX = "Regular expression did not compile"


# Words of messages about a full disk, a quota and a file that may not grow.
FULL = ("No space left", "os error 28", "os error 122", "os error 27")
# Words of Lance's and Arrow's messages about bytes that are not what was written. Arrow calls every error that Lance
# meets in the middle of a scan external.
EXTERNAL = "External error"
NOT_LANCE = "Invalid user input: file does not appear to be a Lance file"
DAMAGE = (EXTERNAL, "corrupt", "panicked", "LanceError(IO)")
# Words of messages about a file that is shorter than another file says.
CUT = ("failed to fill whole buffer", "Invalid range", "Range started at", "Requested range")
# Words of messages about a disk or a network that did not answer: the bytes may be right.
UNREACHABLE = ("Generic ", "os error", "error sending request", "timed out", "HTTP error")
# Words of messages about too little memory, which says nothing about the bytes either.
NO_MEMORY = ("Resources exhausted", "memory limit exceeded")


class DamagedIndex(Damaged):
    """A file of an index cannot be read, now or later: the collection's index has to be built again."""


class UnfitIndex(Misconfigured):
    """An index can be read, but not be committed to: its schema is not the one that its space needs."""


class FileMissing(Transient):
    """A file of an index is missing: another process has dropped its version, or it was lost."""


class Unexplained(Transient):
    """Lance cannot use an index, for a reason that proves no damage."""


# What says that one index, or the pointer to it, cannot be read or written: other collections are not concerned.
UNREADABLE: Final = (Damaged, UnfitIndex, FileMissing, Unexplained)


class Datasets:
    """The datasets of a store."""

    def __init__(self, store: Store) -> None:
        """Open nothing yet."""
        self.store = store
        self._newest: dict[str, Dataset] = {}  # the version searched last, by key

    @cached_property
    def _session(self) -> Session:
        return new_session()

    async def begin(self, collection: str, space: Space, *, now: int) -> Live:
        """Make `space` live if none is, and create its dataset if it does not exist; safe to repeat.

        Raises:
            Misconfigured: another space is live.
        """
        live = await begin_space(self.store, collection, space, now=now)
        await self.writable(live)
        return live

    async def writable(self, live: Live) -> lance.LanceDataset:
        """Open the newest version for writing, created if needed; writing on an older one loses rows."""

        def open_or_create() -> lance.LanceDataset:
            dataset = self._open(live)
            return dataset if dataset is not None else self._create(live)  # an empty dataset is falsy

        return await blocking(open_or_create, f"the index of {live.collection}")

    async def open(self, live: Live, *, version: int | None = None) -> lance.LanceDataset | None:
        """Open a version (default: the newest); None if the dataset does not exist yet.

        Raises:
            NotFound: the version does not exist (any more).
        """
        return await blocking(lambda: self._open(live, version), f"the index of {live.collection}")

    def _open(self, live: Live, version: int | None = None) -> lance.LanceDataset | None:
        import lance  # loaded late: a search does without it, see `native`

        return self._found(live, version, partial(lance.dataset, session=self._session))

    def _found(self, live: Live, version: int | None, open_at: Callable[..., Opened]) -> Opened | None:
        place = self.store.location(live.key)
        if version is not None and not 0 < version < 2**63:
            raise NotFound(self._missing(live, version))
        try:
            dataset = open_at(place.uri, version=version, storage_options=dict(place.options))
        except ValueError as error:
            if "was not found" not in str(error):
                raise
            if version is None:
                return None
            raise NotFound(self._missing(live, version)) from error
        from flowbed.index.schema import PRIMARY_KEY

        mark = dataset.schema.field("id").metadata or {}
        if mark.get(next(iter(PRIMARY_KEY)).encode()) != b"true":
            raise UnfitIndex(
                f"{live.key} has no primary key, so merging into it would leave duplicates;"
                " `flowbed verify --repair` rebuilds it"
            )
        return dataset

    async def reading(
        self, live: Live, read: Callable[[Dataset], Answer], *, version: int | None = None
    ) -> tuple[Answer, int] | None:
        """Run `read` on a version (default: the newest); return its result and the version, None without a dataset.

        Raises:
            NotFound: the version does not exist (any more).
        """

        def work() -> tuple[Answer, int] | None:
            dataset = self._newest_of(live) if version is None else self._at(live, version)
            if dataset is None:
                return None
            try:
                return read(dataset), dataset.version()
            except (OSError, ValueError) as error:
                if dataset is not self._newest.get(live.key) or NOT_FOUND not in str(error):
                    raise
            # Dropped while it was read, or replaced by another dataset that has reached the same version number.
            self._newest.pop(live.key, None)
            dataset = self._newest_of(live) if version is None else self._search(live, version)
            return None if dataset is None else (read(dataset), dataset.version())

        return await blocking(work, f"the index of {live.collection}")

    def _at(self, live: Live, version: int) -> Dataset | None:
        """Open a version to search: the one searched last, if it is that."""
        held = self._newest.get(live.key)
        return held if held is not None and held.version() == version else self._search(live, version)

    def _search(self, live: Live, version: int | None = None) -> Dataset | None:
        return self._found(live, version, partial(open_dataset, session=self._session))

    def _newest_of(self, live: Live) -> Dataset | None:
        """Open the newest version to search; if it was searched before, only its number is read."""
        held = self._newest.get(live.key)
        if held is not None:
            with contextlib.suppress(OSError, ValueError):  # opening it again reports the error
                if held.latest_version() == held.version():
                    return held
        dataset = self._search(live)
        if dataset is not None:
            self._newest[live.key] = dataset
        return dataset

    async def kept(self, live: Live) -> list[int]:
        """List the versions that are kept, oldest first; none if the dataset does not exist yet."""
        return await blocking(lambda: self._kept(live), f"the index of {live.collection}")

    def _kept(self, live: Live) -> list[int]:
        dataset = self._open(live)
        return sorted(int(each["version"]) for each in dataset.version_refs()) if dataset is not None else []

    def _missing(self, live: Live, version: int) -> str:
        kept = spans(self._kept(live))
        return (
            f"collection {live.collection} has no version {version}; it keeps {kept or 'none yet'}:"
            f" see `flowbed versions {live.collection}`"
        )

    def _create(self, live: Live) -> lance.LanceDataset:
        import lance

        from flowbed.index.schema import schema

        place = self.store.location(live.key)
        try:
            # `write_dataset` reads and writes in two steps, and would overwrite a dataset created and filled in between
            # with an empty one. Read at version 0 and without retries, this either creates the first version or fails.
            lance.LanceDataset.commit(
                place.uri,
                lance.LanceOperation.Overwrite(schema(live.space.dimensions), []),
                read_version=0,
                max_retries=0,
                storage_options=dict(place.options),
            )
        except OSError as error:
            dataset = self._open(live)
            if dataset is not None:
                return dataset  # another process created it, or this one did and the response was lost
            if ALREADY_EXISTS not in str(error):
                raise
            # S3 answers a write with 409 while it handles another one; neither may have come to anything.
            raise Transient(
                f"the index of {live.collection}: another process was creating it at the same time; run again"
            ) from error
        reached(INDEX_CREATED, collection=live.collection)
        dataset = self._open(live)
        if dataset is None:
            raise Transient(
                f"{live.key} disappeared right after it was created; does another program delete objects of the store?"
            )
        return dataset


async def blocking(work: Callable[[], Answer], what: str) -> Answer:
    """Run Lance's blocking `work` in a thread, and translate its errors."""
    with translated(what):
        return await asyncio.to_thread(work)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Translate the errors of Lance that are raised in the block."""
    try:
        yield
    except Error:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise translate(error, what) from error
    except BaseException as error:
        # A panic of Lance's native part is no Exception, so that nobody catches it by accident.
        if type(error).__name__ != "PanicException":
            raise
        raise damaged(what, error) from error


def spans(numbers: Sequence[int]) -> str:
    """Format ascending numbers as ranges: 1, 4-7, 9."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in found)


def translate(error: Exception, what: str) -> Error:
    """Turn an error of Lance into one of Flowbed; its kinds can only be told apart by their text."""
    text = str(error)
    first = text.splitlines()[0] if text else type(error).__name__
    if any(sign in text for sign in FULL):
        return OutOfSpace(
            f"the disk is full: {what} could not be written; nothing is lost, free space and run again"
        )
    if "Permission denied" in text or "Read-only file system" in text:
        return Misconfigured(f"{what} cannot be written: {first}")
    if text.startswith(NOT_LANCE):
        return damaged(what, error)
    if ("Invalid user input" in text and EXTERNAL not in text) or NO_REGEX in text:
        return Rejected(f"{what} cannot answer that: {_regex_error(text) or first}")
    if "conflict" in text.lower() or "contention" in text.lower():
        return Transient(f"{what}: others kept writing at the same time; run again ({first})")
    return _reading_failed(error, what, first)


def _reading_failed(error: Exception, what: str, first: str) -> Error:
    text = str(error)
    if NOT_FOUND in text:
        return FileMissing(f"{what}: {first}")
    if not any(sign in text for sign in CUT) and any(sign in text for sign in (*UNREACHABLE, *NO_MEMORY)):
        return Transient(f"{what}: {first}")
    if isinstance(error, OSError | UnicodeDecodeError) or any(sign in text for sign in DAMAGE):
        return damaged(what, error)
    return Unexplained(
        f"{what} cannot be used ({type(error).__name__}: {first}): run again; `flowbed verify` says if it is damaged"
    )


def _regex_error(text: str) -> str:
    """Describe what is wrong with a regular expression; empty if the error is about something else."""
    if NO_REGEX not in text:
        return ""
    if "CompiledTooBig" in text:
        return "the regular expression is too large; repeat less in it"
    reason, _, _ = text.rpartition("\nerror: ")[2].partition("\n")
    return f"the regular expression is invalid: {reason}"


def damaged(what: str, error: BaseException) -> DamagedIndex:
    """Create the error for an index that cannot be read."""
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return DamagedIndex(
        f"{what} is damaged ({first}): `flowbed verify --repair --allow-deletes` drops it, and the next `flowbed run`"
        " builds it again"
    )
