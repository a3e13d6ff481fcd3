"""GitLab over its API, against the simulator: changes, deletions and faults."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import Misconfigured, Transient
from flowbed.records.issues import Issue
from flowbed.sources.gitlab import open_gitlab
from flowbed.sources.gitlab.api import addresses
from flowbed.sources.gitlab.project import Project as GitLabProject
from flowbed.testing.clock import FixedClock
from flowbed.testing.simulators import running
from flowbed.testing.simulators.sources.gitlab import GitLab
from flowbed.testing.sources import entries, fetch_killed, pages, still_there

if TYPE_CHECKING:
    from tests.support.projects import Project

    from flowbed.records import Document, Page
    from flowbed.sources import Source


@dataclass
class Follower:
    """What an index holds after following a source from fetch to fetch, and the waits it was asked for."""

    url: str
    options: dict[str, object] = field(default_factory=dict)
    token: str = ""
    clock: FixedClock = field(default_factory=FixedClock)
    folder: Path | None = None  # keeps raw answers below it
    cursor: str = ""
    held: dict[str, Document] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def open(self) -> Source:
        source = open_gitlab(
            f"{self.url}/web/app",
            folder=self.folder or Path("unused"),
            options=self.options,
            clock=self.clock,
            token=self.token,
            sleep=self.sleep,
        )
        assert isinstance(source, GitLabProject)
        return source if self.folder else replace(source, raw=None)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def follow(self, *, sweep: bool = False) -> list[Page]:
        """Fetch from the cursor, and apply what was found."""
        if sweep:
            self.clock.advance(seconds=90_000)
        self.listed, self.problems = [], []
        found = []
        async for page in self.open().fetch(self.cursor):
            found.append(page)
            self.apply(page)
        there = still_there(self.held, found)
        self.held = {name: each for name, each in self.held.items() if name in there}
        return found

    def apply(self, page: Page) -> None:
        for entry in page.entries:
            self.held[entry.document] = entry.read()
            self.listed.append(entry.document)
        for name in page.gone:
            self.held.pop(name, None)
        self.problems += [problem.reason for problem in page.problems]
        assert all(problem.skipped for problem in page.problems)
        self.cursor = page.cursor

    def notes(self, name: str) -> list[str]:
        return [note.body for note in Issue.from_json(self.held[name].text).notes]


async def fresh(url: str, **options: object) -> dict[str, Document]:
    follower = Follower(url, options)
    await follower.follow()
    return follower.held


async def test_gitlab_project_without_anything_says_so() -> None:
    gitlab = GitLab()
    async with running(gitlab, dated=False) as url:
        (page,) = await Follower(url).follow()
    assert page.empty == "there are no issues, merge requests or wiki pages in web/app that the token may see"


async def test_gitlab_changes_are_listed_and_nothing_else() -> None:
    """A new note, an edit and a new issue are listed by the next fetch; what is older than the overlap is not."""
    gitlab = GitLab()
    for number in range(5):
        gitlab.post("issues", f"Issue {number}", "text")
        gitlab.advance(600)
    async with running(gitlab, dated=False) as url:
        follower = Follower(url)
        await follower.follow()
        assert sorted(follower.held) == [f"7#{n}" for n in range(1, 6)]
        gitlab.note("issues", 2, "an answer")
        gitlab.edit("issues", 3, state="closed")
        gitlab.post("merge_requests", "Fix")
        await follower.follow()
        # The last one of the first fetch is within the overlap.
        assert sorted(follower.listed) == ["7!1", "7#2", "7#3", "7#5"]
        assert follower.notes("7#2") == ["an answer"]
        assert follower.held["7#3"].metadata["state"] == "closed"
        assert follower.held == await fresh(url)


async def test_gitlab_dump_and_api_give_the_same_documents(tmp_path: Path) -> None:
    """Issues, merge requests and wiki pages are the same documents from a dump and over the API."""
    import json

    gitlab = GitLab()
    gitlab.post("issues", "One", "text ![x](/uploads/" + "b" * 32 + "/x.png)", labels=("bug",))
    gitlab.note("issues", 1, "an answer")
    gitlab.note("issues", 1, "internal", internal=True)
    gitlab.edit("issues", 1, title="First")
    gitlab.post("issues", "Secret", confidential=True)
    gitlab.post("merge_requests", "Fix", "repairs it")
    gitlab.note("merge_requests", 1, "looks good")
    gitlab.write_wiki("dir/home", "# Hello")
    (tmp_path / "dump.json").write_text(json.dumps(gitlab.dump()))
    dump = open_gitlab("dump.json", folder=tmp_path, options={}, clock=FixedClock(2**61))
    async with running(gitlab, dated=False) as url:
        assert {each.document: each.read() for each in entries(await pages(dump))} == await fresh(url)


async def test_gitlab_rows_that_move_while_paging_are_not_missed() -> None:
    """An issue that is edited during the listing pulls no other over the end of a page."""
    gitlab = GitLab()
    for number in range(250):
        gitlab.post("issues", f"Issue {number}", "text")

    def edit_an_early_one(request: Any) -> None:
        if request.path.endswith("/issues") and len(gitlab.requests) in (2, 3):
            gitlab.edit("issues", len(gitlab.requests), title="moved")

    gitlab.before = edit_an_early_one
    async with running(gitlab, dated=False) as url:
        follower = Follower(url)
        found = await follower.follow()
        assert found[-1].complete
        assert sorted(follower.listed) == sorted(f"7#{n}" for n in range(1, 251))
        gitlab.before = lambda _request: None
        await follower.follow()
        assert follower.held == await fresh(url)


async def test_gitlab_listing_goes_beyond_the_largest_offset() -> None:
    """A project with more issues than GitLab's offsets reach is listed whole, a bulk edit within it too."""
    gitlab = GitLab(most_offset=300)
    for number in range(700):
        gitlab.post("issues", f"Issue {number}", "text")
    for iid in range(100, 350):
        gitlab.rows["issues"][iid]["updated_at"] = "2026-01-01T12:00:00.000Z"
    gitlab.advance(86_400)
    async with running(gitlab, dated=False) as url:
        assert len(await fresh(url)) == 700
        assert not any("page=4" in request for request in gitlab.requests)


