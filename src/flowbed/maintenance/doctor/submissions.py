"""Checks of the batch lane: submissions that are overdue, and a Batch API that refuses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, NotFound
from flowbed.lanes.batch.in_flight import live_submissions
from flowbed.lanes.batch.submission_status import find_overdue
from flowbed.maintenance.doctor.findings import Finding, check
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.lanes.contexts import ModelContext


@check("submissions")
async def _overdue(context: ModelContext) -> AsyncIterator[Finding]:
    rows = await live_submissions(context.ledger)
    if not rows:
        return  # the model need not be opened
    embedder, api = await asyncio.to_thread(context.embedder), await asyncio.to_thread(context.batch_api)
    for each in find_overdue(
        rows,
        space=embedder.space.to_json(),
        terms=None if api is None else api.terms,
        now=context.clock(),
        dead=context.dead,
    ):
        yield Finding(
            severity="warning", subject=f"submission {each.submission}", what=each.problem, fix=each.command
        )


@check("batch-api")
async def _batch_api(context: ModelContext) -> AsyncIterator[Finding]:
    rows = await live_submissions(context.ledger)
    if not rows:
        return  # the provider is asked only about work that waits for it
    try:
        api = await asyncio.to_thread(context.batch_api)
        if api is not None:
            own = [row for row in rows if row.account == api.terms.account]
            job = next((row.job for row in own if row.job), "")
            if job:
                await api.retrieve(job)
            elif own:
                await api.find(own[0].id)
    except NotFound:
        return  # the provider answers; the next poll handles the missing job
    except Misconfigured as error:
        yield Finding(
            severity="error",
            subject=count(len(rows), "submission"),
            what=f"the provider's Batch API refuses: {error}",
            fix="flowbed run",
        )
