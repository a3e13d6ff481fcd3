"""Flaws of batches, each with the checks that have to find it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.testing.conformance.flaws import Told, refused_with
from tests.testing.conformance.job_flaws import asked_at, contents, objects, query_at, results, told_at

from flowbed.testing.conformance.checks import batch_lines as a
from flowbed.testing.conformance.checks import batches as b
from flowbed.testing.conformance.checks import validation as v
from flowbed.testing.conformance.exchanges import numbers_of
from flowbed.testing.conformance.jobs import ENDED
from flowbed.testing.simulators import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.testing.conformance.flaws import Asked, Fields, Flaw, Inner

JSON = {"content-type": "application/json"}


def told(**fields: Any) -> Flaw:
    """Say something else of batches."""
    return objects("batch", lambda row: row.update(fields))


def in_the_end(change: Callable[[Fields], object]) -> Flaw:
    """Say something else of batches that have ended."""
    return objects("batch", lambda row: change(row) if row["status"] in ENDED else None)


def of_output(change: Callable[[Fields], object]) -> Flaw:
    """Say something else of files that batches have made."""
    return objects("file", lambda row: change(row) if row["purpose"] == "batch_output" else None)


def asked(change: Callable[[Fields], Fields]) -> Flaw:
    """Take batches for others than those that are asked for."""
    return asked_at("POST", "batches", lambda said: change(said) if isinstance(said, dict) else said)


def usual(name: str, value: str) -> Flaw:
    """Take a field, where it is said, for what is usual."""
    return asked(lambda said: {**said, name: value} if name in said else said)


def of_line(**fields: Any) -> Flaw:
    return results(lambda line: {**line, **fields})


def in_a_response(change: Callable[[Fields], object], *, good: bool) -> Flaw:
    """Change what lines that are good, or that are not, are answered with."""

    def of(line: Fields) -> Fields:
        response = line["response"]
        if response and (response["status_code"] == 200) == good:
            change(response)
        return line

    return results(of)


def in_a_row(change: Callable[[Fields], object]) -> Flaw:
    """Change the rows of vectors that lines are answered with."""

    def of(response: Fields) -> None:
        for row in response["body"]["data"]:
            change(row)

    return in_a_response(of, good=True)


def first_is_last(response: Fields) -> None:
    """Give the last vector of an answer for the first."""
    data = response["body"]["data"]
    data[0]["embedding"] = data[-1]["embedding"]


def charged_nothing(response: Fields) -> None:
    response["body"]["usage"] = {"prompt_tokens": 0, "total_tokens": 0}


def exchanged(content: bytes) -> bytes:
    """Give the answers of the first and of the last line under each other's names."""
    lines = [json.loads(line) for line in content.splitlines()]
    if not all(line.get("response") for line in lines):
        return content
    lines[0]["custom_id"], lines[-1]["custom_id"] = lines[-1]["custom_id"], lines[0]["custom_id"]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def optimistic(row: Fields) -> None:
    """Count lines that failed as completed."""
    counts = row["request_counts"]
    row["request_counts"] = {**counts, "completed": counts["total"], "failed": 0}


def strict(row: Fields) -> None:
    """Take a batch for failed of which a line has."""
    if row["request_counts"]["failed"]:
        row["status"] = "failed"


def finished(row: Fields) -> None:
    """Take a batch that was cancelled for completed."""
    row["status"] = "completed" if row["status"] == "cancelled" else row["status"]


def few_pairs(said: Fields) -> Fields:
    """Cut metadata, and say nothing."""
    pairs = list((said.get("metadata") or {}).items())[:16]
    return {**said, "metadata": {str(name)[:64]: str(value)[:512] for name, value in pairs}}


def clamped(asked: dict[str, str]) -> dict[str, str]:
    """Take limits that cannot be for the nearest that can."""
    return {**asked, "limit": str(min(max(int(asked["limit"]), 1), 100))} if "limit" in asked else asked


def without(name: str) -> Flaw:
    return query_at("batches", lambda asked: {key: value for key, value in asked.items() if key != name})


def page(change: Callable[[Fields], object]) -> Flaw:
    return told_at("GET", "batches", change)


def behind(said: Fields) -> None:
    """Tell of batches in a list as they were some time ago."""
    for row in said["data"]:
        row["request_counts"] = {"total": 0, "completed": 0, "failed": 0}


