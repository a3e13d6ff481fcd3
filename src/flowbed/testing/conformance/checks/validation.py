"""Invalid inputs of batches: the batch fails, and names the invalid lines with their problems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.testing.conformance.checks.inputs import ITEMS
from flowbed.testing.conformance.checks.refusals import UNKNOWN
from flowbed.testing.conformance.comparing import TEXTS
from flowbed.testing.conformance.jobs import UNKNOWN_FILE, asked, ended, line, upload, written
from flowbed.testing.conformance.records import Failed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowbed.testing.conformance.client import Client
    from flowbed.testing.conformance.exchanges import SdkAnswer

INPUTS = 50_000  # in all lines together


async def same_name(client: Client) -> None:
    """A duplicate custom_id fails the batch, with the code duplicate_custom_id and its line."""
    lines = [line(client, name, "text") for name in ("a", "b", "a")]
    found = await _failed(client, lines)
    _require_named(client, found, {3})
    client.require(found[0].get("code") == "duplicate_custom_id", f"the code is {found[0].get('code')!r}")


async def other_url(client: Client) -> None:
    """A line for another URL than the batch's endpoint fails the batch, and is named."""
    lines = _three(client)
    lines[1]["url"] = "/v1/completions"
    _require_named(client, await _failed(client, lines), {2})


async def other_method(client: Client) -> None:
    """A line with another method than POST fails the batch, and is named."""
    lines = _three(client)
    lines[2]["method"] = "GET"
    _require_named(client, await _failed(client, lines), {3})


async def other_model(client: Client) -> None:
    """A line for another, unknown model fails the batch, and is named."""
    lines = _three(client)
    lines[1]["body"]["model"] = UNKNOWN
    _require_named(client, await _failed(client, lines), {2})


async def not_json(client: Client) -> None:
    """A line that is not a JSON object fails the batch, with the code invalid_json_line, and is named."""
    first, second, third = _three(client)
    for wrong in (b'{"custom_id": "b", ', b"[]", b"text"):
        found = await _failed(client, [first, wrong, second, third])
        _require_named(client, found, {2})
        client.require(found[0].get("code") == "invalid_json_line", f"the code is {found[0].get('code')!r}")


async def lacking(client: Client) -> None:
    """A line without custom_id, method, url or body fails the batch, and is named."""
    for name in ("custom_id", "method", "url", "body"):
        lines = _three(client)
        del lines[1][name]
        _require_named(client, await _failed(client, lines), {2})


async def several(client: Client) -> None:
    """If several lines are invalid, all are named."""
    lines: list[dict[str, Any] | bytes] = [*_three(client), line(client, "a", "text"), b"text"]
    wrong = lines[1]
    assert isinstance(wrong, dict)  # one of the three
    wrong["url"] = "/v1/completions"
    _require_named(client, await _failed(client, lines), {2, 4, 5})


async def empty(client: Client) -> None:
    """An input without lines fails the batch, or is refused at upload."""
    for content in (b"", b"\n\n"):
        try:
            file = (await upload(client, content)).parsed.id
        except Failed:
            await client.refused_by({400}, "files.create", file=("in.jsonl", content), purpose="batch")
        else:
            await _failed_or_refused(client, file, {400})


async def too_many(client: Client) -> None:
    """More than 50,000 inputs in all lines together fail the batch."""
    texts = ["text"] * ITEMS
    lines = [line(client, f"c{place}", texts) for place in range(INPUTS // ITEMS + 1)]
    await _failed(client, lines)


async def unknown_file(client: Client) -> None:
    """A batch of an unknown or deleted file fails, or is refused with status 400 or 404."""
    gone = (await upload(client, written(_three(client)))).parsed.id
    await client.ask("files.delete", gone)
    for file in (UNKNOWN_FILE, gone):
        await _failed_or_refused(client, file, {400, 404})


async def other_purpose(client: Client) -> None:
    """A batch of a file with another purpose fails, or is refused with status 400."""
    file = (await upload(client, written(_three(client)), purpose="user_data")).parsed.id
    await _failed_or_refused(client, file, {400})


def _three(client: Client) -> list[dict[str, Any]]:
    return [line(client, name, text) for name, text in zip("abc", TEXTS, strict=False)]


async def _failed(client: Client, lines: Iterable[dict[str, Any] | bytes]) -> list[dict[str, Any]]:
    """Require that a batch of these lines fails without answering any, and return its errors."""
    file = (await upload(client, written(lines))).parsed.id
    return await _errors(client, await client.ask("batches.create", **asked(file)))


async def _errors(client: Client, begun: SdkAnswer) -> list[dict[str, Any]]:
    sdk_answer = await ended(client, begun, state="failed")
    payload = sdk_answer.exchange.fields
    client.require(type(payload.get("failed_at")) is int, f"`failed_at` is {payload.get('failed_at')!r}")
    made = payload.get("output_file_id"), payload.get("error_file_id")
    client.require(made == (None, None), f"a failed batch has output files: {made}")
    errors = payload.get("errors") or {}
    found: list[dict[str, Any]] = errors.get("data") or []
    client.require(errors.get("object") == "list" and found, f"`errors` is {payload.get('errors')}")
    for each in found:
        missing = {"code", "line", "message", "param"} - set(each)
        client.require(not missing, f"the error lacks {', '.join(sorted(missing))}: {each}")
        client.require(each["code"] and each["message"], f"the error does not say what is wrong: {each}")
    return found


async def _failed_or_refused(client: Client, file: str, statuses: set[int]) -> None:
    """Require that a batch of this file fails, or is refused at once with one of these statuses."""
    try:
        begun = await client.ask("batches.create", **asked(file))
    except Failed:  # sent once more, to see how it is refused
        await client.refused_by(statuses, "batches.create", **asked(file))
    else:
        await _errors(client, begun)


def _require_named(client: Client, found: list[dict[str, Any]], wanted: set[int]) -> None:
    """Require that exactly these lines, counted from 1, are named."""
    named = {each["line"] for each in found}
    client.require(
        named == wanted, f"lines {sorted(wanted)} are invalid, but the errors are {str(found)[:200]}"
    )


CHECKS = (
    same_name,
    other_url,
    other_method,
    other_model,
    not_json,
    lacking,
    several,
    empty,
    too_many,
    unknown_file,
    other_purpose,
)
