"""Voyage's Files API and Batch API, simulated: `/v1/files` and `/v1/batches`, for `/v1/embeddings`.

Paths, fields and states are those of https://docs.voyageai.com/docs/batch-inference (a preview, 2025-11). Not found
there, and unverified: the wording of errors, what a failed job reports about its input, the default length of a list,
that a job that has ended cannot be cancelled (worded as OpenAI does), and the state of a job whose window has passed
(`completed` here, because the documented states include no other).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flowbed.testing.simulators.batch_api.files import MONTH
from flowbed.testing.simulators.batch_api.forms import read_form
from flowbed.testing.simulators.batch_api.jobs import Problem, new_id
from flowbed.testing.simulators.batch_api.routes import Routes, page
from flowbed.testing.simulators.batch_api.voyage_lines import Lines
from flowbed.testing.simulators.batch_api.work import Input, Texts, make_job, read_input
from flowbed.testing.simulators.wire import JobTexts, Stream, VendorError, as_json, fields

if TYPE_CHECKING:
    from flowbed.testing.simulators.batch_api.files import StoredFile
    from flowbed.testing.simulators.batch_api.jobs import Job, Jobs
    from flowbed.testing.simulators.providers.voyage import Voyage
    from flowbed.testing.simulators.wire import Answer, Operation, OperationContext, Request

WINDOW = 43_200.0  # seconds
ENDPOINT = "/v1/embeddings"
INPUTS = 100_000
UNFINISHED = 100  # jobs at a time
QUEUE_TOKENS = 1_000_000_000
PAIRS = 16
LISTED = 100
MODELS = (
    "voyage-4-large",
    "voyage-4",
    "voyage-4-lite",
    "voyage-3-large",
    "voyage-3.5",
    "voyage-3.5-lite",
    "voyage-code-3",
)
STAMPED = ("in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled")


class BatchesApi:
    """Voyage's files and jobs: how requests are parsed and answered."""

    def __init__(self, api: Voyage, jobs: Jobs) -> None:
        """Serve the files and jobs of `jobs`; word errors as `api` does."""
        self._api = api
        self._jobs = jobs
        self._routes = Routes(
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files", self._list_files),
            ("GET", "/v1/files/*", self._get_file),
            ("DELETE", "/v1/files/*", self._delete_file),
            ("GET", "/v1/files/*/content", self._content),
            ("GET", "/v1/batches", self._list_jobs),
            ("GET", "/v1/batches/*", self._get_job),
            ("POST", "/v1/batches/*/cancel", self._cancel),
        )
        self._making = Routes(("POST", "/v1/batches", self._create))

    def read(self, request: Request) -> Operation | None:
        """Validate a request; None if it is not about files or jobs."""
        return self._routes.find(request) or self._making.find(request, self._asked)

    def _asked(self, request: Request) -> JobTexts:
        """Return what a job would embed, as far as that can be read."""
        payload = fields(request.body) or {}
        content = self._jobs.files.peek(self._api.key(request), payload.get("input_file_id"))
        parameters = payload.get("request_params")
        model = parameters.get("model", "") if isinstance(parameters, dict) else ""
        return JobTexts(model=str(model), texts=Texts(content) if content else ())

    def _upload(self, request: Request, context: OperationContext) -> Answer:
        try:
            form = read_form(request.form, request.headers.get("content-type", ""))
        except ValueError as wrong:
            raise error(400, f"The form could not be read: {wrong}.") from wrong
        if "file" not in form or "purpose" not in form:
            raise error(400, "Arguments 'file' and 'purpose' are required.")
        if (purpose := form["purpose"].text) != "batch":
            raise error(400, f"Value '{purpose}' supplied for argument 'purpose' is not valid.")
        file = form["file"]
        stored = self._jobs.files.add(
            context.key, purpose, file.filename or "", file.content, now=context.now, keep=MONTH
        )
        return as_json(200, describe_file(stored))

    def _list_files(self, request: Request, context: OperationContext) -> Answer:
        stored = reversed(self._jobs.files.all(context.key, context.now))
        return self._page(request, [describe_file(each) for each in stored])

    def _get_file(self, _: Request, file: str, context: OperationContext) -> Answer:
        return as_json(200, describe_file(self._file(file, context)))

    def _delete_file(self, _: Request, file: str, context: OperationContext) -> Answer:
        self._jobs.files.remove(self._file(file, context).id)
        return as_json(200, {"id": file, "object": "file", "deleted": True})

    def _content(self, _: Request, file: str, context: OperationContext) -> Stream:
        return Stream(status=200, content=self._file(file, context).content)

    def _file(self, file: str, context: OperationContext) -> StoredFile:
        stored = self._jobs.files.get(context.key, file, context.now)
        if stored is None:
            raise error(404, f"File {file} not found.")
        return stored

    def _create(self, request: Request, context: OperationContext) -> Answer:
        payload = self._payload(request)
        lines = Lines(self._api, payload["request_params"])
        stored = self._file(payload["input_file_id"], context)
        found = read_input(stored.content, lines, model=payload["request_params"]["model"])
        limit = self._jobs.queue_tokens if self._jobs.queue_tokens is not None else QUEUE_TOKENS
        waiting = self._jobs.waiting(context.key, None, context.now)
        if self._jobs.unfinished(context.key, context.now) >= UNFINISHED or waiting + found.tokens > limit:
            message = f"The limit of {UNFINISHED} batches and {limit} tokens in flight is reached."
            raise error(429, message)
        if found.inputs > INPUTS:
            message = f"The batch has {found.inputs} inputs; the most is {INPUTS}."
            found = Input(problems=[Problem(code="too_many_inputs", message=message)])
        job = make_job(
            new_id("batch-"), payload, found, context, line_format=lines, jobs=self._jobs, keep=MONTH
        )
        return as_json(200, {**describe(job, context.now), "status": "validating"})

    def _payload(self, request: Request) -> dict[str, Any]:
        """Parse the request for a job."""
        payload = fields(request.body) or {}
        wanted = {"endpoint": ENDPOINT, "completion_window": "12h"}
        for name, value in wanted.items():
            if payload.get(name) != value:
                message = f"Value '{payload.get(name)}' supplied for argument '{name}' is not valid."
                raise error(400, message)
        parameters = payload.get("request_params")
        if not isinstance(parameters, dict) or parameters.get("model") not in MODELS:
            raise error(400, f"'request_params' needs a 'model' that is one of {list(MODELS)}.")
        if not isinstance(payload.get("input_file_id"), str):
            raise error(400, "Argument 'input_file_id' is required.")
        metadata = payload.get("metadata", {})
        if not isinstance(metadata, dict) or len(metadata) > PAIRS:
            raise error(400, f"Argument 'metadata' takes at most {PAIRS} pairs.")
        payload["request_params"] = {name: value for name, value in parameters.items() if value is not None}
        # Invalid parameters are refused at once, not for every line.
        self._api.call({**payload["request_params"], "input": ["a"]})
        return payload

    def _list_jobs(self, request: Request, context: OperationContext) -> Answer:
        return self._page(request, [describe(job, context.now) for job in self._jobs.all(context.key)])

    def _get_job(self, _: Request, job: str, context: OperationContext) -> Answer:
        return as_json(200, describe(self._job(job, context), context.now))

    def _cancel(self, _: Request, name: str, context: OperationContext) -> Answer:
        job = self._job(name, context)
        if job.cancelled is None:
            if (status := job.status(context.now)) in {"completed", "failed", "expired"}:
                raise error(400, f"Cannot cancel a batch with status '{status}'.")
            job.cancelled = context.now
            return as_json(200, {**describe(job, context.now), "status": "cancelling"})
        return as_json(200, describe(job, context.now))

    def _job(self, name: str, context: OperationContext) -> Job:
        job = self._jobs.get(context.key, name)
        if job is None:
            raise error(404, f"Batch {name} not found.")
        return job

    def _page(self, request: Request, listed: list[dict[str, Any]]) -> Answer:
        limit = request.parameter("limit") or str(LISTED)
        if not limit.isdecimal() or not int(limit):
            raise error(400, f"Value '{limit}' supplied for argument 'limit' is not valid.")
        found = page(listed, after=request.parameter("after"), limit=int(limit))
        if found is None:
            raise error(404, f"{request.parameter('after')} not found.")
        return as_json(200, found)


