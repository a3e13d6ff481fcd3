"""Runs: what sources hold is planned, fetched, embedded and committed."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from flowbed.bed.sources import Sources
from flowbed.errors import Rejected
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.events.stages import CommitReport
    from flowbed.lanes.budget import Budget
    from flowbed.lanes.choice import LaneOption
    from flowbed.lanes.failures import RunStats
    from flowbed.ledger import Spent
    from flowbed.records import Plan, Report, Status
    from flowbed.records.events import Handled

EVER = 1e6  # days, more than since 1970


class Pipeline(Sources):
    """Runs: what sources hold is planned, fetched, embedded and committed."""

    async def plan(
        self,
        *names: str,
        allow_deletes: bool = False,
        lane: LaneOption | None = None,
        deadline: float | None = None,
    ) -> Plan:
        """Work out what a run of the named sources (default: all) would do and cost, and stage it for `run`.

        `allow_deletes`, `lane` and `deadline` mean what they mean for `run`.
        """
        from flowbed.pipeline.plan import plan

        feeds = await self._feeds(names, removed=allow_deletes)
        lane, deadline = self._lane_and_deadline(lane, deadline)
        return await plan(
            self._context(), feeds=feeds, allow_deletes=allow_deletes, lane=lane, deadline=deadline
        )

    async def run(
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
        from flowbed.lanes.claims import WAITING

        lane, deadline = self._lane_and_deadline(lane, deadline)
        context = self._context(self._budget(budget))
        if plan is None:
            from flowbed.pipeline.run import run

            report = await run(
                context,
                feeds=await self._feeds(names, removed=allow_deletes),
                allow_deletes=allow_deletes,
                statuses=WAITING if status is None else {status},
                limit=limit,
                lane=lane,
                wait=wait,
                deadline=deadline,
                others=not names,
            )
            return await self._with_publications(report)
        if names or allow_deletes or status is not None:
            raise Rejected(
                f"plan {plan} already says what to do: run it without source names, --status and --allow-deletes"
            )
        from flowbed.pipeline.release import run_plan
        from flowbed.pipeline.staging import read_plan
        from flowbed.wiring.sources import removed_feeds

        staged = await read_plan(self._store, plan, now=process.now())
        configured = [name for name in staged.sources if name in self.settings.sources]
        feeds = await self._feeds(configured) if configured else {}
        feeds |= removed_feeds(staged, known=feeds)
        report = await run_plan(
            context, staged, feeds=feeds, limit=limit, lane=lane, wait=wait, deadline=deadline
        )
        return await self._with_publications(report)

    async def embed(
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
        from flowbed.events.intake import look_for_batches
        from flowbed.wiring.events import intake_context

        if event is None:
            found = await look_for_batches(intake_context(self.settings, self._context()))
            told = found.handled()
        else:
            told = await self.take_in(event)
        if event is not None and not told.batches:
            return told
        report = await self.embed_waiting(budget=budget, lane=lane, deadline=deadline)
        return replace(told, report=report)

    async def take_in(self, event: bytes | str) -> Handled:
        """Take in the batch files that an event tells of, and embed nothing yet.

        Raises:
            Rejected: the event is not JSON, or its shape is unknown.
        """
        from flowbed.events.intake import take_in
        from flowbed.events.notifications import read_event
        from flowbed.wiring.events import intake_context

        told = read_event(event.encode() if isinstance(event, str) else event)
        found = await take_in(told, intake_context(self.settings, self._context()))
        return found.handled()

    async def embed_waiting(
        self,
        *,
        budget: float | None = None,
        lane: LaneOption | None = None,
        deadline: float | None = None,
    ) -> Report:
        """Embed and commit what waits, without fetching; its arguments and errors are those of `embed`."""
        from flowbed.events.waiting import embed_waiting

        lane, deadline = self._lane_and_deadline(lane, deadline)
        context = self._context(self._budget(budget))
        return await self._with_publications(await embed_waiting(context, lane=lane, deadline=deadline))

    async def watch(
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
        from flowbed.events.intake import look_for_batches
        from flowbed.events.watch import Steps
        from flowbed.wiring.events import intake_context
        from flowbed.wiring.watching import open_watch

        async def look() -> Handled:
            return (await look_for_batches(intake_context(self.settings, self._context()))).handled()

        steps = Steps(
            fetch=lambda name, wrote: self.fetch(name, wrote=wrote), embed=self.embed_waiting, look=look
        )
        async with open_watch(
            self.settings,
            folder=self.folder,
            store=self._store,
            ledger=self._ledger,
            steps=steps,
            say=say or (lambda _: None),
        ) as watch:
            await watch.run(stop or asyncio.Event())

    async def embed_batches(
        self, *batches: str, limit: int | None = None, budget: float | None = None
    ) -> RunStats:
        """Embed waiting chunks, of the batch files with these ids or of all, and write deltas for `commit`.

        Args:
            batches: ids of batch files; without any, all that waits is embedded.
            limit: embed at most about this many chunks.
            budget: most that requests to the model may cost, in US dollars.

        Raises:
            Rejected: the budget is not an amount.
            Misconfigured: the model cannot be used, or a collection is of another space.
        """
        from flowbed.events.stages import write_deltas

        return await write_deltas(self._context(self._budget(budget)), batches=batches or None, limit=limit)

    async def commit(self, collection: str | None = None) -> CommitReport:
        """Commit the deltas that no commit holds, of one collection or of all, and the deletions that wait.

        Nothing is embedded. What is due is published. Safe to repeat, also concurrently.

        Raises:
            Damaged: the index of the only collection cannot be read.
        """
        from flowbed.events.stages import commit_pending

        done = await commit_pending(self._context(), collection)
        done.failures += (await self.publish_due()).failures
        return done

    async def spending(
        self,
        by: Literal["lane", "source", "document", "run", "day"] = "lane",
        *,
        limit: int = 20,
        days: float | None = None,
    ) -> list[Spent]:
        """Return what was planned and billed, grouped `by`, the most expensive first; of the last `days`, or ever."""
        since = 0 if days is None else max(0, process.now() - round(min(days, EVER) * 86_400e6))
        return await self._ledger.spending.totals(by, limit=limit, since=since)

    async def spending_by_collection(self) -> dict[str, float]:
        """Return what was billed for each collection, in US dollars; receipts count for `lines`."""
        spent = {each.name: each.cost_usd for each in await self.spending("source", limit=100_000)}
        found: dict[str, float] = {}
        for name, cost in spent.items():
            source = self.settings.sources.get(name)
            receipts = source is not None and source.kind == "receipts"
            collection = (source.collection if source else "") or ("lines" if receipts else name)
            found[collection] = found.get(collection, 0.0) + cost
        return found

    async def price(self) -> float:
        """Return the price of the model in US dollars per million tokens; a local model costs nothing."""
        return (await self._embedders.live()).price

    async def _with_publications(self, report: Report) -> Report:
        """Publish what is due after a run, and add that to its report."""
        done = await self.publish_due()
        places = {
            f"{each.publication} {each.collection}": each.place for each in done.published if not each.already
        }
        return replace(report, published=places, failures=(*report.failures, *done.failures))

    def _budget(self, budget: float | None) -> Budget | None:
        """Return the budget of a run, None without one.

        Raises:
            Rejected: it is not an amount.
        """
        from flowbed.lanes.budget import Budget

        if budget is not None and not (budget >= 0 and math.isfinite(budget)):
            raise Rejected(f"the budget is {budget}; it has to be an amount of US dollars")
        return None if budget is None else Budget(budget)

    def _lane_and_deadline(
        self, lane: LaneOption | None, deadline: float | None
    ) -> tuple[LaneOption, float | None]:
        """Fill in the project's settings for what was not given; the deadline is in seconds."""
        if deadline is None and self.settings.deadline_hours is not None:
            deadline = self.settings.deadline_hours * 3_600
        return lane or self.settings.lane, deadline
