"""The synchronous API: the calls of `flowbed.bed.Flowbed`, run on one event loop in a background thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from flowbed.bed import aopen
from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.bed import Flowbed
    from flowbed.events.replay import Letter, Replayed
    from flowbed.events.schedule import Due
    from flowbed.events.stages import CommitReport
    from flowbed.index.compaction import Compaction, VectorIndex
    from flowbed.index.projection import Projection
    from flowbed.index.search import Mode, Order
    from flowbed.index.search.fields import Fields
    from flowbed.index.search.hits import Unit
    from flowbed.index.versions import Version
    from flowbed.lanes.batch.find import Unembedded
    from flowbed.lanes.batch.submit import Submitted
    from flowbed.lanes.choice import LaneOption
    from flowbed.lanes.failures import RunStats
    from flowbed.lanes.outcome import Polled
    from flowbed.ledger import BatchRow, Rollback, Spent, SubmissionRow
    from flowbed.maintenance.checklist import Checklist
    from flowbed.maintenance.doctor import Diagnosis
    from flowbed.maintenance.forget import Forgettable, Receipt
    from flowbed.maintenance.gc import Collected
    from flowbed.maintenance.inspect import BedStatus, Reason, SourceStatus
    from flowbed.maintenance.report import ProjectReport
    from flowbed.maintenance.verify import Verified
    from flowbed.pipeline.importing import Imported
    from flowbed.pipeline.producer_deltas import DeltasAdded
    from flowbed.pipeline.rollback import Released
    from flowbed.pipeline.sync import Synced
    from flowbed.publish import PublishReport
    from flowbed.publish.chroma.pull import Pulled, StorageMode
    from flowbed.publish.exporting import Exported, Kind
    from flowbed.publish.records import Record
    from flowbed.records import Hit, IndexedText, Plan, Purpose, Report, SearchResults, Status
    from flowbed.records.events import Handled
    from flowbed.records.precomputed import Ingested, PrecomputedRows
    from flowbed.services.jobs.project_jobs import Job, ProjectJobs

Answer = TypeVar("Answer")

# Time for interrupted work to release its claims, in seconds; after it the interrupt is raised all the same.
RELEASE_WITHIN = 10


class BlockingJobs:
    """Jobs that write documents into collections in the background: every call of `bed.jobs`, run to its end."""

    def __init__(self, jobs: ProjectJobs, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        """Use `Blocking.jobs`."""
        self._jobs, self._wait = jobs, wait

    def create(
        self,
        collection: str,
        *,
        texts: Sequence[str | Mapping[str, Any]] = (),
        files: Sequence[str | Path] = (),
        reembed: bool = False,
        capacity: int | None = None,
        priority: int = 50,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Create a job; what it is to write is durable when this returns.

        Args:
            collection: the collection to write to, created if absent.
            texts: texts, alone or as mappings with `text` and optionally `id`, `title`, `kind` (`text` or `markdown`)
                and `metadata`. A document of the same id is replaced.
            files: files to copy and to read as a source of files reads them; the id of each is its name.
            reembed: write every row of the collection again from its stored text.
            capacity: most tokens of a chunk.
            priority: 0 to 100; higher is sooner.
            metadata: the job's own.
            idempotency_key: within a day, the same key with the same request returns the job that is there.

        Raises:
            Rejected: there is nothing to do, or something of it is invalid.
            NotFound: the collection to embed again, or a file, does not exist.
        """
        made: Job = self._wait(
            self._jobs.create(
                collection,
                texts=texts,
                files=files,
                reembed=reembed,
                capacity=capacity,
                priority=priority,
                metadata=metadata,
                idempotency_key=idempotency_key,
            )
        )
        return made

    def get(self, id: str) -> Job:  # noqa: A002 - the record's own field
        """Return a job, of the project or of any key.

        Raises:
            NotFound: there is none of that id.
        """
        job: Job = self._wait(self._jobs.get(id))
        return job

    def list(
        self, *, status: Sequence[str] = (), collection: str = "", after: str | None = None, limit: int = 20
    ) -> list[Job]:
        """List jobs, newest first; only those of some states or of a collection, and that follow the id `after`.

        Raises:
            NotFound: the job `after` does not exist.
        """
        found: list[Job] = self._wait(
            self._jobs.list(status=status, collection=collection, after=after, limit=limit)
        )
        return found

    def cancel(self, id: str, *, rollback: bool = False) -> Job:  # noqa: A002
        """Request the end of a job: whole documents that are finished are kept, or with `rollback` nothing of it.

        Raises:
            NotFound: there is none of that id.
        """
        job: Job = self._wait(self._jobs.cancel(id, rollback=rollback))
        return job

    def retry(self, id: str) -> Job:  # noqa: A002
        """Queue a job that failed or was cancelled again.

        Raises:
            NotFound: there is none of that id.
            Conflict: it has not failed.
        """
        job: Job = self._wait(self._jobs.retry(id))
        return job

    def wait(self, id: str, *, timeout: float | None = None) -> Job:  # noqa: A002
        """Wait until a job has ended, and return it. What no server or worker takes is executed here meanwhile.

        Raises:
            NotFound: there is none of that id.
            Transient: it has not ended after `timeout` seconds.
        """
        job: Job = self._wait(self._jobs.wait(id, timeout=timeout))
        return job


