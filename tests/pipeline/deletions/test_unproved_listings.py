"""Sources over an API that are listed from the beginning, in several fetches: what was deleted before is noticed.

A vendor does not list what was deleted. Where a cursor is lost, and what the vendor answered too, only the ledger knows
the documents of before.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.projects import Project

from flowbed.ledger import Swap
from flowbed.sources.apis.raw_answers import RAW
from flowbed.telemetry import FETCH_SWAPPED, listen
from flowbed.testing.simulators import running
from flowbed.testing.simulators.sources.backlog import Backlog
from flowbed.testing.simulators.sources.discord import Discord, DiscordFault
from flowbed.testing.simulators.sources.gitlab import GitLab, GitLabGroup
from flowbed.testing.simulators.sources.slack import SlackFault, SlackSimulator, SlackWorkspace
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from flowbed.bed import Flowbed

DAY = 86_400
FOR_EVER = 1_000_000
CALLS_OF_A_REFUSAL = 4  # of GitLab: the project, and its issues, merge requests and wiki
WORDS = ("kept first", "deleted before", "kept last")


class KilledError(Exception):
    """The end of a process, between two pages."""


@dataclass(kw_only=True)
class Place:
    """A simulated API with the three texts in two channels or projects.

    `delete` deletes the second text, and `edit` adds to the first. `lose` takes the second channel or project, with the
    last text, away from the token, and `regain` gives it back; `delete_last` deletes that text. `refuse` adds a third
    channel or project, which is listed, but whose contents the token may not read. `calls` are those answered so far.
    """

    kind: str
    app: Any  # an ASGI application
    path: str
    delete: Callable[[], None]
    edit: Callable[[], None]
    lose: Callable[[], None]
    regain: Callable[[], None]
    delete_last: Callable[[], object]
    refuse: Callable[[], None]
    calls: Callable[[], int]
    advance: Callable[[int], None]
    options: dict[str, Any] = field(default_factory=dict)


def slack() -> Place:
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "one")
    workspace.add_channel("C2", "two")
    first = workspace.post("C1", WORDS[0], ts=f"{workspace.now - 30 * DAY}.000001")
    doomed = workspace.post("C1", WORDS[1], ts=f"{workspace.now - 20 * DAY}.000001")
    last = workspace.post("C2", WORDS[2])

    def member(*, is_member: bool) -> None:
        workspace.channels["C2"].member = is_member

    def advance(seconds: int) -> None:
        workspace.now += seconds

    simulator = SlackSimulator(workspace)

    def refuse() -> None:
        workspace.add_channel("C3", "three")
        workspace.post("C3", "secret")
        refusal = SlackFault(kind="error", channel="C3", code="not_in_channel", times=FOR_EVER)
        simulator.faults.append(refusal)

    return Place(
        kind="slack",
        app=simulator,
        path="/api",
        delete=lambda: workspace.delete("C1", doomed),
        edit=lambda: workspace.edit("C1", first, f"{WORDS[0]}, edited"),
        lose=lambda: member(is_member=False),
        regain=lambda: member(is_member=True),
        delete_last=lambda: workspace.delete("C2", last),
        refuse=refuse,
        calls=lambda: len(simulator.calls),
        advance=advance,
    )


def discord() -> Place:
    server = Discord()
    one, two = server.add_channel("one"), server.add_channel("two")
    first = server.post(one, WORDS[0])
    server.advance(10 * DAY)
    doomed = server.post(one, WORDS[1])
    server.advance(20 * DAY)
    last = server.post(two, WORDS[2])

    def refuse() -> None:
        three = server.add_channel("three")
        server.post(three, "secret")
        server.faults.append(DiscordFault(kind="error", path=f"/channels/{three}/", times=FOR_EVER))

    return Place(
        kind="discord",
        app=server,
        path=f"/channels/{server.server}",
        delete=lambda: server.delete(one, doomed),
        edit=lambda: server.edit(one, first, f"{WORDS[0]}, edited"),
        lose=lambda: server.hide(two),
        regain=lambda: server.regain(two),
        delete_last=lambda: server.delete(two, last),
        refuse=refuse,
        calls=lambda: len(server.calls),
        advance=server.advance,
    )


def gitlab() -> Place:
    one, two = GitLab("web/one", number=7, largest_page=2), GitLab("web/two", number=8)
    group = GitLabGroup("web", [one, two])
    first = one.post("issues", WORDS[0])
    doomed = one.post("issues", WORDS[1])
    for number in range(3):
        one.post("issues", f"kept too {number}")
    last = two.post("issues", WORDS[2])

    def advance(seconds: int) -> None:
        for each in group.projects:
            each.advance(seconds)

    def show(*, visible: bool) -> None:
        two.visible = visible

    def refuse() -> None:
        three = GitLab("web/three", number=9, forbidden={"issues", "merge_requests", "wikis"})
        three.post("issues", "secret")
        group.projects = [*group.projects, three]

    return Place(
        kind="gitlab",
        app=group,
        path="",
        options={"group": "web"},
        delete=lambda: one.delete("issues", doomed),
        edit=lambda: one.edit("issues", first, title=f"{WORDS[0]}, edited"),
        lose=lambda: show(visible=False),
        regain=lambda: show(visible=True),
        delete_last=lambda: two.delete("issues", last),
        refuse=refuse,
        calls=lambda: len(group.requests) + sum(len(each.requests) for each in group.projects),
        advance=advance,
    )


def backlog() -> Place:
    space = Backlog()
    one, two = space.add_project("ONE"), space.add_project("TWO")
    first = space.post(one, WORDS[0])
    doomed = space.post(one, WORDS[1])
    last = space.post(two, WORDS[2])

    def refuse() -> None:
        three = space.add_project("THREE")
        space.post(three, "secret")
        space.refuse(three)

    return Place(
        kind="backlog",
        app=space,
        path="",
        delete=lambda: space.delete(one, doomed),
        edit=lambda: space.edit(one, first, summary=f"{WORDS[0]}, edited"),
        lose=lambda: space.hide(two),
        regain=lambda: space.show(two),
        delete_last=lambda: space.delete(two, last),
        refuse=refuse,
        calls=lambda: len(space.requests),
        advance=space.advance,
    )


PLACES = {"slack": slack, "discord": discord, "gitlab": gitlab, "backlog": backlog}


@dataclass
class Reset:
    """An indexed project whose cursor and raw answers are lost."""

    project: Project
    place: Place
    bed: Flowbed

    async def lose_cursor(self) -> None:
        for file in (self.project.folder / RAW).glob("*.db*"):
            file.unlink()
        ledger = self.bed._ledger
        cursor = await ledger.documents.cursor("source")
        await ledger.documents.swap(Swap(cursor=cursor, value=""))
        self.place.advance(3_600)

    async def cursor(self) -> str:
        return (await self.bed._ledger.documents.cursor("source")).value

    async def run_killed(self) -> None:
        """Run until the first documents are stored."""

        def end(point: str, _facts: dict[str, Any]) -> None:
            if point == FETCH_SWAPPED:
                raise KilledError

        stop = listen(end)
        try:
            with pytest.raises(KilledError):
                await self.bed.run()
        finally:
            stop()

    def texts(self) -> set[str]:
        found = " ".join(f"{text}" for text in self.project.documents("source").values())
        return {words for words in WORDS if words in found}


@asynccontextmanager
async def indexed(place: Place, project: Project) -> AsyncIterator[Reset]:
    """Index a project with the place."""
    place.advance(3_600)
    async with running(place.app, dated=False) as url, await project.open() as bed:
        await bed.add("source", kind=place.kind, location=f"{url}{place.path}", options=place.options)
        await bed.run()
        yield Reset(project, place, bed)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("SLACK_TOKEN", "DISCORD_TOKEN", "GITLAB_TOKEN", "BACKLOG_API_KEY"):
        monkeypatch.setenv(name, "any")
    return PLACES[request.param]()


@pytest.fixture
async def reset(place: Place, project: Project) -> AsyncIterator[Reset]:
    async with indexed(place, project) as found:
        assert found.texts() == set(WORDS)
        await found.lose_cursor()
        yield found


async def test_run_killed_during_a_full_listing_still_finds_earlier_deletions(
    reset: Reset,
) -> None:
    reset.place.delete()
    reset.place.edit()
    reset.place.advance(DAY)
    await reset.run_killed()
    assert await reset.cursor()
    reset.place.advance(3_600)
    assert (await reset.bed.run()).deleted == 1
    assert reset.texts() == {WORDS[0], WORDS[2]}
    reset.place.advance(3_600)
    report = await reset.bed.run()
    assert (report.deleted, report.fetched) == (0, 0)


async def test_listing_from_the_beginning_deletes_nothing_of_what_its_token_has_lost(reset: Reset) -> None:
    """What the API does not show is no proof; the rest of the listing is."""
    reset.place.delete()
    reset.place.lose()
    reset.place.advance(DAY)
    assert (await reset.bed.run()).deleted == 1
    assert reset.texts() == {WORDS[0], WORDS[2]}
    reset.place.regain()
    reset.place.advance(3_600)
    assert (await reset.bed.run()).deleted == 0
    assert reset.texts() == {WORDS[0], WORDS[2]}


async def test_deletion_in_what_a_token_had_lost_is_noticed_when_it_is_back(reset: Reset) -> None:
    """A channel or project that was lost while all else was listed is complete by itself, once it has been read."""
    reset.place.lose()
    await reset.bed.run()
    assert reset.texts() == set(WORDS)
    reset.place.delete_last()
    reset.place.regain()
    reset.place.advance(DAY)
    report = await reset.bed.run()
    assert (report.deleted, report.withheld, report.empty) == (1, {}, {})
    assert reset.texts() == {WORDS[0], WORDS[1]}
    reset.place.advance(3_600)
    report = await reset.bed.run()
    assert (report.deleted, report.fetched, report.empty) == (0, 0, {})


async def test_place_that_is_refused_for_good_costs_little_and_hides_no_deletion(
    place: Place, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run asks for it once and says so once; the others are read and compared as if it were not there."""
    place.refuse()
    ahead, clock = 0, process.now
    monkeypatch.setattr(process, "now", lambda: clock() + ahead)
    async with indexed(place, project) as found:
        assert found.texts() == set(WORDS)
        before = place.calls()
        for _ in range(3):
            place.advance(2 * DAY)
            ahead += 2 * DAY * 1_000_000
            report = await found.bed.run()
            assert report.fetched == 0
            assert len(report.skipped) == 1, report.skipped
            assert "three" in report.skipped[0].subject.casefold()
            assert "next run tries again" in report.skipped[0].reason
        spent = place.calls() - before
        place.delete()
        place.advance(2 * DAY)
        ahead += 2 * DAY * 1_000_000
        assert (await found.bed.run()).deleted == 1
        place.delete_last()
        await found.lose_cursor()
        report = await found.bed.run()
        assert (report.deleted, report.withheld, report.empty) == (1, {}, {})
        assert found.texts() == {WORDS[0]}
        assert "secret" not in str(project.documents("source"))
    assert spent <= 3 * (await undisturbed(place.kind, project, monkeypatch) + CALLS_OF_A_REFUSAL)


async def undisturbed(kind: str, project: Project, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many calls a run makes in which nothing has changed and nothing is refused."""
    place = PLACES[kind]()
    async with indexed(place, Project(project.folder.parent / "undisturbed", project.provider)) as found:
        before = place.calls()
        place.advance(2 * DAY)
        clock = process.now
        monkeypatch.setattr(process, "now", lambda: clock() + 2 * DAY * 1_000_000)
        await found.bed.run()
        return place.calls() - before
