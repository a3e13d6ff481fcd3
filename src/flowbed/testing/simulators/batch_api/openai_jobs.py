"""OpenAI's Batch API, simulated: `/v1/batches`, for `/v1/embeddings`.

https://platform.openai.com/docs/api-reference/batch
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowbed.testing.simulators.batch_api.files import MONTH
from flowbed.testing.simulators.batch_api.jobs import Problem, new_id
from flowbed.testing.simulators.batch_api.openai_files import FilesApi
from flowbed.testing.simulators.batch_api.openai_lines import ENDPOINT, Lines
from flowbed.testing.simulators.batch_api.routes import Routes
from flowbed.testing.simulators.batch_api.work import Input, Texts, body_of, make_job, read_input
from flowbed.testing.simulators.wire import JobTexts, as_json, fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbed.testing.simulators.batch_api.jobs import Job, Jobs
    from flowbed.testing.simulators.content import Content
    from flowbed.testing.simulators.providers.openai import OpenAI
    from flowbed.testing.simulators.wire import Answer, Operation, OperationContext, Request

WINDOW = 86_400.0  # seconds
LINES = INPUTS = 50_000
BYTES = 209_715_200
PAIRS, NAME, VALUE = 16, 64, 512  # the limits of metadata
LISTED, USUAL = 100, 20
REQUIRED = ("input_file_id", "endpoint", "completion_window")
SUPPORTED = {"endpoint": ENDPOINT, "completion_window": "24h"}
STAMPS = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


class BatchesApi:
    """OpenAI's jobs: how requests are parsed and answered."""

    def __init__(self, api: OpenAI, jobs: Jobs) -> None:
        """Serve the files and jobs of `jobs`; word errors as `api` does."""
        self._api = api
        self._jobs = jobs
        self._files = FilesApi(api, jobs.files)
        self._routes = Routes(
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._list),
            ("GET", "/v1/batches/*", self._get),
            ("POST", "/v1/batches/*/cancel", self._cancel),
        )

    def read(self, request: Request) -> Operation | None:
        """Validate a request; None if it is not about files or jobs."""
        return self._files.routes.find(request) or self._routes.find(request, self._asked)

    def _asked(self, request: Request) -> JobTexts:
        """Return what a job would embed, as far as that can be read."""
        content = self._jobs.files.peek(
            self._api.key(request), (fields(request.body) or {}).get("input_file_id")
        )
        return (
            JobTexts(model=_model(content), texts=Texts(content)) if content else JobTexts(model="", texts=())
        )

    def _create(self, request: Request, context: OperationContext) -> Answer:
        payload = self._payload(request)
        after = payload.get("output_expires_after")
        keep = MONTH if after is None else self._files.keep(after, "output_expires_after")
        lines = Lines(self._api)
        found = self._input(payload["input_file_id"], lines, context)
        job = make_job(
            new_id("batch_"), payload, found, context, line_format=lines, jobs=self._jobs, keep=keep
        )
        return as_json(200, {**describe(job, context.now), "status": "validating"}, self._api.signed())

    def _payload(self, request: Request) -> dict[str, Any]:
        """Parse the request for a job."""
        payload = fields(request.body)
        if payload is None:
            raise self._api.error(400, "We could not parse the JSON body of your request.")
        for name in REQUIRED:
            if not isinstance(payload.get(name), str):
                message = f"Missing required parameter: '{name}'."
                raise self._api.error(400, message, param=name, code="missing_required_parameter")
        for name, value in SUPPORTED.items():
            if payload[name] != value:
                message = f"Invalid value: '{payload[name]}'. Supported values are: '{value}'."
                raise self._api.error(400, message, param=name, code="invalid_value")
        self._metadata(payload.get("metadata", {}))
        return payload

    def _metadata(self, payload: Any) -> None:  # any JSON value
        if not isinstance(payload, dict):
            message = "Invalid type for 'metadata': expected an object."
            raise self._api.error(400, message, param="metadata", code="invalid_type")
        if len(payload) > PAIRS:
            message = (
                f"Invalid 'metadata': too many properties. Expected an object with at most {PAIRS} properties, but "
                f"got an object with {len(payload)} properties instead."
            )
            raise self._api.error(400, message, param="metadata", code="object_above_max_properties")
        for name, value in payload.items():
            param = f"metadata.{name}"
            if not isinstance(value, str):
                message = f"Invalid type for '{param}': expected a string."
                raise self._api.error(400, message, param=param, code="invalid_type")
            for text, most in ((name, NAME), (value, VALUE)):
                if len(text) > most:
                    message = (
                        f"Invalid '{param}': string too long. Expected a string with maximum length {most}, but got a "
                        f"string with length {len(text)} instead."
                    )
                    raise self._api.error(400, message, param=param, code="string_above_max_length")

    def _input(self, file: str, lines: Lines, context: OperationContext) -> Input:
        """Read and validate the input of a job."""
        stored = self._jobs.files.get(context.key, file, context.now)
        if stored is None or stored.purpose != "batch":
            message = (
                f"Cannot find file {file}, or organization org-simulated does not have access to it."
                if stored is None
                else f"The file {file} is of purpose '{stored.purpose}', and must be of 'batch'."
            )
            return Input(problems=[Problem(code="invalid_request", message=message, param="file_id")])
        model = _model(stored.content)
        if stored.content.size > BYTES:
            message = (
                f"The batch input file is larger than the {BYTES} maximum for the {model} model. Please try again with "
                "a smaller batch."
            )
            return Input(problems=[Problem(code="file_too_large", message=message)])
        found = read_input(stored.content, lines, model=model)
        return found if found.problems else replace(found, problems=list(self._too_much(found, context)))

    def _too_much(self, found: Input, context: OperationContext) -> Iterator[Problem]:
        if len(found.tasks) > LINES or found.inputs > INPUTS:
            counted = f"{len(found.tasks)} requests with {found.inputs} inputs"
            message = f"The batch has {counted}; the most is {LINES} of either."
            yield Problem(code="too_many_tasks", message=message)
        limit = self._jobs.queue_tokens
        if (
            limit is not None
            and self._jobs.waiting(context.key, found.model, context.now) + found.tokens > limit
        ):
            message = (
                f"Enqueued token limit reached for {found.model} in organization org-simulated. Limit: {limit:,} "
                "enqueued tokens. Please try again once some in_progress batches have been completed."
            )
            yield Problem(code="token_limit_exceeded", message=message)

    def _list(self, request: Request, context: OperationContext) -> Answer:
        listed = [describe(job, context.now) for job in self._jobs.all(context.key)]
        return self._files.page(request, listed, most=LISTED, usual=USUAL)

    def _get(self, _: Request, job: str, context: OperationContext) -> Answer:
        return as_json(200, describe(self._find(job, context), context.now), self._api.signed())

    def _cancel(self, _: Request, name: str, context: OperationContext) -> Answer:
        job = self._find(name, context)
        status = job.status(context.now)
        if status in {"completed", "failed", "expired"}:
            raise self._api.error(409, f"Cannot cancel a batch with status '{status}'.")
        if job.cancelled is not None:
            return as_json(200, describe(job, context.now), self._api.signed())
        job.cancelled = context.now
        return as_json(200, {**describe(job, context.now), "status": "cancelling"}, self._api.signed())

    def _find(self, name: str, context: OperationContext) -> Job:
        job = self._jobs.get(context.key, name)
        if job is None:
            raise self._api.error(404, f"No batch found with id '{name}'.")
        return job


def describe(job: Job, now: float) -> dict[str, Any]:
    """Describe a job."""
    stamps = {f"{name}_at": int(at) for name, at in job.stamps(now).items()}
    tokens = job.tokens_billed
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": ENDPOINT,
        "model": job.work.model or None,
        "errors": _errors(job) if job.status(now) == "failed" else None,
        "input_file_id": job.payload["input_file_id"],
        "completion_window": job.payload["completion_window"],
        "status": job.status(now),
        "output_file_id": job.output,
        "error_file_id": job.errors,
        "created_at": int(job.timeline.created),
        **dict.fromkeys(STAMPS),
        **stamps,
        "expires_at": int(job.timeline.expires),
        "request_counts": job.counts(now),
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens,
        },
        "metadata": job.payload.get("metadata"),
    }


def _errors(job: Job) -> dict[str, Any]:
    data = [
        {"code": each.code, "line": each.line, "message": each.message, "param": each.param}
        for each in job.work.problems
    ]
    return {"object": "list", "data": data}


def _model(content: Content) -> str:
    return str(body_of(next(content.lines(), b"")).get("model", ""))