def describe_file(stored: StoredFile) -> dict[str, Any]:
    """Describe a file."""
    return {
        "object": "file",
        "id": stored.id,
        "purpose": stored.purpose,
        "filename": stored.filename,
        "bytes": stored.content.size,
        "created_at": _date(stored.created),
        "expires_at": None if stored.expires is None else _date(stored.expires),
    }


def describe(job: Job, now: float) -> dict[str, Any]:
    """Describe a job."""
    status = job.status(now)
    stamps = {name: _date(at) for name, at in job.stamps(now).items()}
    if status == "expired":
        status = "completed"
        stamps["completed"] = stamps["expired"]
    problems = [
        {"code": each.code, "line": each.line, "message": each.message, "param": each.param}
        for each in job.work.problems
    ]
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": ENDPOINT,
        "errors": {"object": "list", "data": problems} if status == "failed" else None,
        "input_file_id": job.payload["input_file_id"],
        "completion_window": job.payload["completion_window"],
        "model": job.payload["request_params"]["model"],
        "status": status,
        "output_file_id": job.output,
        "error_file_id": job.errors,
        "request_counts": job.counts(now),
        "metadata": job.payload.get("metadata"),
        "created_at": _date(job.timeline.created),
        "expected_completion_at": _date(job.timeline.expires),
        **{f"{name}_at": stamps.get(name) for name in STAMPED},
    }


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def error(status: int, detail: str) -> VendorError:
    """Make an error of Voyage's shape."""
    return VendorError(as_json(status, {"detail": detail}))
