"""Files: uploaded, described, listed, read and deleted (https://platform.openai.com/docs/api-reference/files)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import openai

from flowbed.testing.conformance.comparing import TEXTS
from flowbed.testing.conformance.jobs import SECOND, UNKNOWN_FILE, found_in, line, upload, written

if TYPE_CHECKING:
    from flowbed.testing.conformance.client import Client
    from flowbed.testing.conformance.exchanges import Exchange

STATUSES = {"uploaded", "processed", "error"}
NAME = "Grüße.jsonl"
MOST = 10_000  # files per page
LEAST_KEPT, KEPT = (
    3_600,
    2_592_000,
)  # seconds: an hour, and 30 days, which is also the default for batches
SLACK = 5  # s by which two times of one file may differ, since they are whole seconds


async def described(client: Client) -> None:
    """An uploaded file is described: its id, name, size, purpose, status and time."""
    content = _content(client)
    sdk_answer = await upload(client, content, name=NAME)
    payload = sdk_answer.exchange.fields
    client.require(payload.get("object") == "file", f"`object` is {payload.get('object')!r}")
    client.require(isinstance(payload.get("id"), str) and payload["id"], f"`id` is {payload.get('id')!r}")
    client.require(
        payload.get("filename") == NAME, f"`filename` is {payload.get('filename')!r}, not {NAME!r}"
    )
    client.require(
        payload.get("bytes") == len(content), f"`bytes` is {payload.get('bytes')}, not {len(content)}"
    )
    client.require(payload.get("purpose") == "batch", f"`purpose` is {payload.get('purpose')!r}")
    client.require(payload.get("status") in STATUSES, f"`status` is {payload.get('status')!r}")
    client.require(type(payload.get("created_at")) is int, f"`created_at` is {payload.get('created_at')!r}")


async def processed(client: Client) -> None:
    """The SDK's wait for the processing of a file ends."""
    sent = (await upload(client, _content(client))).parsed
    client.require(
        sent.status in STATUSES, f"`status` is {sent.status!r}"
    )  # otherwise it would wait for nothing
    waiting = {"poll_interval": 0.05, "max_wait_seconds": client.target.timeout}
    status = (await client.ask("files.wait_for_processing", sent.id, **waiting)).parsed.status
    client.require(status == "processed", f"the final `status` is {status!r}")


async def retrieved(client: Client) -> None:
    """An uploaded file can be retrieved, and is the same."""
    sent = await upload(client, _content(client))
    again = await client.ask("files.retrieve", sent.parsed.id)
    one, other = (_without_status(each.exchange) for each in (sent, again))
    client.require(one == other, f"uploaded it is {one}, retrieved {other}")


async def content(client: Client) -> None:
    """The content of a file is what was uploaded, byte for byte."""
    # With both kinds of line ends, multi-byte characters, and no final line end.
    sent = b"\r\n".join(_content(client).split(b"\n")) + '{"größe": 1}'.encode()
    file = (await upload(client, sent)).parsed.id
    exchange = (await client.ask("files.content", file)).exchange
    client.require(exchange.body == sent, f"{len(sent)} bytes were uploaded, the content is {exchange.shown}")


async def listed(client: Client) -> None:
    """Files are listed newest first, or oldest first on request."""
    made = [(await upload(client, _content(client))).parsed.id]
    await asyncio.sleep(SECOND)
    made.append((await upload(client, _content(client))).parsed.id)
    usual = await found_in(client, "files.list", made)
    newest = await found_in(client, "files.list", made, order="desc")
    oldest = await found_in(client, "files.list", made[1:], order="asc", after=made[0])
    client.require(usual == newest == made[::-1], "files are not listed newest first")
    client.require(oldest == made[1:], "files are not listed oldest first on request")


async def paged(client: Client) -> None:
    """The pages of a list of files follow each other, and the last one says that it is the last."""
    made = [(await upload(client, _content(client))).parsed.id for _ in range(3)]
    sdk_answer = await client.ask("files.list", limit=2)
    payload = sdk_answer.exchange.fields
    ids = [row.get("id") for row in sdk_answer.exchange.rows]
    client.require(payload.get("object") == "list", f"`object` is {payload.get('object')!r}")
    client.require(len(ids) == 2, f"{len(ids)} files are listed, not 2")
    client.require(
        payload.get("has_more") is True, f"`has_more` is {payload.get('has_more')!r} although more follow"
    )
    ends = payload.get("first_id"), payload.get("last_id")
    client.require(ends == (ids[0], ids[-1]), f"`first_id` and `last_id` are {ends}")
    await found_in(client, "files.list", made, limit=1)
    last = await client.ask("files.list", order="asc", after=made[-1])
    client.require(last.exchange.fields.get("has_more") is False, "`has_more` is not false on the last page")


