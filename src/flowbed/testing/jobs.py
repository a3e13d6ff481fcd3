"""The tests that every Batch API must pass: subclass the contract, name the model and a simulator of its provider."""

from __future__ import annotations

from abc import ABC, abstractmethod
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio

from flowbed.embedding import open_embedder
from flowbed.embedding.vendors import open_jobs
from flowbed.errors import Error, Misconfigured, NotFound, Rejected, Transient
from flowbed.testing.embedding import AGREE
from flowbed.testing.provider import KEY, PRIVATE
from flowbed.testing.simulators.faults import Fault
from flowbed.testing.simulators.serving.running import running
from flowbed.testing.simulators.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.embedding.batch_api import BatchApi, Job, ResultLine
    from flowbed.testing.simulators.wire import Api

# Of several lengths and scripts, one with line separators, and one that contains the end of a form.
TEXTS = (
    "a",
    "The keys are rotated each month.",
    "Grüße aus Köln",
    "line\nbreak\u2028and\r\n--flowbed",
    "word " * 60,
    PRIVATE,
)
# Seconds within which a simulated job ends in any case, and before its files expire.
ENOUGH = 2 * 86_400.0


def name_of(text: str) -> str:
    """Name a text as the pipeline does: by 64 hex digits."""
    return sha256(text.encode()).hexdigest()


