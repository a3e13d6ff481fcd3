"""`Flowbed`, one open project: each method calls the step that does the work, and loads what that step needs."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flowbed import settings
from flowbed.errors import Damaged, Error, Misconfigured, Newer, NotFound, Rejected
from flowbed.index.active_space import require_collection
from flowbed.wiring import opening, process
from flowbed.wiring.project import OpenProject

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping, Sequence
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.events.replay import Letter, Replayed
    from flowbed.events.schedule import Due
    from flowbed.events.stages import CommitReport
    from flowbed.index.active_space import Live
    from flowbed.index.compaction import Compaction, VectorIndex
    from flowbed.index.projection import Projection
    from flowbed.index.search import Mode, Order
    from flowbed.index.search.fields import Fields
    from flowbed.index.search.hits import Unit
    from flowbed.index.versions import Version
    from flowbed.lanes.batch.find import Unembedded
    from flowbed.lanes.batch.submit import Submitted
    from flowbed.lanes.budget import Budget
    from flowbed.lanes.choice import LaneOption
    from flowbed.lanes.failures import RunStats
    from flowbed.lanes.outcome import Polled
    from flowbed.ledger import BatchRow, Rollback, Spent, SubmissionRow
    from flowbed.maintenance.checklist import Checklist
    from flowbed.maintenance.doctor import Diagnosis
    from flowbed.maintenance.forget import Forgettable, Receipt
    from flowbed.maintenance.forget.erase import Places
    from flowbed.maintenance.gc import Collected
    from flowbed.maintenance.inspect import BedStatus, Reason, SourceStatus
    from flowbed.maintenance.report import ProjectReport
    from flowbed.maintenance.verify import Verified
    from flowbed.pipeline import ConfiguredSource
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
    from flowbed.services.jobs.project_jobs import ProjectJobs


class Flowbed(OpenProject):
    """One open project: its sources, its ledger, and the index that it keeps in step with the sources."""

    async def add(
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
        from flowbed.wiring.sources import add

        await asyncio.to_thread(
            add,
            self.folder,
            name,
            kind=kind,
            location=str(location),
            collection=collection,
            options=options or {},
        )
        self.settings = await asyncio.to_thread(settings.read_settings, self.folder)

    async def plan(
        self,
        *names: str,
        allow_deletes: bool = False,
        lane: LaneOption | None = None,
        deadline: float | None = None,
    ) -> Plan:
        """Work out what a run of the named sources (default: all) would do and cost, and stage it for `run`.

        `allow_deletes`, `lane` and `deadline` mean what they mean for `run`.
        """
        from flowbed.pipeline.plan import plan

        feeds = await self._feeds(names, removed=allow_deletes)
        lane, deadline = self._lane_and_deadline(lane, deadline)
        return await plan(
            self._context(), feeds=feeds, allow_deletes=allow_deletes, lane=lane, deadline=deadline
        )

    async def run(
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
        from flowbed.lanes.claims import WAITING

        lane, deadline = self._lane_and_deadline(lane, deadline)
        context = self._context(self._budget(budget))
        if plan is None:
            from flowbed.pipeline.run import run

            report = await run(
                context,
                feeds=await self._feeds(names, removed=allow_deletes),
                allow_deletes=allow_deletes,
                statuses=WAITING if status is None else {status},
                limit=limit,
                lane=lane,
                wait=wait,
                deadline=deadline,
                others=not names,
            )
            return await self._with_publications(report)
        if names or allow_deletes or status is not None:
            raise Rejected(
                f"plan {plan} already says what to do: run it without source names, --status and --allow-deletes"
            )
        from flowbed.pipeline.release import run_plan
        from flowbed.pipeline.staging import read_plan
        from flowbed.wiring.sources import removed_feeds

        staged = await read_plan(self._store, plan, now=process.now())
        configured = [name for name in staged.sources if name in self.settings.sources]
        feeds = await self._feeds(configured) if configured else {}
        feeds |= removed_feeds(staged, known=feeds)
        report = await run_plan(
            context, staged, feeds=feeds, limit=limit, lane=lane, wait=wait, deadline=deadline
        )
        return await self._with_publications(report)

    async def embed(
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
        from flowbed.events.intake import look_for_batches
        from flowbed.wiring.events import intake_context

        if event is None:
            found = await look_for_batches(intake_context(self.settings, self._context()))
            told = found.handled()
        else:
            told = await self.take_in(event)
        if event is not None and not told.batches:
            return told
        report = await self.embed_waiting(budget=budget, lane=lane, deadline=deadline)
        return replace(told, report=report)

    async def take_in(self, event: bytes | str) -> Handled:
        """Take in the batch files that an event tells of, and embed nothing yet.

        Raises:
            Rejected: the event is not JSON, or its shape is unknown.
        """
        from flowbed.events.intake import take_in
        from flowbed.events.notifications import read_event
        from flowbed.wiring.events import intake_context

        told = read_event(event.encode() if isinstance(event, str) else event)
        found = await take_in(told, intake_context(self.settings, self._context()))
        return found.handled()

    async def embed_waiting(
        self,
        *,
        budget: float | None = None,
        lane: LaneOption | None = None,
        deadline: float | None = None,
    ) -> Report:
        """Embed and commit what waits, without fetching; its arguments and errors are those of `embed`."""
        from flowbed.events.waiting import embed_waiting

        lane, deadline = self._lane_and_deadline(lane, deadline)
        context = self._context(self._budget(budget))
        return await self._with_publications(await embed_waiting(context, lane=lane, deadline=deadline))

    async def watch(
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
        from flowbed.events.intake import look_for_batches
        from flowbed.events.watch import Steps
        from flowbed.wiring.events import intake_context
        from flowbed.wiring.watching import open_watch

        async def look() -> Handled:
            return (await look_for_batches(intake_context(self.settings, self._context()))).handled()

        steps = Steps(
            fetch=lambda name, wrote: self.fetch(name, wrote=wrote), embed=self.embed_waiting, look=look
        )
        async with open_watch(
            self.settings,
            folder=self.folder,
            store=self._store,
            ledger=self._ledger,
            steps=steps,
            say=say or (lambda _: None),
        ) as watch:
            await watch.run(stop or asyncio.Event())

    async def fetch(
        self, name: str, *, wrote: Callable[[BatchRow], None] | None = None, allow_deletes: bool = False
    ) -> Synced:
        """Fetch one source into batch files, and embed nothing; `wrote` is called with each file.

        Raises:
            Misconfigured: there is no such source, or it cannot be read.
            Transient: the same fetch may succeed later.
        """
        from flowbed.pipeline.sync import check_space, sync

        feed = (await self._feeds([name], removed=allow_deletes))[name]
        context = self._context()
        await check_space(feed, context)
        return await sync(feed, context, allow_deletes=allow_deletes, wrote=wrote)

    async def embed_batches(
        self, *batches: str, limit: int | None = None, budget: float | None = None
    ) -> RunStats:
        """Embed waiting chunks, of the batch files with these ids or of all, and write deltas for `commit`.

        Args:
            batches: ids of batch files; without any, all that waits is embedded.
            limit: embed at most about this many chunks.
            budget: most that requests to the model may cost, in US dollars.

        Raises:
            Rejected: the budget is not an amount.
            Misconfigured: the model cannot be used, or a collection is of another space.
        """
        from flowbed.events.stages import write_deltas

        return await write_deltas(self._context(self._budget(budget)), batches=batches or None, limit=limit)

    async def commit(self, collection: str | None = None) -> CommitReport:
        """Commit the deltas that no commit holds, of one collection or of all, and the deletions that wait.

        Nothing is embedded. What is due is published. Safe to repeat, also concurrently.

        Raises:
            Damaged: the index of the only collection cannot be read.
        """
        from flowbed.events.stages import commit_pending

        done = await commit_pending(self._context(), collection)
        done.failures += (await self.publish_due()).failures
        return done

    async def find_unembedded(
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
        from flowbed.events.waiting_sources import sources_to_embed
        from flowbed.lanes.batch.find import find

        context = self._context()
        return await find(
            context,
            # No source has an empty name: without any, nothing is claimed.
            sources=tuple(await self._feeds(names) if names else await sources_to_embed(context)) or ("",),
            limit=limit,
            deadline=0 if deadline is None else process.now() + round(deadline * 1e6),
            collections=collections,
        )

    async def submit(self, *submissions: str) -> Submitted:
        """Send the submissions that are ready, or those named, to the provider's Batch API. Safe to repeat.

        Raises:
            Misconfigured: the model has no Batch API.
            NotFound: no live submission has that id.
        """
        from flowbed.lanes.batch.submit import submit

        return await submit(self._context(), submissions)

    async def poll(self, *submissions: str, commit: bool = True) -> Polled:
        """Ask the provider about all live submissions, or those named, and commit their results. Safe to repeat.

        Without `commit`, the results are durable as deltas, and `commit` makes them searchable.

        Raises:
            Misconfigured: the provider cannot be asked until a setting changes.
            NotFound: no live submission has that id.
        """
        from flowbed.lanes.batch.poll import poll

        polled = await poll(replace(self._context(), commits=commit), submissions)
        if not commit:
            return polled
        polled.tally.failures += (await self.publish_due()).failures
        return polled

    async def submissions(self, *, live: bool = True) -> list[SubmissionRow]:
        """List the live submissions, or with `live=False` those that have ended, oldest first."""
        return [row async for page in self._ledger.submissions.pages(live=live) for row in page]

    async def cancel_submission(self, submission: str) -> None:
        """Ask for a submission to be cancelled; the next poll writes the results that its provider has by then.

        Raises:
            NotFound: no live submission has that id.
        """
        if not await self._ledger.submissions.cancel(submission):
            raise NotFound(
                f"no live submission is called {submission!r}; `flowbed submissions list` names them"
            )

    @property
    def jobs(self) -> ProjectJobs:
        """Jobs that write documents into collections in the background."""
        from flowbed.services.jobs.project_jobs import ProjectJobs

        return ProjectJobs(self, checked=settings.checked_name)

    async def spending(
        self,
        by: Literal["lane", "source", "document", "run", "day"] = "lane",
        *,
        limit: int = 20,
        days: float | None = None,
    ) -> list[Spent]:
        """Return what was planned and billed, grouped `by`, the most expensive first; of the last `days`, or ever."""
        since = 0 if days is None else process.now() - round(days * 86_400e6)
        return await self._ledger.spending.totals(by, limit=limit, since=since)

    async def spending_by_collection(self) -> dict[str, float]:
        """Return what was billed for each collection, in US dollars; receipts count for `lines`."""
        spent = {each.name: each.cost_usd for each in await self.spending("source", limit=100_000)}
        found: dict[str, float] = {}
        for name, cost in spent.items():
            source = self.settings.sources.get(name)
            receipts = source is not None and source.kind == "receipts"
            collection = (source.collection if source else "") or ("lines" if receipts else name)
            found[collection] = found.get(collection, 0.0) + cost
        return found

    async def search(
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
        return (
            await self.find(
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
        ).hits

    async def find(
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
        if self._searcher is None:
            from flowbed.wiring.search import Searcher
            from flowbed.wiring.search.reranking import Reranking

            self._searcher = Searcher(
                self._store,
                self.reader(),
                self._embedders,
                Reranking(self.folder, self.settings, self._ledger, hidden=self.folder / opening.HIDDEN),
            )
        return await self._searcher.find(
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

    async def fields(
        self, collection: str, *, where: Mapping[str, Any] | None = None, values: int = 10
    ) -> Fields:
        """Return which metadata the rows of a collection have, or those that match `where`: keys, types, common values.

        Of each key, up to `values` values are returned, the commonest first. All of up to 100,000 rows are read, and as
        many, evenly spread, of more.

        Raises:
            NotFound: there is no such collection.
            Rejected: the filter, or the number of values, is invalid.
        """
        from flowbed.index.search.fields import fields

        return await fields(await self._live(collection), datasets=self._datasets, where=where, values=values)

    async def around(
        self, name: str, *, before: int = 1, after: int = 1, collection: str | None = None
    ) -> tuple[IndexedText, ...]:
        """Return the row of that id, and up to `before` and `after` rows around it in its document, in order.

        Without a `collection`, the first that has the row is read.

        Raises:
            NotFound: no collection has the row, or there is no such collection.
            Rejected: more than 50 rows of a side are asked for.
        """
        from flowbed.index.active_space import readable_collections, require_collection
        from flowbed.index.search.around import around
        from flowbed.records.vector_stores import is_store

        if collection is None:
            readable, _ = await readable_collections(self._store)
            found = [live for live in readable if not is_store(live.collection)]
        else:
            found = [await require_collection(self._store, collection)]
        return await around(name, found, datasets=self._datasets, before=before, after=after)

    async def rows(
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
        from flowbed.index.search.rows import RowReader, indexed_texts

        live = await self._live(collection)
        found = await RowReader(self._datasets).select(live, ids=ids, where=where, offset=offset, limit=limit)
        return () if found is None else await indexed_texts(found)

    async def vectors(self, *texts: str, purpose: Purpose = "document") -> NDArray[np.float32]:
        """Embed texts with the project's model, through its cache, and store them nowhere else.

        Returns:
            An array of shape (texts, dimensions), in the order of the texts.

        Raises:
            Rejected: a text is empty, or the model refuses it.
            Transient: the provider does not answer now.
        """
        model = await self._embedders.live()
        if any(not text.strip() for text in texts):
            raise Rejected("a text to embed is empty")
        sent = await asyncio.to_thread(lambda: [model.read(text).sent for text in texts])
        return (await model.embed(sent, purpose=purpose)).vectors

    async def write_rows(
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
        from flowbed.pipeline.ingest import ingest
        from flowbed.wiring.contexts import keeping

        settings.checked_name(collection, "collection")
        model = await self._embedders.live()
        return await ingest(
            rows,
            self._context(),
            collection=collection,
            space=model.space,
            strict=strict,
            commit=commit,
            keep=keeping(model) if cache else None,
        )

    async def import_rows(
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
        from flowbed.wiring.importing import import_into

        return await import_into(
            self._context(),
            self._embedders,
            str(location),
            folder=self.folder,
            collection=settings.checked_name(collection, "collection"),
            space=space if space != self.settings.model else None,
            name=name,
            check=check,
        )

    async def add_deltas(self, *keys: str) -> DeltasAdded:
        """Register deltas of other producers, and commit all that are registered; a refused one becomes a dead letter.

        Safe to repeat. A key is COLLECTION/delta/RUN, with an archive delta.tar.gz or loose files of a Chroma
        directory, or a run record in JSON that names such prefixes (`lines_delta_prefix`). Without keys, those that an
        interrupted call has registered are committed.

        Raises:
            Rejected: a key is not that of a delta, or a run record cannot be read; nothing was registered.
        """
        from flowbed.pipeline.producer_deltas import add_deltas
        from flowbed.wiring.scratch import scratch

        model = await self._embedders.live()
        rules = settings.commit_rules(self.settings)
        with scratch(self.folder, keep=not rules.delete_intermediate) as folder:
            return await add_deltas(
                self._context(),
                keys,
                space=model.space,
                scratch=folder,
                delete_processed=rules.delete_processed,
                keep_scratch=not rules.delete_intermediate,
            )

    async def export(
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
        from flowbed.wiring.exporting import export_rows

        return await export_rows(
            await self._live(collection),
            self._datasets,
            self._store,
            folder=self.folder,
            to=to,
            path=Path(path),
            at=at,
            where=where,
            vectors=vectors,
        )

    @property
    def views(self) -> Flowbed:
        """The project itself, for services that show it to people."""
        return self

    async def status(self) -> BedStatus:
        """Describe every collection, and count chunks by status, dead letters and live submissions."""
        from flowbed.maintenance.inspect import status

        return await status(self._context())

    async def sources(self) -> list[SourceStatus]:
        """List the configured sources, removed ones of which something is indexed, and those of precomputed rows."""
        from flowbed.maintenance.inspect import sources

        return await sources(self._context())

    async def schedule(self) -> dict[str, Due]:
        """Tell when each source was fetched by `watch` last, and when it is due next.

        Raises:
            Misconfigured: a schedule is invalid.
        """
        from flowbed.events.watch import due_sources
        from flowbed.wiring.events import watched_sources

        return await due_sources(watched_sources(self.settings, self.folder), self._ledger)

    async def remove(self, name: str) -> None:
        """Remove a source from `flowbed.toml`; its rows stay until a run of its name with `allow_deletes`.

        Raises:
            NotFound: no source has that name.
        """
        await asyncio.to_thread(settings.remove_source, self.folder, name)
        self.settings = await asyncio.to_thread(settings.read_settings, self.folder)

    async def why(self, subject: str) -> list[Reason]:
        """Explain the state of a chunk (by id), or of every chunk of a document (`DOCUMENT` or `SOURCE#DOCUMENT`).

        `subject` may also be the link of a message, an issue or a note: the chunks that hold it are explained.

        Raises:
            NotFound: the ledger knows no such chunk or document; the message says why, as far as that is known.
        """
        from flowbed.maintenance.lost_characters import with_lost_characters

        context = self._context()
        if subject.startswith(("https://", "http://")):
            from flowbed.maintenance.links import why_link

            found = await why_link(context, subject, await self._readable_feeds())
        else:
            from flowbed.maintenance.inspect import why

            found = await why(context, subject)
        return await with_lost_characters(context, found)

    async def versions(self, collection: str) -> list[Version]:
        """List the versions of a collection that are kept, newest first."""
        from flowbed.index.versions import versions

        return await versions(await self._live(collection), datasets=self._datasets)

    async def compact(
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
        from flowbed.index.datasets import UNREADABLE
        from flowbed.index.versions.retention import NOTHING
        from flowbed.pipeline.run import compact_one

        failures: list[Error] = []
        if collection is None:
            chosen, damaged = await self._context().collections.readable()
            failures += damaged.values()
        else:
            chosen = [await self._live(collection)]
        retention = NOTHING if now else None
        done = {}
        for live in chosen:
            try:
                compacted = await compact_one(
                    self._context(),
                    live,
                    vector_index=vector_index,
                    retention=retention,
                    full_text=full_text,
                )
            except UNREADABLE as error:
                failures.append(error)
                continue
            if compacted is not None:
                done[live.collection] = compacted
        if failures:
            raise failures[0]
        return done

    async def verify(
        self, *collections: str, repair: bool = False, allow_deletes: bool = False
    ) -> dict[str, Verified]:
        """Check that index, ledger and store agree, in the named collections or in all; `repair` fixes what differs.

        Raises:
            NotFound: there is no collection of that name.
        """
        from flowbed.maintenance.verify import verify

        return await verify(self._context(), collections, repair=repair, allow_deletes=allow_deletes)

    async def gc(self, *collections: str, dry_run: bool = False) -> Collected:
        """Delete stored objects that are no longer needed, of the named collections or of the whole project.

        Raises:
            NotFound: there is no collection of that name.
        """
        from flowbed.embedding.cache.disk import drop_damaged
        from flowbed.maintenance.garbage import Garbage
        from flowbed.maintenance.gc import collect

        done = await collect(self._context(), collections, dry_run=dry_run)
        if not collections:
            for size in await asyncio.to_thread(drop_damaged, self._embedders.vector_file, dry_run=dry_run):
                done.add(Garbage(kind="vector cache", key="", bytes=size, why="damaged"))
        return done

    async def find_to_forget(
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
        from flowbed.maintenance.forget.find import find

        _, named = await find(
            self._context(), ids=ids, documents=documents, where=where, collection=collection
        )
        return named

    async def forget(
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
        from flowbed.wiring.forgetting import forget_rows

        return await forget_rows(
            self._context(),
            self._places(),
            self._embedders,
            ids=ids,
            documents=documents,
            where=where,
            collection=collection,
            most=most,
        )

    async def resume_forget(self) -> list[Receipt]:
        """Finish what `forget` has not: it was interrupted, or a place could not be reached then.

        Raises:
            Damaged: a request cannot be read.
        """
        from flowbed.maintenance.forget.erase import resume
        from flowbed.wiring.forgetting import new_salt

        return await resume(self._context(), self._places(), salt=new_salt())

    async def lift_forget(self, *ids: str, documents: Sequence[str] = ()) -> int:
        """Let forgotten chunks or documents return with the next run that finds them; return how many.

        Raises:
            NotFound: one was not forgotten.
            Rejected: nothing was named.
        """
        from flowbed.maintenance.forget.lift import lift
        from flowbed.wiring.forgetting import new_salt

        return await lift(self._context(), ids=ids, documents=documents, salt=new_salt())

    async def tag(self, collection: str, version: int, name: str) -> None:
        """Keep a version for good, under a name; if another version has the name, the name moves.

        Raises:
            NotFound: there is no such collection or version.
            Misconfigured: the name is invalid.
        """
        from flowbed.index.versions.history import tag

        await tag(await self._live(collection), name, version, datasets=self._datasets)

    async def untag(self, collection: str, name: str) -> bool:
        """Remove a tag, so that its version expires as others do; return whether the tag existed."""
        from flowbed.index.versions.history import untag

        return await untag(await self._live(collection), name, datasets=self._datasets)

    async def rollback(self, collection: str, version: int) -> Rollback:
        """Restore an older version of a collection as a new version, and mark the runs committed since as reverted.

        Raises:
            NotFound: there is no such collection or version.
        """
        from flowbed.pipeline.rollback import roll_back

        return await roll_back(self._context(), await self._live(collection), version)

    async def release(self, collection: str) -> Released:
        """Commit the runs that rollbacks of a collection reverted, without embedding anything."""
        from flowbed.pipeline.rollback import release

        return await release(self._context(), await self._live(collection))

    async def map(self, collection: str, *, points: int = 100_000) -> Projection:
        """Project the vectors of a collection onto a plane; of more than `points` rows a sample is drawn.

        Raises:
            NotFound: there is no such collection, or it has no rows.
        """
        from flowbed.index.projection.reading import project

        return await project(await self._live(collection), self.reader(), most=points)

    async def map_rows(
        self, projection: Projection, points: Sequence[int] | None = None
    ) -> list[IndexedText]:
        """Read the rows of some points of a map, or of all.

        Raises:
            NotFound: a point is not one of the map's.
        """
        from flowbed.index.projection.reading import texts_at

        return await texts_at(projection, range(len(projection.points)) if points is None else points)

    async def report(self) -> ProjectReport:
        """Gather how well the project is, how fresh, what it costs and how it grows; `flowbed report` writes it."""
        from flowbed.maintenance.report import report

        return await report(
            self._context(),
            name=self.folder.absolute().name,
            at=process.now(),
            diagnosis=await self.doctor(),
            sources=await self.sources(),
            schedule={name: (due.last, due.next) for name, due in (await self.schedule()).items()},
        )

    async def publish(self, collection: str | None = None, *, reconcile: bool = False) -> PublishReport:
        """Publish the newest version of a collection, or of all, to every publication of the settings that has it.

        With `reconcile`, what is published is compared with the index, and differences are fixed. A publication that
        fails does not stop the others.

        Raises:
            NotFound: there is no such collection.
            Misconfigured: the settings have no publication of it.
        """
        from flowbed.publish.due import publish
        from flowbed.wiring.publications import configured

        return await publish(
            configured(self.settings), self._publish_context, collection, reconcile=reconcile
        )

    async def pull(
        self, collection: str, directory: str | Path, *, mode: StorageMode | None = None
    ) -> Pulled:
        """Download the current Chroma snapshot of a collection into `directory`/VERSION, checked, and whole or absent.

        `mode` is where it comes from: the store (`s3`), a shared file system (`efs`), or `auto`. Default: the variable
        `CHROMADB_STORAGE_MODE`, or `auto`. Open the `path` of the result with `chromadb.PersistentClient`.

        Raises:
            NotFound: nothing is published.
            Misconfigured: the mode cannot be used.
        """
        from flowbed.wiring.publications import pull_snapshot

        return await pull_snapshot(self.folder, collection, Path(directory), mode=mode, store=None)

    async def publications(self) -> list[Record]:
        """List what was published last, by publication and collection; no server is asked."""
        from flowbed.publish.due import last_published
        from flowbed.wiring.publications import configured

        return await last_published(configured(self.settings), self._publish_context)

    async def doctor(self) -> Diagnosis:
        """Find what is wrong or about to go wrong, each with the command that fixes it."""
        from flowbed.maintenance.doctor import broken_ledger, examine, made_by_newer_flowbed, wrong_ledger
        from flowbed.maintenance.store_binding import Unbound

        try:
            await self.bind_store()
        except Unbound as error:
            return wrong_ledger(error)
        except Newer as error:
            return made_by_newer_flowbed(self.settings.store, error)
        except Damaged as error:
            return broken_ledger(self.settings.ledger, error)
        return await examine(
            opening.doctor_context(self._context(), self.folder, self.settings, self._embedders.vector_file)
        )

    async def checklist(self) -> Checklist:
        """Walk the chain from sources to snapshots, stage by stage, in bounded time; change nothing.

        A stage that cannot be looked at is a failed item, and the others are looked at.
        """
        from flowbed.maintenance.checklist import walk
        from flowbed.wiring.checklist import checklist_context, own_ledger

        ledger = await own_ledger(self._store, self._ledger, **self._names())
        return await walk(
            checklist_context(
                replace(self._context(), ledger=ledger),
                self.folder,
                self.settings,
                self._embedders.vector_file,
            )
        )

    async def dead_letters(self, *, source: str = "", day: str = "", batch: str = "") -> list[Letter]:
        """List failures that need attention, oldest first: all, or those of a source, a day or a batch file.

        Raises:
            Rejected: `day` is not written as 2026-11-30.
        """
        from flowbed.events.replay import Which, letters

        return await letters(self._context(), Which(source=source, day=day, batch=batch))

    async def retry_dead_letters(self, *subjects: str) -> int:
        """Queue the chunks of the named dead letters (default: all) for the next run; return how many chunks."""
        return (await self.replay(*subjects)).waiting

    async def replay(self, *subjects: str, source: str = "", day: str = "", batch: str = "") -> Replayed:
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
        from flowbed.events.replay import Which, replay
        from flowbed.wiring.events import intake_context

        which = Which(source=source, day=day, batch=batch)
        return await replay(intake_context(self.settings, self._context()), which, subjects)

    async def price(self) -> float:
        """Return the price of the model in US dollars per million tokens; a local model costs nothing."""
        return (await self._embedders.live()).price

    async def _with_publications(self, report: Report) -> Report:
        """Publish what is due after a run, and add that to its report."""
        done = await self.publish_due()
        places = {
            f"{each.publication} {each.collection}": each.place for each in done.published if not each.already
        }
        return replace(report, published=places, failures=(*report.failures, *done.failures))

    def _places(self) -> Places:
        from flowbed.wiring.forgetting import places_of

        return places_of(self.folder, self.settings, self._embedders, self._publish_context)

    def _budget(self, budget: float | None) -> Budget | None:
        """Return the budget of a run, None without one.

        Raises:
            Rejected: it is not an amount.
        """
        from flowbed.lanes.budget import Budget

        if budget is not None and not (budget >= 0 and math.isfinite(budget)):
            raise Rejected(f"the budget is {budget}; it has to be an amount of US dollars")
        return None if budget is None else Budget(budget)

    def _lane_and_deadline(
        self, lane: LaneOption | None, deadline: float | None
    ) -> tuple[LaneOption, float | None]:
        """Fill in the project's settings for what was not given; the deadline is in seconds."""
        if deadline is None and self.settings.deadline_hours is not None:
            deadline = self.settings.deadline_hours * 3_600
        return lane or self.settings.lane, deadline

    async def _feeds(self, names: Sequence[str], *, removed: bool = False) -> dict[str, ConfiguredSource]:
        from flowbed.wiring.sources import open_feeds

        known, folder = self.settings.sources, self.folder
        return await open_feeds(
            names, known, folder=folder, ledger=self._ledger, clock=process.now, removed=removed
        )

    async def _readable_feeds(self) -> dict[str, ConfiguredSource]:
        """Open every source that can be opened."""
        feeds: dict[str, ConfiguredSource] = {}
        for name in self.settings.sources:
            with contextlib.suppress(Misconfigured):
                feeds |= await self._feeds([name])
        return feeds

    async def _live(self, collection: str) -> Live:
        return await require_collection(self._store, collection)


