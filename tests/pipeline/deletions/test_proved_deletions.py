"""Documents that a source itself says are deleted: guarded like those that it no longer lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.testing.simulators import running
from flowbed.testing.simulators.sources.slack import SlackSimulator, SlackWorkspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.projects import Project

    from flowbed.bed import Flowbed

DAY = 86_400
DAYS = 40


@pytest.fixture
def workspace() -> SlackWorkspace:
    """Return a workspace with a message on each of many days."""
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    for day in range(DAYS):
        workspace.post("C1", f"day {day}", ts=f"{workspace.now - day * DAY}.000000")
    workspace.now += 3_600
    return workspace


@pytest.fixture
async def bed(
    project: Project, workspace: SlackWorkspace, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Flowbed]:
    """Return an indexed workspace; each run lists all of its days again."""
    monkeypatch.setenv("SLACK_TOKEN", "xoxb-any")
    async with running(SlackSimulator(workspace), dated=False) as url, await project.open() as bed:
        await bed.add("team", kind="slack", location=f"{url}/api", options={"lookback": 60, "page": 10})
        assert (await bed.run()).fetched == DAYS
        yield bed


def delete(workspace: SlackWorkspace, number: int) -> list[str]:
    some = sorted(workspace.channels["C1"].messages)[:number]
    for ts in some:
        workspace.delete("C1", ts)
    workspace.now += 3_600
    return some


async def test_source_that_says_most_is_deleted_is_not_believed_without_a_flag(
    project: Project, workspace: SlackWorkspace, bed: Flowbed
) -> None:
    """Nothing of it is deleted, run after run, and what is new comes in; with the flag all of it goes."""
    delete(workspace, 20)
    reason = (
        "20 of 40 documents are gone from the source, which is more than 30%: they are kept; if that is intended,"
        " run `flowbed run team --allow-deletes`"
    )
    assert (await bed.plan()).withheld == {"team": reason}
    assert (await bed.status()).withheld == {}  # a plan changes nothing
    for round_ in range(2):
        workspace.post("C1", f"news {round_}", ts=f"{workspace.now - 100}.{round_:06d}")
        workspace.now += 3_600
        report = await bed.run()
        assert (dict(report.withheld), report.fetched, report.deleted) == ({"team": reason}, 1, 0)
        assert (await bed.status()).withheld == {"team": reason}
    assert len({key.split("#")[1] for key in project.documents("team")}) == DAYS
    assert reason in str((await bed.doctor()).findings)
    report = await bed.run(allow_deletes=True)
    assert (dict(report.withheld), report.deleted) == ({}, 20)
    assert (await bed.status()).withheld == {}
    assert len({key.split("#")[1] for key in project.documents("team")}) == DAYS - 20
    assert (await bed.run()).fetched == 0


async def test_source_that_takes_back_its_deletions_is_believed(
    workspace: SlackWorkspace, bed: Flowbed
) -> None:
    """Deletions that were withheld are forgotten when the documents are back."""
    kept = dict(workspace.channels["C1"].messages)
    delete(workspace, 30)
    assert (await bed.run()).withheld
    workspace.channels["C1"].messages |= kept
    report = await bed.run()
    assert (dict(report.withheld), report.deleted, report.fetched) == ({}, 0, 0)
    assert (await bed.status()).dead_letters == 0


async def test_source_that_deletes_a_few_needs_no_flag(workspace: SlackWorkspace, bed: Flowbed) -> None:
    """Fewer than 20 documents are deleted whatever their share, and in one swap with the cursor after them."""
    delete(workspace, 12)
    report = await bed.run()
    assert (dict(report.withheld), report.deleted) == ({}, 12)
    assert (await bed.run()).deleted == 0


async def test_plan_with_withheld_deletions_says_so_when_it_is_carried_out(
    workspace: SlackWorkspace, bed: Flowbed
) -> None:
    """A plan that withheld deletions leaves the reason where the others are."""
    delete(workspace, 25)
    workspace.post("C1", "news", ts=f"{workspace.now - 100}.000000")
    plan = await bed.plan()
    assert plan.plan_id is not None
    report = await bed.run(plan=plan.plan_id)
    assert "25 of 40" in report.withheld["team"]
    assert "25 of 40" in (await bed.status()).withheld["team"]
    assert report.deleted == 0