async def test_gitlab_notes_are_read_to_the_last_page() -> None:
    """Pages of notes may be short in the middle; system notes do not count, nor those of a page that is cut off."""
    gitlab = GitLab()
    gitlab.post("issues", "Many", "text")
    for number in range(250):
        gitlab.note("issues", 1, f"n{number}", hidden=100 <= number < 150)
    async with running(gitlab, dated=False) as url:
        gitlab.cut = 2
        follower = Follower(url)
        await follower.follow()
        assert len(follower.notes("7#1")) == 200
        assert follower.waits == [1.0, 2.0]


async def test_gitlab_deleted_issue_is_gone_by_proof() -> None:
    """A sweep asks for each issue that is not listed any more; a fetch in between says nothing."""
    gitlab = GitLab()
    for number in range(4):
        gitlab.post("issues", f"Issue {number}", "text")
    async with running(gitlab, dated=False) as url:
        follower = Follower(url)
        await follower.follow()
        gitlab.delete("issues", 2)
        await follower.follow()
        assert "7#2" in follower.held
        found = await follower.follow(sweep=True)
        assert [name for page in found for name in page.gone] == ["7#2"]
        assert not found[-1].complete
        assert follower.held == await fresh(url)


@pytest.mark.parametrize("stored", range(1, 9))
async def test_gitlab_document_stored_before_its_cursor_and_deleted_then_is_gone(stored: int) -> None:
    """After a crash between the documents of a page and their cursor, those that GitLab deletes are noticed."""
    gitlab = GitLab(largest_page=2)
    gitlab.post("issues", "The first", "text")
    async with running(gitlab, dated=False) as url:
        follower = Follower(url)
        await follower.follow()
        for number in range(5):
            gitlab.advance(600)
            gitlab.post("issues", f"Issue {number}", "text")
            gitlab.post("merge_requests", f"Fix {number}", "text")
            gitlab.write_wiki(f"page-{number}", "text")
        follower.cursor = await fetch_killed(follower.open(), follower.cursor, follower.apply, after=stored)
        for kind in gitlab.rows:
            for iid in list(gitlab.rows[kind]):
                gitlab.delete(kind, iid)
        gitlab.pages.clear()
        gitlab.post("issues", "Afterwards", "text")
        for _ in range(3):
            await follower.follow(sweep=True)
        assert follower.held == await fresh(url)


