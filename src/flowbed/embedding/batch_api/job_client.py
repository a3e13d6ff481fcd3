"""A Batch API over HTTP, of OpenAI's kind; what is particular to one vendor is its `Form`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

import orjson

from flowbed.embedding.batch_api.job_files import CAN_BE_CANCELLED, is_full, read_asked, read_job, read_line
from flowbed.embedding.batch_api.transfer import download, upload
from flowbed.embedding.providers.client import RemoteEmbedder
from flowbed.embedding.unicode import require_unicode
from flowbed.embedding.wrappers import Wrapper
from flowbed.errors import NotFound, QueueFull, Rejected, TooMany, Transient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from flowbed.embedding import Embedder
    from flowbed.embedding.batch_api import Answered, Job, JobTerms
    from flowbed.embedding.batch_api.job_files import Told
    from flowbed.errors import Error
    from flowbed.http.client import HttpResponse

# What a job carries, so that whoever did not hear that it was made can find it.
MARK = "flowbed_submission"
# The most of each that a page of a list may hold, or fewer.
JOBS_PAGE, FILES_PAGE = 100, 1_000
NOT_FOUND = (404, 410)
# In the places of a name and a text, where a pattern of all lines is made: nothing else of a request has them.
NAME, TEXT = "<flowbed: the name>", "<flowbed: the text>"
# Statuses that may be about a file that is not there any more; and about a job that ends already.
OF_THE_FILE, OF_THE_STATE = (400, 404), (400, 409, 422)


class Form(Protocol):
    """How one vendor writes lines and jobs."""

    def line(self, name: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Write the line of input that makes a request under a name."""
        ...

    def job(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Write what stands in the request for a job beside its file and its mark; `request` is one of its lines."""
        ...


class Jobs:
    """A Batch API of OpenAI's kind, spoken with the key and over the connections of an embedder."""

    def __init__(
        self,
        remote: RemoteEmbedder,
        form: Form,
        *,
        terms: JobTerms,
        believe: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Speak to the provider of `remote`; `believe` is called before anything is handed in, and may refuse it."""
        self.terms = terms
        self._remote, self._provider = remote, remote.provider
        self._form = form
        self._believe = believe

    def line(self, name: str, text: str) -> bytes:
        """Write the line of input that asks for the vector of `text`, as the embedder asks for it.

        Raises:
            Rejected: the text is not valid Unicode.
        """
        before, between, after = self._pattern
        try:
            said = orjson.dumps(text)
        except orjson.JSONEncodeError:
            require_unicode([text])
            raise
        return b"%b%b%b%b%b" % (before, orjson.dumps(name)[1:-1], between, said[1:-1], after)

    @cached_property
    def _pattern(self) -> tuple[bytes, bytes, bytes]:
        """What every line has before its name, between that and its text, and after that.

        To write it anew for each takes two fifths longer.
        """
        line = orjson.dumps(
            self._form.line(NAME, self._remote.asking(TEXT)), option=orjson.OPT_APPEND_NEWLINE
        )
        before, rest = line.split(NAME.encode(), 1)
        between, after = rest.rsplit(TEXT.encode(), 1)  # behind a prompt, whatever that says
        return before, between, after

    def asked(self, line: bytes) -> tuple[str, str]:
        """Read back the name and the text that a line of input was written for, without what is put in front of it.

        Raises:
            Rejected: it is none.
        """
        name, sent = read_asked(line)
        (prompt,) = self._remote.asking("")["input"]
        return name, sent.removeprefix(prompt)

    async def submit(self, submission: str, read: Callable[[], AsyncIterator[bytes]], *, size: int) -> Job:
        """Upload the input, unless it is there, and make the job.

        Raises:
            Transient: it may have been taken all the same: `find` tells.
            Rejected: the input as a whole is refused.
            Misconfigured: no job can be made until a setting changes.
        """
        if self._believe is not None:
            await self._believe()
        file = await self._uploaded(submission, size)
        if file:
            answer = await self._make(submission, file)
            # What lies there is of no use where it went away meanwhile, or cannot be read.
            if answer.status not in OF_THE_FILE or self._is_full(answer):
                return self._made(answer)
        file = await self._upload(submission, read, size)
        return self._made(await self._make(submission, file))

    async def find(self, submission: str) -> Job | None:
        """Look through the account's jobs, the newest first, for one that carries the mark of `submission`.

        One that failed is given only where there is no other: a later try may have made one that did not. One that a
        full queue turned away is none: the same input is handed in anew.
        """
        failed: Job | None = None
        async for each in self._listed("/batches", limit=str(JOBS_PAGE)):
            told = self._read(each)
            if told.submission != submission or told.job.queue_full:
                continue
            if told.job.state != "failed":
                return told.job
            failed = failed or told.job
        return failed

    async def look(self, job: str) -> Job:
        """Ask how a job is.

        Raises:
            NotFound: the provider does not know it (any more).
            Transient, Misconfigured: as `submit`.
        """
        return (await self._look(job)).job

    async def cancel(self, job: str) -> None:
        """Ask for the end of a job; one that ends already is left as it is.

        Raises:
            NotFound: the provider does not know it (any more).
            Transient, Misconfigured: as `submit`.
        """
        answer = await self._provider.post(f"/batches/{quote(job, safe='')}/cancel")
        if answer.status in NOT_FOUND:
            raise self._gone("job", job)
        if answer.status in OF_THE_STATE:
            if (await self._look(job)).status in CAN_BE_CANCELLED:
                raise Transient(f"{self._failure(answer)}; it goes on, and may end all the same")
            return
        self._told(answer)

    def content(self, file: str) -> AsyncIterator[bytes]:
        """Read a file of answers, piece by piece.

        Raises:
            NotFound: the provider has lost it.
            Transient: it broke off, or cannot be had now.
            Misconfigured: as `submit`.
        """

        def refused(answer: HttpResponse) -> Error:
            return self._gone("file", file) if answer.status in NOT_FOUND else self._failure(answer)

        return download(self._provider, f"/files/{quote(file, safe='')}/content", refused)

    def read(self, line: bytes) -> Answered:
        """Read one line of a file of answers.

        Raises:
            Rejected: it is none.
            Misconfigured: its vector has other dimensions than were asked for.
        """
        return read_line(line, self._remote)

    async def aclose(self) -> None:
        """Close the connections to the provider, which are the embedder's too."""
        await self._remote.aclose()

    async def _uploaded(self, submission: str, size: int) -> str:
        """Find the file of an earlier try; empty where there is none that is whole."""
        pages = self._listed("/files", purpose="batch", order="desc", limit=str(FILES_PAGE))
        async for each in pages:
            whole = each.get("bytes") == size and each.get("status") not in ("error", "deleted")
            if each.get("filename") == _file_name(submission) and whole:
                return str(each.get("id") or "")
        return ""

    async def _upload(self, submission: str, read: Callable[[], AsyncIterator[bytes]], size: int) -> str:
        answer = await upload(
            self._provider,
            "/files",
            fields={"purpose": "batch"},
            name=_file_name(submission),
            read=read,
            size=size,
        )
        file = self._payload(answer).get("id")
        if not isinstance(file, str) or not file:
            raise Transient(f"{self._provider.shown} took a file without saying what it is called")
        return file

    async def _make(self, submission: str, file: str) -> HttpResponse:
        body = {
            "input_file_id": file,
            "metadata": {MARK: submission},
            **self._form.job(self._remote.asking("")),
        }
        return await self._provider.post("/batches", body)

    async def _look(self, job: str) -> Told:
        answer = await self._provider.get(f"/batches/{quote(job, safe='')}")
        if answer.status in NOT_FOUND:
            raise self._gone("job", job)
        return self._told(answer)

    async def _listed(self, path: str, **query: str) -> AsyncIterator[dict[str, Any]]:
        """Go through a list, page by page."""
        after = ""
        while True:
            asked = {**query, "after": after} if after else query
            page = self._payload(await self._provider.get(f"{path}?{urlencode(asked)}"))
            data = page.get("data")
            if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
                raise Transient(f"{self._provider.shown} answered with no list of {path.strip('/')}")
            for each in data:
                yield each
            last = str(data[-1].get("id") or "") if data else ""
            if not page.get("has_more") or last in ("", after):
                return
            after = last

    def _made(self, answer: HttpResponse) -> Job:
        """Read the answer of a request for a job; only there does a full queue mean that there is none."""
        try:
            return self._told(answer).job
        except TooMany as error:
            if not self._is_full(answer):
                raise
            raise QueueFull(str(error), retry_after=error.retry_after) from error

    def _told(self, answer: HttpResponse) -> Told:
        return self._read(self._payload(answer))

    def _read(self, payload: Any) -> Told:  # as JSON has it
        try:
            return read_job(payload, mark=MARK, redacted=self._provider.redacted)
        except Transient as error:
            raise Transient(f"{self._provider.shown}: {error}") from error

    def _payload(self, answer: HttpResponse) -> dict[str, Any]:
        """Read what an answer holds.

        Raises:
            Transient, Rejected, Misconfigured: it is a refusal, or no JSON.
        """
        if not 200 <= answer.status < 300:  # noqa: PLR2004 - as HTTP counts
            raise self._failure(answer)
        if not isinstance(answer.json, dict):
            raise Transient(f"{self._provider.shown}: the answer is no JSON, or only part of one")
        return answer.json

    def _failure(self, answer: HttpResponse) -> Error:
        failure = self._remote.failure(answer)
        if self._is_full(answer) and isinstance(failure, Rejected):
            return TooMany(str(failure), retry_after=answer.retry_after)
        return failure

    def _is_full(self, answer: HttpResponse) -> bool:
        error = answer.json.get("error") if isinstance(answer.json, dict) else None
        return isinstance(error, dict) and is_full(error)

    def _gone(self, what: str, name: str) -> NotFound:
        return NotFound(f"{self._provider.shown} knows no {what} {name}")


def remote_behind(embedder: Embedder) -> RemoteEmbedder | None:
    """Give the embedder that asks a provider; None where there is none, or where its vectors are changed on the way."""
    behind = embedder
    while isinstance(behind, Wrapper):
        behind = behind.wrapped
    return behind if isinstance(behind, RemoteEmbedder) and behind.space == embedder.space else None


def _file_name(submission: str) -> str:
    return f"flowbed-{submission}.jsonl"
