"""The map of a collection: its bytes, and the view in a browser."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from playwright.sync_api import expect
from tests.server.page.conftest import PATIENCE, Slowed, open_view

from flowbed.records.precomputed import PrecomputedRows

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Rows of the collection in the suite, and of the long test.
FEW, MANY = 2_000, 100_000
SOURCES = ("chat", "wiki", "mail")


async def write(shown: Slowed, collection: str, rows: int) -> None:
    """Write rows of three sources, whose vectors are around three places."""
    bed: Any = shown.service.bed
    random = np.random.default_rng(5)
    centres = random.normal(size=(3, 64))
    for first in range(0, rows, 20_000):
        places = np.arange(first, min(first + 20_000, rows))
        vectors = centres[places % 3] + random.normal(scale=0.15, size=(len(places), 64))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        given = PrecomputedRows(
            ids=[f"r{place:06}" for place in places],
            vectors=vectors,
            texts=[f"{SOURCES[place % 3]} <b>text</b> {place}" for place in places],
            metadata=[{"source": SOURCES[place % 3], "ts": 1.7e9 + int(place)} for place in places],
        )
        await bed.write_rows(collection, given)


@pytest.fixture(scope="module")
def mapped(shown: Slowed) -> Slowed:
    """Add a collection of some rows to the server."""
    shown.wait(write(shown, "clouds", FEW))
    return shown


def parsed(body: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the bytes of a map."""
    assert body[:8] == b"FBMAP1\0\0"
    length = int.from_bytes(body[8:12], "little")
    header = orjson.loads(body[12 : 12 + length])
    place, columns = 12 + length, {}
    assert place % 4 == 0
    for name, kind in (("x", "<u2"), ("y", "<u2"), ("time", "<u2"), ("topic", "u1"), ("source", "u1")):
        columns[name] = np.frombuffer(body, kind, header["points"], place)
        place += columns[name].nbytes
    assert place == len(body)
    return header, columns


def test_map_has_a_point_for_each_row_with_source_topic_and_time(mapped: Slowed) -> None:
    found = mapped.call("GET", "/v1/collections/clouds/map")
    header, columns = parsed(found.body)
    assert (header["rows"], header["points"]) == (FEW, FEW)
    assert sorted(header["sources"]) == sorted(SOURCES)
    assert header["time"] == {"field": "ts", "first": 1.7e9, "last": 1.7e9 + FEW - 1}
    rows = mapped.call(
        "POST", "/v1/collections/clouds/map/rows", {"version": header["version"], "points": [0, 700, 1999]}
    ).json["rows"]
    assert [each["id"] for each in rows] == ["r000000", "r000700", "r001999"]
    assert [header["sources"][columns["source"][n]] for n in (0, 700, 1999)] == ["chat", "wiki", "wiki"]
    assert (columns["time"][0], columns["time"][-1]) == (1, 65_535)
    # Rows of a source are nearer to each other than to others, and have topics of their own.
    for source in range(3):
        own = columns["source"] == source
        assert columns["x"][own].std() + columns["y"][own].std() < 0.8 * (
            columns["x"].std() + columns["y"].std()
        )
    names = " ".join(header["topics"])
    assert all(source in names for source in SOURCES)


def test_map_is_drawn_once_for_each_version(mapped: Slowed) -> None:
    maps: Any = mapped.service.maps
    first = mapped.call("GET", "/v1/collections/clouds/map")
    kept = dict(maps._kept)
    assert mapped.call("GET", "/v1/collections/clouds/map").body == first.body
    assert {key: value for key, value in maps._kept.items() if key in kept} == kept


def test_map_points_of_a_map_that_another_process_drew_are_read(mapped: Slowed) -> None:
    """With several workers, the one that reads the rows may not be the one that drew the map."""
    header, _ = parsed(mapped.call("GET", "/v1/collections/clouds/map").body)
    maps: Any = mapped.service.maps
    maps._kept.clear()
    body = {"version": header["version"], "points": [700]}
    (row,) = mapped.call("POST", "/v1/collections/clouds/map/rows", body).json["rows"]
    assert row["id"] == "r000700"


