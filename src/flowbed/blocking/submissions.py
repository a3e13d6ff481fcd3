"""Submissions to the provider's Batch API, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.blocking.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.lanes.batch.find import Unembedded
    from flowbed.lanes.batch.submit import Submitted
    from flowbed.lanes.outcome import Polled
    from flowbed.ledger import SubmissionRow


class Submissions(Loop):
    """Submissions to the provider's Batch API, step by step."""

    def find_unembedded(
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
        return self._wait(
            self._bed.find_unembedded(*names, limit=limit, deadline=deadline, collections=collections)
        )

    def submit(self, *submissions: str) -> Submitted:
        """Send the submissions that are ready, or those named, to the provider's Batch API. Safe to repeat.

        Raises:
            Misconfigured: the model has no Batch API.
            NotFound: no live submission has that id.
        """
        return self._wait(self._bed.submit(*submissions))

    def poll(self, *submissions: str, commit: bool = True) -> Polled:
        """Ask the provider about all live submissions, or those named, and commit their results. Safe to repeat.

        Without `commit`, the results are durable as deltas, and `commit` makes them searchable.

        Raises:
            Misconfigured: the provider cannot be asked until a setting changes.
            NotFound: no live submission has that id.
        """
        return self._wait(self._bed.poll(*submissions, commit=commit))

    def submissions(self, *, live: bool = True) -> list[SubmissionRow]:
        """List the live submissions, or with `live=False` those that have ended, oldest first."""
        return self._wait(self._bed.submissions(live=live))

    def cancel_submission(self, submission: str) -> None:
        """Ask for a submission to be cancelled; the next poll writes the results that its provider has by then.

        Raises:
            NotFound: no live submission has that id.
        """
        self._wait(self._bed.cancel_submission(submission))
