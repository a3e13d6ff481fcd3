"""Jobs that embed the rows of a collection with another model, into a collection that has a space of its own.

What is still to be done follows from comparing the two collections, so every stage may be repeated after a kill.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import NotFound, Rejected
from flowbed.index.active_space import require_same
from flowbed.lanes.batch_files import read_chunk_texts
from flowbed.lanes.failures import RunStats
from flowbed.ledger import SpendRow
from flowbed.records import Problem, canonical
from flowbed.records.precomputed import PrecomputedRows
from flowbed.services.jobs.chunk_states import row_of_mark
from flowbed.services.jobs.execution import (
    CANCELLED,
    COMPLETED,
    EMBEDDING,
    NOBODY,
    SLICE,
    STORING,
    TURN_SECONDS,
    IndexJobExecution,
)
from flowbed.services.jobs.lease import FAILED, Stopped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from flowbed.embedding.cache.cached import Cached
    from flowbed.index.search.rows import Selection
    from flowbed.ledger import ChunkMark
    from flowbed.records import Embedded

# Refused rows after which a job gives up: the model is not fit for the collection.
REFUSED_MOST = 100
# Rows that are read at once.
BLOCK = 4_096
NO_TEXT = "it has no text that a model could embed"


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Some rows to embed, column by column."""

    ids: Sequence[str]
    texts: Sequence[str]
    metadata: Sequence[dict[str, Any]]
    sent: Sequence[str]

    def cut(self, piece: slice) -> _Part:
        """Return a part of them."""
        return _Part(**{name: column[piece] for name, column in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs between a collection and its copy: the places of rows to write, and the ids of rows to delete.

    `there` rows are the same, of `total`; `textless` ones have no text.
    """

    rows: Selection
    places: Sequence[int]
    gone: Sequence[str]
    there: int
    total: int
    textless: Sequence[str]


class ReembeddingExecution(IndexJobExecution):
    """The execution of one stage of such a job by the worker that holds its lease."""

    _marks: Mapping[str, ChunkMark] = MappingProxyType({})

    async def _chunking(self) -> None:
        """Count what is to be embedded; nothing is chunked again."""
        model = await self._model()
        found = await self._difference()
        texts = await _part(found.rows, found.places[:SLICE]).strings("document", first=0)
        tokens = sum(map(model.count, texts)) / max(1, len(texts)) * len(found.places)
        await self._job.pass_on(
            EMBEDDING,
            chunks=found.total,
            skipped=found.there,
            stored=found.there,
            failed=len(found.textless),
            faults=_faults([(each, NO_TEXT) for each in found.textless]),
            estimated_usd=tokens * model.price / 1e6,
        )

    async def _embedding(self) -> None:
        """Embed the rows that are missing or differ, for one turn, and commit what was embedded."""
        model = await self._model()
        begun = self._monotonic()
        self._marks = {
            each.id: each
            async for page in self._bed.ledger.chunks.marks(self.row.collection)
            for each in page
        }
        found = await self._difference()
        places = list(found.places)
        try:
            while places:
                self._job.require_going_on()
                if self._monotonic() - begun > TURN_SECONDS:
                    raise Stopped
                granted = await self._granted()
                done = RunStats(sent=granted)
                try:
                    done = await self._job.interruptible(
                        self._write(model, _part(found.rows, places[:granted]))
                    )
                finally:
                    self._parts.quotas.settle_embeddings(
                        self._caller or NOBODY, taken=granted, made=min(granted, done.sent)
                    )
                await self._count(done)
                del places[:granted]
            await self._delete(model, found.gone)
        finally:
            await self._commit(self._bed.run_context())
        await self._job.pass_on(STORING)

    async def _storing(self) -> None:
        """End the job once the copy is the same as the collection."""
        await self._commit(self._bed.run_context())
        found = await self._difference()
        if found.places or found.gone:  # rows were written meanwhile
            await self._job.pass_on(EMBEDDING, stored=found.there, chunks=found.total)
            return
        nothing = self.row.failed and not found.there
        await self._end(
            FAILED if nothing else COMPLETED,
            error="none of its rows could be embedded; `errors` say why" if nothing else "",
            stored=found.there,
            chunks=found.total,
        )

    async def _cancelling(self) -> None:
        """End the job: keep the rows that are embedded, or none."""
        model = await self._model()
        context = self._bed.run_context()
        await self._commit(context)
        copied = await self._rows(self.row.target)
        kept = 0 if copied is None else len(copied)
        if copied is not None and self.row.cancel == "rollback":
            await self._delete(model, [id_ async for id_, _ in _compared(copied)])
            await self._commit(context)
            kept = 0
        await self._end(CANCELLED, stored=kept)

    async def _model(self) -> Cached:
        """Open the other model behind the vector cache.

        Raises:
            Misconfigured: it cannot be opened, or the target lives in another space.
            Rejected: it is the model of the collection.
        """
        spec = self.row.model
        opened = await self._bed.open_model(spec)
        model = self._bed.embedder_stack().pipeline({spec: opened}, self._bed.vector_tiers())
        reader = self._bed.reader()
        source, target = await reader.live(self.row.collection), await reader.live(self.row.target)
        if source is not None and source.space.fingerprint == model.space.fingerprint:
            raise Rejected(f"collection {self.row.collection} has vectors of {spec} already", param="model")
        if target is not None:
            require_same(target, model.space)
        return model

    async def _rows(self, collection: str) -> Selection | None:
        reader = self._bed.reader()
        live = await reader.live(collection)
        return None if live is None else await reader.rows.select(live)

    async def _difference(self) -> Difference:
        """Compare the collection with its copy, by the texts and metadata of rows."""
        rows, copied = await self._rows(self.row.collection), await self._rows(self.row.target)
        if rows is None:
            raise NotFound(f"collection {self.row.collection} is not there any more")
        refused = {each["document"] for each in orjson.loads(self.row.faults)}
        there = {} if copied is None else {id_: digest async for id_, digest in _compared(copied)}
        places, textless, place, same = list[int](), list[str](), -1, 0
        async for id_, digest in _compared(rows):
            place += 1
            if not digest:
                textless.append(id_)
            elif there.pop(id_, None) == digest:
                same += 1
            elif id_ not in refused:
                places.append(place)
        # What is left there is not in the collection any more.
        return Difference(
            rows=rows,
            places=places,
            gone=[*there],
            there=same,
            total=len(rows),
            textless=textless,
        )

    async def _write(self, model: Cached, rows: Selection) -> RunStats:
        """Embed some rows and write them to the copy; a row that the model refuses stops no other."""
        ids, texts = await rows.strings("id", first=0), await rows.strings("document", first=0)
        metadata = [orjson.loads(each) if each else {} for each in await rows.strings("metadata", first=0)]
        sent = await self._sent(ids)
        part = _Part(
            ids=ids,
            texts=texts,
            metadata=metadata,
            sent=[model.read(sent.get(id_, text)).sent for id_, text in zip(ids, texts, strict=True)],
        )
        done = RunStats(chunks=len(ids))
        await self._embed(model, part, done)
        if done.failures:
            faults = orjson.loads(self.row.faults)
            faults += [{"document": each.subject, "message": each.reason} for each in done.failures]
            if len(faults) > REFUSED_MOST:
                raise Rejected(f"more than {REFUSED_MOST} rows are refused: {faults[-1]['message']}")
            await self._job.save(faults=orjson.dumps(faults).decode(), failed=len(faults))
        return done

    async def _embed(self, model: Cached, part: _Part, done: RunStats) -> None:
        """Embed texts together, or if one is refused, each half by itself."""
        from flowbed.pipeline.ingest import ingest  # loads pyarrow

        planned = await _planned(model, part.sent) if model.price else 0
        try:
            embedded = await model.embed(part.sent, purpose="document")
        except Rejected as error:
            if len(part.ids) == 1:
                done.failures.append(Problem(subject=part.ids[0], reason=str(error), document=part.ids[0]))
                return
            half = len(part.ids) // 2
            for piece in (slice(half), slice(half, None)):
                await self._embed(model, part.cut(piece), done)
            return
        done.sent += len(part.ids) - embedded.cached
        done.tokens += embedded.tokens
        done.cost_usd += embedded.cost(model.price)
        if embedded.tokens and model.price:
            await self._record(embedded, planned=planned, texts=len(part.ids) - embedded.cached, model=model)
        rows = PrecomputedRows(
            ids=part.ids, vectors=embedded.vectors, texts=part.texts, metadata=part.metadata
        )
        context = self._bed.run_context()
        written = await ingest(rows, context, collection=self.row.target, space=model.space, commit=False)
        done.failures += written.refused

    async def _record(self, embedded: Embedded, *, planned: int, texts: int, model: Cached) -> None:
        """Record what a call cost, before its vectors are written: for the copy as a whole, which no source fills."""
        at = self._clock()
        row = SpendRow(
            run=f"{self.row.id} {at}",
            lane="realtime",
            source=self.row.target,
            document="",
            texts=texts,
            planned=planned,
            billed=embedded.tokens,
            cost_usd=embedded.cost(model.price),
            at=at,
        )
        await self._bed.ledger.spending.record([row])

    async def _sent(self, ids: Sequence[str]) -> dict[str, str]:
        """Read what of some rows was embedded, such as a title in front of the text; what is not kept is missing."""
        found = [self._marks[id_] for id_ in ids if id_ in self._marks]
        rows = [row_of_mark(self.row.collection, "", each) for each in found]
        texts, _ = await read_chunk_texts(rows, store=self._bed.store, ledger=self._bed.ledger)
        return {each.row.id: each.sent for each in texts if each.sent}

    async def _delete(self, model: Cached, ids: Sequence[str]) -> None:
        """Delete rows of the copy."""
        from flowbed.pipeline.ingest import ingest  # loads pyarrow

        for start in range(0, len(ids), SLICE):
            await ingest(
                PrecomputedRows(deleted=ids[start : start + SLICE]),
                self._bed.run_context(),
                collection=self.row.target,
                space=model.space,
                commit=False,
            )


async def _planned(model: Cached, texts: Sequence[str]) -> int:
    """Return the tokens that will be billed: those of the texts that the cache does not have."""
    known = await model.known(texts, purpose="document")
    unknown = [text for text in dict.fromkeys(texts) if text not in known]
    return await asyncio.to_thread(lambda: sum(model.bill(text, model.count(text)) for text in unknown))


def _part(rows: Selection, places: Sequence[int]) -> Selection:
    """Return the rows at some places, up to `BLOCK` of them."""
    return replace(rows, row_ids=rows.row_ids[list(places)])


async def _compared(rows: Selection) -> AsyncIterator[tuple[str, bytes]]:
    """Read the id of each row and a digest of its text and metadata, b"" where it has no text."""
    for first in range(0, len(rows), BLOCK):
        columns = [await rows.strings(name, first=first) for name in ("id", "document", "metadata")]
        for id_, text, metadata in zip(*columns, strict=True):
            values = canonical(orjson.loads(metadata)) if metadata else b"{}"
            yield id_, hashlib.sha256(b"\0".join((values, text.encode()))).digest() if text else b""


def _faults(reasons: Sequence[tuple[str, str]]) -> str:
    """Return why rows are not in the copy, as JSON.

    Raises:
        Rejected: there are too many.
    """
    if len(reasons) > REFUSED_MOST:
        raise Rejected(f"more than {REFUSED_MOST} rows cannot be embedded: {reasons[0][1]}")
    return orjson.dumps([{"document": id_, "message": reason} for id_, reason in reasons]).decode()
