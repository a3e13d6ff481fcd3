"""Voyage's Files API and Batch API, simulated: `/v1/files` and `/v1/batches`, for `/v1/embeddings`.

Paths, fields and states are those of https://docs.voyageai.com/docs/batch-inference (a preview, 2025-11). Not found
there, and unverified: the words of errors, what a failed job tells of its input, the default length of a list, that a
job that has ended cannot be cancelled (said as OpenAI does), and the state of one whose window has passed, which is
`completed` here, as there is no other among those that are documented.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flowbed.testing.simulators.files import MONTH
from flowbed.testing.simulators.forms import read_form
from flowbed.testing.simulators.jobs import Problem, new_id
from flowbed.testing.simulators.routes import Routes, page
from flowbed.testing.simulators.voyage_lines import Lines
from flowbed.testing.simulators.wire import Asked, Stream, VendorError, as_json, fields
from flowbed.testing.simulators.work import Input, Texts, make_job, read_input

if TYPE_CHECKING:
    from flowbed.testing.simulators.files import StoredFile
    from flowbed.testing.simulators.jobs import Job, Jobs
    from flowbed.testing.simulators.voyage import Voyage
    from flowbed.testing.simulators.wire import Answer, Deed, Request, Scene

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
    """The files and jobs of Voyage: how requests are read and answered."""

    def __init__(self, api: Voyage, jobs: Jobs) -> None:
        """Keep files and jobs in `jobs`; word errors as `api` does."""
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

    def read(self, request: Request) -> Deed | None:
        """Judge a request; None where it is not about files or jobs."""
        return self._routes.find(request) or self._making.find(request, self._asked)

    def _asked(self, request: Request) -> Asked:
        """Tell what a job is asked to embed, as far as that can be read."""
        said = fields(request.body) or {}
        content = self._jobs.files.peek(self._api.key(request), said.get("input_file_id"))
        parameters = said.get("request_params")
        model = parameters.get("model", "") if isinstance(parameters, dict) else ""
        return Asked(model=str(model), texts=Texts(content) if content else ())

    def _upload(self, request: Request, scene: Scene) -> Answer:
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
            scene.key, purpose, file.filename or "", file.content, now=scene.now, keep=MONTH
        )
        return as_json(200, told_file(stored))

    def _list_files(self, request: Request, scene: Scene) -> Answer:
        stored = reversed(self._jobs.files.all(scene.key, scene.now))
        return self._page(request, [told_file(each) for each in stored])

    def _get_file(self, _: Request, file: str, scene: Scene) -> Answer:
        return as_json(200, told_file(self._file(file, scene)))

    def _delete_file(self, _: Request, file: str, scene: Scene) -> Answer:
        self._jobs.files.remove(self._file(file, scene).id)
        return as_json(200, {"id": file, "object": "file", "deleted": True})

    def _content(self, _: Request, file: str, scene: Scene) -> Stream:
        return Stream(status=200, content=self._file(file, scene).content)

    def _file(self, file: str, scene: Scene) -> StoredFile:
        stored = self._jobs.files.get(scene.key, file, scene.now)
        if stored is None:
            raise error(404, f"File {file} not found.")
        return stored

    def _create(self, request: Request, scene: Scene) -> Answer:
        said = self._said(request)
        lines = Lines(self._api, said["request_params"])
        stored = self._file(said["input_file_id"], scene)
        found = read_input(stored.content, lines, model=said["request_params"]["model"])
        limit = self._jobs.queue_tokens if self._jobs.queue_tokens is not None else QUEUE_TOKENS
        waiting = self._jobs.waiting(scene.key, None, scene.now)
        if self._jobs.unfinished(scene.key, scene.now) >= UNFINISHED or waiting + found.tokens > limit:
            message = f"The limit of {UNFINISHED} batches and {limit} tokens in flight is reached."
            raise error(429, message)
        if found.inputs > INPUTS:
            message = f"The batch has {found.inputs} inputs; the most is {INPUTS}."
            found = Input(problems=[Problem(code="too_many_inputs", message=message)])
        job = make_job(new_id("batch-"), said, found, scene, sheet=lines, jobs=self._jobs, keep=MONTH)
        return as_json(200, {**told(job, scene.now), "status": "validating"})

    def _said(self, request: Request) -> dict[str, Any]:
        """Read what a job is asked for with."""
        said = fields(request.body) or {}
        wanted = {"endpoint": ENDPOINT, "completion_window": "12h"}
        for name, value in wanted.items():
            if said.get(name) != value:
                message = f"Value '{said.get(name)}' supplied for argument '{name}' is not valid."
                raise error(400, message)
        parameters = said.get("request_params")
        if not isinstance(parameters, dict) or parameters.get("model") not in MODELS:
            raise error(400, f"'request_params' needs a 'model' that is one of {list(MODELS)}.")
        if not isinstance(said.get("input_file_id"), str):
            raise error(400, "Argument 'input_file_id' is required.")
        metadata = said.get("metadata", {})
        if not isinstance(metadata, dict) or len(metadata) > PAIRS:
            raise error(400, f"Argument 'metadata' takes at most {PAIRS} pairs.")
        said["request_params"] = {name: value for name, value in parameters.items() if value is not None}
        # What is wrong with the parameters is said at once, and not of every line.
        self._api.call({**said["request_params"], "input": ["a"]})
        return said

    def _list_jobs(self, request: Request, scene: Scene) -> Answer:
        return self._page(request, [told(job, scene.now) for job in self._jobs.all(scene.key)])

    def _get_job(self, _: Request, job: str, scene: Scene) -> Answer:
        return as_json(200, told(self._job(job, scene), scene.now))

    def _cancel(self, _: Request, name: str, scene: Scene) -> Answer:
        job = self._job(name, scene)
        if job.cancelled is None:
            if (status := job.status(scene.now)) in {"completed", "failed", "expired"}:
                raise error(400, f"Cannot cancel a batch with status '{status}'.")
            job.cancelled = scene.now
            return as_json(200, {**told(job, scene.now), "status": "cancelling"})
        return as_json(200, told(job, scene.now))

    def _job(self, name: str, scene: Scene) -> Job:
        job = self._jobs.get(scene.key, name)
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


def told_file(stored: StoredFile) -> dict[str, Any]:
    """Tell of a file."""
    return {
        "object": "file",
        "id": stored.id,
        "purpose": stored.purpose,
        "filename": stored.filename,
        "bytes": stored.content.size,
        "created_at": _date(stored.created),
        "expires_at": None if stored.expires is None else _date(stored.expires),
    }


def told(job: Job, now: float) -> dict[str, Any]:
    """Tell of a job."""
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
        "input_file_id": job.said["input_file_id"],
        "completion_window": job.said["completion_window"],
        "model": job.said["request_params"]["model"],
        "status": status,
        "output_file_id": job.output,
        "error_file_id": job.errors,
        "request_counts": job.counts(now),
        "metadata": job.said.get("metadata"),
        "created_at": _date(job.course.created),
        "expected_completion_at": _date(job.course.expires),
        **{f"{name}_at": stamps.get(name) for name in STAMPED},
    }


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def error(status: int, detail: str) -> VendorError:
    """Make an error of Voyage's shape."""
    return VendorError(as_json(status, {"detail": detail}))
