"""The page's search, in a browser."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect
from tests.server.page.conftest import ATTACKS, open_view

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page
    from tests.server.page.conftest import Slowed


def search(page: Page, text: str) -> Locator:
    """Search for a text, and return the hits."""
    page.get_by_role("searchbox", name="Query").fill(text)
    page.keyboard.press("Enter")
    hits = page.locator(".hit")
    hits.first.wait_for()
    page.wait_for_selector("section[aria-label=Hits]:not([aria-busy])")
    return hits


def test_search_hits_are_in_order_with_scores_and_marked_words(page: Page) -> None:
    open_view(page, "search")
    hits = search(page, "sentence 7 about keys")
    expect(hits).to_have_count(10)
    expect(hits.first).to_contain_text("docs#d7#00000")
    scores = [float(each) for each in page.locator(".score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1.0
    assert {"sentence", "keys", "7"} <= {
        each.lower() for each in hits.first.locator("mark").all_inner_texts()
    }


def test_search_by_words_marks_what_the_server_found(page: Page) -> None:
    """Offsets count code points, so that a picture before a word does not move its mark."""
    open_view(page, "search?q=digit+many&mode=text")
    hit = page.locator(".hit")
    expect(hit).to_have_count(1)
    assert hit.locator(".text mark").all_inner_texts() == ["many", "digits"]
    hit.get_by_role("button", name="Why this hit").click()
    expect(hit.locator(".why")).to_contain_text("it is the best by its words")
    page.get_by_label("How to search").select_option("hybrid")
    expect(page.locator(".hit")).to_have_count(10)
    page.locator(".hit").first.get_by_role("button", name="Why this hit").click()
    expect(page.locator(".hit .why").first).to_contain_text("by meaning and words together")


def test_search_by_meaning_marks_words_of_a_language_without_spaces(page: Page) -> None:
    """They are words of the question, and the explanation names them; its particles are none."""
    open_view(page, 'search?q=鍵の交換&f=[["document","$eq","japanese"]]')
    hit = page.locator(".hit")
    expect(hit).to_have_count(1)
    assert hit.locator(".text mark").all_inner_texts() == ["鍵", "交換"]
    hit.get_by_role("button", name="Why this hit").click()
    expect(hit.locator(".why")).to_contain_text("They share “鍵”, “交換”.")


def test_search_condition_from_a_hit_narrows_and_its_removal_widens(page: Page) -> None:
    """The address keeps the search: a reload shows the same."""
    open_view(page, "search")
    hits = search(page, "sentence 7 about keys")
    hits.first.get_by_role("button", name="author bo").click()
    expect(page.locator(".chip.set")).to_contain_text("author is bo")
    expect(page.locator(".hit .chip", has_text="author ann")).to_have_count(0)
    page.reload()
    expect(page.locator(".chip.set")).to_contain_text("author is bo")
    expect(page.locator(".hit")).to_have_count(10)
    page.get_by_role("button", name="Remove the condition on author").click()
    expect(page.locator(".chip.set")).to_have_count(0)


def test_search_condition_is_chosen_from_the_fields_and_values_that_exist(page: Page) -> None:
    """Numbers are compared as numbers."""
    open_view(page, "search")
    search(page, "sentence")
    page.get_by_role("button", name="+ Condition").click()
    form = page.get_by_role("group", name="New condition")
    form.wait_for()
    names = form.get_by_label("Field").locator("option").all_inner_texts()
    assert {"text", "author", "n", "ts", "url", "source", "document"} <= set(names)
    form.get_by_label("Field").select_option("author")
    assert "ann" in page.locator("#values option").evaluate_all("each => each.map((one) => one.value)")
    form.get_by_label("Field").select_option("n")
    form.get_by_label("Comparison").select_option("$gte")
    form.get_by_label("Value").fill("28")
    form.get_by_label("Value").press("Enter")
    expect(page.locator(".chip.set")).to_contain_text("n is at least 28")
    expect(page.locator(".hit")).to_have_count(3)


def test_search_condition_takes_a_number_as_people_write_it(page: Page) -> None:
    """JSON has no number 007 or .5."""
    open_view(page, 'search?q=sentence&f=[["source","$eq","docs"]]')
    form = page.get_by_role("group", name="New condition")
    for typed, shown in (("007", "n is 7"), (".5", "n is 0.5")):
        page.get_by_role("button", name="+ Condition").click()
        form.get_by_label("Field").select_option("n")
        form.get_by_label("Value").fill(typed)
        form.get_by_label("Value").press("Enter")
        expect(page.locator(".chip.set").last).to_contain_text(shown)
        page.get_by_role("button", name="Remove the condition on n").click()
        expect(page.locator(".chip.set")).to_have_count(1)


def test_search_whole_number_of_many_digits_keeps_them_all(page: Page) -> None:
    open_view(page, "search")
    hits = search(page, "🔑 chat of many digits")
    hits.first.get_by_role("button", name="n 1179062000123456789").click()
    expect(page.locator(".hit")).to_have_count(1)
    expect(page.locator(".hit")).to_contain_text("docs#big#00000")
    expect(page.locator(".hit").get_by_role("link", name="Open the place")).to_have_attribute(
        "href", "https://chat.example/m/1"
    )


def test_search_why_and_document_of_a_hit_open_below_it(page: Page) -> None:
    open_view(page, 'search?q=sentence&f=[["document","$eq","long"]]')
    hit = page.locator(".hit").nth(1)
    expect(hit).to_contain_text("docs#long#")
    hit.get_by_role("button", name="Why this hit").click()
    expect(hit.locator(".why")).to_contain_text("the cosine of the angle between them is")
    expect(hit.locator(".why")).to_contain_text("in the index of docs since version 2")
    hit.get_by_role("button", name="In its document").click()
    expect(hit.locator(".passage[aria-current]")).to_have_count(1)
    expect(hit.get_by_role("button", name="Why this hit")).to_have_attribute("aria-expanded", "false")


def test_search_as_code_asks_the_same(
    page: Page, shown: Slowed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JSON, the curl command and the Python text find what the page finds."""
    open_view(page, "search")
    hits = search(page, 'it\'s "sentence" 7')
    hits.first.get_by_role("button", name="source docs").click()
    page.locator(".chip.set").wait_for()
    page.wait_for_selector("section[aria-label=Hits]:not([aria-busy])")
    ids = page.locator(".hit .title .mono").all_inner_texts()
    page.get_by_text("As code").click()
    code = page.get_by_label("The search as code")

    def found(body: Any) -> list[str]:
        return [each["id"] for each in shown.call("POST", "/v1/search", body).json["hits"]]

    _, url, *rest = shlex.split(code.inner_text().replace("\\\n", ""))
    assert url == f"{shown.url}/v1/search"
    assert found(json.loads(rest[-1])) == ids
    page.get_by_role("button", name="JSON").click()
    assert found(json.loads(code.inner_text())) == ids
    page.get_by_role("button", name="Python").click()
    monkeypatch.chdir(shown.folder)
    exec(code.inner_text(), {})  # noqa: S102 - what the page offers to run
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if "docs#d" in line[:40]] == [
        each for each in ids if each.startswith("docs#d")
    ]


