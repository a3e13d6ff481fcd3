"""A Batch API over HTTP, as OpenAI defined it; what differs between vendors is their `JobForm`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

import orjson

from flowbed.embedding.batch_api.job_files import (
    CANCELLABLE,
    is_queue_full,
    read_input_line,
    read_job,
    read_result_line,
)
from flowbed.embedding.batch_api.transfer import download, upload
from flowbed.embedding.providers.client import NUMBER_BYTES, RemoteEmbedder
from flowbed.embedding.unicode import require_unicode
from flowbed.embedding.wrappers import Wrapper
from flowbed.errors import NotFound, QueueFull, Rejected, TooMany, Transient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from flowbed.embedding import Embedder
    from flowbed.embedding.batch_api import Job, JobTerms, ResultLine
    from flowbed.embedding.batch_api.job_files import JobReport
    from flowbed.errors import Error
    from flowbed.http.client import HttpResponse

# Metadata of a job by which `find` recognises it, even if the response to its creation was lost.
MARK = "flowbed_submission"
# Largest pages of the lists.
JOBS_PAGE, FILES_PAGE = 100, 1_000
NOT_FOUND = (404, 410)
# Bytes of a line of results besides its numbers: names, and the message of an error that repeats a text.
LINE_BYTES = 2**14
# Placeholders in the template of all lines; nothing else in a request contains them.
NAME, TEXT = "<flowbed: the name>", "<flowbed: the text>"
# Statuses that may mean that the input file is gone; and that the job has ended already.
OF_THE_FILE, OF_THE_STATE = (400, 404), (400, 409, 422)


class JobForm(Protocol):
    """One vendor's form of input lines and jobs."""

    def line(self, name: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the input line of a request called `name`."""
        ...

    def job(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the fields of a new job besides its file and its mark; `request` is that of one of its lines."""
        ...


class HttpBatchApi:
    """A Batch API of OpenAI's kind, with the key and the connections of an embedder."""

    def __init__(
        self,
        remote: RemoteEmbedder,
        form: JobForm,
        *,
        terms: JobTerms,
        verify: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Use the provider of `remote`; `verify` is awaited before each submission, and may refuse it."""
        self.terms = terms
        self._remote, self._provider = remote, remote.provider
        self._form = form
        self._verify = verify

    def line(self, name: str, text: str) -> bytes:
        """Return the input line that requests the vector of `text` as the embedder would.

        Raises:
            Rejected: the text is not valid Unicode.
        """
        before, between, after = self._pattern
        try:
            encoded = orjson.dumps(text)
        except orjson.JSONEncodeError:
            require_unicode([text])
            raise
        return b"%b%b%b%b%b" % (before, orjson.dumps(name)[1:-1], between, encoded[1:-1], after)

    @cached_property
    def _pattern(self) -> tuple[bytes, bytes, bytes]:
        """The bytes of every line before its name, between name and text, and after the text.

        Serialising each line afresh takes two fifths longer.
        """
        line = orjson.dumps(
            self._form.line(NAME, self._remote.document_request(TEXT)), option=orjson.OPT_APPEND_NEWLINE
        )
        before, rest = line.split(NAME.encode(), 1)
        between, after = rest.rsplit(TEXT.encode(), 1)  # the last one: a prompt before it may say anything
        return before, between, after

    def parse_input(self, line: bytes) -> tuple[str, str]:
        """Return the name and the text that an input line was written for, without the prompt.

        Raises:
            Rejected: it is not an input line.
        """
        name, sent = read_input_line(line)
        (prompt,) = self._remote.document_request("")["input"]
        return name, sent.removeprefix(prompt)

    async def submit(self, submission: str, read: Callable[[], AsyncIterator[bytes]], *, size: int) -> Job:
        """Upload the input unless it is there already, and create the job.

        Raises:
            Transient: the job may exist nevertheless: `find` tells.
            Rejected: the input as a whole is refused.
            Misconfigured: no job can be created until a setting changes.
        """
        if self._verify is not None:
            await self._verify()
        file = await self._find_upload(submission, size)
        if file:
            response = await self._create(submission, file)
            # Otherwise the earlier file is gone or unreadable: upload it again.
            if response.status not in OF_THE_FILE or self._is_queue_full(response):
                return self._created(response)
        file = await self._upload(submission, read, size)
        return self._created(await self._create(submission, file))

    async def find(self, submission: str) -> Job | None:
        """Search the account's jobs, newest first, for the mark of `submission`.

        A failed job is returned only if there is no other, since a later attempt may have created one that did not
        fail. A job that a full queue turned away does not count: the same input is submitted again.
        """
        failed: Job | None = None
        async for each in self._pages("/batches", limit=str(JOBS_PAGE)):
            report = self._read(each)
            if report.submission != submission or report.job.queue_full:
                continue
            if report.job.state != "failed":
                return report.job
            failed = failed or report.job
        return failed

    async def retrieve(self, job: str) -> Job:
        """Return the current state of a job.

        Raises:
            NotFound: the provider does not know it (any more).
            Transient, Misconfigured: as `submit`.
        """
        return (await self._retrieve(job)).job

    async def cancel(self, job: str) -> None:
        """Request the cancellation of a job; one that is ending already stays unchanged.

        Raises:
            NotFound: the provider does not know it (any more).
            Transient, Misconfigured: as `submit`.
        """
        response = await self._provider.post(f"/batches/{quote(job, safe='')}/cancel")
        if response.status in NOT_FOUND:
            raise self._not_found("job", job)
        if response.status in OF_THE_STATE:
            if (await self._retrieve(job)).status in CANCELLABLE:
                raise Transient(f"{self._failure(response)}; the job continues, and may still end")
            return
        self._report(response)

    def download(self, file: str) -> AsyncIterator[bytes]:
        """Read a result file, piece by piece.

        Raises:
            NotFound: the provider has lost it.
            Transient: the download broke off, or is unavailable now.
            Misconfigured: as `submit`; or it has more bytes than the lines of a job can have.
        """

        def refused(response: HttpResponse) -> Error:
            return self._not_found("file", file) if response.status in NOT_FOUND else self._failure(response)

        line = self._remote.space.dimensions * NUMBER_BYTES + LINE_BYTES
        return download(
            self._provider,
            f"/files/{quote(file, safe='')}/content",
            refused,
            limit=self.terms.texts * line,
        )

    def parse_result(self, line: bytes) -> ResultLine:
        """Parse one line of a result file.

        Raises:
            Rejected: it is not a result line.
            Misconfigured: its vector has other dimensions than requested.
        """
        return read_result_line(line, self._remote)

    async def aclose(self) -> None:
        """Close the connections, which the embedder shares."""
        await self._remote.aclose()

    async def _find_upload(self, submission: str, size: int) -> str:
        """Find the complete file of an earlier attempt; empty without one."""
        pages = self._pages("/files", purpose="batch", order="desc", limit=str(FILES_PAGE))
        async for each in pages:
            whole = each.get("bytes") == size and each.get("status") not in ("error", "deleted")
            if each.get("filename") == _file_name(submission) and whole:
                return str(each.get("id") or "")
        return ""

    async def _upload(self, submission: str, read: Callable[[], AsyncIterator[bytes]], size: int) -> str:
        response = await upload(
            self._provider,
            "/files",
            fields={"purpose": "batch"},
            name=_file_name(submission),
            read=read,
            size=size,
        )
        file = self._payload(response).get("id")
        if not isinstance(file, str) or not file:
            raise Transient(f"{self._provider.label} accepted a file without returning its id")
        return file

    async def _create(self, submission: str, file: str) -> HttpResponse:
        body = {
            "input_file_id": file,
            "metadata": {MARK: submission},
            **self._form.job(self._remote.document_request("")),
        }
        return await self._provider.post("/batches", body)

    async def _retrieve(self, job: str) -> JobReport:
        response = await self._provider.get(f"/batches/{quote(job, safe='')}")
        if response.status in NOT_FOUND:
            raise self._not_found("job", job)
        return self._report(response)

    async def _pages(self, path: str, **query: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the items of a list, page by page."""
        after = ""
        while True:
            query_page = {**query, "after": after} if after else query
            page = self._payload(await self._provider.get(f"{path}?{urlencode(query_page)}"))
            data = page.get("data")
            if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
                raise Transient(f"{self._provider.label} did not answer with a list of {path.strip('/')}")
            for each in data:
                yield each
            last = str(data[-1].get("id") or "") if data else ""
            if not page.get("has_more") or last in ("", after):
                return
            after = last

    def _created(self, response: HttpResponse) -> Job:
        """Read the response to the creation of a job; only here does a full queue mean that no job exists."""
        try:
            return self._report(response).job
        except TooMany as error:
            if not self._is_queue_full(response):
                raise
            raise QueueFull(str(error), retry_after=error.retry_after) from error

    def _report(self, response: HttpResponse) -> JobReport:
        return self._read(self._payload(response))

    def _read(self, payload: Any) -> JobReport:  # parsed JSON
        try:
            return read_job(payload, mark=MARK, redacted=self._provider.redacted)
        except Transient as error:
            raise Transient(f"{self._provider.label}: {error}") from error

    def _payload(self, response: HttpResponse) -> dict[str, Any]:
        """Return the JSON object of a response.

        Raises:
            Transient, Rejected, Misconfigured: it is a refusal, or not JSON.
        """
        if not 200 <= response.status < 300:  # noqa: PLR2004 - as HTTP counts
            raise self._failure(response)
        if not isinstance(response.json, dict):
            raise Transient(f"{self._provider.label}: the response is not JSON, or incomplete")
        return response.json

    def _failure(self, response: HttpResponse) -> Error:
        failure = self._remote.error_of(response)
        if self._is_queue_full(response) and isinstance(failure, Rejected):
            return TooMany(str(failure), retry_after=response.retry_after)
        return failure

    def _is_queue_full(self, response: HttpResponse) -> bool:
        error = response.json.get("error") if isinstance(response.json, dict) else None
        return isinstance(error, dict) and is_queue_full(error)

    def _not_found(self, what: str, name: str) -> NotFound:
        return NotFound(f"{self._provider.label} does not know the {what} {name}")


def remote_behind(embedder: Embedder) -> RemoteEmbedder | None:
    """Return the provider's embedder inside the wrappers; None without one, or if a wrapper changes its vectors."""
    behind = embedder
    while isinstance(behind, Wrapper):
        behind = behind.wrapped
    return behind if isinstance(behind, RemoteEmbedder) and behind.space == embedder.space else None


def _file_name(submission: str) -> str:
    return f"flowbed-{submission}.jsonl"