class Backwards:
    """Say of a batch that goes on that it has just begun."""

    def __init__(self) -> None:
        self._seen = dict[str, int]()

    async def __call__(self, asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        said = told.said
        if isinstance(said, dict) and said.get("object") == "batch" and told.status == 200:
            seen = self._seen[said["id"]] = self._seen.get(said["id"], 0) + 1
            said["status"] = {1: "in_progress", 2: "validating"}.get(seen, said["status"])
        return told


async def deaf(asked: Asked, inner: Inner) -> Told:
    """Go on with batches that are to be cancelled."""
    if not asked.path.endswith("/cancel"):
        return await inner(asked.said)
    told = await inner(asked.said, method="GET", path=asked.path.removesuffix("/cancel"))
    goes_on = told.status == 200 and told.said["status"] not in ENDED
    return told if goes_on else await inner(asked.said)


async def too_late(asked: Asked, inner: Inner) -> Told:
    """Say of a batch that has ended, and is to be cancelled, that it will be."""
    told = await inner(asked.said)
    if asked.path.endswith("/cancel") and told.status == 409:
        told = await inner(asked.said, method="GET", path=asked.path.removesuffix("/cancel"))
        told.said["status"] = "cancelling"
    return told


async def unknown_is_wrong(asked: Asked, inner: Inner) -> Told:
    """Say of a batch that there is not that the request was wrong."""
    told = await inner(asked.said)
    if asked.path.startswith("/v1/batches/") and told.status == 404:
        return refused_with(400, "No such batch.")
    return told


async def unprocessable(asked: Asked, inner: Inner) -> Told:
    told = await inner(asked.said)
    if asked.path.startswith("/v1/batches") and told.status == 400:
        return Told(422, {"detail": "This cannot be processed."}, JSON)
    return told


async def no_json_is_taken(asked: Asked, inner: Inner) -> Told:
    if asked.path == "/v1/batches" and asked.method == "POST" and not isinstance(asked.said, dict):
        return Told(200, {"id": "batch_1", "object": "batch"}, JSON)
    return await inner(asked.said)


# What reads the lines of the output, and what besides needs one, or a batch that completes.
READ = {a.answered, a.as_requested, a.counted, a.lines_that_fail}
OUTPUT = READ | {a.output_described, a.output_kept}
ENDING = OUTPUT | {b.described, b.metadata, b.cancelled_too_late, b.paged}
FLAWS: dict[str, tuple[Any, set[Any]]] = {
    "batches are called something else": (told(object="job"), {b.described}),
    "windows are told in seconds": (told(completion_window="86400"), {b.described}),
    "batches have a week": (
        objects("batch", lambda row: row.update(expires_at=row["created_at"] + 7 * 86_400)),
        {b.described},
    ),
    "batches have no time": (told(created_at=None), {b.described, a.counted}),
    "batches go back": (Backwards(), ENDING | set(v.CHECKS) - {v.empty}),
    "batches are forgotten": (
        Fault(kind="forgotten"),
        ENDING | {b.cancelled, b.listed} | set(v.CHECKS) - {v.empty},
    ),
    "batches expire": (Fault(kind="expired", text="TOTAL"), OUTPUT),
    "what batches make is lost": (Fault(kind="lost", text="TOTAL"), OUTPUT),
    "lines are answered as others": (contents(exchanged), {a.answered, a.as_requested}),
    "lines are not answered": (Fault(kind="missing_lines", text="TOTAL"), READ),
    "lines are answered twice": (Fault(kind="doubled_lines", text="TOTAL"), READ),
    "lines are answered twice and otherwise": (Fault(kind="conflicting_lines", text="TOTAL"), READ),
    "lines of the output are no JSON": (Fault(kind="broken_lines", text="TOTAL"), READ),
    "the output ends too soon": (Fault(kind="torn", text="TOTAL"), READ),
    "lines fail": (Fault(kind="failed_lines", text="TOTAL"), READ),
    "lines have the same id": (of_line(id="batch_req_1"), {a.answered}),
    "lines that are good have errors": (of_line(error={"code": None}), {a.answered, b.cancelled}),
    "answers to lines have no id": (
        in_a_response(lambda response: response.update(request_id=None), good=True),
        READ - {a.lines_that_fail},
    ),
    "lines have texts for a status": (
        in_a_response(lambda response: response.update(status_code="200"), good=True),
        READ - {a.lines_that_fail},
    ),
    "vectors of a line are those of another text": (
        in_a_response(first_is_last, good=True),
        {a.as_requested},
    ),
    "vectors of a line are all numbered 0": (in_a_row(lambda row: row.update(index=0)), {a.as_requested}),
    "vectors of lines are floats": (
        in_a_row(lambda row: row.update(embedding=numbers_of(row["embedding"]))),
        {a.as_requested},
    ),
    "lines name another model": (
        in_a_response(lambda response: response["body"].update(model="another"), good=True),
        {a.as_requested},
    ),
    "lines are charged nothing": (
        in_a_response(charged_nothing, good=True),
        {a.as_requested, a.counted},
    ),
    "lines are not counted": (
        in_the_end(lambda row: row.update(request_counts=None)),
        {a.counted, a.lines_that_fail},
    ),
    "lines that failed count as completed": (in_the_end(optimistic), {a.lines_that_fail}),
    "a batch uses nothing": (
        in_the_end(lambda row: row["usage"].update(input_tokens=0, total_tokens=0)),
        {a.counted},
    ),
    "usage lacks what the SDKs need": (
        in_the_end(lambda row: row["usage"].pop("input_tokens_details")),
        {a.counted},
    ),
    "states begin before the batch": (in_the_end(lambda row: row.update(in_progress_at=5)), {a.counted}),
    "states have no time": (in_the_end(lambda row: row.update(finalizing_at=None)), {a.counted}),
    "batches that completed were cancelled": (
        in_the_end(lambda row: row.update(cancelled_at=row["created_at"])),
        {a.counted},
    ),
    "what batches make is for nothing": (
        of_output(lambda row: row.update(purpose="assistants")),
        {a.output_described},
    ),
    "what batches make is counted otherwise": (
        of_output(lambda row: row.update(bytes=0)),
        {a.output_described},
    ),
    "what batches make is kept for 30 days": (
        asked(lambda said: {**said, "output_expires_after": None}),
        {a.output_kept},
    ),
    "lines that fail are left out": (
        results(lambda line: None if (line["response"] or {}).get("status_code") == 400 else line),
        {a.lines_that_fail},
    ),
    "lines fail with another status": (
        in_a_response(lambda response: response.update(status_code=500), good=False),
        {a.lines_that_fail},
    ),
    "lines do not say why they fail": (
        in_a_response(lambda response: response.update(body={"detail": "wrong"}), good=False),
        {a.lines_that_fail},
    ),
    "a line that fails is the end of a batch": (in_the_end(strict), {a.lines_that_fail}),
    "metadata are forgotten": (told(metadata=None), {b.metadata}),
    "metadata are forgotten in the end": (
        in_the_end(lambda row: row.update(metadata=None)),
        {b.metadata},
    ),
    "metadata are cut": (asked(few_pairs), {b.too_much_metadata}),
    "every window is a day": (usual("completion_window", "24h"), {b.wrong_window}),
    "every endpoint is that of embeddings": (usual("endpoint", "/v1/embeddings"), {b.wrong_endpoint}),
    "what is not said is usual": (
        asked(lambda said: {"endpoint": "/v1/embeddings", "completion_window": "24h", **said}),
        {b.incomplete},
    ),
    "what is no JSON is taken": (no_json_is_taken, {b.incomplete}),
    "what cannot be is unprocessable": (
        unprocessable,
        {b.too_much_metadata, b.wrong_window, b.wrong_endpoint, b.incomplete, b.wrong_pages},
    ),
    "batches cannot be cancelled": (deaf, {b.cancelled}),
    "batches that were cancelled are completed": (in_the_end(finished), {b.cancelled}),
    "batches were cancelled at no time": (
        in_the_end(lambda row: row.update(cancelled_at=None)),
        {b.cancelled},
    ),
    "lines that were cancelled are left out": (
        results(lambda line: line if line["response"] else None),
        {b.cancelled},
    ),
    "lines that were cancelled do not say so": (
        results(lambda line: line if line["response"] else {**line, "error": {"code": "error"}}),
        {b.cancelled},
    ),
    "batches that have ended are cancelled": (too_late, {b.cancelled_too_late}),
    "the oldest batches come first": (page(lambda said: said["data"].reverse()), {b.listed}),
    "what to begin after is passed over": (without("after"), {b.paged}),
    "limits are passed over": (without("limit"), {b.paged, b.wrong_pages}),
    "limits are made to fit": (query_at("batches", clamped), {b.wrong_pages}),
    "there is never more": (page(lambda said: said.update(has_more=False)), {b.paged}),
    "lists are called something else": (page(lambda said: said.update(object="page")), {b.paged}),
    "lists are behind": (page(behind), {b.paged}),
    "batches that there are not are wrong": (unknown_is_wrong, {b.unknown}),
}
