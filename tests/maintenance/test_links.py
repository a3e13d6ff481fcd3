"""`why` with the link of a message, an issue or a note: what holds it, or why nothing does."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import NotFound
from flowbed.testing.simulators import running
from flowbed.testing.simulators.sources.gitlab import GitLab
from flowbed.testing.simulators.sources.slack import SlackSimulator, SlackWorkspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.projects import Project

    from flowbed.bed import Flowbed

LONG_AGO = "1500000000.000100"


def permalink(channel: str, ts: str, thread: str = "") -> str:
    """Return what *Copy link* gives."""
    more = f"?thread_ts={thread}&cid={channel}" if thread else ""
    return f"https://acme.slack.com/archives/{channel}/p{ts.replace('.', '')}{more}"


@asynccontextmanager
async def team(
    project: Project, workspace: SlackWorkspace, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Flowbed]:
    monkeypatch.setenv("SLACK_TOKEN", "xoxb-any")
    async with running(SlackSimulator(workspace), dated=False) as url, await project.open() as bed:
        await bed.add("team", kind="slack", location=f"{url}/api")
        yield bed


async def reason(bed: Flowbed, link: str) -> str:
    with pytest.raises(NotFound) as caught:
        await bed.why(link)
    return str(caught.value).removeprefix(f"{link} is not in the index: ")


async def test_why_link_of_a_message_names_the_chunk_that_holds_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    single = workspace.post("C1", "nobody answers this")
    thread = workspace.post("C1", "why does it hang?")
    replies = [workspace.post("C1", f"reply {n} " + "words " * 150, thread=thread) for n in range(3)]
    workspace.now += 3_600
    async with team(project, workspace, monkeypatch) as bed:
        await bed.run()
        held = {ts: await bed.why(permalink("C1", ts, thread)) for ts in replies}
        assert [[each.chunk.document for each in some] for some in held.values()] == [[f"C1/t/{thread}"]] * 3
        assert len({some[0].chunk.id for some in held.values()}) > 1
        assert held[replies[0]][0].verdict.startswith("in the index of team since version ")
        # Without its thread, a reply is looked for in the threads of that time.
        assert await bed.why(permalink("C1", replies[2])) == held[replies[2]]
        (of_parent,) = await bed.why(f"https://app.slack.com/client/T1/C1/thread/C1-{thread}")
        assert of_parent.chunk.document == f"C1/t/{thread}"
        (of_single,) = await bed.why(permalink("C1", single))
        assert of_single.chunk.document == "C1/d/2026-01-05"
        assert of_single.batch is not None  # which says when it was seen


async def test_why_link_of_a_missing_message_says_exactly_why(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    workspace.add_channel("C2", "dev", member=False)
    old = workspace.post("C1", "hello", ts="1767500000.000100")
    kept = workspace.post("C1", "it stays")
    deleted = workspace.post("C1", "oops")
    silent = workspace.post("C1", "", subtype="channel_join")
    elsewhere = workspace.post("C2", "hidden")
    workspace.now += 3_600
    async with team(project, workspace, monkeypatch) as bed:
        assert "channel C1 was never read" in await reason(bed, permalink("C1", deleted))
        await bed.run()
        workspace.delete("C1", deleted)
        workspace.delete("C1", old)
        late = workspace.post("C1", "news")
        (still,) = await bed.why(permalink("C1", deleted))
        assert still.verdict.startswith("in the index")  # no run has seen yet that it is gone
        assert "the next `flowbed run` lists it" in await reason(bed, permalink("C1", late))
        workspace.now += 3_600
        await bed.run()
        assert (await bed.why(permalink("C1", late)))[0].verdict.startswith("in the index")
        gone = "source team: channel C1 was last listed up to 2026-01-05 09:59 UTC, and did not have it: it was deleted"
        assert (await reason(bed, permalink("C1", deleted))).startswith(gone)
        assert (await reason(bed, permalink("C1", silent))).startswith(gone)
        day = "source team: C1/d/2026-01-04 was deleted from the index, since the source no longer has it"
        assert await reason(bed, permalink("C1", old)) == day
        assert "the app is not in it (type /invite" in await reason(bed, permalink("C2", elsewhere))
        assert "names channel C1 and no message" in await reason(bed, "https://acme.slack.com/archives/C1")
        assert "no source of this project has links" in await reason(bed, "https://example.com/a")
        await bed.forget(documents=["C1/d/2026-01-05"])
        assert "was forgotten" in await reason(bed, permalink("C1", kept))


async def test_why_link_of_a_failed_or_waiting_message_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    ts = workspace.post("C1", "hello")
    workspace.now += 3_600
    async with team(project, workspace, monkeypatch) as bed:
        await bed.run(budget=0.0, limit=0)
        (waits,) = await bed.why(permalink("C1", ts))
        assert waits.verdict == "it waits for the next `flowbed run`"


async def test_why_link_of_an_issue_or_a_note_names_its_chunks(project: Project) -> None:
    gitlab = GitLab()
    iid = gitlab.post("issues", "Login fails", "It hangs.")
    notes = [gitlab.note("issues", iid, f"note {n} " + "words " * 130) for n in range(2)]
    internal = gitlab.note("issues", iid, "for us", internal=True)
    gitlab.post("merge_requests", "Fix", "repairs it")
    gitlab.write_wiki("dir/home", "# Hello")
    async with running(gitlab) as url, await project.open() as bed:
        await bed.add("tracker", kind="gitlab", location=f"{url}/web/app")
        web = f"{url}/web/app"
        assert "was not read yet" in await reason(bed, f"{web}/-/issues/1")
        await bed.run()
        (held,) = await bed.why(f"{web}/-/issues/1#note_{notes[1]}")
        assert held.chunk.id == f"tracker#7#1#note_{notes[1]}#00000"
        assert len(await bed.why(f"{web}/-/work_items/1")) > 2
        assert [each.chunk.document for each in await bed.why(f"{web}/-/merge_requests/1")] == ["7!1"]
        assert [each.chunk.document for each in await bed.why(f"{web}/-/wikis/dir%2Fhome")] == [
            "7/wikis/dir/home"
        ]
        assert "is internal, which needs the option confidential" in await reason(
            bed, f"{web}/-/issues/1#note_{internal}"
        )
        assert "7#9 was not there when the project was last read" in await reason(bed, f"{web}/-/issues/9")
        assert "no source of this project" in await reason(bed, f"{url}/web/other/-/issues/1")


async def test_why_link_of_an_issue_of_a_dump_names_its_chunks(project: Project) -> None:
    gitlab = GitLab()
    iid = gitlab.post("issues", "Login fails", "It hangs.")
    note = gitlab.note("issues", iid, "clear the cookies " * 30)
    internal = gitlab.note("issues", iid, "for us", internal=True)
    (project.folder / "dump.json").write_text(json.dumps(gitlab.dump()))
    async with await project.open() as bed:
        await bed.add("tracker", kind="gitlab", location="dump.json")
        await bed.run()
        web = f"{gitlab.url}/web/app/-/issues"
        (held,) = await bed.why(f"{web}/1#note_{note}")
        assert held.chunk.id == f"tracker#7#1#note_{note}#00000"
        hidden = f"source tracker: {internal} is not in 7#1: dump.json was made before it was written, or it is hidden"
        assert (await reason(bed, f"{web}/1#note_{internal}")).startswith(hidden)
        assert await reason(bed, f"{web}/9") == (
            "source tracker: dump.json does not have it: it was made before, or without what the link is of"
        )
        assert "no source of this project" in await reason(bed, "https://github.example/web/app/issues/1")
