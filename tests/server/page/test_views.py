"""Each view of the page, in a browser: what it shows, whether everybody can use it, and a server that goes away."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect
from tests.server.page.conftest import PATIENCE, Slowed, open_view, write_indexed, write_project

from flowbed.ledger import DeadLetter, SpendRow
from flowbed.ledger.rows import Failure, SubmissionRow, Swap
from flowbed.records import Status
from flowbed.records.precomputed import PrecomputedRows
from flowbed.testing.servers import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

VIEWS = {
    "search?q=sentence+3": "Search",
    "collections": "Collections",
    "collections/docs": "docs",
    "map/docs": "Map of docs",
    "flow": "Flow",
    "work": "Jobs and batches",
    "letters": "Dead letters",
    "doctor": "Doctor",
    "spend": "Spend",
    "keys": "Keys and quotas",
}


@pytest.mark.parametrize("view", VIEWS)
def test_view_is_shown_and_axe_finds_nothing(browser: Browser, shown: Slowed, axe: str, view: str) -> None:
    """On a wide screen in light colours, and on a phone in dark ones; nothing but tables is wider than the phone."""
    # The policy of the page keeps the script of axe out.
    context = browser.new_context(
        base_url=shown.url,
        viewport={"width": 1200, "height": 800},
        color_scheme="light",
        bypass_csp=True,
        reduced_motion="reduce",
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    open_view(page, view)
    expect(page.get_by_role("heading", level=1)).to_have_text(VIEWS[view])
    page.evaluate(axe)
    assert _violations(page) == []
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert _violations(page) == []
    context.close()


def _violations(page: Page) -> list[tuple[str, list[str]]]:
    """Return what axe finds: the rule, and the elements that break it."""
    found = page.evaluate("axe.run()")["violations"]
    return [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found]


def test_collection_view_rollback_confirmed_returns_to_the_compared_version(
    page: Page, shown: Slowed
) -> None:
    open_view(page, "collections")
    page.get_by_role("link", name="docs", exact=True).click()
    expect(page.locator("h1")).to_have_text("docs")
    before = shown.call("GET", "/v1/collections").json["collections"][0]
    versions = page.get_by_role("region", name="Versions")
    versions.get_by_role("button", name="Difference").first.click()
    expect(page.get_by_role("region", name="Difference")).to_contain_text(
        f"{before['rows']} rows written, 0 deleted"
    )
    versions.get_by_role("button", name="Roll back…").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("flowbed rollback docs --release")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert shown.call("GET", "/v1/collections").json["collections"][0] == before
    versions.get_by_role("button", name="Roll back…").first.click()
    dialog.get_by_role("button", name="Roll back").click()
    expect(versions.get_by_role("rowheader").first).to_have_text(str(before["version"] + 1))
    released = shown.wait(_released(shown))
    assert released.runs == 1


async def _released(shown: Slowed) -> Any:
    bed: Any = shown.service.bed
    return await bed.release("docs")


def test_collection_rows_are_read_by_scrolling_and_keyboard(page: Page) -> None:
    open_view(page, "collections/docs")
    rows = page.get_by_role("region", name="Rows in the order of their ids")
    expect(rows.get_by_role("listitem").first).to_contain_text("docs#big#00000")
    rows.focus()
    page.keyboard.press("End")
    expect(rows.get_by_role("listitem").last).to_contain_text("docs#x9")
    row = rows.get_by_role("listitem").last
    row.get_by_role("button").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("attack 9 </textarea></title></script><script>attacked(9)</script>")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_flow_changes_by_itself_when_rows_are_written(page: Page, shown: Slowed) -> None:
    open_view(page, "flow")
    index = page.locator(".stages li").nth(4)
    rows = int(index.locator(".figure").inner_text())
    shown.wait(_written(shown, "live"))
    expect(index.locator(".figure")).to_have_text(str(rows + 1))
    expect(page.get_by_role("region", name="Newest runs")).to_contain_text("live")


def test_flow_shows_the_rate_of_what_is_written(page: Page, shown: Slowed) -> None:
    """In a minute, over the looks since the view was opened."""
    open_view(page, "flow")
    rate = page.locator(".stages li").nth(4).locator(".rate")
    expect(rate).not_to_contain_text("/min")
    shown.wait(_written(shown, "rates"))
    expect(rate).to_have_text(re.compile(r"^[\d,]*[1-9][\d,]*/min written$"))


def test_flow_shows_when_a_source_is_fetched_next(page: Page, shown: Slowed) -> None:
    """As the watch keeps it: unknown before its first fetch, then in so many minutes, or late by so much."""
    open_view(page, "flow")
    row = page.get_by_role("region", name="Sources").get_by_role("row", name=re.compile("^docs"))
    expect(row).to_contain_text("when flowbed watch runs")
    shown.wait(_watched(shown, minutes=30))
    expect(row).to_contain_text(re.compile(r"in \d+ min"))
    shown.wait(_watched(shown, minutes=24 * 60))
    expect(row).to_contain_text("due for")


async def _watched(shown: Slowed, *, minutes: int) -> None:
    """Note that a watch fetched the source so long ago."""
    bed: Any = shown.service.bed
    cursor = await bed.ledger.documents.cursor("docs.watch")
    await bed.ledger.documents.swap(Swap(cursor=cursor, value=str(bed.clock() - minutes * 60_000_000)))


async def _written(shown: Slowed, collection: str) -> None:
    bed: Any = shown.service.bed
    model = await bed.open_model(bed.model)
    vectors = (await model.embed(["one"], purpose="document")).vectors
    rows = PrecomputedRows(ids=["one"], vectors=vectors, texts=["one"], metadata=[{}])
    await bed.write_rows(collection, rows)


def test_page_server_that_goes_away_and_comes_back_is_waited_for(browser: Browser, tmp_path: Path) -> None:
    """A live view goes on; one that could not be loaded is loaded; so are rows, and a search is repeated."""
    folder = write_indexed(tmp_path / "project", [{"id": f"{n}", "text": f"text {n}"} for n in range(150)])
    port = free_port()  # which no client takes while nothing listens there
    running = Slowed(folder, port=port)
    context = browser.new_context(base_url=running.url)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    open_view(page, "flow")
    expect(page.locator(".live")).to_have_text("live")
    listed, searched = context.new_page(), context.new_page()
    open_view(listed, "collections/docs")
    rows = listed.get_by_role("region", name="Rows in the order of their ids")
    expect(rows.get_by_role("listitem").first).to_contain_text("text 0")
    open_view(searched, "search")
    running.close()
    page.get_by_text("The server does not answer.").wait_for()
    rows.focus()
    listed.keyboard.press("End")
    expect(rows.get_by_role("listitem").last).to_contain_text("row 150")
    searched.get_by_role("searchbox", name="Query").fill("text 7")
    searched.keyboard.press("Enter")
    searched.get_by_role("alert").get_by_text("the server does not answer").wait_for()
    page.get_by_role("link", name="Collections").click()
    page.get_by_role("alert").get_by_text("the server does not answer").wait_for()
    running = Slowed(folder, port=port)
    expect(page.get_by_role("link", name="docs")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("The server does not answer.")).to_have_count(0)
    page.get_by_role("link", name="Search", exact=True).first.click()
    page.get_by_role("searchbox", name="Query").fill("text 7")
    page.keyboard.press("Enter")
    expect(page.locator(".hit").first).to_contain_text("docs#7#00000")
    expect(rows.get_by_role("listitem").last).to_contain_text("text 99")
    expect(searched.locator(".hit").first).to_contain_text("docs#7#00000")
    context.close()
    running.close()


def test_page_address_with_a_bare_percent_sign_or_an_unknown_view_shows_a_view(page: Page) -> None:
    open_view(page, "map/100%")
    expect(page.locator("h1")).to_have_text("Map of docs")
    open_view(page, "constructor")
    expect(page.locator("h1")).to_have_text("Search")


def test_page_in_a_browser_that_keeps_nothing_is_shown_in_the_chosen_theme(page: Page) -> None:
    """Browsers that block cookies throw on every use of localStorage."""
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    open_view(page, "spend")
    page.get_by_label("Theme").select_option("dark")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("link", name="Collections").click()
    expect(page.locator("h1")).to_have_text("Collections")
    expect(page.get_by_label("Theme")).to_have_value("dark")


def test_page_slow_server_says_that_it_waits(page: Page, shown: Slowed) -> None:
    shown.hold("/v1/collections")
    page.clock.install(time=0)
    page.clock.pause_at(1_000)  # the first text must not be replaced before it is looked for
    with page.expect_request("**/v1/collections"):
        page.goto("/#/collections")
    page.clock.run_for(1_000)
    page.get_by_text("Loading…").wait_for()
    page.clock.run_for(3_000)
    page.get_by_text("Still waiting for the server…").wait_for()
    page.clock.resume()
    page.get_by_role("link", name="Keys and quotas").click()  # others can be used meanwhile
    expect(page.locator("h1")).to_have_text("Keys and quotas")
    shown.let_go("/v1/collections")
    open_view(page, "collections")


def test_letters_are_tried_again_and_embedded(browser: Browser, tmp_path: Path) -> None:
    """A refused chunk is shown with its reason and its batch file, and is embedded after another try."""
    running = Slowed(write_project(tmp_path / "project", [{"id": "a", "text": "one"}]))
    running.wait(_refused(running))
    context = browser.new_context(base_url=running.url)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    open_view(page, "flow")
    expect(page.locator(".stuck")).to_contain_text("1 dead letter")
    page.get_by_role("link", name="Show them").click()
    expect(page.locator("main")).to_contain_text("1 failure of 1 cause")
    expect(page.locator("main")).to_contain_text("docs: the model refused it")
    expect(page.get_by_role("row").last).to_contain_text("docs/chunked/")
    page.get_by_role("button", name="Try docs#a#00000 again").click()
    expect(page.locator("#said")).to_contain_text("1 chunk wait again")
    page.get_by_text("Nothing has failed for good.").wait_for()
    page.get_by_role("link", name="Flow", exact=True).click()
    expect(page.locator(".stages li").nth(4).locator(".figure")).to_have_text("1")
    context.close()
    running.close()


async def _refused(running: Slowed) -> None:
    """Fetch the source, and refuse its chunk."""
    bed: Any = running.service.bed
    await bed.fetch("docs")
    chunks, now = bed.ledger.chunks, bed.clock()
    batches = [batch async for page in chunks.batches({Status.NONE}, now=now, sources=()) for batch in page]
    (row,) = await chunks.claim(
        batches, {Status.NONE}, worker="w", now=now, until=now + 1, sources=(), limit=9
    )
    refused = {"kind": "rejected", "reason": "the model refused it"}
    failure = Failure(collection=row.collection, id=row.id, version=row.version, **refused)
    await chunks.fail([failure], worker="w")
    letter = DeadLetter(kind="chunk", owner="docs", subject=row.id, reason="the model refused it", at=now)
    await bed.ledger.dead_letters.add([letter])


def test_doctor_names_what_failed_and_its_command(page: Page) -> None:
    open_view(page, "doctor")
    table = page.get_by_role("region", name="Checklist")
    assert table.get_by_role("row").count() > 15
    expect(table.get_by_role("row", name=re.compile("^index ok docs"))).to_contain_text("rows")


def test_spend_shows_planned_against_billed(page: Page, shown: Slowed) -> None:
    async def record() -> None:
        bed = shown.service.bed
        now = bed.clock()
        rows = [
            SpendRow(
                run=f"r{n}",
                lane="realtime",
                source="docs",
                document=f"d{n}",
                texts=5,
                planned=1000,
                billed=1100,
                cost_usd=0.25,
                at=now - n * 86_400_000_000,
            )
            for n in range(3)
        ]
        await bed.ledger.spending.record(rows)

    shown.wait(record())
    open_view(page, "spend")
    expect(page.locator(".facts").first).to_contain_text("$0.75")
    row = page.get_by_role("region", name="Spend by source").get_by_role("row").nth(1)
    expect(row).to_have_text(re.compile(r"docs.*15.*3,000.*3,300.*\+10\.0 %.*\$0\.75"))
    expect(page.locator("svg.chart rect")).to_have_count(6)
    expect(page.get_by_role("region", name="Spend by day").get_by_role("row")).to_have_count(4)
    open_view(page, "collections/docs")
    expect(page.locator(".facts").first).to_contain_text("$0.75")


def test_work_shows_a_job_and_cancels_it_in_two_steps(page: Page, shown: Slowed) -> None:
    body = {"collection": "texts", "texts": [{"id": "one", "text": "one text"}]}
    job = shown.call("POST", "/v1/jobs", body).json
    open_view(page, "work")
    row = page.get_by_role("region", name="Jobs").get_by_role("row", name=re.compile(job["id"][:16]))
    expect(row).to_contain_text("queued")
    expect(row.get_by_role("progressbar")).to_have_attribute("value", "0")
    row.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Leave it").click()
    row.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(row).to_contain_text("cancelling")  # which a worker does


def test_work_cancels_a_submission_in_two_steps(page: Page, shown: Slowed) -> None:
    """The first step changes nothing; the other submission stays as it is."""
    ledger, now = shown.service.bed.ledger, shown.service.bed.clock()
    rows = [
        SubmissionRow(
            id=id,
            space="{}",
            account="openai",
            key="k",
            bytes=1,
            texts=20,
            chunks=20,
            tokens=400,
            created=now,
            state="submitted",
            submitted=now,
            done=5,
            deadline=now + 86_400_000_000,
        )
        for id in ("leave-this-one", "stop-this-one")
    ]

    async def create() -> None:
        for each in rows:
            await ledger.submissions.create(each)

    async def cancelled() -> dict[str, bool]:
        kept = [await ledger.submissions.get(each.id) for each in rows]
        return {each.id: each.cancel for each in kept if each is not None}

    shown.wait(create())
    open_view(page, "work")
    table = page.get_by_role("region", name="Live submissions")
    row = table.get_by_role("row", name=re.compile("stop-this-on"))
    expect(row).to_contain_text("5 of 20")
    dialog = page.get_by_role("dialog")
    row.get_by_role("button", name="Cancel").click()
    expect(dialog).to_contain_text("15 texts wait again")
    dialog.get_by_role("button", name="Leave it").click()
    expect(dialog).to_be_hidden()
    assert shown.wait(cancelled()) == {"leave-this-one": False, "stop-this-one": False}
    row.get_by_role("button", name="Cancel").click()
    dialog.get_by_role("button", name="Cancel the submission").click()
    expect(row).to_contain_text("being cancelled")
    expect(row.get_by_role("button")).to_have_count(0)
    assert shown.wait(cancelled()) == {"leave-this-one": False, "stop-this-one": True}
