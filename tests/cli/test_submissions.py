"""The batch lane from the command line."""

from __future__ import annotations

import re
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.testing.simulators import Fault, SimulatorProcess
from flowbed.wiring import process as clocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.conftest import Called

    Call = Callable[..., Called]

PAGES = 8
# At a thousand dollars a million tokens, so that a few pages are worth waiting for.
PRICE = 1_000.0


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatorProcess]:
    """Start a simulator of OpenAI."""
    with SimulatorProcess("openai") as simulator:
        yield simulator


@pytest.fixture
def provider(running: SimulatorProcess) -> SimulatorProcess:
    """Reset the simulator."""
    running.order()
    running.forget()
    return running


@pytest.fixture
def pages(project: Path, provider: SimulatorProcess, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pages, the only source of a project with that provider; it was not run yet."""
    monkeypatch.setenv("FLOWBED_MODEL", "openai:text-embedding-3-small")
    project.joinpath("flowbed.toml").write_text(
        f'[providers.openai]\nbase_url = "{provider.url}/v1"\napi_key = "{project}"\nprice = "{PRICE}"\n'
        '[sources.docs]\nkind = "files"\nlocation = "docs"\n'
    )
    folder = project / "docs"
    folder.mkdir()
    for number in range(PAGES):
        folder.joinpath(f"{number}.txt").write_text(f"{project} page {number}: " + f"word{number} " * 90)
    return folder


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Advance the clock."""
    real = clocks.now
    monkeypatch.setattr(clocks, "now", lambda: real() + int(seconds * 1e6))


def statuses(flowbed: Call) -> dict[str, int]:
    """Count the chunks by status."""
    found: dict[str, int] = flowbed("status", "--json").json["chunks"]
    return found


def test_plan_shows_both_lanes_with_price_and_time(pages: Path, flowbed: Call) -> None:
    """It says why a run without a deadline would not use the batch lane."""
    found = flowbed("plan", "--json").json
    assert found["lanes"]["batch"]["cost_usd"] == pytest.approx(found["lanes"]["realtime"]["cost_usd"] / 2)
    assert (found["lane"], found["timed_submissions"], found["error_seen"]) == ("realtime", 0, None)
    told = flowbed("plan").out
    assert "  batch      $" in told
    assert "about 6 h (a guess: no submission has ended yet)" in told
    assert "  lane       realtime: there is no deadline; the batch lane would save $" in told


def test_run_on_the_batch_lane_submits_and_the_next_run_collects(
    pages: Path, flowbed: Call, provider: SimulatorProcess
) -> None:
    """The plan after that estimates its time from the submission."""
    handed = flowbed("run", "--lane", "batch", "--json")
    assert (handed.status, handed.json["submitted"], handed.json["lane"]) == (0, PAGES, "batch")
    while flowbed("submissions", "list", "--json").json["submissions"]:
        assert flowbed("run", "--json").status == 0
    assert statuses(flowbed) == {"SUCCESS": PAGES}
    assert provider.totals().billed_texts == PAGES
    assert provider.billed_again() == {}
    ended = flowbed("submissions", "list", "--all", "--json").json["submissions"]
    assert [(row["state"], row["texts"]) for row in ended] == [("completed", PAGES)]
    pages.joinpath("more.txt").write_text(f"{pages} one more page")
    plan = flowbed("plan", "--json").json
    assert (plan["timed_submissions"], plan["error_seen"]) == (1, 0.0)


def test_run_with_wait_ends_with_every_chunk_indexed(pages: Path, flowbed: Call) -> None:
    ran = flowbed("run", "--lane", "batch", "--wait", "-v")
    assert ran.status == 0
    assert f"embedded {PAGES} texts" in ran.out
    assert f"{PAGES} texts gathered for the provider's Batch API" in ran.out
    assert "without results yet" not in ran.out
    assert "batch lane: the batch lane was requested" in ran.err
    assert statuses(flowbed) == {"SUCCESS": PAGES}


def test_job_whose_every_line_is_refused_alike_is_shown_as_one_cause(
    pages: Path, provider: SimulatorProcess, flowbed: Call
) -> None:
    provider.order(Fault(kind="failed_lines", status=400, calls=(1,)))
    ran = flowbed("run", "--lane", "batch", "--wait")
    assert ran.status == 1
    found = flowbed("dead-letters", "list", "--json").json
    assert len(found["dead_letters"]) == PAGES
    (cause,) = found["causes"]
    assert cause["count"] == PAGES
    listed = flowbed("dead-letters", "list").out
    assert f"{PAGES} dead letters of 1 cause" in listed
    assert listed.count(cause["reason"]) == ran.out.count(cause["reason"]) == 1


@pytest.mark.parametrize(
    ("settings", "arguments", "lane"),
    [
        ({}, [], "realtime"),
        ({}, ["--deadline", "24h"], "batch"),
        ({}, ["--deadline", "90m"], "realtime"),
        ({"FLOWBED_DEADLINE_HOURS": "30"}, [], "batch"),
        ({"FLOWBED_DEADLINE_HOURS": "30"}, ["--lane", "realtime"], "realtime"),
        ({"FLOWBED_LANE": "batch"}, [], "batch"),
        ({"FLOWBED_LANE": "batch"}, ["--lane", "auto"], "realtime"),
    ],
)
def test_run_takes_the_lane_that_options_and_settings_allow(
    pages: Path,
    flowbed: Call,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    arguments: list[str],
    lane: str,
) -> None:
    """`auto` uses the batch lane only with a late enough deadline."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    ran = flowbed("run", *arguments, "--json")
    assert (ran.status, ran.json["lane"]) == (0, lane)
    assert ran.json["lane_why"]
    assert (ran.json["submitted"] > 0) == (lane == "batch")


def test_submissions_find_submit_poll_work_separately_and_repeatedly(
    pages: Path, flowbed: Call, provider: SimulatorProcess
) -> None:
    assert flowbed("run", "--budget", "0", "--json").status == 1  # fetched, and nothing embedded
    found = flowbed("submissions", "find", "--deadline", "2d", "--json")
    assert (found.status, found.json["texts"]) == (0, PAGES)
    (submission,) = found.json["submissions"]
    assert "nothing waits to be embedded" in flowbed("submissions", "find").out
    assert f"submission {submission}: {PAGES} texts" in flowbed("submissions", "list").out
    assert "waiting to be submitted" in flowbed("status").out
    assert f"in submission {submission}, waiting to be submitted" in flowbed("why", "docs#0.txt#00000").out
    assert f"submission {submission} submitted" in flowbed("submissions", "submit").out
    assert "nothing is ready to be submitted" in flowbed("submissions", "submit").out
    assert f"in submission {submission}, with the provider since" in flowbed("why", "0.txt").out
    polled = flowbed("submissions", "poll", "--wait", "--json")
    assert (polled.status, polled.json["tally"]["chunks"]) == (0, PAGES)
    assert [row["state"] for row in polled.json["ended"]] == ["completed"]
    assert "no submission is live" in flowbed("submissions", "poll").out
    assert "no submission is live" in flowbed("submissions", "list").out
    assert statuses(flowbed) == {"SUCCESS": PAGES}
    assert provider.billed_again() == {}


def test_plan_text_already_submitted_costs_nothing(
    pages: Path, flowbed: Call, provider: SimulatorProcess
) -> None:
    provider.order(Fault(kind="stuck", calls=(1,)))
    assert flowbed("run", "--lane", "batch", "--json").status == 0
    shutil.copy(pages / "0.txt", pages / "copy.txt")
    found = flowbed("plan", "--json").json
    assert (found["tokens"], found["reuse"]["submitted"]) == (0, 1)
    assert "1 with the provider already" in flowbed("plan").out
    assert flowbed("run", "--json").json["embedded"] == 0
    assert statuses(flowbed) == {"PENDING": PAGES + 1}


def test_run_plan_on_the_batch_lane_bills_what_was_planned(pages: Path, flowbed: Call) -> None:
    found = flowbed("plan", "--json").json
    ran = flowbed("run", "--plan", found["plan_id"], "--lane", "batch", "--wait", "--json").json
    assert ran["planned"]["cost_usd"] == pytest.approx(found["lanes"]["batch"]["cost_usd"])
    assert ran["cost_usd"] == pytest.approx(found["lanes"]["batch"]["cost_usd"])
    assert (ran["tokens"], ran["chunks"], ran["failed"]) == (found["tokens"], PAGES, 0)
    again = flowbed("run", "--plan", found["plan_id"], "--lane", "batch", "--json").json
    assert (again["planned"]["already"], again["submitted"]) == (True, 0)


def test_run_budget_on_the_batch_lane_leaves_the_rest_waiting(pages: Path, flowbed: Call) -> None:
    found = flowbed("plan", "--json").json
    half = found["lanes"]["batch"]["cost_usd"] / 2
    ran = flowbed("run", "--lane", "batch", "--wait", "--budget", f"{half:.6f}", "--json")
    assert ran.status == 1
    assert 0 < ran.json["cost_usd"] <= half
    assert "would exceed the budget" in ran.json["failures"][-1]["reason"]
    assert ran.json["waiting"] == PAGES - ran.json["chunks"]


def test_run_submission_past_its_deadline_is_cancelled_and_embedded_now(
    pages: Path, flowbed: Call, provider: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text is embedded once."""
    provider.order(Fault(kind="stuck", calls=(1,)))
    assert flowbed("run", "--lane", "batch", "--deadline", "6h", "--json").json["submitted"] == PAGES
    later(monkeypatch, 5 * 3_600)
    assert flowbed("run", "--json").json["embedded"] == 0
    later(monkeypatch, 3_600)
    ran = flowbed("run", "--lane", "batch", "--json")
    assert (ran.status, ran.json["embedded"], ran.json["submitted"]) == (0, PAGES, 0)
    assert statuses(flowbed) == {"SUCCESS": PAGES}
    assert provider.billed_again() == {}


def test_submissions_cancel_is_sent_by_the_next_poll(
    pages: Path, flowbed: Call, provider: SimulatorProcess
) -> None:
    """Its chunks wait for another run."""
    provider.order(Fault(kind="stuck", calls=(1,)))
    (submission,) = flowbed("run", "--lane", "batch", "--json").json["submissions"]
    assert flowbed("submissions", "cancel", submission).status == 0
    assert "being cancelled" in flowbed("submissions", "list").out
    assert [row["state"] for row in flowbed("submissions", "poll", "--json").json["ended"]] == ["cancelled"]
    assert statuses(flowbed) == {"NONE": PAGES}
    assert flowbed("submissions", "cancel", submission).status == 2


def test_run_request_without_response_counts_as_perhaps_billed(
    pages: Path, flowbed: Call, provider: SimulatorProcess
) -> None:
    """It counts in the report, the spending and the budget."""
    provider.order(Fault(kind="cut", calls=(1,)))
    ran = flowbed("run", "--lane", "realtime", "--yes")
    assert ran.status == 0
    assert "perhaps billed $" in ran.out
    spent = flowbed("status", "--cost", "--json").json["spending"]
    # Both cost the same, but for what rounding leaves of sums in another order.
    assert sorted(row["name"] for row in spent["rows"]) == ["realtime", "unanswered"]
    assert spent["billed"] == provider.totals().billed == 2 * spent["planned"]
    assert "unanswered (perhaps billed)" in flowbed("status", "--cost").out
    assert "(no document" in flowbed("status", "--cost", "--by", "document").out
    folder = pages.parent
    shutil.rmtree(folder / ".flowbed")
    provider.order(Fault(kind="cut"))
    stopped = flowbed("run", "--lane", "realtime", "--budget", f"{spent['cost_usd']:.9f}", "--json").json
    assert stopped["perhaps_billed_usd"] == pytest.approx(spent["cost_usd"])
    assert (stopped["cost_usd"], stopped["waiting"]) == (0, PAGES)
    assert "of it for requests without a response, which may be billed" in stopped["failures"][-1]["reason"]


def test_status_cost_adds_up_to_what_was_billed(pages: Path, flowbed: Call) -> None:
    assert "nothing was paid for" in flowbed("status", "--cost").out
    first = flowbed("run", "--limit", "2", "--json").json
    second = flowbed("run", "--lane", "batch", "--wait", "--json").json
    for by, rows in {"lane": 2, "source": 1, "document": PAGES, "run": 2}.items():
        spent = flowbed("status", "--cost", "--by", by, "--json").json["spending"]
        assert (spent["by"], spent["billed"]) == (by, first["tokens"] + second["tokens"])
        assert spent["cost_usd"] == pytest.approx(first["cost_usd"] + second["cost_usd"])
        assert len(spent["rows"]) == rows
        assert "+0.00%" in flowbed("status", "--cost", "--by", by).out
        assert (
            flowbed("status", "--cost", "--by", by, "--days", "0.000000001").out == "nothing was paid for\n"
        )


def test_submissions_invalid_arguments_exit_2(pages: Path, flowbed: Call) -> None:
    for arguments, says in (
        (["run", "--deadline", "6"], "such as 90m, 6h or 2d"),
        (["run", "--deadline", "-1h"], "such as 90m, 6h or 2d"),
        (["status", "--cost", "--by", "colour"], "choose lane, source, document, run or day"),
        (["submissions", "poll", "nope"], "no live submission is called nope"),
        (["submissions", "submit", "nope"], "no live submission is called nope"),
        (["submissions", "cancel", "nope"], "no live submission is called 'nope'"),
    ):
        called = flowbed(*arguments)
        assert called.status == 2
        assert says in called.err


def test_submissions_commands_load_neither_index_nor_model() -> None:
    """They run on small machines."""
    import subprocess

    code = (
        "import sys, flowbed.lanes.batch.find, flowbed.lanes.batch.submit, flowbed.lanes.choice\n"
        "import flowbed.lanes.batch.submission_status\n"
        "print([name for name in ('lance', 'pyarrow', 'onnxruntime') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


class TestDoctor:
    """Findings about submissions, and the commands that fix them."""

    def findings(self, flowbed: Call) -> dict[str, Any]:
        return {each["check"]: each for each in flowbed("doctor", "--json").json["findings"]}

    def test_doctor_submission_past_its_deadline_is_named(
        self, pages: Path, flowbed: Call, provider: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider.order(Fault(kind="stuck", calls=(1,)))
        assert flowbed("run", "--lane", "batch", "--deadline", "6h", "--json").status == 0
        assert self.findings(flowbed) == {}
        later(monkeypatch, 6.5 * 3_600)
        found = self.findings(flowbed)["submissions"]
        # At least 30 minutes: a busy machine adds its own.
        expected = rf"its deadline was [345]\d(\.\d)? min ago, and {PAGES} of {PAGES} texts have no result"
        assert re.search(expected, found["what"])
        assert flowbed(*found["fix"].split()[1:]).status == 0
        assert self.findings(flowbed) == {}

    def test_doctor_submission_never_submitted_is_named(
        self, pages: Path, flowbed: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flowbed("run", "--budget", "0")
        assert flowbed("submissions", "find").status == 0
        later(monkeypatch, 2 * 3_600)
        found = self.findings(flowbed)["submissions"]
        assert "gathered 2 h ago, and not submitted" in found["what"]
        assert flowbed(*found["fix"].split()[1:]).status == 0
        assert self.findings(flowbed) == {}

    def test_doctor_refusing_batch_api_is_named(
        self, pages: Path, flowbed: Call, provider: SimulatorProcess
    ) -> None:
        """Only while a submission waits for it."""
        provider.order(Fault(kind="stuck", calls=(1,)))
        assert flowbed("run", "--lane", "batch", "--json").status == 0
        assert self.findings(flowbed) == {}
        provider.order(Fault(kind="quota"))
        found = self.findings(flowbed)["batch-api"]
        assert found["severity"] == "error"
        assert "the provider's Batch API refuses" in found["what"]
        provider.order()
        assert self.findings(flowbed) == {}


def test_gc_deletes_files_of_old_and_unrecorded_submissions(
    pages: Path, project: Path, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 30 days, and after a day; all others stay."""
    store = project / ".flowbed" / "store"
    assert flowbed("run", "--lane", "batch", "--wait", "--json").status == 0
    (ended,) = (store / "submissions").iterdir()
    for key in (
        "submissions/0123456789abcdef01234567/input.jsonl",
        "files/file-1/content",
        "jobs/batch_1/part",
    ):
        (store / key).parent.mkdir(parents=True)
        (store / key).write_text("something")
    assert flowbed("gc").status == 0
    assert len(list((store / "submissions").iterdir())) == 2
    later(monkeypatch, 2 * 86_400)
    assert flowbed("gc", "--json").json["objects"] == {"submission": 1}
    assert [each.name for each in (store / "submissions").iterdir()] == [ended.name]
    later(monkeypatch, 30 * 86_400)
    assert flowbed("gc", "--json").json["objects"]["submission"] == 3
    assert (store / "files/file-1/content").exists()
    assert (store / "jobs/batch_1/part").exists()
    assert statuses(flowbed) == {"SUCCESS": PAGES}


def test_forget_ends_a_submission_that_was_not_sent(pages: Path, project: Path, flowbed: Call) -> None:
    """Its other chunks wait again."""
    flowbed("run", "--budget", "0")
    assert flowbed("submissions", "find", "--deadline", "2d", "--json").json["texts"] == PAGES
    done = flowbed("forget", "--document", "3.txt", "--json")
    assert done.status == 0
    assert {"place": "submissions", "what": "submissions", "count": 1} in done.json["erased"]
    assert statuses(flowbed) == {"NONE": PAGES - 1}
    store = project / ".flowbed" / "store"
    held = [each for each in store.rglob("*") if each.is_file() and b"page 3: " in each.read_bytes()]
    assert held == []


def test_forget_waits_for_a_submission_at_its_provider(
    pages: Path, project: Path, provider: SimulatorProcess, flowbed: Call
) -> None:
    """It asks for it to be cancelled, and is not complete until it has ended."""
    provider.order(Fault(kind="stuck", calls=(1,)))
    assert flowbed("run", "--lane", "batch", "--json").status == 0
    assert len(flowbed("submissions", "list", "--json").json["submissions"]) == 1
    done = flowbed("forget", "--document", "3.txt", "--json")
    assert (done.status, done.json["complete"]) == (1, False)
    assert any("it is at its provider" in each["why"] for each in done.json["not_reached"])
    for _ in range(20):
        flowbed("submissions", "poll")
        if not flowbed("submissions", "list", "--json").json["submissions"]:
            break
    resumed = flowbed("forget", "--resume", "--json")
    assert [each["complete"] for each in resumed.json["receipts"]] == [True]
    store = project / ".flowbed" / "store"
    held = [each for each in store.rglob("*") if each.is_file() and b"page 3: " in each.read_bytes()]
    assert held == []