class Opening:
    """A project about to be opened: await it, or enter it with `async with`, which closes the project at the end."""

    def __init__(self, folder: str | Path, *, repair: bool) -> None:
        """Open nothing yet."""
        self._folder = folder
        self._repair = repair
        self._bed: Flowbed | None = None

    def __await__(self) -> Generator[Any, None, Flowbed]:
        """Open the project."""
        return _opened(self._folder, repair=self._repair).__await__()

    async def __aenter__(self) -> Flowbed:
        """Open the project; leaving the block closes it."""
        self._bed = await self
        return self._bed

    async def __aexit__(self, *_: object) -> None:
        """Close the project."""
        if self._bed is not None:
            await self._bed.close()


def aopen(folder: str | Path = ".", *, repair: bool = False) -> Opening:
    """Open the project in `folder`, created if absent.

    `async with flowbed.aopen() as bed:` closes it at the end; `bed = await flowbed.aopen()` leaves that to the caller.
    `repair` replaces a damaged ledger, and binds the store to the ledger even if another had it.

    Raises:
        Misconfigured: its settings are invalid, or its store belongs to another ledger.
    """
    return Opening(folder, repair=repair)


async def _opened(folder: str | Path, *, repair: bool) -> Flowbed:
    bed = await _joined(folder, repair=repair)
    try:
        await bed.bind_store(again=repair)
    except BaseException:
        await bed.close()
        raise
    return bed


async def examine(folder: str | Path = ".") -> Diagnosis:
    """Diagnose the project in `folder`, even if it cannot be opened.

    Raises:
        Misconfigured: its settings are invalid.
    """
    try:
        bed = await _joined(folder)
    except Misconfigured as error:
        if (found := await opening.undiagnosable(Path(folder), error)) is None:
            raise
        return found
    async with bed:
        return await bed.doctor()


async def look_through(folder: str | Path = ".") -> Checklist:
    """Walk through the checklist of the project in `folder`, even if parts of it cannot be opened.

    Raises:
        Misconfigured: its settings are invalid.
    """
    from flowbed.wiring.checklist import open_parts

    async with Flowbed(*await open_parts(Path(folder))) as bed:
        return await bed.checklist()


async def _joined(folder: str | Path, *, repair: bool = False) -> Flowbed:
    """Open a project without checking that its store and its ledger belong together."""
    parts, repaired = await opening.open_project(Path(folder), repair=repair)
    bed = Flowbed(*parts)
    bed.rebound = repaired
    return bed
