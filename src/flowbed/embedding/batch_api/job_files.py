"""Parses jobs and the lines of their files, as OpenAI's Batch API and those like it write them. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.embedding.batch_api import Job, ResultLine
from flowbed.embedding.providers.client import SERVERS_FAULT, STATUSES
from flowbed.embedding.providers.parsing import matrix, message_of, normalised, whole_number
from flowbed.errors import Misconfigured, Rejected, Transient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.embedding.batch_api import JobState
    from flowbed.embedding.providers.client import RemoteEmbedder

OK = 200
ENDED: Mapping[str, JobState] = {
    "completed": "completed",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}
# States in which a job can be cancelled; in any other it ends by itself.
CANCELLABLE = frozenset({"validating", "in_progress"})
# Codes of lines that were never processed.
NOT_PROCESSED = frozenset({"batch_expired", "batch_cancelled"})
# Too much of the account is queued: a code, or the message if the limit is one of requests.
QUEUE_FULL = "token_limit_exceeded"
# More lines, or tokens, than any job can have: figures beyond it are a mistake, and would not fit the ledger.
MOST = 10**12
QUEUE_FULL_MESSAGE = re.compile(r"enqueued \w+ limit", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """A job with the `submission` that it is marked with and the provider's word for its `status`."""

    job: Job
    submission: str
    status: str


def read_job(payload: Any, *, mark: str, redacted: Callable[[str], str]) -> JobReport:  # parsed JSON
    """Parse {id, status, request_counts, usage, output_file_id, error_file_id, errors, metadata: {`mark`: ...}}.

    Raises:
        Transient: it is not a job.
    """
    fields = payload if isinstance(payload, dict) else {}
    name, status = fields.get("id"), fields.get("status")
    if not (isinstance(name, str) and name and isinstance(status, str)):
        raise Transient("the response is not a job")
    counts, metadata = _fields(fields.get("request_counts")), _fields(fields.get("metadata"))
    errors = _fields(fields.get("errors")).get("data")
    problems = [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
    lines: dict[int, str] = {}
    for each in problems:
        if line := _count(each.get("line")):
            lines.setdefault(line, _problem_text(each, redacted))
    # An unknown status counts as running; a later request will tell.
    state = ENDED.get(status, "running")
    job = Job(
        id=name,
        state=state,
        total=_count(counts.get("total")),
        done=_count(counts.get("completed")),
        failed=_count(counts.get("failed")),
        # Jobs that are billed in another way report 0, or nothing.
        tokens=_count(_fields(fields.get("usage")).get("total_tokens")) or None,
        output=_text(fields.get("output_file_id")),
        errors=_text(fields.get("error_file_id")),
        reason=_reason(problems, redacted),
        lines=lines,
        queue_full=state == "failed" and any(map(is_queue_full, problems)),
    )
    return JobReport(job=job, submission=_text(metadata.get(mark)), status=status)


def is_queue_full(error: Mapping[str, Any]) -> bool:
    """Return whether an error says that too much of the account is queued."""
    return error.get("code") == QUEUE_FULL or bool(QUEUE_FULL_MESSAGE.search(message_of(error)))


def read_input_line(line: bytes) -> tuple[str, str]:
    """Parse the custom_id and the one text of {custom_id, body: {input: [text]}}.

    Raises:
        Rejected: it is not such a line.
    """
    try:
        fields = _fields(orjson.loads(line))
    except orjson.JSONDecodeError as error:
        raise Rejected("a line of the input is not JSON, or incomplete") from error
    name, texts = fields.get("custom_id"), _fields(fields.get("body")).get("input")
    if not (
        isinstance(name, str) and isinstance(texts, list) and len(texts) == 1 and isinstance(texts[0], str)
    ):
        raise Rejected("a line of the input does not say which text it is for")
    return name, texts[0]


def read_result_line(line: bytes, remote: RemoteEmbedder) -> ResultLine:
    """Parse {custom_id, response: {status_code, body}, error: {code, message}}; the vector is scaled to length 1.

    Raises:
        Rejected: it is not such a line.
        Misconfigured: its vector has other dimensions than requested.
    """
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Rejected("a line of the results is not JSON, or incomplete") from error
    name = fields.get("custom_id") if isinstance(fields, dict) else None
    if not isinstance(name, str) or not name:
        raise Rejected("a line of the results has no custom_id, so its text is unknown")
    response = _fields(fields.get("response"))
    if response.get("status_code") == OK:
        return _vector_line(name, response.get("body"), remote)
    return _failure_line(name, response, _fields(fields.get("error")), remote)


def _vector_line(name: str, body: Any, remote: RemoteEmbedder) -> ResultLine:  # parsed JSON
    tokens = None
    try:
        read = remote.api.read(body, 1)
        tokens = read.tokens
        vectors = normalised(matrix(read.embeddings, remote.space.dimensions))
    except Transient as error:
        return ResultLine(name=name, tokens=tokens, failure="transient", reason=str(error))
    except Rejected as error:
        return ResultLine(name=name, tokens=tokens, failure="rejected", reason=str(error))
    except Misconfigured as error:
        raise Misconfigured(f"{remote.provider.label}: {error}") from error
    return ResultLine(name=name, vector=vectors[0], tokens=tokens)


def _failure_line(
    name: str, response: Mapping[str, Any], error: Mapping[str, Any], remote: RemoteEmbedder
) -> ResultLine:
    status = _count(response.get("status_code"))
    message = message_of(error) or message_of(response.get("body")) or message_of(response)
    reason = remote.provider.redacted(message) or f"the line has status {status}"
    if error.get("code") in NOT_PROCESSED:
        return ResultLine(name=name, failure="expired", reason=reason)
    # No setting can be wrong for a single line: an error is either the server's fault or the text's.
    rejected = OK < status < SERVERS_FAULT and STATUSES.get(status) != "transient"
    return ResultLine(name=name, failure="rejected" if rejected else "transient", reason=reason)


def _reason(problems: list[dict[str, Any]], redacted: Callable[[str], str]) -> str:
    """Summarise why a job failed: the first reason, and how many more there are."""
    if not problems:
        return ""
    first = _problem_text(problems[0], redacted)
    return first if len(problems) == 1 else f"{first} (and {len(problems) - 1} more)"


def _problem_text(problem: Mapping[str, Any], redacted: Callable[[str], str]) -> str:
    return redacted(message_of(problem) or _text(problem.get("code"))) or "the provider gives no reason"


def _fields(value: Any) -> dict[str, Any]:  # parsed JSON
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:  # parsed JSON
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:  # parsed JSON
    return whole_number(value, most=MOST) or 0
