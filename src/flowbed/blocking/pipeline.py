"""Runs: what sources hold is planned, fetched, embedded and committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from flowbed.blocking.jobs import BlockingJobs
from flowbed.blocking.loop import Loop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from flowbed.events.stages import CommitReport
    from flowbed.lanes.choice import LaneOption
    from flowbed.lanes.failures import RunStats
    from flowbed.ledger import Spent
    from flowbed.records import Plan, Report, Status
    from flowbed.records.events import Handled


class Pipeline(Loop):
    """Runs: what sources hold is planned, fetched, embedded and committed."""

    def plan(
        self,
        *names: str,
        allow_deletes: bool = False,
        lane: LaneOption | None = None,
        deadline: float | None = None,
    ) -> Plan:
        """Work out what a run of the named sources (default: all) would do and cost, and stage it for `run`.

        `allow_deletes`, `lane` and `deadline` mean what they mean for `run`.
        """
        return self._wait(self._bed.plan(*names, allow_deletes=allow_deletes, lane=lane, deadline=deadline))

    def run(
        self,
        *names: str,
        plan: str | None = None,
        budget: float | None = None,
        allow_deletes: bool = False,
        status: Status | None = None,
        limit: int | None = None,
        lane: LaneOption | None = None,
        wait: bool = False,
        deadline: float | None = None,
    ) -> Report:
        """Bring the index in step with the named sources (default: all): fetch, chunk, embed and commit.

        Args:
            names: sources to read; with none named, all of them.
            plan: id of a plan to carry out exactly as it was staged. It excludes `names`, `status` and `allow_deletes`.
            budget: most that requests to the model may cost, in US dollars. Without one, the run of a plan may cost
                what the plan said and 10 % more.
            allow_deletes: also delete a large share of a source's documents at once.
            status: embed only chunks of this status; default: new ones, and failed ones that are due for a retry.
            limit: embed at most this many chunks.
            lane: `realtime` calls the model now, `batch` submits to the provider's Batch API, `auto` uses the Batch
                API where that saves money and meets the deadline. Default: the settings.
            wait: on the `batch` lane, wait for the provider's results.
            deadline: seconds; the next run embeds texts of the `batch` lane that have no result by then. Default: the
                settings.

        Raises:
            NotFound: there is no such plan.
            Rejected: the plan is too old, it was combined with other arguments, or the budget is not an amount.
            Misconfigured: the model cannot be used, or the plan or a collection is of another space.
        """
        return self._wait(
            self._bed.run(
                *names,
                plan=plan,
                budget=budget,
                allow_deletes=allow_deletes,
                status=status,
                limit=limit,
                lane=lane,
                wait=wait,
                deadline=deadline,
            )
        )

    def embed(
        self,
        event: bytes | str | None = None,
        *,
        budget: float | None = None,
        lane: LaneOption | None = None,
        deadline: float | None = None,
    ) -> Handled:
        """Embed and commit what waits, without fetching; first take in the batch files that an event tells of.

        Safe to repeat: events may come twice, late and in any order.

        Args:
            event: a notification of S3, EventBridge, SQS, SNS, MinIO or Cloudflare R2, as it came. Without one, the
                store is listed for batch files that no event told of.
            budget: most that requests to the model may cost, in US dollars.
            lane: `realtime`, `batch` or `auto`. Default: the settings.
            deadline: seconds; as for `run`.

        Raises:
            Rejected: the event is not JSON, its shape is unknown, or the budget is not an amount.
            Misconfigured: the model cannot be used.
        """
        return self._wait(self._bed.embed(event, budget=budget, lane=lane, deadline=deadline))

    def take_in(self, event: bytes | str) -> Handled:
        """Take in the batch files that an event tells of, and embed nothing yet.

        Raises:
            Rejected: the event is not JSON, or its shape is unknown.
        """
        return self._wait(self._bed.take_in(event))

    def embed_waiting(
        self,
        *,
        budget: float | None = None,
        lane: LaneOption | None = None,
        deadline: float | None = None,
    ) -> Report:
        """Embed and commit what waits, without fetching; its arguments and errors are those of `embed`."""
        return self._wait(self._bed.embed_waiting(budget=budget, lane=lane, deadline=deadline))

    def watch(
        self, *, stop: asyncio.Event | None = None, say: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """Fetch each source when its files change or it is due, and embed what waits, until stopped or cancelled.

        Args:
            stop: ends the watch once it is set. What is under way is given up; nothing of it is lost.
            say: is called with what happens, as mappings with an `event`: `watching`, `fetched`, `embedded`, `failed`
                and `stopped`.

        Raises:
            Misconfigured: a schedule or the webhook is invalid.
        """
        self._wait(self._bed.watch(stop=stop, say=say))

    def embed_batches(self, *batches: str, limit: int | None = None, budget: float | None = None) -> RunStats:
        """Embed waiting chunks, of the batch files with these ids or of all, and write deltas for `commit`.

        Args:
            batches: ids of batch files; without any, all that waits is embedded.
            limit: embed at most about this many chunks.
            budget: most that requests to the model may cost, in US dollars.

        Raises:
            Rejected: the budget is not an amount.
            Misconfigured: the model cannot be used, or a collection is of another space.
        """
        return self._wait(self._bed.embed_batches(*batches, limit=limit, budget=budget))

    def commit(self, collection: str | None = None) -> CommitReport:
        """Commit the deltas that no commit holds, of one collection or of all, and the deletions that wait.

        Nothing is embedded. What is due is published. Safe to repeat, also concurrently.

        Raises:
            Damaged: the index of the only collection cannot be read.
        """
        return self._wait(self._bed.commit(collection))

    @property
    def jobs(self) -> BlockingJobs:
        """Jobs that write documents into collections in the background."""
        return BlockingJobs(self._bed.jobs, self._wait)

    def spending(
        self,
        by: Literal["lane", "source", "document", "run", "day"] = "lane",
        *,
        limit: int = 20,
        days: float | None = None,
    ) -> list[Spent]:
        """Return what was planned and billed, grouped `by`, the most expensive first; of the last `days`, or ever."""
        return self._wait(self._bed.spending(by, limit=limit, days=days))

    def spending_by_collection(self) -> dict[str, float]:
        """Return what was billed for each collection, in US dollars; receipts count for `lines`."""
        return self._wait(self._bed.spending_by_collection())