async def test_gitlab_deleted_note_is_noticed_by_the_sweep() -> None:
    """Deleting a note moves nothing but a count, which the sweep compares: only that issue is read again."""
    gitlab = GitLab()
    for number in range(3):
        gitlab.post("issues", f"Issue {number}", "text")
        kept = gitlab.note("issues", number + 1, "one")
        gitlab.note("issues", number + 1, "two")
        gitlab.advance(3_600)
    async with running(gitlab, dated=False) as url:
        follower = Follower(url)
        await follower.follow()
        gitlab.delete_note("issues", 1, kept - 4)
        await follower.follow(sweep=True)
        assert follower.listed == ["7#3", "7#1"]  # the last one is within the overlap
        assert follower.held == await fresh(url)


async def test_gitlab_lost_access_keeps_everything() -> None:
    """A project or its issues that are not shown any more delete nothing, and come back with their position."""
    gitlab = GitLab()
    gitlab.post("issues", "One", "text")
    gitlab.post("merge_requests", "Fix", "text")
    async with running(gitlab, dated=False) as url:
        follower = Follower(url)
        await follower.follow()
        before = dict(follower.held)
        gitlab.visible = False
        found = await follower.follow(sweep=True)
        assert (follower.held, [page.complete for page in found]) == (before, [False])
        assert "has no /projects/7; what is indexed of it is kept" in follower.problems[0]
        gitlab.visible = True
        gitlab.forbidden.add("issues")
        gitlab.note("merge_requests", 1, "goes on")
        await follower.follow(sweep=True)
        assert "does not show /projects/7/issues" in follower.problems[0]
        assert set(follower.held) == set(before)
        assert follower.notes("7!1") == ["goes on"]
        gitlab.forbidden.clear()
        gitlab.delete("issues", 1)
        await follower.follow(sweep=True)
        assert set(follower.held) == {"7!1"}


async def test_gitlab_limits_are_obeyed() -> None:
    """A storm of 429 waits as long as GitLab says; an outage is tried again, and then ends the fetch."""
    gitlab = GitLab(storm=4)
    gitlab.post("issues", "One", "text")
    async with running(gitlab, dated=False) as url:
        follower = Follower(url)
        await follower.follow()
        assert (follower.waits, set(follower.held)) == ([7.0] * 4, {"7#1"})
        gitlab.outage = 2
        await follower.follow()
        assert follower.waits[4:] == [1.0, 2.0]
        gitlab.outage = 100
        with pytest.raises(Transient, match="answers with 502; what was read before is kept"):
            await follower.follow()


async def test_gitlab_confidential_is_removed_when_it_becomes_so() -> None:
    """An issue that becomes confidential is gone; with the option all is read again, and without it gone again."""
    gitlab = GitLab()
    gitlab.post("issues", "One", "text")
    gitlab.post("issues", "Two", "text")
    gitlab.note("issues", 2, "for us", internal=True)
    async with running(gitlab, dated=False) as url:
        follower = Follower(url)
        await follower.follow()
        assert follower.notes("7#2") == []
        gitlab.edit("issues", 1, confidential=True)
        await follower.follow()
        assert set(follower.held) == {"7#2"}
        follower.options = {"confidential": True}
        found = await follower.follow()
        assert found[-1].complete
        assert (set(follower.held), follower.notes("7#2")) == ({"7#1", "7#2"}, ["for us"])
        follower.options = {}
        await follower.follow()
        assert set(follower.held) == {"7#2"}


