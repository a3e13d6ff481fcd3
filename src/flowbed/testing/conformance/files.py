"""Files: what is sent, told, listed, read and deleted (https://platform.openai.com/docs/api-reference/files)."""

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
MOST = 10_000  # files on a page
LEAST_KEPT, KEPT = (
    3_600,
    2_592_000,
)  # seconds: an hour, and 30 days, which is also how long those for batches are kept
SLACK = 5  # s by which two times of one file may differ that are told in whole seconds


async def described(client: Client) -> None:
    """A file that is sent is described: its id, name, size, purpose, status and time."""
    content = _content(client)
    told = await upload(client, content, name=NAME)
    said = told.exchange.fields
    client.require(said.get("object") == "file", f"`object` is {said.get('object')!r}")
    client.require(isinstance(said.get("id"), str) and said["id"], f"`id` is {said.get('id')!r}")
    client.require(said.get("filename") == NAME, f"`filename` is {said.get('filename')!r}, not {NAME!r}")
    client.require(said.get("bytes") == len(content), f"`bytes` is {said.get('bytes')}, not {len(content)}")
    client.require(said.get("purpose") == "batch", f"`purpose` is {said.get('purpose')!r}")
    client.require(said.get("status") in STATUSES, f"`status` is {said.get('status')!r}")
    client.require(type(said.get("created_at")) is int, f"`created_at` is {said.get('created_at')!r}")


async def processed(client: Client) -> None:
    """The SDK, waiting until a file has been processed, sees that it has."""
    sent = (await upload(client, _content(client))).parsed
    client.require(sent.status in STATUSES, f"`status` is {sent.status!r}")  # or it would wait for nothing
    waiting = {"poll_interval": 0.05, "max_wait_seconds": client.target.timeout}
    status = (await client.ask("files.wait_for_processing", sent.id, **waiting)).parsed.status
    client.require(status == "processed", f"`status` is {status!r} in the end")


async def retrieved(client: Client) -> None:
    """A file that was sent can be retrieved, and is the same."""
    sent = await upload(client, _content(client))
    again = await client.ask("files.retrieve", sent.parsed.id)
    one, other = (_without_status(each.exchange) for each in (sent, again))
    client.require(one == other, f"sent it is {one}, and retrieved {other}")


async def content(client: Client) -> None:
    """The content of a file is what was sent, byte for byte."""
    # With both kinds of line ends, characters of several bytes, and no end of the last line.
    sent = b"\r\n".join(_content(client).split(b"\n")) + '{"größe": 1}'.encode()
    file = (await upload(client, sent)).parsed.id
    exchange = (await client.ask("files.content", file)).exchange
    client.require(exchange.body == sent, f"{len(sent)} bytes were sent, and come as {exchange.shown}")


async def listed(client: Client) -> None:
    """Files are listed newest first, or the oldest where that is asked for."""
    made = [(await upload(client, _content(client))).parsed.id]
    await asyncio.sleep(SECOND)
    made.append((await upload(client, _content(client))).parsed.id)
    usual = await found_in(client, "files.list", made)
    newest = await found_in(client, "files.list", made, order="desc")
    oldest = await found_in(client, "files.list", made[1:], order="asc", after=made[0])
    client.require(usual == newest == made[::-1], "files are not listed newest first")
    client.require(oldest == made[1:], "files are not listed oldest first where that is asked for")


async def paged(client: Client) -> None:
    """A list of files is cut into pages that follow one another, and the last says that no more do."""
    made = [(await upload(client, _content(client))).parsed.id for _ in range(3)]
    told = await client.ask("files.list", limit=2)
    said = told.exchange.fields
    ids = [row.get("id") for row in told.exchange.rows]
    client.require(said.get("object") == "list", f"`object` is {said.get('object')!r}")
    client.require(len(ids) == 2, f"two files were asked for, and {len(ids)} are listed")
    client.require(said.get("has_more") is True, f"`has_more` is {said.get('has_more')!r} where more follow")
    ends = said.get("first_id"), said.get("last_id")
    client.require(ends == (ids[0], ids[-1]), f"`first_id` and `last_id` are {ends}")
    await found_in(client, "files.list", made, limit=1)
    last = await client.ask("files.list", order="asc", after=made[-1])
    client.require(last.exchange.fields.get("has_more") is False, "`has_more` is not false on the last page")