async def by_purpose(client: Client) -> None:
    """A list of files of one purpose contains all of those and no others."""
    made = (await upload(client, _content(client))).parsed.id
    other = (await upload(client, b"some text", purpose="user_data", name="in.txt")).parsed.id
    for purpose, wanted in (("batch", made), ("user_data", other)):
        await found_in(client, "files.list", [wanted], purpose=purpose)
        found = (await client.ask("files.list", purpose=purpose)).exchange.rows
        wrong = [row for row in found if row.get("purpose") != purpose]
        client.require(not wrong, f"the list of purpose {purpose} contains {wrong[:1]}")


async def wrong_pages(client: Client) -> None:
    """Page sizes of 0 or more than 10,000 files are refused with status 400."""
    for limit in (0, -1, MOST + 1):
        await client.refused_by({400}, "files.list", limit=limit)


async def deleted(client: Client) -> None:
    """A deleted file is gone: its description, its content and its place in the list."""
    file = (await upload(client, _content(client))).parsed.id
    payload = (await client.ask("files.delete", file)).exchange.fields
    wanted = {"id": file, "object": "file", "deleted": True}
    client.require(wanted.items() <= payload.items(), f"the answer is {payload}, not {wanted}")
    for what in ("files.retrieve", "files.content"):
        await client.refused_by({404}, what, file)
    left = [row.get("id") for row in (await client.ask("files.list")).exchange.rows]
    client.require(file not in left, "it is still listed")


async def kept(client: Client) -> None:
    """A file is kept for as long as `expires_after` says."""
    for seconds in (LEAST_KEPT, KEPT):
        sdk_answer = await upload(client, _content(client), expires_after=_after(seconds))
        _require_kept(client, sdk_answer.exchange, seconds)
    again = await client.ask("files.retrieve", sdk_answer.parsed.id)
    _require_kept(client, again.exchange, seconds)


async def kept_by_default(client: Client) -> None:
    """A file for batches is kept for 30 days by default."""
    _require_kept(client, (await upload(client, _content(client))).exchange, KEPT)


async def kept_too_long(client: Client) -> None:
    """An expiry of less than an hour or more than 30 days is refused with status 400."""
    for after in (_after(LEAST_KEPT - 1), _after(KEPT + 1), {"anchor": "yesterday", "seconds": KEPT}):
        await client.refused_by(
            {400}, "files.create", file=("in.jsonl", _content(client)), purpose="batch", expires_after=after
        )


async def wrong_purpose(client: Client) -> None:
    """A file with an unknown purpose is refused with status 400."""
    for purpose in ("a-purpose-that-there-is-not", ""):
        await client.refused_by({400}, "files.create", file=("in.jsonl", _content(client)), purpose=purpose)


async def incomplete(client: Client) -> None:
    """A form without a file or without a purpose is refused with status 400."""
    file = ("in.jsonl", _content(client))
    await client.refused_by({400}, "files.create", file=file, purpose=openai.omit)
    await client.refused_by({400}, "files.create", file=openai.omit, purpose="batch")


async def unknown(client: Client) -> None:
    """Every request about an unknown file has status 404."""
    for what in ("files.retrieve", "files.content", "files.delete"):
        await client.refused_by({404}, what, UNKNOWN_FILE)


def _content(client: Client) -> bytes:
    """Write a file that could be the input of a batch."""
    return written(line(client, f"c{place}", text) for place, text in enumerate(TEXTS[:3]))


def _after(seconds: int) -> dict[str, Any]:
    return {"anchor": "created_at", "seconds": seconds}


def _require_kept(client: Client, exchange: Exchange, seconds: int) -> None:
    created, expires = (exchange.fields.get(name) for name in ("created_at", "expires_at"))
    client.require(type(expires) is int, f"`expires_at` is {expires!r}")
    client.require(
        type(created) is int and abs(expires - created - seconds) <= SLACK,  # type: ignore[operator]
        f"it expires at {expires}, not {seconds} s after {created}",
    )


def _without_status(exchange: Exchange) -> dict[str, Any]:
    """Leave out fields that may change after the upload."""
    return {name: value for name, value in exchange.fields.items() if not name.startswith("status")}


CHECKS = (
    described,
    processed,
    retrieved,
    content,
    listed,
    paged,
    by_purpose,
    wrong_pages,
    deleted,
    kept,
    kept_by_default,
    kept_too_long,
    wrong_purpose,
    incomplete,
    unknown,
)