@pytest.mark.parametrize(
    ("collection", "body", "status"),
    [
        ("clouds", {"version": 1, "points": [0]}, 404),
        ("none", {"version": 1, "points": [0]}, 404),
        ("clouds", {"version": 1, "points": []}, 400),
        ("clouds", {"version": 1, "points": [-1]}, 400),
    ],
)
def test_map_points_that_are_not_there_are_refused(
    mapped: Slowed, collection: str, body: dict[str, Any], status: int
) -> None:
    assert mapped.call("POST", f"/v1/collections/{collection}/map/rows", body).status == status


def test_map_of_nothing_is_not_found(mapped: Slowed) -> None:
    assert mapped.call("GET", "/v1/collections/none/map").status == 404


@pytest.fixture
def view(page: Page, mapped: Slowed) -> Page:
    """Open the map of the rows."""
    open_view(page, "map/clouds")
    page.wait_for_selector(".canvas:not([aria-busy])")
    assert mapped.url in page.url
    return page


def test_map_view_point_is_read_by_click_and_by_keyboard(view: Page) -> None:
    """Texts stay texts."""
    place = view.evaluate("document.querySelector('.canvas').plot.position(700)")
    nearest = view.evaluate("([x, y]) => document.querySelector('.canvas').plot.nearest(x, y)", place)
    view.locator(".canvas canvas").first.click(position={"x": place[0], "y": place[1]})
    expect(view.locator(".side")).to_contain_text(f"r{nearest:06}")
    expect(view.locator(".side .text").first).to_contain_text("<b>text</b>")
    view.locator(".canvas canvas").first.focus()
    view.keyboard.press("ArrowLeft")
    view.keyboard.press("+")
    view.keyboard.press("Enter")
    expect(view.locator(".side").get_by_role("link", name="Search for passages like it")).to_be_visible()


def test_map_view_zoom_and_pan_keep_the_place_under_the_pointer(view: Page) -> None:
    box = view.locator(".canvas canvas").first.bounding_box()
    assert box is not None
    position = "document.querySelector('.canvas').plot.position(700)"
    x, y = view.evaluate(position)
    view.mouse.move(box["x"] + x, box["y"] + y)
    view.mouse.wheel(0, -600)
    view.wait_for_function("document.querySelector('.canvas').plot.scale > 1")
    assert view.evaluate(position) == pytest.approx([x, y], abs=1)
    view.mouse.down()
    view.mouse.move(box["x"] + x + 60, box["y"] + y + 30, steps=4)
    view.mouse.up()
    assert view.evaluate(position) == pytest.approx([x + 60, y + 30], abs=1)
    view.get_by_role("button", name="Whole").click()
    assert view.evaluate("document.querySelector('.canvas').plot.scale") == 1


def test_map_view_lasso_lists_what_is_inside_and_is_cleared(view: Page) -> None:
    box = view.locator(".canvas canvas").first.bounding_box()
    assert box is not None
    view.get_by_role("button", name="Lasso").click()
    corners = [(2, 2), (box["width"] - 2, 2), (box["width"] - 2, box["height"] - 2), (2, box["height"] - 2)]
    view.mouse.move(box["x"] + 2, box["y"] + 2)
    view.mouse.down()
    for x, y in corners[1:]:
        view.mouse.move(box["x"] + x, box["y"] + y, steps=3)
    view.mouse.up()
    expect(view.locator(".side h2").last).to_have_text(f"{FEW:,} passages selected")
    expect(view.locator(".side .passage")).to_have_count(40)
    view.get_by_role("button", name="Clear").click()
    expect(view.locator(".side")).to_contain_text("Nothing is selected.")


HALF = """() => {
  const { plot } = document.querySelector('.canvas');
  plot.select([[0, 0], [plot.wide * 0.6, 0], [plot.wide * 0.6, plot.high], [0, plot.high]]);
  return plot.selected.reduce((sum, each) => sum + each, 0);
}"""


