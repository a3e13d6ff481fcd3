"""Submissions to the provider's Batch API, step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.bed.sources import Sources
from flowbed.errors import NotFound
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.lanes.batch.find import Unembedded
    from flowbed.lanes.batch.submit import Submitted
    from flowbed.lanes.outcome import Polled
    from flowbed.ledger import SubmissionRow


class Submissions(Sources):
    """Submissions to the provider's Batch API, step by step."""

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