def test_search_texts_never_become_markup(page: Page) -> None:
    """An attack is shown as it was written: as text, id, value, link and condition."""
    open_view(page, "search?q=attack&n=50")
    hits = page.locator(".hit")
    expect(hits).to_have_count(48)
    for number, text in enumerate(ATTACKS):
        shown = page.locator(".hit .text").filter(has_text=re.compile(rf"^attack {number} "))
        assert text.replace("\0", "")[:10] in shown.inner_text()
    links = hits.locator("a").evaluate_all("all => all.map((one) => one.href)")
    assert links == ["https://chat.example/m/1"]
    assert hits.locator("script, iframe, img, svg, style, base, form").count() == 0
    hit = hits.filter(has_text="docs#x13 ")
    hit.get_by_role("button", name="author").click()
    expect(page.locator(".chip.set")).to_contain_text("<base href")
    expect(page.locator(".hit")).to_have_count(1)
    page.locator(".hit").first.get_by_role("button", name="Why this hit").click()
    page.locator(".hit .why .facts").wait_for()
    page.locator(".hit").first.get_by_role("button", name="In its document").click()
    page.locator(".passage").first.wait_for()


def test_search_that_takes_long_says_so_and_can_be_stopped(page: Page, shown: Slowed) -> None:
    open_view(page, "search")
    shown.hold("/v1/search")
    page.get_by_role("searchbox", name="Query").fill("anything")
    page.keyboard.press("Enter")
    page.get_by_text("Still searching…").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    shown.let_go("/v1/search")
    search(page, "sentence 3 about keys")


def test_search_refused_by_the_server_says_why_and_goes_on(page: Page, faults: Any) -> None:
    faults.allowed += ("404",)
    open_view(page, "search?q=sentence&c=nowhere")
    expect(page.locator(".hit")).to_have_count(10)  # of all collections: there is none of that name
    open_view(page, 'search?q=x&f=[["n","$gt","' + "9" * 4 + '"],["text","$eq",{}]]')
    page.locator("section[aria-label=Hits]").get_by_text("Nothing found.").wait_for()


@pytest.mark.parametrize("keys", [("/",), ("Tab", "Tab")])
def test_search_box_is_reached_by_keyboard(page: Page, keys: tuple[str, ...]) -> None:
    open_view(page, "collections")
    if keys == ("/",):
        page.keyboard.press("/")
        expect(page.get_by_role("searchbox", name="Query")).to_be_focused()
    else:
        page.locator("body").press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_attached()


def test_search_goes_on_page_by_page_and_to_rows_like_a_hit(page: Page) -> None:
    """No row comes twice, and the address keeps what was asked."""
    open_view(page, "search?q=sentence+7+about+keys")
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".hit")).to_have_count(20)
    ids = page.locator(".hit .title .mono").all_inner_texts()
    assert len(set(ids)) == 20
    page.locator(".hit").first.get_by_role("button", name="More like this").click()
    expect(page.locator(".chip.set")).to_have_text(re.compile("^like docs#d7#00000"))
    page.reload()
    expect(page.locator(".hit")).to_have_count(10)
    page.locator(".hit").first.get_by_role("button", name="Why this hit").click()
    expect(page.locator(".hit .why").first).to_contain_text("to that of docs#d7#00000")
    page.get_by_role("button", name="Search by a text again").click()
    expect(page.get_by_role("searchbox", name="Query")).to_be_focused()
