"""Plans and the runs that carry them out, budgets, and questions on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import pytest
import typer

from flowbed.cli.work import runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Called

    Call = Callable[..., Called]


@pytest.fixture
def costly(notes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three indexed notes and three new ones of four words each, with a model at $1,000 per million words."""
    monkeypatch.setenv("FLOWBED_MODEL_OPTIONS__PRICE", "1000")
    for number in range(3):
        (notes / f"new{number}.txt").write_text(f"new note number {number}\n")
    return notes


def test_plan_shown_in_words_is_carried_out_by_run_plan(costly: Path, flowbed: Call) -> None:
    plan_id = flowbed("plan", "--json").json["plan_id"]
    told = flowbed("plan").out.splitlines()
    assert told == [
        f"plan {plan_id}",
        "  documents   3 new, changed or gone",
        "  chunks      3 to index: 3 new, 0 changed, 0 left by earlier runs",
        "              0 to delete",
        "  reused      0 need no embedding: 0 repeated, 0 in the vector cache, 0 in the index",
        "  tokens     12 to embed, an estimate: earlier runs were billed what was planned",
        told[-2],
        f"`flowbed run --plan {plan_id}` does just this",
    ]
    assert told[-2].startswith("  realtime   $0.0120, about ")
    ran = flowbed("run", "--plan", plan_id)
    assert ran.status == 0
    assert "3 documents fetched; 3 chunks indexed, 0 deleted" in ran.out
    assert "embedded 3 texts (12 tokens, $0.0120)" in ran.out
    assert "planned  12 tokens, $0.0120" in ran.out
    assert "nothing to do" in flowbed("plan").out
    again = flowbed("run", "--plan", plan_id)
    assert again.status == 0
    assert f"plan {plan_id}: everything in it was done already" in again.out


def test_run_plan_reports_planned_beside_done(costly: Path, flowbed: Call) -> None:
    """A plan without work has no id."""
    plan = flowbed("plan", "--json").json
    report = flowbed("run", "--plan", plan["plan_id"], "--json").json
    assert set(report["planned"]) == {
        "plan_id",
        "chunks",
        "deleted",
        "tokens",
        "cost_usd",
        "seconds",
        "already",
    }
    assert report["planned"]["tokens"] == plan["tokens"] == report["tokens"]
    assert report["planned"]["cost_usd"] == plan["lanes"]["realtime"]["cost_usd"] == report["cost_usd"]
    assert report["embedding_seconds"] > 0
    assert (report["drift"], report["waiting"]) == ({}, 0)
    assert flowbed("plan", "--json").json["plan_id"] is None
    assert flowbed("run", "--json").json["planned"] is None


def test_run_plan_overtaken_by_another_run_exits_1(costly: Path, flowbed: Call) -> None:
    """It names the source and the number of documents."""
    plan_id = flowbed("plan", "--json").json["plan_id"]
    (costly / "new0.txt").write_text("something else\n")
    assert flowbed("run").status == 0
    ran = flowbed("run", "--plan", plan_id)
    assert ran.status == 1
    # The three copied notes are read again too where their copies are older than a tick of the file system's clock.
    assert re.search(
        r"notes: another run has fetched it since the plan, or it was rolled back, and 1 of the [36] documents",
        ran.out,
    )
    assert set(flowbed("run", "--plan", plan_id, "--json").json["drift"]) == {"notes"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--plan", "nope"], "`flowbed plan` makes one"),
        (["run", "notes", "--plan", "0123456789abcdef"], "already says what to do"),
        (["run", "--budget", "-1"], "--budget"),
        (["run", "--budget", "nan"], "--budget"),
    ],
)
def test_run_invalid_plan_or_budget_exits_2(
    notes: Path, flowbed: Call, arguments: list[str], says: str
) -> None:
    called = flowbed(*arguments)
    assert called.status == 2
    assert says in called.err


def test_run_budget_stops_before_exceeding_it(costly: Path, flowbed: Call) -> None:
    """The rest waits for a run with a larger budget."""
    ran = flowbed("run", "--budget", "0.009", "--json")
    assert ran.status == 1
    assert (ran.json["chunks"], ran.json["tokens"], ran.json["waiting"]) == (2, 8, 1)
    assert ran.json["cost_usd"] <= 0.009
    assert "would exceed the budget of $0.0090 ($0.0080 spent)" in ran.json["failures"][0]["reason"]
    assert flowbed("status", "--json").json["chunks"] == {"SUCCESS": 5, "NONE": 1}
    plan = flowbed("plan", "--json").json
    assert (plan["waiting"], plan["tokens"]) == (1, 4)
    told = flowbed("run", "--budget", "0")
    assert told.status == 1
    assert "1 chunk left for another run" in told.out
    assert flowbed("run", "--budget", "0.004", "--json").json["waiting"] == 0


def test_run_without_a_terminal_does_not_ask(costly: Path, flowbed: Call) -> None:
    """Runs from cron use a budget or a plan as a limit."""
    assert flowbed("run", "--json").json["chunks"] == 3


def on_a_terminal(folder: Path, answer: str, *arguments: str) -> tuple[int, str]:
    """Run a command on a terminal, and type an answer once it asks."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "flowbed", *arguments],
        cwd=folder,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "dumb"},
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 4096):
                if b"[y/N]" in (seen := seen + piece) and answer:
                    os.write(ours, answer.encode())
                    answer = ""
        except OSError:
            pass  # a terminal whose other side is closed
        assert process.stdout is not None
        out = process.stdout.read().decode()
        status = process.wait(60)
    os.close(ours)
    return status, out + seen.decode()


def test_run_on_a_terminal_that_costs_money_asks_first(costly: Path, project: Path, flowbed: Call) -> None:
    """`no` changes nothing, and `yes` carries out the plan that was shown."""
    status, told = on_a_terminal(project, "n\n", "run")
    assert status == 1
    assert "tokens     12 to embed" in told
    assert "embed 12 tokens for $0.0120? [y/N]" in told
    assert "nothing was embedded" in told
    assert flowbed("status", "--json").json["chunks"] == {"SUCCESS": 3}
    status, told = on_a_terminal(project, "y\n", "run")
    assert status == 0
    assert "planned  12 tokens" in told
    assert flowbed("status", "--json").json["chunks"] == {"SUCCESS": 6}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command take this process for one on a terminal, where it must not ask."""

    def confirm(text: str, **_: object) -> NoReturn:
        pytest.fail(f"asked: {text}")

    monkeypatch.setattr(runs, "_on_a_terminal", lambda: True)
    monkeypatch.setattr(typer, "confirm", confirm)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("agreed", [["--yes"], ["--budget", "1"], ["--json"]])
def test_run_with_yes_budget_or_json_does_not_ask(costly: Path, flowbed: Call, agreed: list[str]) -> None:
    assert flowbed("run", *agreed).status == 0


@pytest.mark.usefixtures("terminal")
def test_run_free_model_does_not_ask(costly: Path, flowbed: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWBED_MODEL_OPTIONS__PRICE", "0")
    assert flowbed("run").status == 0
