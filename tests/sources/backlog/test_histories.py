"""Whatever happens in a space, after some quiet fetches the index is that of a first fetch."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sources.backlog.test_space import DAY, Follower, space

from flowbed.errors import Transient
from flowbed.testing.simulators import running
from flowbed.testing.sources import fetch_killed

if TYPE_CHECKING:
    from flowbed.testing.simulators.sources.backlog import Backlog

CHANGES = (
    *(
        "post",
        "edit",
        "edit_many",
        "delete",
        "move",
        "comment",
        "edit_comment",
        "delete_comment",
        "write_wiki",
    ),
    *(
        "delete_wiki",
        "write_document",
        "trash_document",
        "delete_document",
        "remark",
        "answer",
        "unremark",
        "notation",
    ),
)
EVENTS = ("storm", "cut", "outage", "hide", "show", "forget", "restart")
PLACE = st.integers(0, 1)
CHANGE = st.tuples(st.sampled_from(CHANGES), PLACE, st.integers(0, 9))
EVENT = st.tuples(st.sampled_from(EVENTS), PLACE, st.integers(1, 8))
WAIT = st.tuples(st.just("wait"), st.just(0), st.sampled_from([0, 1, 3_600, 2 * DAY, 40 * DAY]))
FETCH = st.one_of(st.just(("fetch", 0, 0)), st.tuples(st.just("die"), st.just(0), st.integers(1, 14)))
ROUND = st.tuples(st.lists(CHANGE, min_size=2, max_size=6), st.lists(EVENT, max_size=1), FETCH, WAIT)
HISTORIES = st.lists(ROUND, min_size=2, max_size=5).map(
    lambda rounds: [
        step for changes, events, fetch, wait in rounds for step in (*changes, *events, fetch, wait)
    ]
)


async def happen(
    backlog: Backlog, projects: list[int], follower: Follower, step: tuple[str, int, int]
) -> None:
    """Do one step of a history."""
    do, place, number = step
    if do == "fetch":
        with contextlib.suppress(Transient):
            await follower.follow(later=0)
    elif do == "die":
        follower.cursor = await fetch_killed(follower.open(), follower.cursor, follower.apply, after=number)
    elif do in {"storm", "cut", "outage"}:
        setattr(backlog, do, number)
    elif do == "restart":
        follower.cursor = ""  # and nothing is kept of what Backlog answered
    elif do == "wait":
        backlog.advance(number)
    elif do in {"hide", "show"}:
        getattr(backlog, do)(projects[place])
    elif do == "forget":
        # What Backlog does not remember any more has to be noticed by a sweep.
        backlog.projects[projects[place]].activities.clear()
    else:
        change(backlog, projects[place], projects[1 - place], do, number)


def change(backlog: Backlog, project: int, other: int, do: str, number: int) -> None:  # noqa: C901, PLR0912 - one for each kind
    """Change something of a project, if it is there."""
    found = backlog.projects[project]
    issues, wikis, documents = list(found.issues), list(found.wikis), list(found.documents)
    issue = issues[number % len(issues)] if issues else 0
    comments = (
        [each["id"] for each in found.comments[found.issues[issue]["id"]] if each["content"]] if issue else []
    )
    remarks = [each["id"] for each in found.remarks.get(documents[-1], ())] if documents else []
    match do:
        case "post":
            backlog.post(project, f"title {number}", f"*text {number}")
        case "edit" if issue:
            backlog.edit(project, issue, summary=f"edited {number} at {backlog.now}")
        case "edit_many" if issue:
            backlog.edit_many(project, issues[:3], status={"id": 4, "name": f"closed {number}"})
        case "delete" if issue:
            backlog.delete(project, issue)
        case "move" if issue:
            backlog.move(project, issue, other)
        case "comment" if issue:
            backlog.comment(project, issue, f"comment {number}")
        case "edit_comment" if comments:
            backlog.edit_comment(project, issue, comments[0], f"edited {number} at {backlog.now}")
        case "delete_comment" if comments:
            backlog.delete_comment(project, issue, comments[-1])
        case "write_wiki":
            backlog.write_wiki(project, "Page", f"*wiki {number}", wikis[0] if wikis and number % 2 else 0)
        case "delete_wiki" if wikis:
            backlog.delete_wiki(project, wikis[-1])
        case "write_document":
            backlog.write_document(
                project, "Page", f"text {number}", documents[0] if documents and number % 2 else ""
            )
        case "remark" if documents:
            backlog.comment_document(project, documents[-1], f"remark {number}")
        case "answer" if remarks:
            backlog.comment_document(project, documents[-1], f"answer {number}", answers=remarks[0])
        case "unremark" if remarks:
            backlog.delete_document_comment(project, documents[-1], remarks[-1])
        case "trash_document" | "delete_document" if documents:
            getattr(backlog, do)(project, documents[-1])
        case "notation":
            found.row["textFormattingRule"] = "backlog" if number % 2 else "markdown"


async def lived(steps: list[tuple[str, int, int]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the index after a history and some quiet fetches, and that of a first fetch."""
    backlog, ops = space(2)
    projects = [ops, backlog.add_project("DEV", "backlog")]
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        for step in steps:
            await happen(backlog, projects, follower, step)
        backlog.storm = backlog.cut = backlog.outage = 0
        for project in projects:
            backlog.show(project)
        # Each fetch asks for some issues again; comments that moved nothing are found so.
        for _ in range(3):
            await follower.follow(later=DAY + 60)
        return follower.held, await follower.fresh()


@settings(max_examples=8, deadline=None)
@given(steps=HISTORIES)
def test_history_ends_in_the_index_of_a_first_fetch(steps: list[tuple[str, int, int]]) -> None:
    found, wanted = asyncio.run(lived(steps))
    assert found == wanted


@pytest.mark.long
@settings(max_examples=200, deadline=None)
@given(steps=HISTORIES)
def test_many_histories_end_in_the_index_of_a_first_fetch(steps: list[tuple[str, int, int]]) -> None:
    found, wanted = asyncio.run(lived(steps))
    assert found == wanted
