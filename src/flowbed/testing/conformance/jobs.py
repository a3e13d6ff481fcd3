"""Files and batches through the SDK: uploaded, awaited, read, and removed at the end."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import openai

from flowbed.testing.conformance.comparing import TEXTS
from flowbed.testing.conformance.records import Failed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowbed.testing.conformance.client import Client
    from flowbed.testing.conformance.exchanges import SdkAnswer

ENDPOINT = "/v1/embeddings"
UNKNOWN_FILE, UNKNOWN_BATCH = "file-that-there-is-not", "batch_that_there_is_not"
# The ids of the lines of a batch with a few texts.
LINES = tuple(f"c{place}" for place in range(len(TEXTS)))
# The states of a batch in their order; those in one row exclude each other.
STATES = (
    ("validating",),
    ("in_progress",),
    ("cancelling", "finalizing"),
    ("completed", "failed", "expired", "cancelled"),
)
RANKS = {state: rank for rank, states in enumerate(STATES) for state in states}
ENDED = frozenset(STATES[-1])
# Seconds between two polls of a batch: short for a quick server, longer and longer for one that takes hours.
LOOK, LOOK_MOST, LONGER = 0.02, 10.0, 1.5
SECOND = 1.05  # s to wait so that the next object gets a later timestamp, since times are whole seconds


def line(client: Client, name: str, given: Any, **more: Any) -> dict[str, Any]:  # any JSON value
    """Make a line of a batch that requests embeddings; `more` are further fields of the request."""
    body = {"model": client.target.model, "input": given, **more}
    return {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}


def few(client: Client) -> list[dict[str, Any]]:
    """Make lines that request a few texts."""
    return [line(client, name, text) for name, text in zip(LINES, TEXTS, strict=True)]


def written(lines: Iterable[dict[str, Any] | bytes]) -> bytes:
    """Serialise the input of a batch; a line that is bytes is written unchanged."""
    raw = (each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines)
    return b"".join(each + b"\n" for each in raw)


async def upload(
    client: Client,
    content: bytes,
    *,
    purpose: str = "batch",
    name: str = "in.jsonl",
    **how: Any,  # arguments of the SDK
) -> SdkAnswer:
    """Upload a file, which is removed after the check."""
    sdk_answer = await client.ask("files.create", file=(name, content), purpose=purpose, **how)
    note(client, sdk_answer.parsed.id)
    return sdk_answer


async def begin(client: Client, lines: Iterable[dict[str, Any] | bytes], **how: Any) -> SdkAnswer:
    """Upload a file, and create a batch of it."""
    file = (await upload(client, written(lines))).parsed.id
    return await client.ask("batches.create", **asked(file, **how))


def asked(file: str, **how: Any) -> dict[str, Any]:  # arguments of the SDK
    """Return the arguments that create a batch of a file."""
    return {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h", **how}


async def ended(client: Client, sdk_answer: SdkAnswer, *, state: str = "") -> SdkAnswer:
    """Wait until a batch has ended, in this state if one is named.

    Raises:
        Failed: it takes too long, goes back, or ends in another state.
    """
    batch = sdk_answer.parsed.id
    until = time.monotonic() + client.target.batch_timeout
    wait = LOOK
    rank = 0
    while True:
        found = sdk_answer.parsed.status
        client.require(found in RANKS, f"{found!r} is not a state of a batch")
        client.require(RANKS[found] >= rank, f"the batch went back to the state {found}")
        rank = RANKS[found]
        if found in ENDED:
            break
        if time.monotonic() > until:
            raise Failed(f"the batch is {found} after {client.target.batch_timeout:g} s (--batch-timeout)")
        await asyncio.sleep(wait)
        wait = min(wait * LONGER, LOOK_MOST)
        sdk_answer = await client.ask("batches.retrieve", batch)
    for file in (sdk_answer.parsed.output_file_id, sdk_answer.parsed.error_file_id):
        note(client, file)
    client.require(state in {"", found}, f"the batch is {found}, not {state}: {sdk_answer.exchange.shown}")
    return sdk_answer


async def rows(client: Client, file: str | None) -> list[dict[str, Any]]:
    """Read the lines of an output file of a batch; none if there is no file."""
    if file is None:
        return []
    exchange = (await client.ask("files.content", file)).exchange
    try:
        found = [json.loads(each) for each in exchange.body.splitlines()]
    except ValueError as error:
        raise Failed(f"a line of an output file is not JSON: {exchange.shown}") from error
    client.require(
        all(isinstance(each, dict) for each in found),
        f"a line of an output file is not an object: {exchange.shown}",
    )
    return found


def by_name(client: Client, found: Sequence[dict[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    """Require that each of these ids has exactly one line, and return the lines by id."""
    sdk_answer = sorted(str(each.get("custom_id")) for each in found)
    wanted = sorted(names)
    client.require(sdk_answer == wanted, f"lines {wanted[:9]} have the answers {sdk_answer[:9]}")
    return {each["custom_id"]: each for each in found}


async def found_in(client: Client, what: str, wanted: Sequence[str], **how: Any) -> list[str]:
    """List page by page until everything wanted was found, and return the order.

    Raises:
        Failed: something is listed twice or not at all, or a page is too long.
    """
    seen: list[str] = []
    async for sdk_answer in client.pages(what, **how):
        ids = [str(row.get("id")) for row in sdk_answer.exchange.rows]
        client.require(
            len(ids) <= how.get("limit", len(ids)),
            f"a page has {len(ids)} entries, more than {how.get('limit')}",
        )
        seen += ids
        client.require(len(set(seen)) == len(seen), f"something is listed twice: {sdk_answer.exchange.shown}")
        if set(wanted) <= set(seen):
            break
    missing = set(wanted) - set(seen)
    client.require(not missing, f"{', '.join(sorted(missing))} is not listed")
    return [each for each in seen if each in wanted]


def note(client: Client, file: Any) -> None:  # any answer
    """Remember a file to remove."""
    if isinstance(file, str) and file:
        client.tally.files.append(file)


async def tidy(client: Client) -> None:
    """Remove the files that exist because of a check, as far as the server allows."""
    for file in client.tally.files:
        try:
            await client.ask("files.delete", file)
        except (Failed, openai.OpenAIError):
            continue