def test_map_view_selection_becomes_a_filter_of_the_search(view: Page, mapped: Slowed) -> None:
    """Without the hidden group; the address keeps it, and it can be removed."""
    view.get_by_label("coloured by").select_option("source")
    view.locator(".keyed").get_by_role("button", name=re.compile("mail")).click()
    selected = view.evaluate(HALF)
    assert 0 < selected < FEW
    view.get_by_role("link", name="Search in these").click()
    view.get_by_role("searchbox", name="Query").fill("mail text 7")
    view.keyboard.press("Enter")
    chip = view.locator(".chip.set")
    expect(chip).to_contain_text(f"the {selected:,} passages selected on the map")
    expect(view.locator(".hit")).to_have_count(10)
    view.reload()
    expect(chip).to_contain_text(f"the {selected:,} passages")
    view.get_by_label("show").select_option("100")
    expect(view.locator(".hit")).to_have_count(100)
    found = view.locator(".hit .title .mono").all_inner_texts()
    code = view.get_by_label("The search as code")
    view.get_by_text("As code").click()
    view.get_by_role("button", name="JSON").click()
    ids = json.loads(code.inner_text())["where"]["$id"]["$in"]
    assert len(ids) == selected
    assert set(found) <= set(ids)
    assert all(int(each[1:]) % 3 != 2 for each in ids)  # no mail
    chip.get_by_role("button").click()
    expect(chip).to_have_count(0)
    expect(view.locator(".hit")).to_have_count(100)


def test_map_area_of_an_older_version_is_said_to_be_gone(page: Page, mapped: Slowed, faults: Any) -> None:
    faults.allowed += ("404",)
    open_view(page, "search?c=clouds&q=wiki&area=1;topic;;0,0 1,0 1,1")
    page.get_by_role("alert").get_by_text("The map has changed since the selection").wait_for()
    open_view(page, "search?c=clouds&q=wiki&area=none;topic;;0,0 1,0")  # no area at all
    expect(page.locator(".hit")).to_have_count(10)
    assert mapped.url in page.url


def test_map_view_colours_are_chosen_and_groups_hidden(view: Page) -> None:
    painted = "[...document.querySelector('.canvas').plot.pixels].filter(Boolean).length"
    before = view.evaluate(painted)
    view.get_by_label("coloured by").select_option("source")
    legend = view.locator(".keyed")
    expect(legend).to_contain_text("chat")
    legend.get_by_role("button", name=re.compile("chat")).click()
    expect(legend.get_by_role("button", name=re.compile("chat"))).to_have_attribute("aria-pressed", "false")
    view.wait_for_function(f"{painted} < {before * 0.8}")
    view.get_by_label("coloured by").select_option("time")
    expect(view.locator(".side")).to_contain_text("Nov 14, 2023")


@pytest.mark.long
def test_page_of_100_000_rows_is_drawn_scrolled_and_searched(browser: Browser, mapped: Slowed) -> None:
    """Drawing, scrolling and searching do a bounded amount of work."""
    mapped.wait(write(mapped, "many", MANY))
    context = browser.new_context(base_url=mapped.url, viewport={"width": 1200, "height": 800})
    context.set_default_timeout(6 * PATIENCE)
    page = context.new_page()
    open_view(page, "map/many")
    page.wait_for_selector(".canvas:not([aria-busy])")
    assert page.evaluate("document.querySelector('.canvas').plot.map.points") == MANY
    open_view(page, "collections/many")
    rows = page.get_by_role("region", name="Rows in the order of their ids")
    expect(rows.get_by_role("listitem").first).to_contain_text("r000000")
    rows.focus()
    page.keyboard.press("End")
    expect(rows.get_by_role("listitem").last).to_contain_text("r099999")
    assert rows.get_by_role("listitem").count() < 40
    open_view(page, "search?q=wiki&c=many&n=100")
    expect(page.locator(".hit")).to_have_count(100)
    context.close()
