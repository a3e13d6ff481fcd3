"""Explains why a document is not in the index by asking the sources that may list it."""

from __future__ import annotations

import asyncio
from shlex import quote
from typing import TYPE_CHECKING

from flowbed.errors import Error
from flowbed.sources import Explaining

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flowbed.lanes.contexts import Context
    from flowbed.pipeline import ConfiguredSource

NOTHING = (
    "no chunk has that id, and no source has a document of that name with text; `flowbed run` names what it skipped,"
    " and ids look like NAME#DOCUMENT#00000"
)


async def why_unlisted(context: Context, subject: str, feeds: Mapping[str, ConfiguredSource]) -> str:
    """Say why a chunk or document that the ledger does not know is not there.

    `subject` is a chunk (`SOURCE#DOCUMENT#00000`), a document (`DOCUMENT` or `SOURCE#DOCUMENT`) or the path of a file.
    """
    absent = ""
    for name, feed in sorted(feeds.items()):
        if not isinstance(feed.source, Explaining):
            continue
        for document in _documents(subject, name, feed.source.location):
            try:
                reason = await asyncio.to_thread(feed.source.unlisted, document)
            except Error as error:  # another source may know it
                absent = absent or f"source {name} cannot be asked about it: {error}"
                break
            if reason:
                return f"{document!r} of source {name} has no chunks: {reason}"
            if reason is not None:
                return await _readable(context, subject, name, document)
            if subject.startswith(f"{name}#"):
                absent = absent or f"source {name} has no document {document!r} in {feed.source.location}"
    return f"nothing is known of {subject!r}: {absent or NOTHING}"


def _documents(subject: str, source: str, location: str) -> Iterator[str]:
    """Yield what a subject may be called as a document of a source; the most likely last."""
    document = subject.removeprefix(f"{source}#")
    before, mark, ordinal = document.rpartition("#")
    if mark and ordinal.isdecimal():
        yield before
    if subject.startswith(folder := f"{location.rstrip('/')}/"):
        yield subject.removeprefix(folder)
    yield document


async def _readable(context: Context, subject: str, source: str, document: str) -> str:
    """Say where to look for a document that its source lists and that can be read."""
    if await context.ledger.chunks.of(source, [document]):
        command = f"flowbed why {quote(f'{source}#{document}')}"
        return (
            f"{subject!r} is the document {document!r} of source {source}: `{command}` says what became of it"
        )
    return f"{document!r} of source {source} is not in the index yet: `flowbed run {source}` fetches it"
