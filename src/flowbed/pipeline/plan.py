"""Plan: what a run would do, and what it would cost; nothing is written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.index.live import live_collections
from flowbed.index.reuse import Reuse
from flowbed.pipeline.batches import read_passages
from flowbed.pipeline.changes import Scan, changes
from flowbed.pipeline.embed import WAITING
from flowbed.pipeline.sync import check_space
from flowbed.records import Lane, Plan, Problem, canonical
from flowbed.telemetry import PROGRESS, STAGE, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from flowbed.pipeline import Feed, Parts
    from flowbed.pipeline.batches import Passage

# Where no run of this ledger has been timed yet: what the local model does on two ordinary cores.
TOKENS_PER_SECOND = 8_000.0


async def plan(parts: Parts, *, feeds: Mapping[str, Feed], allow_deletes: bool = False) -> Plan:
    """Work out what a run of `feeds` would do.

    Raises:
        Misconfigured: a source cannot be read, or a collection lives in another space.

    """
    new = changed = reused = deleted = tokens = documents = 0
    problems: list[Problem] = []
    withheld: dict[str, str] = {}
    paid: set[bytes] = set()
    tiers: dict[str, Reuse] = {}
    digest = hashlib.sha256()
    for name, feed in feeds.items():
        await check_space(feed, parts)
        reached(STAGE, stage="fetch", source=name)
        scan = Scan(others=parts.sources - {name})
        async for change in changes(
            feed,
            await parts.ledger.documents.cursor(name),
            ledger=parts.ledger,
            count=lambda text: parts.embedder().count(text),
            clock=parts.clock,
            scan=scan,
            allow_deletes=allow_deletes,
        ):
            documents += change.fetched + len(change.removed)
            deleted += len(change.deletes)
            fresh = sum(1 for write in change.writes if write.previous is None or write.previous.deleted)
            new += fresh
            changed += len(change.writes) - fresh
            texts = [
                _Text(write.chunk.text_hash, write.chunk.sent, write.chunk.tokens) for write in change.writes
            ]
            unpaid = await _unpaid(texts, parts, paid, tiers)
            reused += len(texts) - len(unpaid)
            tokens += sum(each.tokens for each in unpaid)
            for write in change.writes:
                digest.update(canonical([write.chunk.collection, write.chunk.id, write.chunk.row_hash]))
            for row in change.deletes:
                digest.update(canonical([row.collection, row.id, "deleted"]))
            reached(PROGRESS, stage="fetch", source=name, done=change.fetched, chunks=len(change.writes))
        problems += scan.problems
        if scan.withheld:
            withheld[name] = scan.withheld
    waiting = 0
    async for passages in _waiting(parts, feeds):
        waiting += len(passages)
        unpaid = await _unpaid([_text(each) for each in passages], parts, paid, tiers)
        reused += len(passages) - len(unpaid)
        tokens += sum(each.tokens for each in unpaid)
    seconds = tokens / await _rate(parts)
    price = parts.embedder().price if tokens else 0.0
    return Plan(
        plan_id=digest.hexdigest()[:16],
        new=new,
        changed=changed,
        reused=reused,
        deleted=deleted,
        tokens=tokens,
        lanes={"realtime": Lane(cost_usd=tokens * price / 1e6, seconds=round(seconds, 1)), "batch": None},
        documents=documents,
        waiting=waiting,
        problems=tuple(problems),
        withheld=withheld,
    )


@dataclass(frozen=True)
class _Text:
    """A text that may have to be paid for."""

    hash: str
    sent: str
    tokens: int


def _text(passage: Passage) -> _Text:
    return _Text(passage.row.text_hash, passage.sent, passage.row.tokens)


async def _waiting(parts: Parts, feeds: Mapping[str, Feed]) -> AsyncIterator[list[Passage]]:
    """Read what earlier runs left to embed, batch file by batch file."""
    now = parts.clock()
    async for batches in parts.ledger.chunks.batches(WAITING, now=now, sources=tuple(feeds)):
        for batch in batches:
            if batch:  # all else is to be deleted, which costs nothing
                rows = await parts.ledger.chunks.ready(batch, WAITING, now=now, sources=tuple(feeds))
                passages, _ = await read_passages(rows, store=parts.store, ledger=parts.ledger)
                yield passages


async def _unpaid(
    texts: Sequence[_Text], parts: Parts, paid: set[bytes], tiers: dict[str, Reuse]
) -> list[_Text]:
    """Keep the texts that no cache, no index and no earlier text of this plan has a vector for."""
    first: dict[str, _Text] = {}
    for each in texts:
        if (key := bytes.fromhex(each.hash)[:16]) not in paid:
            paid.add(key)
            first.setdefault(each.hash, each)
    if not first:
        return []
    embedder = parts.embedder()
    kept = await embedder.lookup([each.sent for each in first.values()], purpose="document")
    rest = {key: each for key, each in first.items() if each.sent not in kept}
    for live in await live_collections(parts.store) if rest else []:
        if live.space.fingerprint == embedder.space.fingerprint:
            tier = tiers.setdefault(live.collection, Reuse(live, parts.datasets))
            for known in await tier.get_many(list(rest)):
                del rest[known]
    return list(rest.values())


async def _rate(parts: Parts) -> float:
    """Tokens per second, as the newest runs that embedded anything were timed."""
    timed = [row for row in await parts.ledger.runs.recent(limit=20) if row.tokens and row.seconds > 0]
    seconds = sum(row.seconds for row in timed)
    return sum(row.tokens for row in timed) / seconds if seconds else TOKENS_PER_SECOND
