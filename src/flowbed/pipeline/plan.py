"""Plan: what a run would do, and what it would cost; nothing is written."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from flowbed.index.live import live_collection
from flowbed.index.reuse import Reuse
from flowbed.pipeline.changes import Scan, changes
from flowbed.pipeline.sync import check_space
from flowbed.records import Lane, Plan, Problem, Status, canonical
from flowbed.telemetry import PROGRESS, STAGE, reached

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.pipeline import Feed, Parts
    from flowbed.pipeline.changes import Write

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
        reached(STAGE, stage="fetch", source=name)
        scan = Scan()
        async for change in changes(
            feed,
            await parts.ledger.documents.cursor(name),
            ledger=parts.ledger,
            count=lambda text: parts.embedder().count(text),
            clock=parts.clock,
            scan=scan,
            allow_deletes=allow_deletes,
        ):
            if change.writes:
                await check_space(feed, parts)
            documents += change.fetched + len(change.removed)
            deleted += len(change.deletes)
            fresh = sum(1 for write in change.writes if write.previous is None or write.previous.deleted)
            new += fresh
            changed += len(change.writes) - fresh
            unpaid = await _unpaid(change.writes, parts, paid, tiers)
            reused += len(change.writes) - len(unpaid)
            tokens += sum(write.chunk.tokens for write in unpaid)
            for write in change.writes:
                digest.update(canonical([write.chunk.collection, write.chunk.id, write.chunk.row_hash]))
            for row in change.deletes:
                digest.update(canonical([row.collection, row.id, "deleted"]))
            reached(PROGRESS, stage="fetch", source=name, done=change.fetched, chunks=len(change.writes))
        problems += scan.problems
        if scan.withheld:
            withheld[name] = scan.withheld
    counts = await parts.ledger.chunks.counts()
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
        waiting=sum(number for (_, status), number in counts.items() if status is Status.NONE),
        problems=tuple(problems),
        withheld=withheld,
    )


async def _unpaid(
    writes: Sequence[Write], parts: Parts, paid: set[bytes], tiers: dict[str, Reuse]
) -> list[Write]:
    """Keep the writes whose text no cache, no index and no earlier write of this plan has a vector for."""
    if not writes:
        return []
    first: dict[str, Write] = {}
    for write in writes:
        if (key := bytes.fromhex(write.chunk.text_hash)[:16]) not in paid:
            paid.add(key)
            first.setdefault(write.chunk.text_hash, write)
    kept = await parts.embedder().lookup([write.chunk.sent for write in first.values()], purpose="document")
    rest = {key: write for key, write in first.items() if write.chunk.sent not in kept}
    for collection in {write.chunk.collection for write in rest.values()}:
        live = await live_collection(parts.store, collection)
        if live is not None:
            tier = tiers.setdefault(collection, Reuse(live, parts.datasets))
            for known in await tier.get_many(list(rest)):
                del rest[known]
    return list(rest.values())


async def _rate(parts: Parts) -> float:
    """Tokens per second, as the newest runs that embedded anything were timed."""
    timed = [row for row in await parts.ledger.runs.recent(limit=20) if row.tokens and row.seconds > 0]
    seconds = sum(row.seconds for row in timed)
    return sum(row.tokens for row in timed) / seconds if seconds else TOKENS_PER_SECOND