async def test_gitlab_wiki_pages_are_compared() -> None:
    """Only changed pages are listed, and one that was deleted is gone."""
    gitlab = GitLab()
    for slug in ("home", "dir/one", "two"):
        gitlab.write_wiki(slug, f"# {slug}")
    async with running(gitlab, dated=False) as url:
        follower = Follower(url)
        await follower.follow()
        assert (
            follower.held["7/wikis/dir/one"].metadata["url"]
            == "https://gitlab.example/web/app/-/wikis/dir%2Fone"
        )
        gitlab.write_wiki("home", "# changed")
        gitlab.delete_wiki("two")
        await follower.follow()
        assert follower.listed == ["7/wikis/home"]
        assert follower.held == await fresh(url)


async def test_gitlab_malformed_record_is_a_problem_of_its_own() -> None:
    """A record of another shape is reported and skipped, and the others are read."""
    gitlab = GitLab()
    for number in range(3):
        gitlab.post("issues", f"Issue {number}", "text")
    gitlab.rows["issues"][2]["labels"] = "bug"
    async with running(gitlab, dated=False) as url:
        follower = Follower(url)
        found = await follower.follow()
        assert follower.problems == ["labels must be a list, not 'bug'"]
        assert [problem.document for page in found for problem in page.problems] == ["7#2"]
        assert set(follower.held) == {"7#1", "7#3"}


async def test_gitlab_token_is_sent_and_never_shown() -> None:
    """A token is sent in its header; one that is refused says what to do, without itself."""
    gitlab = GitLab(token="glpat-secret")  # noqa: S106
    gitlab.post("issues", "One", "text")
    async with running(gitlab, dated=False) as url:
        follower = Follower(url, token="glpat-secret")  # noqa: S106
        await follower.follow()
        assert set(follower.held) == {"7#1"}
        assert "glpat" not in follower.cursor + repr(follower.held)
        follower.token = "glpat-wrong"  # noqa: S105
        with pytest.raises(
            Misconfigured, match="set GITLAB_TOKEN to a valid one with the scope read_api"
        ) as caught:
            await follower.follow()
        assert "glpat" not in str(caught.value)


def some_of_each() -> GitLab:
    gitlab = GitLab()
    for number in range(3):
        gitlab.post("issues", f"Issue {number}", "text")
        gitlab.note("issues", number + 1, "an answer")
        gitlab.advance(600)
    gitlab.post("merge_requests", "Fix")
    gitlab.write_wiki("home", "# Hello")
    gitlab.advance(3_600)
    return gitlab


async def test_gitlab_reset_renders_raw_answers_again_without_calling(tmp_path: Path) -> None:
    """A fetch from the beginning lists everything of what was kept: only what changed is asked for."""
    gitlab = some_of_each()
    async with running(gitlab, dated=False) as url:
        follower = Follower(url, folder=tmp_path)
        await follower.follow()
        gitlab.note("issues", 2, "another answer")
        gitlab.delete_wiki("home")
        follower.held, follower.cursor = {}, ""
        gitlab.requests.clear()
        found = await follower.follow()
        assert [page.cursor for page in found[:-1]] == [""] * (len(found) - 1)
        assert found[-1].complete
        assert follower.held == await fresh(url)
        asked = [request.partition("?")[0].removeprefix("/api/v4/projects/") for request in gitlab.requests]
        # Issue 3 is within the overlap.
        notes = ["7/issues/3/notes", "7/issues/2/notes"]
        assert asked[:6] == ["7", "7/issues", *notes, "7/merge_requests", "7/wikis"]
        assert len(follower.listed) == len(set(follower.listed))


async def test_gitlab_reset_without_access_renders_what_was_kept(tmp_path: Path) -> None:
    """A project that is not shown any more is listed again of what was kept, and nothing counts as deleted."""
    gitlab = some_of_each()
    async with running(gitlab, dated=False) as url:
        follower = Follower(url, folder=tmp_path)
        await follower.follow()
        before, follower.held, follower.cursor = follower.held, {}, ""
        gitlab.visible = False
        found = await follower.follow()
        assert (follower.held, found[-1].complete) == (before, False)


