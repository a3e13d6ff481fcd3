"""What a fetch changes, and what is observed meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.index.forgotten import Blocked
    from flowbed.ledger import ChunkRow, DocumentRow
    from flowbed.records import Chunk, Problem


@dataclass(frozen=True, kw_only=True)
class Write:
    """A chunk to write, and the ledger's row of it, if there is one."""

    chunk: Chunk
    previous: ChunkRow | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """A part of a fetch that is applied in one swap; `value` is the cursor afterwards.

    `documents` are new, changed, or only listed with another etag; `fetched` counts the first two.
    """

    value: str
    documents: tuple[DocumentRow, ...] = ()
    removed: tuple[str, ...] = ()
    writes: tuple[Write, ...] = ()
    deletes: tuple[ChunkRow, ...] = ()
    fetched: int = 0


@dataclass
class Scan:
    """What was observed during a fetch.

    `withheld` says why deletions were not carried out, `empty` why a complete fetch listed nothing. `judged` says that
    the fetch went far enough to decide about deletions. `gone` are the documents that the source says are. `relisted`
    says that a complete fetch listed everything itself, so that its problems are all there are.
    `others` are the other sources of the project; a source may take over what a source that no longer exists held.
    `forgotten` reads what must not return; it has to be read after the cursor, which a request to forget moves last.
    """

    problems: list[Problem] = field(default_factory=list)
    complete: bool = False
    within: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    known: int = 0
    withheld: str = ""
    judged: bool = False
    empty: str = ""
    gone: set[str] = field(default_factory=set)
    relisted: bool = False
    others: frozenset[str] = frozenset()
    forgotten: Callable[[], Awaitable[Blocked]] | None = None


def was_text(problem: Problem) -> Problem:
    """Return the problem of a document that was text and is none now: what is indexed of it is kept."""
    reason = f"{problem.reason}; its indexed chunks are kept until it can be read again or is deleted"
    return replace(problem, reason=reason, skipped=False)