async def by_purpose(client: Client) -> None:
    """A list of files of one purpose holds all of those and no others."""
    made = (await upload(client, _content(client))).parsed.id
    other = (await upload(client, b"some text", purpose="user_data", name="in.txt")).parsed.id
    for purpose, wanted in (("batch", made), ("user_data", other)):
        await found_in(client, "files.list", [wanted], purpose=purpose)
        found = (await client.ask("files.list", purpose=purpose)).exchange.rows
        wrong = [row for row in found if row.get("purpose") != purpose]
        client.require(not wrong, f"among files of purpose {purpose} is {wrong[:1]}")


async def wrong_pages(client: Client) -> None:
    """Pages of no files, or of more than 10,000, are refused with status 400."""
    for limit in (0, -1, MOST + 1):
        await client.refused_by({400}, "files.list", limit=limit)


async def deleted(client: Client) -> None:
    """A file that is deleted is gone, from its address, from its content and from the list."""
    file = (await upload(client, _content(client))).parsed.id
    said = (await client.ask("files.delete", file)).exchange.fields
    wanted = {"id": file, "object": "file", "deleted": True}
    client.require(wanted.items() <= said.items(), f"it is told as {said}, not {wanted}")
    for what in ("files.retrieve", "files.content"):
        await client.refused_by({404}, what, file)
    left = [row.get("id") for row in (await client.ask("files.list")).exchange.rows]
    client.require(file not in left, "it is listed all the same")


async def kept(client: Client) -> None:
    """A file is kept for as long as `expires_after` says."""
    for seconds in (LEAST_KEPT, KEPT):
        told = await upload(client, _content(client), expires_after=_after(seconds))
        _require_kept(client, told.exchange, seconds)
    again = await client.ask("files.retrieve", told.parsed.id)
    _require_kept(client, again.exchange, seconds)


async def kept_by_default(client: Client) -> None:
    """A file for batches is kept for 30 days where nothing is said of that."""
    _require_kept(client, (await upload(client, _content(client))).exchange, KEPT)


async def kept_too_long(client: Client) -> None:
    """A file that is to be kept for less than an hour, or more than 30 days, is refused with status 400."""
    for after in (_after(LEAST_KEPT - 1), _after(KEPT + 1), {"anchor": "yesterday", "seconds": KEPT}):
        await client.refused_by(
            {400}, "files.create", file=("in.jsonl", _content(client)), purpose="batch", expires_after=after
        )


async def wrong_purpose(client: Client) -> None:
    """A file for a purpose that there is not is refused with status 400."""
    for purpose in ("a-purpose-that-there-is-not", ""):
        await client.refused_by({400}, "files.create", file=("in.jsonl", _content(client)), purpose=purpose)


async def incomplete(client: Client) -> None:
    """A form without a file, or without a purpose, is refused with status 400."""
    file = ("in.jsonl", _content(client))
    await client.refused_by({400}, "files.create", file=file, purpose=openai.omit)
    await client.refused_by({400}, "files.create", file=openai.omit, purpose="batch")


async def unknown(client: Client) -> None:
    """A file that there is not has status 404, whatever is asked of it."""
    for what in ("files.retrieve", "files.content", "files.delete"):
        await client.refused_by({404}, what, UNKNOWN_FILE)


def _content(client: Client) -> bytes:
    """Write a file that a batch could be made of."""
    return written(line(client, f"c{place}", text) for place, text in enumerate(TEXTS[:3]))


def _after(seconds: int) -> dict[str, Any]:
    return {"anchor": "created_at", "seconds": seconds}


def _require_kept(client: Client, exchange: Exchange, seconds: int) -> None:
    created, expires = (exchange.fields.get(name) for name in ("created_at", "expires_at"))
    client.require(type(expires) is int, f"`expires_at` is {expires!r}")
    client.require(
        type(created) is int and abs(expires - created - seconds) <= SLACK,  # type: ignore[operator]
        f"it is kept from {created} to {expires}, which is not for {seconds} s",
    )


def _without_status(exchange: Exchange) -> dict[str, Any]:
    """Leave out what may change once a file is here."""
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
