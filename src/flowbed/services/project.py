"""The part of an opened project that the services use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from flowbed.embedding import Embedder
    from flowbed.embedding.cache.tiers import VectorTier
    from flowbed.embedding.stack import Stack
    from flowbed.events.replay import Letter, Replayed
    from flowbed.events.schedule import Due
    from flowbed.index.search.fields import Fields
    from flowbed.index.search.reader import IndexReader
    from flowbed.index.versions import Version
    from flowbed.lanes.contexts import RunContext
    from flowbed.ledger import Ledger, Rollback, Spent, SubmissionRow
    from flowbed.maintenance.checklist import Checklist
    from flowbed.maintenance.inspect import Reason, SourceStatus
    from flowbed.publish import PublishReport
    from flowbed.publish.records import Record
    from flowbed.records import IndexedText, Report, SearchResults
    from flowbed.records.events import Handled
    from flowbed.records.precomputed import Ingested
    from flowbed.records.serving import Serving
    from flowbed.services.documents.steps import DocumentSteps
    from flowbed.services.keys import KeyService
    from flowbed.storage import Store


class Project(Protocol):
    """An opened project, as the services see it; `flowbed.bed.Flowbed` is one."""

    def keys(self) -> KeyService:
        """Return the lookup of API keys."""
        ...

    def clock(self) -> int:
        """Return the time in microseconds since 1970."""
        ...

    def secret(self) -> str:
        """Return 32 random bytes as 43 characters of URL-safe base64."""
        ...

    @property
    def model(self) -> str:
        """The model that collections are searched with, as vendor:model."""
        ...

    @property
    def ledger(self) -> Ledger:
        """The ledger of keys, quotas, files and jobs."""
        ...

    @property
    def store(self) -> Store:
        """The store of the bytes of files."""
        ...

    def reader(self) -> IndexReader:
        """Return what reads the project's collections."""
        ...

    def worker(self) -> str:
        """Return a unique name for work of this process, by which others can tell whether the process lives."""
        ...

    def dead(self, name: str) -> bool:
        """Tell whether the process that `worker` named is known to have ended."""
        ...

    @property
    def serving(self) -> Serving:
        """The settings of the server."""
        ...

    async def open_model(self, model: str) -> Embedder:
        """Open the embedder named vendor:model, or return the open one."""
        ...

    def embedder_stack(self) -> Stack:
        """Return what builds the wrappers in front of this process's models."""
        ...

    def vector_tiers(self) -> Sequence[VectorTier]:
        """Return the tiers of the vector cache that this process shares with others."""
        ...

    def document_steps(self) -> DocumentSteps:
        """Return the steps by which documents are written one by one, for a piece of work of its own."""
        ...

    @property
    def take_in(self) -> Callable[[bytes], Awaitable[Handled]]:
        """Take in the batch files that an event tells of."""
        ...

    @property
    def replay(self) -> Callable[..., Awaitable[Replayed]]:
        """Queue again what failed; takes the arguments of `Flowbed.replay`."""
        ...

    def run_context(self) -> RunContext:
        """Return what a piece of work needs, under a new worker's name."""
        ...

    async def publish_due(self) -> PublishReport:
        """Publish what is due."""
        ...

    @property
    def embed_waiting(self) -> Callable[[], Awaitable[Report]]:
        """Embed and commit what waits."""
        ...

    @property
    def write_rows(self) -> Callable[..., Awaitable[Ingested]]:
        """Write rows that come with their vectors; takes the arguments of `Flowbed.write_rows`."""
        ...

    @property
    def fields(self) -> Callable[..., Awaitable[Fields]]:
        """Return which metadata the rows of a collection have; takes the arguments of `Flowbed.fields`."""
        ...

    @property
    def find(self) -> Callable[..., Awaitable[SearchResults]]:
        """Find the nearest neighbours of a text or a vector; takes the arguments of `Flowbed.find`."""
        ...

    @property
    def views(self) -> Views:
        """What people look at beside searching."""
        ...


class Views(Protocol):
    """What people look at in an opened project; `flowbed.bed.Flowbed` is one. Each takes the arguments it has there."""

    @property
    def versions(self) -> Callable[[str], Awaitable[list[Version]]]:
        """List the versions of a collection."""
        ...

    @property
    def around(self) -> Callable[..., Awaitable[Sequence[IndexedText]]]:
        """Return a row and those around it in its document; takes the arguments of `Flowbed.around`."""
        ...

    @property
    def why(self) -> Callable[[str], Awaitable[Sequence[Reason]]]:
        """Explain the state of a chunk or a document."""
        ...

    @property
    def sources(self) -> Callable[[], Awaitable[list[SourceStatus]]]:
        """List the sources."""
        ...

    @property
    def schedule(self) -> Callable[[], Awaitable[Mapping[str, Due]]]:
        """Tell when each source is due."""
        ...

    @property
    def publications(self) -> Callable[[], Awaitable[list[Record]]]:
        """List what was published last."""
        ...

    @property
    def checklist(self) -> Callable[[], Awaitable[Checklist]]:
        """Walk the chain from sources to snapshots."""
        ...

    @property
    def dead_letters(self) -> Callable[[], Awaitable[list[Letter]]]:
        """List failures that need attention."""
        ...

    @property
    def submissions(self) -> Callable[..., Awaitable[list[SubmissionRow]]]:
        """List submissions."""
        ...

    @property
    def cancel_submission(self) -> Callable[[str], Awaitable[None]]:
        """Ask for a submission to be cancelled."""
        ...

    @property
    def spending(self) -> Callable[..., Awaitable[list[Spent]]]:
        """Return what was planned and billed."""
        ...

    @property
    def spending_by_collection(self) -> Callable[[], Awaitable[Mapping[str, float]]]:
        """Return what was billed for each collection, in US dollars."""
        ...

    @property
    def rollback(self) -> Callable[[str, int], Awaitable[Rollback]]:
        """Restore an older version of a collection."""
        ...