@pytest.mark.parametrize("damage", ["lost", "damaged", "partial"])
async def test_gitlab_reset_without_its_raw_answers_asks_for_all(tmp_path: Path, damage: str) -> None:
    """Raw answers only save calls: without them, or with a part of them, everything is read from GitLab."""
    gitlab = some_of_each()
    async with running(gitlab, dated=False) as url:
        follower = Follower(url, folder=tmp_path)
        await follower.follow()
        (file,) = (tmp_path / ".flowbed" / "sources").glob("*.db")
        assert file.stat().st_mode & 0o777 == 0o600
        file.unlink()
        if damage == "damaged":
            file.write_bytes(b"no database at all" * 100)
        if damage == "partial":
            gitlab.note("issues", 3, "more")
            await follower.follow()
        follower.held, follower.cursor = {}, ""
        found = await follower.follow()
        assert found[-1].complete
        assert follower.held == await fresh(url)
        assert [reason[:41] for reason in follower.problems] == [
            "answers of GitLab cannot be kept for later"[:41]
        ] * (damage == "damaged")


@pytest.mark.parametrize(
    ("location", "api", "expected"),
    [
        ("https://git.example/a/b", "", ("https://git.example/api/v4", "a/b")),
        ("https://git.example/a/b/c.git", "", ("https://git.example/api/v4", "a/b/c")),
        ("https://x.example/gl/a/b", "https://x.example/gl/api/v4", ("https://x.example/gl/api/v4", "a/b")),
    ],
)
def test_gitlab_location_names_api_and_project(location: str, api: str, expected: tuple[str, str]) -> None:
    """The address of a project is that of its API and its path."""
    assert addresses(location, api) == expected


@pytest.mark.parametrize(
    "location",
    ["https://git.example/a", "https://git.example", "https://u:p@git.example/a/b", "https://h/a/b/-/issues"],
)
def test_gitlab_location_without_project_is_misconfigured(location: str) -> None:
    """An address that is no project says how to write one, without a password in it."""
    with pytest.raises(Misconfigured, match="https://host/group/project") as caught:
        addresses(location, "")
    assert "u:p" not in str(caught.value)


async def test_run_over_the_api_embeds_what_changed_and_links_to_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project is added by its address and read with the token of the environment, which is written nowhere."""
    monkeypatch.setenv("GITLAB_TOKEN", "glpat-secret")
    gitlab = GitLab(token="glpat-secret")  # noqa: S106
    gitlab.post("issues", "Login fails", "It hangs.")
    number = gitlab.note("issues", 1, "clear the cookies " * 30)
    async with running(gitlab, dated=False) as url, await project.open() as bed:
        await bed.add("tracker", kind="gitlab", location=f"{url}/web/app")
        report = await bed.run()
        assert (report.fetched, report.embedded, report.failed) == (1, 2, 0)
        project.sent()
        gitlab.edit_note("issues", 1, number, "restart the browser " * 30)
        gitlab.advance(3_600)
        gitlab.post("issues", "Another", "It blinks.")
        await bed.run()
        sent = sorted(text.partition("\n\n")[2] for text in project.sent())
        assert sent == ["It blinks.", ("restart the browser " * 30).strip()]
        hits = {hit.metadata["url"] for hit in await bed.search("anything")}
        assert f"https://gitlab.example/web/app/-/issues/1#note_{number}" in hits
    files = [path for path in project.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"glpat-secret" in path.read_bytes()]


async def test_forget_deletes_what_gitlab_answered(project: Project) -> None:
    """Forgetting a row leaves its text in no file of the project, and the other documents can be chunked again."""
    gitlab = GitLab()
    gitlab.post("issues", "One", "the words to forget")
    gitlab.post("issues", "Two", "the words to keep")
    async with running(gitlab, dated=False) as url, await project.open() as bed:
        await bed.add("tracker", kind="gitlab", location=f"{url}/web/app")
        await bed.run()
        answers = project.folder / ".flowbed" / "sources"
        assert list(answers.glob("gitlab-*.db"))
        receipt = await bed.forget(documents=["7#1"])
        assert str(answers) in {each.place for each in receipt.erased}
        assert not answers.exists()
        await bed.add("tracker", kind="gitlab", location=f"{url}/web/app", options={"capacity": 100})
        await bed.run()
        assert {hit.metadata["document"] for hit in await bed.search("the words")} == {"7#2"}