class BatchApiContract(ABC):
    """Tests of a Batch API, against a simulator that fails in every way providers do."""

    model: str  # as vendor:name
    says_expired = True  # false for a provider that reports an expired job as completed

    @abstractmethod
    def api(self) -> Api:
        """Create the simulated API; it accepts KEY, and ends jobs at once."""

    @abstractmethod
    def options(self, url: str) -> Mapping[str, str]:
        """Return the options that lead to `url`; the contract adds its key."""

    @pytest_asyncio.fixture(autouse=True)
    async def served(self) -> AsyncIterator[None]:
        """Serve the simulator during a test."""
        self.simulator = Simulator(self.api())
        async with running(self.simulator) as url:
            self.url = url
            yield

    def open_embedder(self, folder: Path, **changes: str) -> Embedder:
        """Open the model for requests."""
        options = {"api_key": KEY, **self.options(self.url), **changes}
        return open_embedder(self.model, cache=folder, options=options)

    def open_jobs(self, folder: Path, **changes: str) -> BatchApi:
        """Open the Batch API, with other options."""
        options = {"api_key": KEY, **self.options(self.url), **changes}
        opened = open_jobs(self.model, self.open_embedder(folder, **changes), options=options)
        assert opened is not None
        return opened

    @pytest_asyncio.fixture
    async def jobs(self, tmp_path: Path) -> AsyncIterator[BatchApi]:
        """Open a Batch API for each test."""
        opened = self.open_jobs(tmp_path)
        yield opened
        await opened.aclose()

    async def submit(
        self,
        jobs: BatchApi,
        texts: Sequence[str] = TEXTS,
        *,
        submission: str = "s-1",
        faults: Sequence[Fault] = (),
    ) -> Job:
        """Submit texts, with faults in force."""
        body = b"".join(jobs.line(name_of(text), text) for text in texts)

        async def read() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 100):
                yield body[start : start + 100]

        self.simulator.order(*faults)
        return await jobs.submit(submission, read, size=len(body))

    async def ended(self, jobs: BatchApi, job: Job) -> Job:
        """Let time pass until a job has ended."""
        self.simulator.advance(ENOUGH)
        looked = await jobs.retrieve(job.id)
        assert looked.state != "running"
        return looked

    async def answers(self, jobs: BatchApi, job: Job) -> dict[str, list[ResultLine]]:
        """Read all results of a job, by the name of the text."""
        found: dict[str, list[ResultLine]] = {}
        for file in filter(None, (job.output, job.errors)):
            body = b"".join([piece async for piece in jobs.download(file)])
            for line in body.splitlines():
                answered = jobs.parse_result(line)
                found.setdefault(answered.name, []).append(answered)
        return found

    async def done(
        self, jobs: BatchApi, *faults: Fault, texts: Sequence[str] = TEXTS
    ) -> tuple[Job, dict[str, list[ResultLine]]]:
        """Run a job to its end, with faults in force at its creation."""
        job = await self.ended(jobs, await self.submit(jobs, texts, faults=faults))
        return job, await self.answers(jobs, job)

    def calls(self, method: str, path: str) -> int:
        """Count the requests received."""
        asked = [each for each in self.simulator.account.exchanges if each.method == method]
        return sum(each.path.endswith(path) for each in asked)

    def assert_reveals_nothing(self, error: Error) -> None:
        """Assert that an error repeats no key and no text."""
        message = f"{error} {error!r}"
        assert KEY not in message
        assert PRIVATE[:20] not in message

    async def test_job_texts_have_the_vectors_of_requests(self, jobs: BatchApi, tmp_path: Path) -> None:
        """A job does the same work as requests: the same vectors, each once, billed alike, and counted as done."""
        job, found = await self.done(jobs)
        assert (job.state, job.total, job.done, job.failed) == ("completed", len(TEXTS), len(TEXTS), 0)
        assert set(found) == {name_of(text) for text in TEXTS}
        billed = sum(answered.tokens or 0 for (answered,) in found.values())
        assert job.tokens in (None, billed)
        embedder = self.open_embedder(tmp_path)
        for text in TEXTS:
            (answered,) = found[name_of(text)]
            alone = await embedder.embed([text], purpose="document")
            assert answered.vector is not None
            np.testing.assert_allclose(answered.vector, alone.vectors[0], atol=AGREE)
            assert np.linalg.norm(answered.vector) == pytest.approx(1, abs=1e-4)
            assert answered.tokens == alone.tokens
        await embedder.aclose()  # type: ignore[attr-defined]

    def test_terms_name_limits_and_account_without_the_key(self, jobs: BatchApi) -> None:
        """A job holds many texts, ends within a day, and names its account without revealing the key."""
        terms = jobs.terms
        assert terms.texts >= 1_000
        assert terms.bytes >= 1_000_000
        assert 0 < terms.seconds <= 86_400
        assert terms.price >= 0
        assert KEY not in terms.account

    def test_line_text_with_line_separators_is_one_line(self, jobs: BatchApi) -> None:
        """Line separators in a text do not divide the input, and the line ends with a newline."""
        line = jobs.line("ab" * 32, "one\ntwo\r\nthree\u2028four\x85five")
        assert line.splitlines() == [line[:-1]]
        assert line.endswith(b"\n")

    @pytest.mark.parametrize("text", TEXTS)
    def test_parse_input_own_line_returns_name_and_text(self, jobs: BatchApi, text: str) -> None:
        """An input line can be read back."""
        assert jobs.parse_input(jobs.line(name_of(text), text)) == (name_of(text), text)

    @pytest.mark.parametrize(
        "line", [b"", b"null", b"[]", b'{"custom_id": "a"}', b'{"body": {"input": ["a"]}}']
    )
    def test_parse_input_other_line_is_rejected(self, jobs: BatchApi, line: bytes) -> None:
        """A line that does not name its text is refused."""
        with pytest.raises(Rejected):
            jobs.parse_input(line)

    def test_line_lone_surrogate_is_rejected(self, jobs: BatchApi) -> None:
        """Half a character, which UTF-8 cannot encode, is refused rather than sent as something else."""
        with pytest.raises(Rejected):
            jobs.line("ab" * 32, "half \ud83d")

    async def test_job_results_in_another_order_belong_to_their_texts(self, jobs: BatchApi) -> None:
        """The order of result lines does not matter."""
        _, right = await self.done(jobs)
        _, shuffled = await self.done(jobs, Fault(kind="shuffled"))
        for name, (answered,) in right.items():
            assert answered.vector is not None
            np.testing.assert_array_equal(answered.vector, shuffled[name][0].vector)

    @pytest.mark.parametrize(
        ("status", "failure"),
        [(400, "rejected"), (422, "rejected"), (429, "transient"), (500, "transient"), (503, "transient")],
    )
    async def test_job_failed_line_has_a_reason(self, jobs: BatchApi, status: int, failure: str) -> None:
        """A failure concerns one text: the others have vectors, and it has the provider's reason."""
        fault = Fault(kind="failed_lines", text="Köln", status=status)
        job, found = await self.done(jobs, fault)
        assert (job.state, job.done, job.failed) == ("completed", len(TEXTS) - 1, 1)
        (failed,) = found.pop(name_of(TEXTS[2]))
        assert (failed.vector, failed.failure) == (None, failure)
        assert failed.reason
        assert all(each.vector is not None for (each,) in found.values())

    async def test_job_only_failures_is_read(self, jobs: BatchApi) -> None:
        """The job has a file of errors and none of results."""
        job, found = await self.done(jobs, Fault(kind="failed_lines", status=400))
        assert (job.output, len(found)) == ("", len(TEXTS))

    @pytest.mark.parametrize("kind", ["not_finite", "missing"])
    async def test_job_line_without_a_vector_is_transient(self, jobs: BatchApi, kind: str) -> None:
        """A result without numbers, or without a vector, is requested again."""
        _, found = await self.done(jobs, Fault(kind=kind))  # type: ignore[arg-type]
        assert {answered.failure for each in found.values() for answered in each} == {"transient"}

    async def test_parse_result_other_dimensions_is_misconfigured(self, jobs: BatchApi) -> None:
        """Vectors of another length are another model's; the message names their length."""
        with pytest.raises(Misconfigured, match="dimensions"):
            await self.done(jobs, Fault(kind="wrong_dimension"))

    @pytest.mark.parametrize("kind", ["broken_lines", "torn"])
    async def test_parse_result_broken_line_is_rejected(self, jobs: BatchApi, kind: str) -> None:
        """Half a line, or something else in its place, is no text's vector."""
        with pytest.raises(Rejected):
            await self.done(jobs, Fault(kind=kind))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "line", [b"", b"null", b"[]", b'{"custom_id": null}', b'{"custom_id": 7}', b'{"response": {}}']
    )
    def test_parse_result_line_without_a_name_is_rejected(self, jobs: BatchApi, line: bytes) -> None:
        """A line that does not name its text cannot be used."""
        with pytest.raises(Rejected):
            jobs.parse_result(line)

    async def test_job_doubled_line_is_returned_twice(self, jobs: BatchApi) -> None:
        """The caller decides which of two results for one text counts."""
        _, found = await self.done(jobs, Fault(kind="conflicting_lines", text="Köln"))
        assert len(found[name_of(TEXTS[2])]) == 2

    async def test_find_unconfirmed_job_returns_it(self, jobs: BatchApi) -> None:
        """If the connection ended before the response, the job exists nevertheless, and is adopted."""
        with pytest.raises(Transient) as raised:
            await self.submit(jobs, faults=[Fault(kind="cut", path="*/batches")])
        self.assert_reveals_nothing(raised.value)
        self.simulator.order()
        found = await jobs.find("s-1")
        assert found is not None
        assert len(await self.answers(jobs, await self.ended(jobs, found))) == len(TEXTS)
        assert await jobs.find("s-2") is None

    async def test_find_among_many_jobs_returns_the_right_one(self, jobs: BatchApi) -> None:
        """However many jobs were created since, on however many pages."""
        made = {}
        for number in range(103):
            made[number] = await self.submit(jobs, ["a"], submission=f"s-{number}")
            self.simulator.advance(60)
        for number in (0, 1, 51, 102):
            found = await jobs.find(f"s-{number}")
            assert found is not None
            assert found.id == made[number].id
        assert await jobs.find("s-103") is None

    async def test_find_failed_and_later_job_returns_the_later(self, jobs: BatchApi) -> None:
        """A failed job is returned only if there is no other one of the submission."""
        refused = await self.submit(jobs, faults=[Fault(kind="validation")])
        refused = await self.ended(jobs, refused)
        assert await jobs.find("s-1") == refused
        taken = await self.submit(jobs)
        refused = await self.ended(jobs, await self.submit(jobs, faults=[Fault(kind="validation")]))
        found = await jobs.find("s-1")
        assert found is not None
        assert (found.id, refused.state) == (taken.id, "failed")

    async def test_submit_after_a_failure_reuses_the_upload(self, jobs: BatchApi) -> None:
        """A file of an earlier attempt is not sent again, unless its size differs."""
        with pytest.raises(Transient):
            await self.submit(jobs, faults=[Fault(kind="rate_limited", path="*/batches")])
        job, found = await self.done(jobs)
        assert (job.state, len(found)) == ("completed", len(TEXTS))
        assert self.calls("POST", "/files") == 1
        await self.done(jobs, texts=TEXTS[1:])
        assert self.calls("POST", "/files") == 2

    async def test_submit_after_an_unconfirmed_upload_reuses_it(self, jobs: BatchApi) -> None:
        """The file exists though the connection ended before the response."""
        with pytest.raises(Transient):
            await self.submit(jobs, faults=[Fault(kind="cut", path="*/files", calls=(2,))])
        job, found = await self.done(jobs)
        assert (job.state, len(found)) == ("completed", len(TEXTS))
        assert self.calls("POST", "/files") == 1

    async def test_cancel_running_job_ends_it(self, jobs: BatchApi) -> None:
        """A cancelled job says of each text whether it was processed."""
        job = await self.submit(jobs, faults=[Fault(kind="stuck", delay=300)])
        self.simulator.advance(3600)
        assert (await jobs.retrieve(job.id)).state == "running"
        await jobs.cancel(job.id)
        assert (await jobs.retrieve(job.id)).state == "running"
        await jobs.cancel(job.id)  # again, while it ends
        self.simulator.advance(3600)
        ended = await jobs.retrieve(job.id)
        assert ended.state == "cancelled"
        for each in (await self.answers(jobs, ended)).values():
            assert all(answered.vector is not None or answered.failure == "expired" for answered in each)

    async def test_cancel_ended_job_changes_nothing(self, jobs: BatchApi) -> None:
        """It is no failure, and the results stay."""
        job, _ = await self.done(jobs)
        await jobs.cancel(job.id)
        assert await jobs.retrieve(job.id) == job

    async def test_job_expired_names_unprocessed_texts(self, jobs: BatchApi) -> None:
        """Some texts of an expired job have vectors; the others were never processed."""
        job, found = await self.done(jobs, Fault(kind="expired", share=0.5))
        assert job.state == ("expired" if self.says_expired else "completed")
        answered = [each for (each,) in found.values()]
        assert sum(each.vector is not None for each in answered) == len(TEXTS) / 2
        assert sum(each.failure == "expired" for each in answered) == len(TEXTS) / 2

    async def test_lost_file_or_job_is_not_found(self, jobs: BatchApi) -> None:
        """A lost result file and an unknown job are not worth another attempt."""
        job = await self.ended(jobs, await self.submit(jobs, faults=[Fault(kind="lost")]))
        with pytest.raises(NotFound):
            await self.answers(jobs, job)
        job = await self.submit(jobs, submission="s-2", faults=[Fault(kind="forgotten")])
        with pytest.raises(NotFound):
            await jobs.retrieve(job.id)
        with pytest.raises(NotFound):
            await jobs.cancel(job.id)
        assert await jobs.find("s-2") is None

    async def test_job_refused_names_wrong_lines(self, jobs: BatchApi) -> None:
        """Lines are numbered from 1, and have their reasons."""
        job = await self.submit(jobs, faults=[Fault(kind="validation", text="Köln")])
        job = await self.ended(jobs, job)
        assert (job.state, job.queue_full, list(job.lines)) == ("failed", False, [3])
        assert job.lines[3]
        assert job.reason

    @pytest.mark.parametrize("path", ["*/files", "*/batches"])
    @pytest.mark.parametrize("kind", ["error", "gateway", "garbled", "truncated", "rate_limited"])
    async def test_submit_provider_failure_is_transient(self, jobs: BatchApi, kind: str, path: str) -> None:
        """After any failure the submission may be repeated, and then succeeds with one job."""
        with pytest.raises(Transient) as raised:
            await self.submit(jobs, faults=[Fault(kind=kind, path=path, retry_after=2.0)])  # type: ignore[arg-type]
        self.assert_reveals_nothing(raised.value)
        if kind == "rate_limited":
            assert raised.value.retry_after == pytest.approx(2, abs=1)
        self.simulator.order()
        job = await jobs.find("s-1") or await self.submit(jobs)
        assert len(await self.answers(jobs, await self.ended(jobs, job))) == len(TEXTS)
        assert self.calls("POST", "/batches") <= 2

    @pytest.mark.parametrize("status", [401, 403])
    async def test_submit_refused_key_is_misconfigured(self, jobs: BatchApi, status: int) -> None:
        """The message names the setting to change."""
        with pytest.raises(Misconfigured, match=r"(?i)key") as raised:
            await self.submit(jobs, faults=[Fault(kind="error", status=status)])
        self.assert_reveals_nothing(raised.value)

    async def test_submit_exhausted_account_is_misconfigured(self, jobs: BatchApi) -> None:
        """Waiting does not help an exhausted account: a person has to look at it."""
        with pytest.raises(Misconfigured):
            await self.submit(jobs, faults=[Fault(kind="quota")])

    async def test_submit_unknown_key_is_misconfigured_and_not_repeated(self, tmp_path: Path) -> None:
        """The message does not contain the key."""
        jobs = self.open_jobs(tmp_path, api_key="sk-wrong-1234567890")
        with pytest.raises(Misconfigured) as raised:
            await self.submit(jobs)
        await jobs.aclose()
        assert "sk-wrong-1234567890" not in str(raised.value)

    @pytest.mark.parametrize("kind", ["truncated", "gateway", "rate_limited"])
    async def test_download_broken_off_is_transient_and_can_be_repeated(
        self, jobs: BatchApi, kind: str
    ) -> None:
        """Half a result file is never taken for the whole; the next attempt reads all of it."""
        job = await self.ended(jobs, await self.submit(jobs))
        self.simulator.order(Fault(kind=kind, path="*/content", calls=(1,)))  # type: ignore[arg-type]
        with pytest.raises(Transient):
            await self.answers(jobs, job)
        assert len(await self.answers(jobs, job)) == len(TEXTS)

    async def test_retrieve_closed_api_is_transient(self, jobs: BatchApi) -> None:
        """A closed API says so instead of connecting again."""
        await jobs.aclose()
        with pytest.raises(Transient, match="closed"):
            await jobs.retrieve("batch_1")
