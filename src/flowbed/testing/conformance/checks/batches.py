"""Batches: created, processed, described and cancelled (https://platform.openai.com/docs/api-reference/batch)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from flowbed.testing.conformance.checks.files import SLACK
from flowbed.testing.conformance.comparing import phrases
from flowbed.testing.conformance.jobs import (
    ENDED,
    SECOND,
    UNKNOWN_BATCH,
    asked,
    begin,
    by_name,
    ended,
    few,
    found_in,
    line,
    rows,
    upload,
    written,
)
from flowbed.testing.conformance.records import Failed, Skipped

if TYPE_CHECKING:
    from flowbed.testing.conformance.client import Client

DAY = 86_400  # seconds in "24h"
PAIRS, NAME, VALUE = (
    16,
    64,
    512,
)  # the limits of metadata: number of pairs, and characters of names and values
PAGE_MOST = 100
METADATA = {"project": "Grüße", "empty": ""}
# Enough that no server has answered all of them before the next request arrives.
MANY = 10_000


async def described(client: Client) -> None:
    """A new batch is described: its input, endpoint, window, state and times."""
    file = (await upload(client, written(few(client)))).parsed.id
    sdk_answer = await client.ask("batches.create", **asked(file))
    payload = sdk_answer.exchange.fields
    wanted = {"object": "batch", **asked(file)}
    client.require(wanted.items() <= payload.items(), f"the batch is {payload}, not {wanted}")
    client.require(isinstance(payload.get("id"), str) and payload["id"], f"`id` is {payload.get('id')!r}")
    created, expires = payload.get("created_at"), payload.get("expires_at")
    client.require(type(created) is int, f"`created_at` is {created!r}")
    client.require(
        type(expires) is int and abs(expires - (created or 0) - DAY) <= SLACK,
        f"it expires at {expires}, not {DAY} s after {created}",
    )
    again = (await ended(client, sdk_answer)).exchange.fields
    fixed = {*wanted, "id", "created_at", "expires_at"}
    changed = sorted(name for name in fixed if payload.get(name) != again.get(name))
    client.require(not changed, f"{', '.join(changed)} of the batch changed")


async def metadata(client: Client) -> None:
    """A batch returns its metadata unchanged, at its creation and at its end."""
    begun = await begin(client, few(client), metadata=METADATA)
    for sdk_answer in (begun, await ended(client, begun)):
        found = sdk_answer.exchange.fields.get("metadata")
        client.require(found == METADATA, f"`metadata` is {found}, not {METADATA}")


async def too_much_metadata(client: Client) -> None:
    """More than 16 pairs of metadata, or one that is too long or not a text, are refused with status 400."""
    file = (await upload(client, written(few(client)))).parsed.id
    wrong: tuple[dict[str, Any], ...] = (
        {f"name {place}": "" for place in range(PAIRS + 1)},
        {"x" * (NAME + 1): ""},
        {"name": "x" * (VALUE + 1)},
        {"name": 5},
    )
    for given in wrong:
        await client.refused_by({400}, "batches.create", **asked(file, metadata=given))


async def wrong_window(client: Client) -> None:
    """A window other than 24h is refused with status 400."""
    file = (await upload(client, written(few(client)))).parsed.id
    for window in ("1h", "48h", "", 24):
        await client.refused_by({400}, "batches.create", **asked(file, completion_window=window))


async def wrong_endpoint(client: Client) -> None:
    """An unknown endpoint is refused with status 400."""
    file = (await upload(client, written(few(client)))).parsed.id
    for endpoint in ("/v1/an-endpoint-that-there-is-not", "embeddings", ""):
        await client.refused_by({400}, "batches.create", **asked(file, endpoint=endpoint))


async def incomplete(client: Client) -> None:
    """A batch without input, endpoint or window, or with an invalid JSON body, is refused with status 400."""
    file = (await upload(client, written(few(client)))).parsed.id
    for name in asked(file):
        left = {each: value for each, value in asked(file).items() if each != name}
        await client.refused_raw(400, left, path="/batches")
    for body in (b"", b"[]", b"{"):
        await client.refused_raw(400, body, path="/batches")


async def cancelled(client: Client) -> None:
    """A cancelled batch reports the outcome of each line exactly once."""
    texts = phrases(MANY)
    names = [f"c{place}" for place in range(MANY)]
    begun = await begin(client, [line(client, *each) for each in zip(names, texts, strict=True)])
    try:
        sdk_answer = await client.ask("batches.cancel", begun.parsed.id)
    except Failed:
        if (await client.ask("batches.retrieve", begun.parsed.id)).parsed.status in ENDED:
            raise Skipped(f"{MANY} lines were answered before the batch could be cancelled") from None
        raise
    client.require(sdk_answer.parsed.status != "in_progress", "a cancelled batch is in progress")
    sdk_answer = await ended(client, sdk_answer)
    done = await rows(client, sdk_answer.parsed.output_file_id)
    left = await rows(client, sdk_answer.parsed.error_file_id)
    by_name(client, [*done, *left], names)
    if sdk_answer.parsed.status == "completed" and not left:
        raise Skipped(f"{MANY} lines were answered before the batch was cancelled")
    payload = sdk_answer.exchange.fields
    client.require(payload["status"] == "cancelled", f"`status` is {payload['status']!r}, not 'cancelled'")
    stamps = payload.get("cancelling_at"), payload.get("cancelled_at")
    client.require(all(type(each) is int for each in stamps), f"its times of cancelling are {stamps}")
    client.require(left, "the batch is cancelled although all lines were answered")
    for each in left:
        code = (each.get("error") or {}).get("code")
        client.require(
            each.get("response", ...) is None and code == "batch_cancelled",
            f"an unanswered line is {str(each)[:200]}",
        )


async def cancelled_too_late(client: Client) -> None:
    """Cancelling a batch that has ended is refused with status 409 or 400."""
    sdk_answer = await ended(client, await begin(client, few(client)))
    await client.refused_by({400, 409}, "batches.cancel", sdk_answer.parsed.id)
    again = await client.ask("batches.retrieve", sdk_answer.parsed.id)
    client.require(
        again.parsed.status == sdk_answer.parsed.status, f"the next answer says {again.parsed.status}"
    )


async def listed(client: Client) -> None:
    """Batches are listed newest first."""
    made = [await begin(client, few(client))]
    await asyncio.sleep(SECOND)
    made.append(await begin(client, few(client)))
    ids = [each.parsed.id for each in made]
    found = await found_in(client, "batches.list", ids)
    client.require(found == ids[::-1], "batches are not listed newest first")
    for each in made:
        await ended(client, each)


async def paged(client: Client) -> None:
    """The pages of a list of batches follow each other, and contain the batches."""
    made = [await ended(client, await begin(client, few(client))) for _ in range(3)]
    ids = [each.parsed.id for each in made]
    sdk_answer = await client.ask("batches.list", limit=2)
    payload = sdk_answer.exchange.fields
    client.require(payload.get("object") == "list", f"`object` is {payload.get('object')!r}")
    client.require(
        len(sdk_answer.exchange.rows) == 2, f"{len(sdk_answer.exchange.rows)} batches are listed, not 2"
    )
    client.require(
        payload.get("has_more") is True, f"`has_more` is {payload.get('has_more')!r} although more follow"
    )
    await found_in(client, "batches.list", ids, limit=1)
    known = {each.parsed.id: each.exchange.fields for each in made}
    for row in (await client.ask("batches.list", limit=PAGE_MOST)).exchange.rows:
        wanted = known.get(row.get("id"), row)
        client.require(row == wanted, f"in the list it is {str(row)[:200]}, retrieved {str(wanted)[:200]}")


async def wrong_pages(client: Client) -> None:
    """Page sizes of 0 or more than 100 batches are refused with status 400."""
    for limit in (0, -1, PAGE_MOST + 1):
        await client.refused_by({400}, "batches.list", limit=limit)


async def unknown(client: Client) -> None:
    """Every request about an unknown batch has status 404."""
    for what in ("batches.retrieve", "batches.cancel"):
        await client.refused_by({404}, what, UNKNOWN_BATCH)


CHECKS = (
    described,
    metadata,
    too_much_metadata,
    wrong_window,
    wrong_endpoint,
    incomplete,
    cancelled,
    cancelled_too_late,
    listed,
    paged,
    wrong_pages,
    unknown,
)
