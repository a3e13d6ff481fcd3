"""The lines of batches and their answers (https://platform.openai.com/docs/guides/batch)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.testing.conformance.checks.files import LEAST_KEPT, SLACK
from flowbed.testing.conformance.checks.inputs import tokens_of
from flowbed.testing.conformance.client import ERROR_KEYS
from flowbed.testing.conformance.comparing import TEXTS, alone, require_same
from flowbed.testing.conformance.exchanges import numbers_of
from flowbed.testing.conformance.jobs import LINES, begin, by_name, ended, few, line, rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowbed.testing.conformance.client import Client

# A batch reaches these states in this order.
STAMPS = ("created_at", "in_progress_at", "finalizing_at", "completed_at")
OTHER_STAMPS = ("failed_at", "expired_at", "cancelling_at", "cancelled_at")


async def answered(client: Client) -> None:
    """Each line of a batch is answered once, with the vector that a request for its text gets."""
    sdk_answer = await ended(client, await begin(client, few(client)), state="completed")
    found = by_name(client, await rows(client, sdk_answer.parsed.output_file_id), LINES)
    ids = [each.get("id") for each in found.values()]
    client.require(all(ids) and len(set(ids)) == len(ids), f"ids of lines are {ids}")
    for each in found.values():
        client.require(each.get("error", ...) is None, f"`error` of a line is {each.get('error', 'missing')}")
    vectors = np.concatenate([_vectors(client, found[name], 1) for name in LINES])
    require_same(client, vectors, await alone(client, TEXTS), "in a batch and alone")


async def as_requested(client: Client) -> None:
    """A line is answered like its request: lists and tokens, float and base64, and usage."""
    bodies: dict[str, tuple[Any, str]] = {
        "list": (list(TEXTS[:3]), "float"),
        "packed": (list(TEXTS[2:]), "base64"),
        "tokens": (tokens_of(TEXTS[1]), "float"),
    }
    lines = [line(client, name, given, encoding_format=form) for name, (given, form) in bodies.items()]
    sdk_answer = await ended(client, await begin(client, lines), state="completed")
    found = by_name(client, await rows(client, sdk_answer.parsed.output_file_id), bodies)
    for name, (given, form) in bodies.items():
        exchange = (await client.embed(given, encoding_format=form)).exchange
        one, other = _body(client, found[name], 200), exchange.fields
        for field in ("object", "model", "usage"):
            client.require(
                one.get(field) == other.get(field),
                f"`{field}` is {one.get(field)} in a batch and {other.get(field)} in a request",
            )
        kinds = {type(row.get("embedding")) for row in one["data"]}
        client.require(
            kinds == {str if form == "base64" else list}, f"embeddings of a {form} request are {kinds}"
        )
        wanted = np.array([numbers_of(each) for each in exchange.embeddings], np.float32)
        require_same(
            client, _vectors(client, found[name], len(wanted)), wanted, "in a batch and in a request"
        )


async def counted(client: Client) -> None:
    """A completed batch counts its lines, and reports its usage and the times of its states."""
    sdk_answer = await ended(client, await begin(client, few(client)), state="completed")
    payload = sdk_answer.exchange.fields
    wanted = {"total": len(LINES), "completed": len(LINES), "failed": 0}
    client.require(
        payload.get("request_counts") == wanted, f"`request_counts` is {payload.get('request_counts')}"
    )
    found = await rows(client, sdk_answer.parsed.output_file_id)
    tokens = sum(_body(client, each, 200)["usage"]["total_tokens"] for each in found)
    _require_usage(client, payload.get("usage"), tokens)
    stamps = [payload.get(name) for name in STAMPS]
    client.require(
        all(type(each) is int for each in stamps) and stamps == sorted(stamps),  # type: ignore[type-var]
        f"its states began at {dict(zip(STAMPS, stamps, strict=True))}",
    )
    others = {name: payload.get(name) for name in (*OTHER_STAMPS, "errors", "error_file_id")}
    client.require(not any(others.values()), f"no line failed, but the batch has {others}")


async def output_described(client: Client) -> None:
    """The output of a batch is a file of purpose batch_output, which can be retrieved and read."""
    sdk_answer = await ended(client, await begin(client, few(client)), state="completed")
    file = (await client.ask("files.retrieve", sdk_answer.parsed.output_file_id)).exchange.fields
    content = (await client.ask("files.content", sdk_answer.parsed.output_file_id)).exchange.body
    client.require(file.get("purpose") == "batch_output", f"its purpose is {file.get('purpose')!r}")
    client.require(file.get("bytes") == len(content), f"`bytes` is {file.get('bytes')}, not {len(content)}")


async def output_kept(client: Client) -> None:
    """The output of a batch is kept for as long as `output_expires_after` says."""
    after = {"anchor": "created_at", "seconds": LEAST_KEPT}
    begun = await begin(client, few(client), output_expires_after=after)
    sdk_answer = await ended(client, begun, state="completed")
    file = (await client.ask("files.retrieve", sdk_answer.parsed.output_file_id)).exchange.fields
    for_seconds = (file.get("expires_at") or 0) - file.get("created_at", 0)
    client.require(
        abs(for_seconds - LEAST_KEPT) <= SLACK, f"it is kept for {for_seconds} s, not {LEAST_KEPT}"
    )


async def lines_that_fail(client: Client) -> None:
    """Refused lines are in the error file with status and error, and the batch completes."""
    lines = [*few(client), line(client, "empty", ""), line(client, "wide", "text", dimensions=1_000_000)]
    sdk_answer = await ended(client, await begin(client, lines), state="completed")
    by_name(client, await rows(client, sdk_answer.parsed.output_file_id), LINES)
    failed = by_name(client, await rows(client, sdk_answer.parsed.error_file_id), ("empty", "wide"))
    for each in failed.values():
        error = _body(client, each, 400).get("error")
        client.require(
            isinstance(error, dict) and set(error) >= ERROR_KEYS, f"the error of a line is {str(error)[:200]}"
        )
    counts = sdk_answer.exchange.fields.get("request_counts")
    wanted = {"total": len(lines), "completed": len(LINES), "failed": 2}
    client.require(counts == wanted, f"`request_counts` is {counts}")


def _body(client: Client, row: dict[str, Any], status: int) -> dict[str, Any]:
    """Return the body of a line's answer."""
    response = row.get("response")
    client.require(isinstance(response, dict), f"a line has no response: {str(row)[:200]}")
    answer: dict[str, Any] = response or {}
    client.require(
        answer.get("status_code") == status, f"a line has status {answer.get('status_code')}, not {status}"
    )
    client.require(answer.get("request_id"), "a line has no `request_id`")
    client.require(
        isinstance(answer.get("body"), dict), f"the body of a line is {str(answer.get('body'))[:200]}"
    )
    body: dict[str, Any] = answer["body"]
    return body


def _vectors(client: Client, row: dict[str, Any], count: int) -> NDArray[np.float32]:
    """Read the vectors of a line, and require their indexes to be in order."""
    data = _body(client, row, 200).get("data") or []
    numbers = [each.get("index") for each in data]
    client.require(numbers == [*range(count)], f"{count} inputs of a line have the indexes {numbers}")
    return np.array([numbers_of(each.get("embedding")) for each in data], np.float32)


def _require_usage(client: Client, usage: Any, tokens: int) -> None:  # any JSON value
    """Require complete usage, as the SDKs need it, or none."""
    if usage is None:
        return
    client.require(isinstance(usage, dict), f"`usage` is {usage}")
    client.require(
        (usage.get("input_tokens"), usage.get("total_tokens")) == (tokens, tokens),
        f"usage of the lines is {tokens} tokens together, of the batch {usage}",
    )
    client.require(usage.get("output_tokens") == 0, f"`output_tokens` is {usage.get('output_tokens')!r}")
    details = usage.get("input_tokens_details"), usage.get("output_tokens_details")
    client.require(all(isinstance(each, dict) for each in details), f"details of usage are {details}")


CHECKS = (
    answered,
    as_requested,
    counted,
    output_described,
    output_kept,
    lines_that_fail,
)
