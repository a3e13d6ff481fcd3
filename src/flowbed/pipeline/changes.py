"""Compare a fetch with the ledger, chunk by chunk, and return what changed. It writes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.pipeline.comparing import stretches
from flowbed.pipeline.comparing.deletions import documents_gone, doubt, removal
from flowbed.pipeline.comparing.records import Change
from flowbed.pipeline.comparing.seen_ids import Listed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from flowbed.ledger import Ledger, Progress
    from flowbed.pipeline import ConfiguredSource
    from flowbed.pipeline.comparing.records import Scan
    from flowbed.records import Problem, Reading

# The beginning of a source's cursor while a plan is released. A fetch takes such a cursor as empty.
RELEASING = "plan:"


@dataclass
class _Held:
    """Where the cursor stays: before the first page that the source would not list again.

    That is one with documents that are gone, which are deleted at the end of the fetch, when their number is known; or
    one with something that could not be read, which may be any document.
    """

    names: dict[str, None] = field(default_factory=dict)
    undone: bool = False
    _before: str | None = None

    def add(self, names: Collection[str], problems: Sequence[Problem], cursor: str) -> None:
        undone = any(is_undone(each) for each in problems)
        if (names or undone) and self._before is None:
            self._before = cursor
        self.undone |= undone
        self.names.update(dict.fromkeys(names))

    def held(self, cursor: str) -> str:
        return cursor if self._before is None else self._before


async def changes(
    feed: ConfiguredSource,
    progress: Progress,
    *,
    ledger: Ledger,
    read: Callable[[str], Reading],
    clock: Callable[[], int],
    scan: Scan,
    allow_deletes: bool,
) -> AsyncIterator[Change]:
    """Compare a whole fetch with the ledger, and yield changes of about BATCH_CHUNKS chunks; fill `scan` meanwhile.

    `progress` is how far the source was fetched before.
    """
    source, mark, cursor = feed.rules.source, f"{feed.rules.fingerprint}:", progress.cursor
    listed = Listed()
    # Under other chunking rules the same documents give other chunks, so the source is fetched from its beginning.
    begin = cursor.value.removeprefix(mark) if cursor.value.startswith(mark) else ""
    value = begin
    entries = 0
    hold = _Held()
    async for page in feed.source.fetch(begin):
        # A source whose pages have cursors resumes from the last page after a crash. One with a single cursor for its
        # whole listing has none until the end, and must not keep the old one: part of what that covers is overwritten.
        held = f"{mark}{value}" if page.cursor else ""
        known = await ledger.documents.etags(source, page.gone) if page.gone else ()
        hold.add(known, page.problems, held)
        held = hold.held(held)
        value = page.cursor
        scan.gone.update(page.gone)
        scan.problems += page.problems
        scan.complete = page.complete
        entries += len(page.entries)
        listed.add([entry.document for entry in page.entries])
        async for stretch in stretches.compared(
            feed, page.entries, ledger=ledger, read=read, clock=clock, scan=scan
        ):
            yield stretch.change(held)
        # One that goes on, and is complete for a part of the source, does not list the other parts.
        scan.within, scan.kept = page.within, page.kept
        in_part = bool(begin and (page.within or page.kept))
        scan.relisted = page.complete and not page.present and not in_part
        await _add_present(source, page.present, listed, scan, ledger)
    if scan.complete and not (entries or scan.problems or page.present or in_part):
        scan.empty = page.empty or "it has none"
    if not scan.complete:
        gone = listed.missing(list(hold.names))
        scan.withheld = doubt(source, gone, set(), total=progress.documents, allow_deletes=allow_deletes)
    else:
        # Where every known document was listed exactly once, none is gone. Reading all of their rows would take as long
        # as everything before.
        every = scan.known == progress.documents and listed.once
        gone = (
            []
            if every
            else await documents_gone(source, listed, scan, ledger=ledger, allow_deletes=allow_deletes)
        )
    for start in range(0, 0 if scan.withheld else len(gone), stretches.BATCH_CHUNKS):
        yield await removal(
            source, gone[start : start + stretches.BATCH_CHUNKS], ledger=ledger, value=hold.held("")
        )
    # Only now is everything before it applied. A fetch that left something undone starts over; one that goes on from
    # fetch to fetch leaves a document that could not be read to its dead letter.
    failed = any(not problem.skipped for problem in scan.problems) if scan.complete else hold.undone
    done = not scan.withheld and not failed
    scan.judged = scan.complete or bool(scan.withheld) or (done and bool(value))
    if done and f"{mark}{value}" != cursor.value:
        yield Change(value=f"{mark}{value}")


def is_undone(problem: Problem) -> bool:
    """Tell whether a problem may concern any document, so that a source has to be asked again."""
    return not (problem.skipped or problem.document)


async def _add_present(
    source: str, present: Collection[str], listed: Listed, scan: Scan, ledger: Ledger
) -> None:
    """Take documents that an earlier fetch listed for listed."""
    names = listed.missing(list(present))
    for start in range(0, len(names), stretches.BATCH_CHUNKS):
        scan.known += len(await ledger.documents.etags(source, names[start : start + stretches.BATCH_CHUNKS]))
    listed.add(names)
