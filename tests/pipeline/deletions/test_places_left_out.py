"""Channels and projects that the options leave out are deleted, also where the vendor refuses them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.pipeline.deletions.test_unproved_listings import DAY, PLACES, WORDS, Place, Reset

from flowbed.testing.simulators import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.projects import Project

    from flowbed.bed import Flowbed
    from flowbed.records import Report

FIRST, DOOMED, LAST = WORDS
OPTIONS = {"slack": "channels", "discord": "channels", "gitlab": "projects", "backlog": "projects"}


class Chosen:
    """A project whose source names some of the places."""

    def __init__(self, bed: Flowbed, place: Place, url: str, project: Project) -> None:
        self.bed, self.place, self.url = bed, place, url
        self.reset = Reset(project, place, bed)

    async def name(self, *names: str) -> None:
        """Write the places into the options."""
        options = {OPTIONS[self.place.kind]: list(names)} if names else {}
        location = f"{self.url}{self.place.path}"
        await self.bed.add(
            "source", kind=self.place.kind, location=location, options={**self.place.options, **options}
        )

    async def run(self) -> Report:
        self.place.advance(2 * DAY)
        return await self.bed.run()

    def texts(self) -> set[str]:
        return self.reset.texts()


@asynccontextmanager
async def chosen(place: Place, project: Project) -> AsyncIterator[Chosen]:
    async with running(place.app, dated=False) as url, await project.open() as bed:
        yield Chosen(bed, place, url, project)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("SLACK_TOKEN", "DISCORD_TOKEN", "GITLAB_TOKEN", "BACKLOG_API_KEY"):
        monkeypatch.setenv(name, "any")
    return PLACES[request.param]()


def said(report: Report) -> str:
    return " ".join(f"{each.subject}: {each.reason}" for each in report.skipped).casefold()


async def test_place_that_is_lost_is_kept_until_it_is_taken_out_of_the_options(
    place: Place, project: Project
) -> None:
    """Another one that is refused for good does not change that; named again, the place is read from its beginning."""
    place.refuse()
    async with chosen(place, project) as source:
        await source.name("one", "two", "three")
        await source.run()
        assert source.texts() == set(WORDS)
        place.lose()
        report = await source.run()
        assert (report.deleted, source.texts()) == (0, set(WORDS))
        assert "two" in said(report)
        await source.name("one", "three")
        report = await source.run()
        assert (report.deleted, report.withheld, source.texts()) == (1, {}, {FIRST, DOOMED})
        assert "three" in said(report)
        assert "two" not in said(report)
        assert (await source.run()).deleted == 0
        place.regain()
        await source.name("one", "two", "three")
        await source.run()
        assert source.texts() == set(WORDS)


async def test_place_left_out_after_a_lost_cursor_is_deleted(place: Place, project: Project) -> None:
    """Only the ledger knows the documents then."""
    place.refuse()
    async with chosen(place, project) as source:
        await source.name("one", "two", "three")
        await source.run()
        await source.reset.lose_cursor()
        await source.name("one", "three")
        report = await source.run()
        assert (report.deleted, source.texts()) == (1, {FIRST, DOOMED})


async def test_place_that_no_option_names_is_kept_while_it_is_lost(place: Place, project: Project) -> None:
    """Where the options have named some before, too; the report says how to let it go."""
    async with chosen(place, project) as source:
        await source.name("one", "two")
        await source.run()
        project_file = project.folder / "flowbed.toml"
        lines = project_file.read_text("utf-8").splitlines()
        project_file.write_text(
            "\n".join(each for each in lines if not each.startswith(OPTIONS[place.kind])), "utf-8"
        )
        await source.name()
        place.lose()
        report = await source.run()
        assert (report.deleted, source.texts()) == (0, set(WORDS))
        assert f"in the option {OPTIONS[place.kind]} to delete it" in said(report)


async def test_another_address_replaces_what_was_read_at_the_first(place: Place, project: Project) -> None:
    other = PLACES[place.kind]()
    other.lose()
    async with chosen(place, project) as source:
        await source.name()
        await source.run()
        assert source.texts() == set(WORDS)
        async with running(other.app, dated=False) as source.url:
            other.delete()
            source.place = other
            await source.name()
            assert (await source.run()).deleted == 2
            assert source.texts() == {FIRST}
            report = await source.run()
            assert (report.deleted, report.fetched) == (0, 0)
