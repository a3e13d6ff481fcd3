"""data_fetcher: fetch sources into batch files, on a schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.aws.fields import fields
from flowbed.aws.invocation import Invocation, lambda_handler
from flowbed.errors import Error, Rejected
from flowbed.ledger.text import is_unstorable
from flowbed.records.values import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.bed import Flowbed
    from flowbed.ledger import BatchRow


@lambda_handler
async def handler(event: Any, call: Invocation) -> dict[str, Any]:
    """Fetch the named sources, or all; one that fails does not stop the others, and its error is raised at the end."""
    said = fields(event)
    bed = await call.project()
    done: dict[str, dict[str, Any]] = {}
    failures: list[Error] = []
    for name in _names(said, bed):
        try:
            done[name] = await _fetch(name, bed, call)
        except Error as error:
            call.lines.tell(str(error), source=name)
            failures.append(error)
    call.lines.count(
        Fetched=sum(each["fetched"] for each in done.values()),
        Chunks=sum(each["chunks"] for each in done.values()),
        Failures=len(failures),
    )
    if failures:
        raise failures[0]
    return {"sources": done}


def _names(said: Mapping[str, Any], bed: Flowbed) -> list[str]:
    names = said.get("sources")
    if names is None:
        return list(bed.settings.sources)
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise Rejected(f"sources has to be a list of names, not {shown(names)}", param="sources")
    for each in names:  # JSON has escapes for what no log, file or table can hold
        if is_unstorable(each):
            raise Rejected(
                f"sources has {shown(each)}, which holds a NUL or half of a character: correct the name",
                param="sources",
            )
    return names


async def _fetch(name: str, bed: Flowbed, call: Invocation) -> dict[str, Any]:
    written: list[BatchRow] = []
    synced = await bed.fetch(name, wrote=written.append)
    for problem in synced.problems:
        call.lines.tell(problem.reason, source=name, subject=problem.subject)
    return {
        "fetched": synced.fetched,
        "chunks": synced.chunks,
        "batches": [row.key for row in written],
    }