class Blocking:
    """A project for synchronous code: every call of `Flowbed`, run to its end on an event loop in a thread."""

    def __init__(self, folder: Path) -> None:
        """Open the project; use `flowbed.open`."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="flowbed", daemon=True)
        self._thread.start()
        try:
            self._bed = self._wait(_opened(folder))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        """Return the project; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the project."""
        self.close()

    def close(self) -> None:
        """Close files, databases and the thread. Closing twice is allowed."""
        if not self._loop.is_closed():
            self._wait(self._bed.close())
            self._stop()

    @property
    def jobs(self) -> BlockingJobs:
        """Jobs that write documents into collections in the background."""
        return BlockingJobs(self._bed.jobs, self._wait)

    def add(
        self,
        name: str,
        *,
        kind: str,
        location: str | Path,
        collection: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a source into `flowbed.toml`; one of the same name and kind keeps the options that are not given.

        `kind` is the kind of source (`files`, `jsonl`, `receipts`, ...), `location` its path or address, `options` the
        settings of that kind. `collection` defaults to the source's name.

        Raises:
            Misconfigured: the name, the kind, the location or an option is invalid.
        """
        self._wait(self._bed.add(name, kind=kind, location=location, collection=collection, options=options))

    def plan(
        self,
        *names: str,
        allow_deletes: bool = False,
        lane: LaneOption | None = None,
        deadline: float | None = None,
    ) -> Plan:
        """Work out what a run of the named sources (default: all) would do and cost, and stage it for `run`.

        `allow_deletes`, `lane` and `deadline` mean what they mean for `run`.
        """
        return self._wait(self._bed.plan(*names, allow_deletes=allow_deletes, lane=lane, deadline=deadline))

    def run(
        self,
        *names: str,
        plan: str | None = None,
        budget: float | None = None,
        allow_deletes: bool = False,
        status: Status | None = None,
        limit: int | None = None,
        lane: LaneOption | None = None,
        wait: bool = False,
        deadline: float | None = None,
    ) -> Report:
        """Bring the index in step with the named sources (default: all): fetch, chunk, embed and commit.

        Args:
            names: sources to read; with none named, all of them.
            plan: id of a plan to carry out exactly as it was staged. It excludes `names`, `status` and `allow_deletes`.
            budget: most that requests to the model may cost, in US dollars. Without one, the run of a plan may cost
                what the plan said and 10 % more.
            allow_deletes: also delete a large share of a source's documents at once.
            status: embed only chunks of this status; default: new ones, and failed ones that are due for a retry.
            limit: embed at most this many chunks.
            lane: `realtime` calls the model now, `batch` submits to the provider's Batch API, `auto` uses the Batch
                API where that saves money and meets the deadline. Default: the settings.
            wait: on the `batch` lane, wait for the provider's results.
            deadline: seconds; the next run embeds texts of the `batch` lane that have no result by then. Default: the
                settings.

        Raises:
            NotFound: there is no such plan.
            Rejected: the plan is too old, it was combined with other arguments, or the budget is not an amount.
            Misconfigured: the model cannot be used, or the plan or a collection is of another space.
        """
        return self._wait(
            self._bed.run(
                *names,
                plan=plan,
                budget=budget,
                allow_deletes=allow_deletes,
                status=status,
                limit=limit,
                lane=lane,
                wait=wait,
                deadline=deadline,
            )
        )

    def embed(
        self,
        event: bytes | str | None = None,
        *,
        budget: float | None = None,
        lane: LaneOption | None = None,
        deadline: float | None = None,
    ) -> Handled:
        """Embed and commit what waits, without fetching; first take in the batch files that an event tells of.

        Safe to repeat: events may come twice, late and in any order.

        Args:
            event: a notification of S3, EventBridge, SQS, SNS, MinIO or Cloudflare R2, as it came. Without one, the
                store is listed for batch files that no event told of.
            budget: most that requests to the model may cost, in US dollars.
            lane: `realtime`, `batch` or `auto`. Default: the settings.
            deadline: seconds; as for `run`.

        Raises:
            Rejected: the event is not JSON, its shape is unknown, or the budget is not an amount.
            Misconfigured: the model cannot be used.
        """
        return self._wait(self._bed.embed(event, budget=budget, lane=lane, deadline=deadline))

    def take_in(self, event: bytes | str) -> Handled:
        """Take in the batch files that an event tells of, and embed nothing yet.

        Raises:
            Rejected: the event is not JSON, or its shape is unknown.
        """
        return self._wait(self._bed.take_in(event))

    def embed_waiting(
        self,
        *,
        budget: float | None = None,
        lane: LaneOption | None = None,
        deadline: float | None = None,
    ) -> Report:
        """Embed and commit what waits, without fetching; its arguments and errors are those of `embed`."""
        return self._wait(self._bed.embed_waiting(budget=budget, lane=lane, deadline=deadline))

    def watch(
        self, *, stop: asyncio.Event | None = None, say: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """Fetch each source when its files change or it is due, and embed what waits, until stopped or cancelled.

        Args:
            stop: ends the watch once it is set. What is under way is given up; nothing of it is lost.
            say: is called with what happens, as mappings with an `event`: `watching`, `fetched`, `embedded`, `failed`
                and `stopped`.

        Raises:
            Misconfigured: a schedule or the webhook is invalid.
        """
        self._wait(self._bed.watch(stop=stop, say=say))

    def fetch(
        self, name: str, *, wrote: Callable[[BatchRow], None] | None = None, allow_deletes: bool = False
    ) -> Synced:
        """Fetch one source into batch files, and embed nothing; `wrote` is called with each file.

        Raises:
            Misconfigured: there is no such source, or it cannot be read.
            Transient: the same fetch may succeed later.
        """
        return self._wait(self._bed.fetch(name, wrote=wrote, allow_deletes=allow_deletes))

    def embed_batches(self, *batches: str, limit: int | None = None, budget: float | None = None) -> RunStats:
        """Embed waiting chunks, of the batch files with these ids or of all, and write deltas for `commit`.

        Args:
            batches: ids of batch files; without any, all that waits is embedded.
            limit: embed at most about this many chunks.
            budget: most that requests to the model may cost, in US dollars.

        Raises:
            Rejected: the budget is not an amount.
            Misconfigured: the model cannot be used, or a collection is of another space.
        """
        return self._wait(self._bed.embed_batches(*batches, limit=limit, budget=budget))

    def commit(self, collection: str | None = None) -> CommitReport:
        """Commit the deltas that no commit holds, of one collection or of all, and the deletions that wait.

        Nothing is embedded. What is due is published. Safe to repeat, also concurrently.

        Raises:
            Damaged: the index of the only collection cannot be read.
        """
        return self._wait(self._bed.commit(collection))

    def find_unembedded(
        self,
        *names: str,
        limit: int | None = None,
        deadline: float | None = None,
        collections: Collection[str] | None = None,
    ) -> Unembedded:
        """Gather the chunks that wait to be embedded, of the named sources or of all, into submissions for `submit`.

        A chunk without a result within `deadline` seconds is embedded by the first run after that. With `collections`,
        only their chunks are gathered. Without names, chunks of other programs' batch files are gathered too.

        Raises:
            Misconfigured: the model has no Batch API, or a name is not a source's.
        """
        return self._wait(
            self._bed.find_unembedded(*names, limit=limit, deadline=deadline, collections=collections)
        )

    def submit(self, *submissions: str) -> Submitted:
        """Send the submissions that are ready, or those named, to the provider's Batch API. Safe to repeat.

        Raises:
            Misconfigured: the model has no Batch API.
            NotFound: no live submission has that id.
        """
        return self._wait(self._bed.submit(*submissions))

    def poll(self, *submissions: str, commit: bool = True) -> Polled:
        """Ask the provider about all live submissions, or those named, and commit their results. Safe to repeat.

        Without `commit`, the results are durable as deltas, and `commit` makes them searchable.

        Raises:
            Misconfigured: the provider cannot be asked until a setting changes.
            NotFound: no live submission has that id.
        """
        return self._wait(self._bed.poll(*submissions, commit=commit))

    def submissions(self, *, live: bool = True) -> list[SubmissionRow]:
        """List the live submissions, or with `live=False` those that have ended, oldest first."""
        return self._wait(self._bed.submissions(live=live))

    def cancel_submission(self, submission: str) -> None:
        """Ask for a submission to be cancelled; the next poll writes the results that its provider has by then.

        Raises:
            NotFound: no live submission has that id.
        """
        self._wait(self._bed.cancel_submission(submission))

    def spending(
        self,
        by: Literal["lane", "source", "document", "run", "day"] = "lane",
        *,
        limit: int = 20,
        days: float | None = None,
    ) -> list[Spent]:
        """Return what was planned and billed, grouped `by`, the most expensive first; of the last `days`, or ever."""
        return self._wait(self._bed.spending(by, limit=limit, days=days))

    def spending_by_collection(self) -> dict[str, float]:
        """Return what was billed for each collection, in US dollars; receipts count for `lines`."""
        return self._wait(self._bed.spending_by_collection())

    def search(
        self,
        query: str | Sequence[float] = "",
        *,
        collection: str | None = None,
        where: Mapping[str, Any] | None = None,
        since: str | float | datetime | None = None,
        before: str | float | datetime | None = None,
        order: Order = "score",
        limit: int = 10,
        at: int | None = None,
        unit: Unit = "chunk",
        mode: Mode = "vector",
        text: str = "",
        like: str | None = None,
        rerank: bool = False,
        cursor: str | None = None,
    ) -> tuple[Hit, ...]:
        """Return the hits nearest to a text or a vector, best first; `find` also returns the versions searched.

        Its arguments and errors are those of `find`.
        """
        return self._wait(
            self._bed.search(
                query,
                collection=collection,
                where=where,
                since=since,
                before=before,
                order=order,
                limit=limit,
                at=at,
                unit=unit,
                mode=mode,
                text=text,
                like=like,
                rerank=rerank,
                cursor=cursor,
            )
        )

    def find(
        self,
        query: str | Sequence[float] = "",
        *,
        collection: str | None = None,
        where: Mapping[str, Any] | None = None,
        since: str | float | datetime | None = None,
        before: str | float | datetime | None = None,
        order: Order = "score",
        limit: int = 10,
        at: int | None = None,
        unit: Unit = "chunk",
        mode: Mode = "vector",
        text: str = "",
        like: str | None = None,
        rerank: bool = False,
        cursor: str | None = None,
    ) -> SearchResults:
        """Find the rows nearest to a text or a vector, or with the words of a text, in one collection or in all.

        Args:
            query: a text, or a vector of the model's dimensions.
            collection: the collection to search; default: by `text` all, otherwise all in the model's space.
            where: a filter on metadata, such as `{"source": "slack", "ts": {"$gte": 1447}}`.
            since: only rows whose time is not before this: a date, a time (UTC without a zone), seconds since 1970, or
                an age such as `7d`.
            before: only rows whose time is before this.
            order: by `score`, or the best by their time, the `newest` or `oldest` first.
            limit: return at most this many hits.
            at: search this older version of `collection`.
            unit: what a hit is: a `chunk`, or a `document`, scored by its best chunk.
            mode: how rows are found: by `vector`, those nearest in meaning; by `text`, those with words of the query,
                without a call to the model; `hybrid` joins both by rank.
            text: the words to look for in a hybrid search, if the query is a vector.
            like: in place of a query, the id of a row: find what is near it, without itself, or with unit `document`
                without its document.
            rerank: let the reranker of the settings order the best 50 hits, or as many as `limit`, by their texts.
            cursor: go on after the page whose `next` this is, with the same arguments; the pages of one search show no
                hit twice, also while the index changes.

        Raises:
            NotFound: there is no such collection or version.
            Rejected: the query, the filter or another argument is invalid, or a large collection is searched by
                text without a full-text index.
            Misconfigured: the collection is of another space than the configured model.
        """
        return self._wait(
            self._bed.find(
                query,
                collection=collection,
                where=where,
                since=since,
                before=before,
                order=order,
                limit=limit,
                at=at,
                unit=unit,
                mode=mode,
                text=text,
                like=like,
                rerank=rerank,
                cursor=cursor,
            )
        )

    def fields(self, collection: str, *, where: Mapping[str, Any] | None = None, values: int = 10) -> Fields:
        """Return which metadata the rows of a collection have, or those that match `where`: keys, types, common values.

        Of each key, up to `values` values are returned, the commonest first. All of up to 100,000 rows are read, and as
        many, evenly spread, of more.

        Raises:
            NotFound: there is no such collection.
            Rejected: the filter, or the number of values, is invalid.
        """
        return self._wait(self._bed.fields(collection, where=where, values=values))

    def around(
        self, name: str, *, before: int = 1, after: int = 1, collection: str | None = None
    ) -> tuple[IndexedText, ...]:
        """Return the row of that id, and up to `before` and `after` rows around it in its document, in order.

        Without a `collection`, the first that has the row is read.

        Raises:
            NotFound: no collection has the row, or there is no such collection.
            Rejected: more than 50 rows of a side are asked for.
        """
        return self._wait(self._bed.around(name, before=before, after=after, collection=collection))

    def rows(
        self,
        collection: str,
        *,
        ids: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> tuple[IndexedText, ...]:
        """Return the newest rows of a collection that have one of the `ids` and match `where`, in the order of ids.

        All are held in memory: read large collections in parts, by `offset` and `limit`, or use `export`.

        Raises:
            NotFound: there is no such collection.
            Rejected: the filter is invalid.
        """
        return self._wait(self._bed.rows(collection, ids=ids, where=where, offset=offset, limit=limit))

    def vectors(self, *texts: str, purpose: Purpose = "document") -> NDArray[np.float32]:
        """Embed texts with the project's model, through its cache, and store them nowhere else.

        Returns:
            An array of shape (texts, dimensions), in the order of the texts.

        Raises:
            Rejected: a text is empty, or the model refuses it.
            Transient: the provider does not answer now.
        """
        return self._wait(self._bed.vectors(*texts, purpose=purpose))

    def write_rows(
        self,
        collection: str,
        rows: PrecomputedRows,
        *,
        strict: bool = False,
        commit: bool = True,
        cache: bool = False,
    ) -> Ingested:
        """Write rows that come with vectors of the project's model into a collection; nothing is embedded or paid for.

        Safe to repeat: rows that are there already are skipped. All rows are held in memory: write large sets in groups
        of some thousands.

        Args:
            collection: the collection to write to, created if absent.
            rows: the rows to insert or replace, and the ids of those to delete.
            strict: write nothing if any row is refused.
            commit: make the rows searchable before returning; otherwise they are durable, and the next commit does it.
            cache: also keep the vectors in the cache, for other documents with the same texts.

        Raises:
            Rejected: columns differ in length, or vectors in dimensions; with `strict`, also if a row is refused.
            Misconfigured: the name is invalid, or the collection is of another space than the configured model.
        """
        return self._wait(self._bed.write_rows(collection, rows, strict=strict, commit=commit, cache=cache))

    def import_rows(
        self,
        location: str | Path,
        *,
        collection: str,
        space: str | None = None,
        name: str = "",
        check: bool = True,
    ) -> Imported:
        """Import rows with their vectors: nothing is paid for but a sample. Safe to repeat, and after a kill.

        Args:
            location: a Chroma directory, the address of a Chroma server (https://host:port), a Parquet file, or a
                folder of Parquet files.
            collection: the collection to write to, created if absent.
            space: the model that made the vectors, as vendor:model; default: the project's.
            name: the name of the collection in Chroma; default: its only one.
            check: compare the vectors of a sample of the texts with those that the model gives.

        Raises:
            Rejected: the rows cannot be read, or their vectors are not those of the model.
            NotFound: there is nothing at that location, or no such collection.
            Misconfigured: the collection is of another space, or the model cannot be used.
            Transient: the same import may succeed later.
        """
        return self._wait(
            self._bed.import_rows(location, collection=collection, space=space, name=name, check=check)
        )

    def add_deltas(self, *keys: str) -> DeltasAdded:
        """Register deltas of other producers, and commit all that are registered; a refused one becomes a dead letter.

        Safe to repeat. A key is COLLECTION/delta/RUN, with an archive delta.tar.gz or loose files of a Chroma
        directory, or a run record in JSON that names such prefixes (`lines_delta_prefix`). Without keys, those that an
        interrupted call has registered are committed.

        Raises:
            Rejected: a key is not that of a delta, or a run record cannot be read; nothing was registered.
        """
        return self._wait(self._bed.add_deltas(*keys))

    def export(
        self,
        collection: str,
        *,
        to: Kind,
        path: str | Path,
        at: int | None = None,
        where: Mapping[str, Any] | None = None,
        vectors: bool = True,
    ) -> Exported:
        """Write the rows of a collection into a file or folder that any program reads, and `import_rows` too.

        Args:
            collection: the collection to export.
            to: `chroma`, a directory for `chromadb.PersistentClient`; `parquet`, a file with the columns id, document,
                metadata and vector; `jsonl`, a file with an object per line: id, text, metadata and vector.
            path: where to write; it must not exist, and appears when it is whole and checked.
            at: an older version of the collection; default: the newest.
            where: a filter on metadata; default: all rows.
            vectors: with `jsonl`, whether to write vectors.

        Raises:
            NotFound: there is no such collection or version.
            Rejected: the path exists, the filter is invalid, or this kind always has vectors.
            Misconfigured: the path cannot be written, or chromadb is not installed.
            OutOfSpace: the disk is full.
        """
        return self._wait(self._bed.export(collection, to=to, path=path, at=at, where=where, vectors=vectors))

    def status(self) -> BedStatus:
        """Describe every collection, and count chunks by status, dead letters and live submissions."""
        return self._wait(self._bed.status())

    def sources(self) -> list[SourceStatus]:
        """List the configured sources, removed ones of which something is indexed, and those of precomputed rows."""
        return self._wait(self._bed.sources())

    def schedule(self) -> dict[str, Due]:
        """Tell when each source was fetched by `watch` last, and when it is due next.

        Raises:
            Misconfigured: a schedule is invalid.
        """
        return self._wait(self._bed.schedule())

    def remove(self, name: str) -> None:
        """Remove a source from `flowbed.toml`; its rows stay until a run of its name with `allow_deletes`.

        Raises:
            NotFound: no source has that name.
        """
        self._wait(self._bed.remove(name))

    def why(self, subject: str) -> list[Reason]:
        """Explain the state of a chunk (by id), or of every chunk of a document (`DOCUMENT` or `SOURCE#DOCUMENT`).

        `subject` may also be the link of a message, an issue or a note: the chunks that hold it are explained.

        Raises:
            NotFound: the ledger knows no such chunk or document; the message says why, as far as that is known.
        """
        return self._wait(self._bed.why(subject))

    def versions(self, collection: str) -> list[Version]:
        """List the versions of a collection that are kept, newest first."""
        return self._wait(self._bed.versions(collection))

    def compact(
        self,
        collection: str | None = None,
        *,
        vector_index: VectorIndex = "auto",
        full_text: bool = False,
        now: bool = False,
    ) -> dict[str, Compaction]:
        """Compact one collection or all: merge small files, extend the indexes, drop expired versions.

        With `full_text`, build a full-text index where there is none; later runs and compactions extend it.
        With `now`, drop every version but the newest and the tagged ones, and erase deleted rows from the disk. Of all
        collections, one that fails does not stop the others; its error is raised at the end.
        """
        return self._wait(
            self._bed.compact(collection, vector_index=vector_index, full_text=full_text, now=now)
        )

    def verify(
        self, *collections: str, repair: bool = False, allow_deletes: bool = False
    ) -> dict[str, Verified]:
        """Check that index, ledger and store agree, in the named collections or in all; `repair` fixes what differs.

        Raises:
            NotFound: there is no collection of that name.
        """
        return self._wait(self._bed.verify(*collections, repair=repair, allow_deletes=allow_deletes))

    def gc(self, *collections: str, dry_run: bool = False) -> Collected:
        """Delete stored objects that are no longer needed, of the named collections or of the whole project.

        Raises:
            NotFound: there is no collection of that name.
        """
        return self._wait(self._bed.gc(*collections, dry_run=dry_run))

    def find_to_forget(
        self,
        *ids: str,
        documents: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        collection: str | None = None,
    ) -> Forgettable:
        """Find what `forget` would erase with the same arguments, without changing anything.

        Raises:
            NotFound: a chunk, a document or the collection is not known.
            Rejected: nothing was named, or the filter is invalid.
        """
        return self._wait(
            self._bed.find_to_forget(*ids, documents=documents, where=where, collection=collection)
        )

    def forget(
        self,
        *ids: str,
        documents: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        collection: str | None = None,
        most: int | None = 100,
    ) -> Receipt:
        """Erase rows everywhere in the project and its publications, and keep them from returning.

        All older versions of their collections are dropped, with their tags. The receipt says what was erased and what
        could not be reached; it names no row. Interrupted, it is finished by `resume_forget`.

        Args:
            ids: ids of chunks.
            documents: whole documents, as DOCUMENT or SOURCE#DOCUMENT.
            where: a filter on metadata; the chunks that match it now.
            collection: only look in this collection for `ids` and `where`; default: in all.
            most: refuse to forget more rows than this; None allows any number.

        Raises:
            NotFound: a chunk, a document or the collection is not known.
            Rejected: nothing was named, the filter is invalid, or there are more than `most` rows.
        """
        return self._wait(
            self._bed.forget(*ids, documents=documents, where=where, collection=collection, most=most)
        )

    def resume_forget(self) -> list[Receipt]:
        """Finish what `forget` has not: it was interrupted, or a place could not be reached then.

        Raises:
            Damaged: a request cannot be read.
        """
        return self._wait(self._bed.resume_forget())

    def lift_forget(self, *ids: str, documents: Sequence[str] = ()) -> int:
        """Let forgotten chunks or documents return with the next run that finds them; return how many.

        Raises:
            NotFound: one was not forgotten.
            Rejected: nothing was named.
        """
        return self._wait(self._bed.lift_forget(*ids, documents=documents))

    def tag(self, collection: str, version: int, name: str) -> None:
        """Keep a version for good, under a name; if another version has the name, the name moves.

        Raises:
            NotFound: there is no such collection or version.
            Misconfigured: the name is invalid.
        """
        self._wait(self._bed.tag(collection, version, name))

    def untag(self, collection: str, name: str) -> bool:
        """Remove a tag, so that its version expires as others do; return whether the tag existed."""
        return self._wait(self._bed.untag(collection, name))

    def rollback(self, collection: str, version: int) -> Rollback:
        """Restore an older version of a collection as a new version, and mark the runs committed since as reverted.

        Raises:
            NotFound: there is no such collection or version.
        """
        return self._wait(self._bed.rollback(collection, version))

    def release(self, collection: str) -> Released:
        """Commit the runs that rollbacks of a collection reverted, without embedding anything."""
        return self._wait(self._bed.release(collection))

    def map(self, collection: str, *, points: int = 100_000) -> Projection:
        """Project the vectors of a collection onto a plane; of more than `points` rows a sample is drawn.

        Raises:
            NotFound: there is no such collection, or it has no rows.
        """
        return self._wait(self._bed.map(collection, points=points))

    def map_rows(self, projection: Projection, points: Sequence[int] | None = None) -> list[IndexedText]:
        """Read the rows of some points of a map, or of all.

        Raises:
            NotFound: a point is not one of the map's.
        """
        return self._wait(self._bed.map_rows(projection, points))

    def report(self) -> ProjectReport:
        """Gather how well the project is, how fresh, what it costs and how it grows; `flowbed report` writes it."""
        return self._wait(self._bed.report())

    def publish(self, collection: str | None = None, *, reconcile: bool = False) -> PublishReport:
        """Publish the newest version of a collection, or of all, to every publication of the settings that has it.

        With `reconcile`, what is published is compared with the index, and differences are fixed. A publication that
        fails does not stop the others.

        Raises:
            NotFound: there is no such collection.
            Misconfigured: the settings have no publication of it.
        """
        return self._wait(self._bed.publish(collection, reconcile=reconcile))

    def pull(self, collection: str, directory: str | Path, *, mode: StorageMode | None = None) -> Pulled:
        """Download the current Chroma snapshot of a collection into `directory`/VERSION, checked, and whole or absent.

        `mode` is where it comes from: the store (`s3`), a shared file system (`efs`), or `auto`. Default: the variable
        `CHROMADB_STORAGE_MODE`, or `auto`. Open the `path` of the result with `chromadb.PersistentClient`.

        Raises:
            NotFound: nothing is published.
            Misconfigured: the mode cannot be used.
        """
        return self._wait(self._bed.pull(collection, directory, mode=mode))

    def publications(self) -> list[Record]:
        """List what was published last, by publication and collection; no server is asked."""
        return self._wait(self._bed.publications())

    def doctor(self) -> Diagnosis:
        """Find what is wrong or about to go wrong, each with the command that fixes it."""
        return self._wait(self._bed.doctor())

    def checklist(self) -> Checklist:
        """Walk the chain from sources to snapshots, stage by stage, in bounded time; change nothing.

        A stage that cannot be looked at is a failed item, and the others are looked at.
        """
        return self._wait(self._bed.checklist())

    def dead_letters(self, *, source: str = "", day: str = "", batch: str = "") -> list[Letter]:
        """List failures that need attention, oldest first: all, or those of a source, a day or a batch file.

        Raises:
            Rejected: `day` is not written as 2026-11-30.
        """
        return self._wait(self._bed.dead_letters(source=source, day=day, batch=batch))

    def replay(self, *subjects: str, source: str = "", day: str = "", batch: str = "") -> Replayed:
        """Queue again what failed: all, the named dead letters, or what failed of a source, a day or a batch file.

        Args:
            subjects: the subjects of dead letters.
            source: the name of a source.
            day: the day of the batch files, in UTC, as 2026-11-30.
            batch: the key or the id of one batch file.

        Raises:
            NotFound: there is no such dead letter, or nothing of it has failed.
            Rejected: `day` is not written as 2026-11-30.
        """
        return self._wait(self._bed.replay(*subjects, source=source, day=day, batch=batch))

    def retry_dead_letters(self, *subjects: str) -> int:
        """Queue the chunks of the named dead letters (default: all) for the next run; return how many chunks."""
        return self._wait(self._bed.retry_dead_letters(*subjects))

    def _wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        if self._loop.is_closed():
            work.close()
            raise Rejected("this project is closed; open it again with flowbed.open()")
        tasks: list[asyncio.Task[Answer]] = []

        async def watched() -> Answer:
            tasks.append(asyncio.ensure_future(work))
            return await tasks[0]

        future = asyncio.run_coroutine_threadsafe(watched(), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            # Let the work release its claims first. The caller gets the interrupt, however the work ends.
            for task in tasks:
                self._loop.call_soon_threadsafe(task.cancel)
            with contextlib.suppress(BaseException):
                future.result(timeout=RELEASE_WITHIN)
            raise

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _opened(folder: Path) -> Flowbed:
    return await aopen(folder)


def open(folder: str | Path = ".") -> Blocking:  # noqa: A001 - read as `flowbed.open`
    """Open the project in `folder` for synchronous use; the folder is created if it does not exist.

    Raises:
        Misconfigured: its settings are invalid, or its store belongs to another ledger.
    """
    return Blocking(Path(folder))


def pull(
    collection: str,
    directory: str | Path,
    *,
    store: str | None = None,
    mode: StorageMode | None = None,
    folder: str | Path = ".",
) -> Pulled:
    """Download the current Chroma snapshot of a collection, as `Blocking.pull` does, without a ledger.

    `store` is where it is published; default: the store of the project in `folder`, or the bucket in
    `CHROMADB_BUCKET`.

    Raises:
        NotFound: nothing is published.
        Misconfigured: the store or the mode cannot be used.
    """
    from flowbed.wiring.publications import pull_snapshot

    return asyncio.run(pull_snapshot(Path(folder), collection, Path(directory), mode=mode, store=store))
