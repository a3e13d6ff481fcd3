"""Backlog over its API, against the simulator: changes, deletions, faults and dumps."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.records.issues import Issue
from flowbed.sources.backlog import open_backlog
from flowbed.sources.backlog.api import addresses
from flowbed.sources.backlog.position import Position, read, written
from flowbed.sources.backlog.rendering import Rendering, document, identity
from flowbed.sources.backlog.space import Space
from flowbed.telemetry import RETRIED, listen
from flowbed.testing.simulators import running
from flowbed.testing.simulators.sources.backlog import Backlog
from flowbed.testing.sources import entries, pages, still_there

if TYPE_CHECKING:
    from flowbed.records import Document, Page

DAY = 86_400
KEY = "verysecretkey"


@dataclass
class Follower:
    """What an index holds after following a source from fetch to fetch; a wait of the source moves the clock."""

    backlog: Backlog
    url: str
    options: dict[str, object] = field(default_factory=dict)
    key: str = field(default=KEY, repr=False)
    raw: Path | None = None
    cursor: str = ""
    held: dict[str, Document] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def open(self) -> Space:
        source = open_backlog(
            self.url,
            folder=Path("unused"),
            options=self.options,
            clock=self.clock,
            token=self.key,
            sleep=self.sleep,
        )
        assert isinstance(source, Space)
        return replace(source, raw=self.raw)

    def clock(self) -> int:
        return int(self.backlog.now.timestamp() * 1_000_000)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.backlog.advance(seconds)

    async def follow(self, *, later: float = 3_600) -> list[Page]:
        """Fetch from the cursor some seconds later, and apply what was found."""
        self.backlog.advance(later)
        self.listed, self.problems, found = [], [], []
        async for page in self.open().fetch(self.cursor):
            found.append(page)
            self.apply(page)
        there = still_there(self.held, found)
        self.held = {name: each for name, each in self.held.items() if name in there}
        return found

    def apply(self, page: Page) -> None:
        for entry in page.entries:
            self.held[entry.document] = entry.read()
            self.etags[entry.document] = entry.etag
            self.listed.append(entry.document)
        for name in page.gone:
            self.held.pop(name, None)
        self.problems += [f"{problem.subject}: {problem.reason}" for problem in page.problems]
        assert all(problem.skipped for problem in page.problems)
        self.cursor = page.cursor

    def notes(self, name: str) -> list[str]:
        return [note.body for note in Issue.from_json(self.held[name].text).notes]

    async def fresh(self) -> dict[str, Document]:
        other = Follower(self.backlog, self.url, self.options, self.key)
        await other.follow(later=0)
        return other.held


def space(issues: int = 0, notation: str = "markdown") -> tuple[Backlog, int]:
    """Return a space of one project with some issues, an hour apart."""
    backlog = Backlog(key=KEY)
    project = backlog.add_project("OPS", notation)
    for number in range(issues):
        backlog.post(project, f"Issue {number}", f"text {number}")
        backlog.advance(3_600)
    return backlog, project


async def test_first_fetch_lists_issues_pages_and_documents_with_their_links() -> None:
    backlog, ops = space(notation="backlog")
    number = backlog.post(
        ops, "夜間バッチが止まる", "*手順\r\n-''五分''待つ", category=[{"id": 1, "name": "障害"}]
    )
    comment = backlog.comment(ops, number, "[[手順>https://a.example/b]]を見てください")
    backlog.edit(ops, number, status={"id": 4, "name": "完了"})
    wiki = backlog.write_wiki(ops, "Home", "*ログイン")
    page = backlog.write_document(ops, "戻し方", "コピーを取ります。")
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        fetched = await follower.follow()
    assert fetched[-1].complete
    assert follower.problems == []
    issue, home, manual = (
        follower.held[f"{ops}{end}"] for end in (f"#{number}", f"/wikis/{wiki}", f"/documents/{page}")
    )
    made = Issue.from_json(issue.text)
    assert (issue.title, made.description, made.labels) == (
        "夜間バッチが止まる",
        "# 手順\n- **五分**待つ",
        ("Bug", "障害"),
    )
    assert made.url == f"{url}/view/OPS-{number}"
    (note,) = made.notes
    assert (note.body, note.author) == ("[手順](https://a.example/b)を見てください", "田中 太郎")
    assert note.url == f"{url}/view/OPS-{number}#comment-{comment}"
    assert issue.metadata == {
        "type": "issue",
        "project": "OPS",
        "key": f"OPS-{number}",
        "iid": number,
        "state": "完了",
        "priority": "Normal",
        "labels": "Bug, 障害",
    }
    assert (home.kind, home.text, home.metadata["url"]) == (
        "markdown",
        "# ログイン",
        f"{url}/alias/wiki/{wiki}",
    )
    assert (manual.kind, manual.text) == ("text", "コピーを取ります。")
    assert manual.metadata["url"] == f"{url}/document/OPS/{page}"


async def test_changes_are_listed_and_nothing_else() -> None:
    backlog, ops = space(5)
    wiki = backlog.write_wiki(ops, "Home", "hello")
    page = backlog.write_document(ops, "Manual", "one")
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        await follower.follow()
        backlog.comment(ops, 2, "an answer")
        backlog.edit_many(ops, [3, 4], status={"id": 4, "name": "Closed"})
        backlog.post(ops, "New")
        backlog.write_wiki(ops, "Home", "changed", wiki)
        backlog.write_document(ops, "Manual", "two", page)
        await follower.follow()
        assert sorted(follower.listed) == sorted(
            [*(f"{ops}#{n}" for n in (2, 3, 4, 6)), f"{ops}/wikis/{wiki}", f"{ops}/documents/{page}"]
        )
        assert follower.notes(f"{ops}#2") == ["an answer"]
        assert follower.held[f"{ops}#3"].metadata["state"] == "Closed"
        assert follower.held == await follower.fresh()
        backlog.requests.clear()
        await follower.follow()
        assert follower.listed == []
        # Projects, activities, two listings of issues, pages, the tree and documents.
        assert len(backlog.requests) == 7


async def test_deletions_are_found_in_the_activities_and_proved() -> None:
    backlog, ops = space(4)
    wiki = backlog.write_wiki(ops, "Home", "hello")
    page, binned = (backlog.write_document(ops, name, "text") for name in ("one", "two"))
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        await follower.follow()
        backlog.delete(ops, 2)
        backlog.delete_wiki(ops, wiki)
        backlog.delete_document(ops, page)
        backlog.trash_document(ops, binned)
        found = await follower.follow()
        gone = {name for each in found for name in each.gone}
        assert gone == {
            f"{ops}#2",
            f"{ops}/wikis/{wiki}",
            f"{ops}/documents/{page}",
            f"{ops}/documents/{binned}",
        }
        assert set(follower.held) == {f"{ops}#{n}" for n in (1, 3, 4)} == set(await follower.fresh())


async def test_deletion_without_an_activity_is_found_by_the_sweep() -> None:
    """Activities may not go back far enough; an issue that was moved is gone from its project."""
    backlog, ops = space(130)
    dev = backlog.add_project("DEV")
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        await follower.follow()
        backlog.delete(ops, 7)
        backlog.projects[ops].activities.clear()
        moved = backlog.move(ops, 9, dev)
        await follower.follow()
        assert f"{ops}#7" in follower.held
        found = await follower.follow(later=DAY)
        assert {name for each in found for name in each.gone} == {f"{ops}#7", f"{ops}#9"}
        assert f"{dev}#{moved}" in follower.held
        assert follower.held == await follower.fresh()


async def test_edited_and_deleted_comments_are_found_by_asking_again() -> None:
    """Neither may move the issue: each fetch asks for some issues, those asked longest ago first."""
    backlog, ops = space(30)
    comments = [backlog.comment(ops, number, f"comment {number}") for number in (1, 2)]
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        await follower.follow()
        backlog.edit_comment(ops, 1, comments[0], "edited")
        backlog.delete_comment(ops, 2, comments[1])
        for _ in range(2):
            await follower.follow(later=DAY + 60)
        assert follower.notes(f"{ops}#1") == ["edited"]
        assert follower.notes(f"{ops}#2") == []
        assert follower.held == await follower.fresh()


async def test_many_comments_are_read_to_the_last() -> None:
    backlog, ops = space(1)
    for number in range(230):
        backlog.comment(ops, 1, f"comment {number}")
    async with running(backlog, dated=False) as url:
        backlog.cut = 2
        follower = Follower(backlog, url)
        await follower.follow()
    assert len(follower.notes(f"{ops}#1")) == 230
    assert follower.waits == [1.0, 2.0]


async def test_rows_that_move_while_paging_are_not_missed() -> None:
    """Issues that are edited, deleted or written between two pages pull none over the end of one."""
    backlog, ops = space()
    for number in range(330):
        backlog.post(ops, f"Issue {number}", "text")
        backlog.advance(60)
    left = iter(["edit", "delete", "post", "delete"])

    def disturb(request: Any) -> None:
        if request.path.endswith("/issues") and "offset=0" not in request.query:
            match next(left, ""):
                case "edit":
                    backlog.edit(ops, 3, summary="moved")
                case "delete":
                    for number in range(5):
                        backlog.delete(ops, max(backlog.projects[ops].issues) - number)
                case "post":
                    backlog.post(ops, "late")

    backlog.before = disturb
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        await follower.follow()
        backlog.before = lambda _request: None
        assert set(follower.held) >= {f"{ops}#{n}" for n in backlog.projects[ops].issues}
        await follower.follow()
        assert follower.held == await follower.fresh()
        assert follower.held[f"{ops}#3"].title == "moved"


async def test_interrupted_first_fetch_goes_on_without_asking_again() -> None:
    backlog, ops = space()
    for number in range(250):
        backlog.post(ops, f"Issue {number}", "text" * 9_000)
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        backlog.advance(3_600)
        async for page in follower.open().fetch(""):
            follower.apply(page)
            if page.entries:
                break
        assert 0 < len(follower.held) < 250
        before = len(follower.held)
        backlog.requests.clear()
        await follower.follow()
        assert len(follower.held) == 250
        assert sum("/comments" in each for each in backlog.requests) == 250 - before


async def test_page_whose_cursor_was_not_saved_is_known_when_it_is_deleted() -> None:
    """A process may end after the documents of a page were stored, and before its cursor was."""
    backlog, ops = space(2)
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        await follower.follow()
        backlog.delete(ops, 1)
        number = backlog.post(ops, "New")
        page_id = backlog.write_document(ops, "Manual", "text")
        backlog.advance(3_600)
        saved = follower.cursor
        async for page in follower.open().fetch(follower.cursor):
            follower.apply(page)
            if page.entries:
                break
            saved = page.cursor
        assert {f"{ops}#{number}", f"{ops}/documents/{page_id}"} <= set(follower.held)
        follower.cursor = saved
        backlog.delete(ops, number)
        backlog.trash_document(ops, page_id)
        await follower.follow()
        assert set(follower.held) == {f"{ops}#2"}


async def test_lost_access_and_an_archived_project_delete_nothing() -> None:
    backlog, ops = space(3)
    dev = backlog.add_project("DEV")
    backlog.post(dev, "Other")
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        await follower.follow()
        before = dict(follower.held)
        backlog.hide(ops)
        backlog.comment(dev, 1, "goes on")
        found = await follower.follow(later=DAY)
        assert not any(page.gone for page in found)
        assert set(follower.held) == set(before)
        assert follower.notes(f"{dev}#1") == ["goes on"]
        assert follower.problems[0].startswith("project OPS: is not shown any more")
        backlog.show(ops)
        backlog.delete(ops, 1)
        await follower.follow(later=DAY)
        assert follower.held == await follower.fresh()


async def test_project_that_fails_stops_no_other_and_an_outage_ends_the_fetch() -> None:
    backlog, ops = space(2)
    dev = backlog.add_project("DEV")
    backlog.post(dev, "Other")
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        backlog.broken = f"/projects/{ops}/activities"
        await follower.follow()
        assert set(follower.held) == {f"{dev}#1"}
        assert follower.problems[0].startswith("OPS: backlog at 127.0.0.1")
        backlog.broken = ""
        await follower.follow()
        assert len(follower.held) == 3
        backlog.outage = 100
        with pytest.raises(Transient, match=r"status 502; what was read before is kept"):
            await follower.follow()


async def test_limits_are_obeyed_before_and_after_a_refusal() -> None:
    backlog, ops = space(40)
    backlog.limit = 10
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        await follower.follow()
        assert len(follower.held) == 40
        assert backlog.refused == 0
        assert 3 <= len(follower.waits) <= 6
        assert max(follower.waits) <= 61
        backlog.limit, backlog.storm = 0, 3
        await follower.follow()
        assert follower.waits[-3:] == [60.0] * 3
    assert ops


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "no key for Backlog: set BACKLOG_API_KEY"),
        ("another", r"refuses the key \(code 11\): set BACKLOG_API_KEY"),
        ("a&b=c", "BACKLOG_API_KEY has a character that no key has"),
    ],
)
async def test_wrong_key_says_what_to_set_and_never_itself(key: str, message: str) -> None:
    backlog, _ = space(1)
    async with running(backlog, dated=False) as url:
        with pytest.raises(Misconfigured, match=message) as raised:
            await Follower(backlog, url, key=key).follow()
    assert not key or key not in str(raised.value)


async def test_key_stands_in_no_page_error_or_file(tmp_path: Path) -> None:
    """The key is in the query of each request, as Backlog wants it, and nowhere else."""
    backlog, ops = space(2)
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url, raw=tmp_path / "raw.db")
        found = await follower.follow()
        backlog.broken = f"/projects/{ops}/activities"
        await follower.follow()
        assert KEY not in repr(found) + repr(follower.open()) + follower.cursor + "".join(follower.problems)
    closed = Follower(backlog, url)
    with pytest.raises(Transient) as raised:
        await closed.follow()
    error: BaseException | None = raised.value
    while error is not None:
        assert KEY not in str(error)
        error = error.__cause__
    assert KEY.encode() not in (tmp_path / "raw.db").read_bytes()


async def test_reset_cursor_lists_everything_again_without_calling(tmp_path: Path) -> None:
    backlog, ops = space(130)
    backlog.write_wiki(ops, "Home", "hello")
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url, raw=tmp_path / "raw.db")
        await follower.follow()
        backlog.comment(ops, 5, "new")
        backlog.delete(ops, 6)
        backlog.requests.clear()
        again = Follower(backlog, url, raw=tmp_path / "raw.db")
        found = await again.follow()
        assert found[-1].complete
        assert sum("/comments" in each for each in backlog.requests) == 1
        assert again.held == await again.fresh()
        assert (
            again.etags.items()
            >= {name: etag for name, etag in follower.etags.items() if name[-2:] not in ("#5", "#6")}.items()
        )


async def test_other_notation_of_a_project_is_read_again() -> None:
    backlog, ops = space()
    backlog.post(ops, "One", "*heading")
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        await follower.follow()
        backlog.projects[ops].row["textFormattingRule"] = "backlog"
        await follower.follow()
        assert "# heading" in follower.held[f"{ops}#1"].text
        assert follower.held == await follower.fresh()


async def test_projects_are_chosen_and_what_is_missing_said() -> None:
    backlog, ops = space(1)
    dev = backlog.add_project("DEV")
    backlog.post(dev, "Other")
    backlog.documents = False
    async with running(backlog, dated=False) as url:
        chosen = Follower(backlog, url, {"projects": "dev"})
        await chosen.follow()
        assert (set(chosen.held), chosen.problems) == ({f"{dev}#1"}, [])
        browser = Follower(backlog, f"{url}/projects/OPS")
        await browser.follow()
        assert set(browser.held) == {f"{ops}#1"}
        with pytest.raises(
            Misconfigured, match=r"project 'OPSS' does not exist.*did you mean OPS.*key sees: DEV, OPS"
        ):
            await Follower(backlog, url, {"projects": ["OPSS"]}).follow()
        assert await chosen.open().look() == (f"{url}: reads DEV",)
        backlog.hide(ops)
        backlog.hide(dev)
        nothing = Follower(backlog, url)
        await nothing.follow()
        (told,) = nothing.problems
        assert told.startswith("projects: the key sees no project that is not archived")


@pytest.mark.parametrize(
    "location",
    ["ftp://acme.backlog.com", "https://acme.backlog.jp/view/OPS-1", "https://a:b@acme.backlog.jp"],
)
def test_location_that_is_no_space_says_what_to_give(location: str) -> None:
    with pytest.raises(
        Misconfigured, match=r"a space such as https://acme.backlog.com or https://acme.backlog.jp"
    ):
        open_backlog(location, folder=Path(), options={}, clock=lambda: 0)


def test_spaces_of_all_domains_are_known() -> None:
    for domain in ("backlog.com", "backlog.jp", "backlogtool.com"):
        assert addresses(f"https://acme.{domain}/") == (f"https://acme.{domain}", "")
        assert addresses(f"https://acme.{domain}/projects/OPS") == (f"https://acme.{domain}", "OPS")


async def test_malformed_rows_are_named_and_the_others_read() -> None:
    backlog, ops = space(3)
    issues = backlog.projects[ops].issues
    issues[1]["keyId"] = "one"
    issues[2]["summary"] = 5
    issues[3]["updated"] = "2026-01-05T08:00:00Z"
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        found = await follower.follow()
    assert set(follower.held) == {f"{ops}#3"}
    assert not found[-1].complete
    assert follower.problems == [
        "OPS: OPS-1: keyId must be an integer above 0, not 'one'",
        f"{ops}#2: summary must be a string, not 5",
    ]


async def test_dump_and_api_give_the_same_documents(tmp_path: Path) -> None:
    backlog, ops = space(notation="backlog")
    for number in range(3):
        backlog.post(ops, f"課題 {number}", "*手順\n|a|b|h\n|1|2|")
        backlog.comment(ops, number + 1, "''はい''")
    backlog.edit(ops, 1, status={"id": 4, "name": "完了"})
    backlog.write_wiki(ops, "Home", "*ログイン")
    (tmp_path / "dump.json").write_text(json.dumps(backlog.dump()))
    async with running(backlog, dated=False) as url:
        dump = open_backlog(
            "dump.json", folder=tmp_path, options={"url": url, "notation": "backlog"}, clock=lambda: 2**61
        )
        found = {each.document: each.read() for each in entries(await pages(dump))}
        over_api = await Follower(backlog, url).fresh()
    wiki = next(name for name in found if "/wikis/" in name)
    # A page of a wiki does not say the key of its project.
    found[wiki] = replace(found[wiki], metadata={**found[wiki].metadata, "project": "OPS"})
    assert found == over_api


def test_samples_of_backlog_parse(data: Path) -> None:
    folder = data / "api-samples" / "backlog"

    def load(name: str) -> Any:
        return json.loads((folder / f"{name}.json").read_text("utf-8"))

    rendering = Rendering(url="https://acme.backlog.jp", notation="backlog", project="OPS")
    rows = [*load("issues"), load("issue"), load("custom_field_issue"), load("wiki")]
    rows += [*load("documents"), *load("invented.documents")]
    made = [document(identity(row), row, rendering) for row in rows]
    texts = "\n".join(each.text for each in made)
    assert (
        "てきすと: テキストの値です" in Issue.from_json(made[-5].text).description
        or "テキストの値です" in texts
    )
    assert "テスト用wikiです" in texts
    assert "必ず二つ残してください。" in texts
    assert made[0].metadata["labels"] == "タスク, かてごりら, かてうさぎ"
    commented = document("x", load("issue"), rendering, load("issue_comments"))
    assert [note.body for note in Issue.from_json(commented.text).notes] == ["コメント", "こめ"]
    with pytest.raises(Rejected, match="is no issue"):
        identity({"projectId": 1})


async def test_comments_on_documents_are_found_with_their_answers_within_a_day() -> None:
    """A comment moves nothing of its document: some documents are asked again each day, and a dump has the same."""
    backlog, ops = space()
    page = backlog.write_document(ops, "Manual", "Stop the writers first.")
    name = f"{ops}/documents/{page}"
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        await follower.follow()
        assert (follower.held[name].kind, follower.held[name].text) == ("text", "Stop the writers first.")
        first = backlog.comment_document(ops, page, "Which ones?")
        backlog.comment_document(ops, page, "It works.")
        backlog.comment_document(ops, page, "Those of the database.", answers=first)
        await follower.follow(later=DAY + 60)
        made = Issue.from_json(follower.held[name].text)
        assert (made.description, made.url) == ("Stop the writers first.", f"{url}/document/OPS/{page}")
        assert [(each.author, each.body, each.url) for each in made.notes] == [
            ("田中 太郎", text, made.url) for text in ("Which ones?", "Those of the database.", "It works.")
        ]
        (dumped,) = backlog.dump()
        assert document(name, dumped, Rendering(url=url, project="OPS")) == follower.held[name]
        backlog.edit_document_comment(ops, page, first, "Which writers?")
        await follower.follow(later=DAY + 60)
        assert follower.notes(name)[0] == "Which writers?"
        backlog.delete_document_comment(ops, page, first)
        await follower.follow(later=DAY + 60)
        assert follower.notes(name) == ["It works."]
        assert follower.held == await follower.fresh()
    with pytest.raises(Rejected, match="a comment must be an object with an id, not 5"):
        document(name, {**dumped, "comments": [{"id": "ab", "replies": []}, 5]}, Rendering())


async def test_links_find_their_documents_and_say_why_not() -> None:
    backlog, ops = space(2)
    comment = backlog.comment(ops, 1, "hello")
    wiki = backlog.write_wiki(ops, "Home", "x")
    page = backlog.write_document(ops, "Manual", "y")
    async with running(backlog, dated=False) as url:
        follower = Follower(backlog, url)
        await follower.follow()

        def found(path: str) -> Any:
            return follower.open().linked(f"{url}{path}", follower.cursor)

        assert (found("/view/OPS-1").documents, found("/view/OPS-1").item) == ((f"{ops}#1",), "")
        assert found(f"/view/OPS-1#comment-{comment}").item == str(comment)
        assert found(f"/alias/wiki/{wiki}").documents == (f"{ops}/wikis/{wiki}",)
        assert found(f"/document/OPS/{page}").documents == (f"{ops}/documents/{page}",)
        assert "was not there when the project was last read" in found("/view/OPS-9").absent
        assert "comment 99 was not there" in found("/view/OPS-1#comment-99").absent
        assert "project WEB was not read yet" in found("/view/WEB-1").absent
        assert found("/dashboard") is None
        assert follower.open().linked("https://other.backlog.com/view/OPS-1", follower.cursor) is None


def test_positions_survive_being_written() -> None:
    one = Position(id=7, key="OPS", notation="backlog", options="1", high=5, swept=6, activity=8)
    one.issues, one.wikis, one.documents = {"1": (2, 3, 4)}, {"9": (1, 2)}, {"ab": (3, 4)}
    assert read(written({7: one})) == {7: one}
    assert one.names() == {"7#1", "7/wikis/9", "7/documents/ab"}
    assert read("plan:1") == read("") == {}


async def test_wait_for_a_limit_says_how_much_is_left() -> None:
    """The issues of a project that is read for the first time are counted, and pages of its wiki."""
    backlog, ops = space(40)
    for number in range(12):
        backlog.write_wiki(ops, f"Page {number}", "text")
    backlog.limit = 10
    told: list[str] = []
    stop = listen(lambda point, facts: told.append(facts["reason"]) if point == RETRIED else None)
    try:
        async with running(backlog, dated=False) as url:
            follower = Follower(backlog, url)
            await follower.follow()
    finally:
        stop()
    assert len(follower.held) == 52
    # Of the first ten calls, six were for comments.
    assert told == [
        "Backlog limits /issues/comments; about 34 calls left, 4 minutes",
        "Backlog limits /issues/comments; about 24 calls left, 3 minutes",
        "Backlog limits /issues/comments; about 14 calls left, 2 minutes",
        "Backlog limits /issues/comments; about 4 calls left, 1 minute",
        "Backlog limits /wikis; about 7 calls left, 1 minute",
    ]
