"""Decide which documents are gone, and whether that is to be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.pipeline.comparing.records import Change, was_text
from flowbed.pipeline.comparing.stretches import is_there
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.ledger import Ledger
    from flowbed.pipeline.comparing.records import Scan
    from flowbed.pipeline.comparing.seen_ids import Listed

# Removing more than this share of a source, and this many documents, is more often a mistake than intended.
GUARDED_SHARE, GUARDED_COUNT = 0.30, 20
# Entries that a message names; the others are counted.
NAMED = 3


async def documents_gone(
    source: str, listed: Listed, scan: Scan, *, ledger: Ledger, allow_deletes: bool
) -> list[str]:
    """Return the documents that a complete fetch no longer listed; where that is doubtful, say why in `scan`."""
    gone, kept = await _unlisted(source, listed, scan, ledger)
    # A document that was text and is none now is not gone: most likely it was saved wrongly.
    scan.problems = [
        was_text(each) if each.skipped and each.document in kept else each for each in scan.problems
    ]
    # Of the documents before this fetch: those that it added would make any loss look small.
    total = scan.known + len(kept) + len(gone)
    unreadable = {
        (problem.subject, problem.reason)
        for problem in scan.problems
        if not (problem.document or problem.folder or problem.skipped)
    }
    if gone and unreadable and allow_deletes:
        # Whoever allows deletions has to have seen what may be wrong with them: a run has reported it before.
        unreadable -= await _reported(source, ledger)
    scan.withheld = doubt(source, gone, unreadable, total=total, allow_deletes=allow_deletes)
    return gone


async def _reported(source: str, ledger: Ledger) -> set[tuple[str, str]]:
    """Return the problems of a source that are dead letters, by subject and reason."""
    return {
        (letter.subject, letter.reason)
        async for page in ledger.dead_letters.pages()
        for letter in page
        if (letter.kind, letter.owner) == ("source", source)
    }


async def _unlisted(source: str, listed: Listed, scan: Scan, ledger: Ledger) -> tuple[list[str], set[str]]:
    """Return the documents that were not listed: those that are gone, and those that have a problem."""
    troubled = {problem.document for problem in scan.problems if problem.document}
    folders = tuple({problem.folder for problem in scan.problems if problem.folder})
    gone: list[str] = []
    kept: set[str] = set()
    async for rows in ledger.documents.pages(source):
        for each in listed.missing([row.id for row in rows]):
            covered = each.startswith(scan.within or "") and not each.startswith(scan.kept)
            covered = covered or each in scan.gone
            if each in troubled or each.startswith(folders) or not covered:
                kept.add(each)
            else:
                gone.append(each)
    return gone, kept


def doubt(
    source: str, gone: Sequence[str], unreadable: set[tuple[str, str]], *, total: int, allow_deletes: bool
) -> str:
    """Say why documents that were not listed are kept; empty where they are deleted."""
    if gone and unreadable:
        subjects = sorted(subject for subject, _ in unreadable)
        others = f" and {len(subjects) - NAMED:,} others" if len(subjects) > NAMED else ""
        return (
            f"{count(len(gone), 'document')} not listed, but kept, since {count(len(subjects), 'entry')} could not be"
            f" read and may be theirs ({', '.join(subjects[:NAMED])}{others}); fix those and run again, or run"
            f" `flowbed run {source} --allow-deletes` to delete the documents all the same"
        )
    if not allow_deletes and len(gone) >= GUARDED_COUNT and len(gone) > GUARDED_SHARE * total:
        return (
            f"{len(gone):,} of {total:,} documents are gone from the source, which is more than {GUARDED_SHARE:.0%}:"
            f" they are kept; if that is intended, run `flowbed run {source} --allow-deletes`"
        )
    return ""


async def removal(source: str, documents: Sequence[str], *, ledger: Ledger, value: str) -> Change:
    """Return the change that removes documents with their chunks."""
    rows = await ledger.chunks.of(source, documents)
    return Change(value=value, removed=tuple(documents), deletes=tuple(row for row in rows if is_there(row)))
