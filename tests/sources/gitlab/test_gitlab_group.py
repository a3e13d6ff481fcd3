"""All projects of a group of GitLab as one source, and what a token can see of a project or a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured, NotFound, Transient
from flowbed.sources import Looking
from flowbed.sources.gitlab import open_gitlab
from flowbed.testing.clock import FixedClock
from flowbed.testing.simulators import running
from flowbed.testing.simulators.sources.gitlab import GitLab, GitLabGroup
from flowbed.testing.sources import entries, fetch_killed, pages, still_there

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.projects import Project

    from flowbed.records import Page
    from flowbed.sources import Source

TOKEN = "any"  # noqa: S105 - of the simulator


def group_of(number: int) -> GitLabGroup:
    """Return a group whose projects have one issue each."""
    projects = [GitLab(path=f"acme/sub/p{each}", number=each) for each in range(1, number + 1)]
    for each in projects:
        each.post("issues", f"Issue of {each.path}", "text")
    return GitLabGroup("acme", projects)


def opened(url: str, folder: Path, *, token: str = TOKEN, **options: object) -> Source:
    async def sleep(_seconds: float) -> None:
        pass

    return open_gitlab(
        url,
        folder=folder,
        options={"group": "acme", **options},
        clock=FixedClock(2**50),
        token=token,
        sleep=sleep,
    )


def documents(fetched: list[Page]) -> list[str]:
    return sorted(each.document for each in entries(fetched))


def reasons(fetched: list[Page]) -> list[str]:
    return [f"{each.subject}: {each.reason}" for page in fetched for each in page.problems]


async def test_group_lists_every_project_and_then_what_changed(tmp_path: Path) -> None:
    group = group_of(120)
    async with running(group) as url:
        source = opened(url, tmp_path)
        first = await pages(source)
        assert [page.complete for page in first] == [False] * (len(first) - 1) + [True]
        assert documents(first) == sorted(f"{number}#1" for number in range(1, 121))
        assert len(group.requests) == 2  # pages of projects
        for each in group.projects:
            each.advance(3_600)
        group.projects[4].note("issues", 1, "an answer")
        group.projects[5].post("issues", "Another", "text")
        group.projects.append(GitLab(path="acme/new", number=999))  # type: ignore[attr-defined]
        group.projects[-1].post("issues", "In a new project", "text")
        second = await pages(source, first[-1].cursor)
        assert {"5#1", "6#2", "999#1"} <= set(documents(second))
        # The new project is complete by itself.
        assert (second[-1].complete, second[-1].within) == (True, ("999#", "999!", "999/wikis/"))
        third = await pages(source, second[-1].cursor)
        assert not third[-1].complete


async def test_group_without_anything_says_so(tmp_path: Path) -> None:
    group = GitLabGroup("acme", [GitLab(path="acme/a", number=1), GitLab(path="acme/b", number=2)])
    async with running(group) as url:
        fetched = await pages(opened(url, tmp_path))
    assert fetched[-1].empty == "there are no issues, merge requests or wiki pages in 2 projects of the group"


async def test_group_reset_renders_raw_answers_again(tmp_path: Path) -> None:
    group = group_of(3)
    async with running(group) as url:
        source = opened(url, tmp_path)
        await pages(source)
        for each in group.projects:
            each.advance(3_600)
            each.requests.clear()
        again = await pages(source)
        assert again[-1].complete
        assert documents(again) == ["1#1", "2#1", "3#1"]
        assert not any("notes" in request for each in group.projects for request in each.requests)


async def test_group_killed_between_projects_goes_on_there(tmp_path: Path) -> None:
    group = group_of(3)
    async with running(group) as url:
        source = opened(url, tmp_path)
        held: set[str] = set()
        cursor = ""
        async for page in source.fetch(""):
            if len(held) == 2:
                break
            held |= {each.document for each in page.entries}
            cursor = page.cursor
        rest = await pages(source, cursor)
        assert held | set(documents(rest)) == {"1#1", "2#1", "3#1"}


@pytest.mark.parametrize("stored", range(2, 7))
async def test_group_killed_before_its_end_knows_what_was_stored_and_what_is_gone(
    tmp_path: Path, stored: int
) -> None:
    """What a project says is gone is known until the last page, while other projects are read."""
    group = group_of(3)
    async with running(group) as url:
        source = opened(url, tmp_path)
        first = await pages(source)
        held = set(documents(first))
        for each in group.projects:
            each.advance(3_600)
            each.post("issues", "Another", "text")
        group.projects[0].edit("issues", 1, confidential=True)

        def store(page: Page) -> None:
            held.update(each.document for each in page.entries)

        cursor = await fetch_killed(source, first[-1].cursor, store, after=stored)
        for each in group.projects[1:]:
            each.delete("issues", 2)
        fetched = await pages(source, cursor)
        assert not any(page.gone for page in fetched[:-1])
        held |= set(documents(fetched))
        assert held - set(fetched[-1].gone) == {"1#2", "2#1", "3#1"}


async def test_group_project_that_fails_or_vanishes_stops_no_other(tmp_path: Path) -> None:
    group = group_of(4)
    async with running(group) as url:
        source = opened(url, tmp_path)
        group.projects[1].outage = 6
        first = await pages(source)
        assert documents(first) == ["1#1", "3#1", "4#1"]
        assert {each[0] for each in first[-1].within} == {"1", "3", "4"}
        (said,) = reasons(first)
        assert said.startswith(f"{url}: acme/sub/p2: gitlab at 127.0.0.1")
        assert said.endswith("answers with 502; what is indexed of it is kept, and the next run tries again")
        group.projects[2].visible = False
        second = await pages(source, first[-1].cursor)
        assert "2#1" in documents(second)
        assert not any(page.gone for page in second)
        (said,) = reasons(second)
        assert said.startswith(
            f"{url}: not in the group any more, or not shown to the token; what is indexed"
        )
        assert said.endswith(": acme/sub/p3 (3)")
        for each in group.projects:
            each.outage = 99
        with pytest.raises(Transient, match="answers with 502"):
            await pages(source, second[-1].cursor)


async def test_group_with_another_option_is_listed_as_a_whole(tmp_path: Path) -> None:
    """What an option leaves out is known to be gone, since the listing is complete."""
    group = group_of(2)
    group.projects[0].post("issues", "Secret", confidential=True)
    async with running(group) as url:
        open_ = await pages(opened(url, tmp_path, confidential=True))
        assert documents(open_) == ["1#1", "1#2", "2#1"]
        closed = await pages(opened(url, tmp_path), open_[-1].cursor)
        assert (documents(closed), closed[-1].complete) == (["1#1", "2#1"], True)


async def test_group_reads_the_projects_that_its_option_names(tmp_path: Path) -> None:
    """By whole paths, paths below the group, or numbers; the last page says that all others are gone."""
    group = group_of(4)
    async with running(group) as url:
        all_ = await pages(opened(url, tmp_path))
        some = opened(url, tmp_path, projects=["acme/sub/p1", "SUB/p2", "4"])
        fetched = await pages(some, all_[-1].cursor)
        held = {f"{number}#1" for number in range(1, 6)}
        assert still_there(held, fetched) == {"1#1", "2#1", "4#1"}
        assert not (await pages(some, fetched[-1].cursor))[-1].complete
        assert isinstance(some, Looking)
        assert (await some.look())[0] == (
            "GitLab group acme: reads 3 projects: acme/sub/p1, acme/sub/p2, acme/sub/p4"
        )
        with pytest.raises(
            Misconfigured, match=r"'acme/sub/p5' is not in group .*mean acme/sub/p.\?\); its proj"
        ):
            await pages(opened(url, tmp_path, projects=["sub/p5"]), fetched[-1].cursor)
    with pytest.raises(Misconfigured, match=r"give 'group' too"):
        open_gitlab(f"{url}/acme/p", folder=tmp_path, options={"projects": "p"}, clock=FixedClock())


async def test_another_project_of_the_same_gitlab_is_read_from_its_beginning(tmp_path: Path) -> None:
    """A cursor knows a project by its number, which is that of the first one."""
    group = group_of(2)
    async with running(group) as url:
        sources = [
            open_gitlab(
                f"{url}/acme/sub/{name}", folder=tmp_path, options={}, clock=FixedClock(), token=TOKEN
            )
            for name in ("p1", "p2", "p3")
        ]
        first = await pages(sources[0])
        second = await pages(sources[1], first[-1].cursor)
        assert (documents(second), still_there(["1#1"], second)) == (["2#1"], set())
        assert not (await pages(sources[1], second[-1].cursor))[-1].complete
        with pytest.raises(Misconfigured, match="does not exist"):
            await pages(sources[2], second[-1].cursor)


async def test_group_without_projects_or_access_says_so(tmp_path: Path) -> None:
    async with running(GitLabGroup("acme", [])) as url:
        fetched = await pages(opened(url, tmp_path))
        assert not fetched[-1].complete  # which would delete what is indexed
        assert reasons(fetched) == [f"{url}: the group has no projects, or shows the token none"]
        with pytest.raises(Misconfigured, match=r"group other of .* set GITLAB_TOKEN to a token"):
            await pages(opened(url, tmp_path, token="", group="other"))


@pytest.mark.parametrize(
    ("location", "options"),
    [
        ("https://git.example/acme", {"group": "acme"}),
        ("https://git.example/gl", {"group": "acme"}),
        ("https://git.example/gl", {"group": "acme", "api": "https://git.example/api/v4"}),
        ("https://u:p@git.example", {"group": "acme"}),
        ("https://git.example", {"group": "/"}),
    ],
)
def test_group_with_an_invalid_location_is_misconfigured(
    tmp_path: Path, location: str, options: dict[str, object]
) -> None:
    with pytest.raises(Misconfigured, match="group") as caught:
        open_gitlab(location, folder=tmp_path, options=options, clock=FixedClock())
    assert "u:p" not in str(caught.value)


def test_group_of_a_gitlab_below_a_path_has_its_address(tmp_path: Path) -> None:
    source = open_gitlab(
        "https://x.example/gl",
        folder=tmp_path,
        options={"group": "acme/web", "api": "https://x.example/gl/api/v4"},
        clock=FixedClock(),
    )
    assert (source.base_url, source.path) == ("https://x.example/gl/api/v4", "acme/web")  # type: ignore[attr-defined]


async def look(source: Source) -> tuple[str, ...]:
    assert isinstance(source, Looking)
    return await source.look()


async def test_look_names_what_a_token_sees_of_a_group(tmp_path: Path) -> None:
    group = group_of(3)
    group.projects[0].switched_off = {"issues", "wiki"}
    group.projects[2].switched_off = {"wiki"}
    async with running(group) as url:
        assert await look(opened(url, tmp_path, token="")) == (
            "GitLab group acme: reads 3 projects: acme/sub/p1, acme/sub/p2, acme/sub/p3",
            "without issues: acme/sub/p1",
            "without the wiki: acme/sub/p1, acme/sub/p3",
            "GITLAB_TOKEN is not set: only what is public is read",
        )


async def test_add_says_what_the_token_sees_of_a_project(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks the API once, and adds the source whatever the answer."""
    from flowbed.settings import SourceSettings
    from flowbed.wiring.sources import look as look_at

    monkeypatch.setenv("GITLAB_TOKEN", "glpat-any")
    gitlab = GitLab(switched_off={"wiki"}, forbidden={"merge_requests"})
    async with running(gitlab) as url, await project.open() as bed:
        settings = SourceSettings(kind="gitlab", location=f"{url}/web/app")
        await bed.add("tracker", kind="gitlab", location=f"{url}/web/app")
        assert gitlab.requests == []
        said = await look_at("tracker", settings, project.folder)
        assert said[0] == "GitLab project web/app: reads issues"
        assert said[1].startswith("merge requests: gitlab at 127.0.0.1")
        assert said[1].endswith("does not show /projects/7/merge_requests; the token's user may not see them")
        assert said[2:] == ("the wiki: switched off in the project",)
        gitlab.scoped = False
        (line,) = await look_at("tracker", settings, project.folder)
        assert "lacks a scope (needed: api, read_api)" in line
        gitlab.scoped, gitlab.visible = True, False
        monkeypatch.delenv("GITLAB_TOKEN")
        (line,) = await look_at("tracker", settings, project.folder)
        assert line.endswith("is not public: set GITLAB_TOKEN to a token with the scope read_api")


async def test_why_link_finds_its_project_in_a_group(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITLAB_TOKEN", "glpat-any")
    group = group_of(2)
    async with running(group) as url, await project.open() as bed:
        await bed.add("all", kind="gitlab", location=url, options={"group": "acme"})
        await bed.run()
        (held,) = await bed.why(f"{url}/acme/sub/p2/-/issues/1")
        assert held.chunk.document == "2#1"
        with pytest.raises(NotFound, match="the project was not read yet"):
            await bed.why(f"{url}/acme/sub/p3/-/issues/1")
