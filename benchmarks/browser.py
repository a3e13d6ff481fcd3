"""The page in Chromium: its weight, the first view, and how quickly it follows at 100,000 rows."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from playwright.sync_api import sync_playwright

from benchmarks.results import Figure, table
from flowbed.bed import aopen
from flowbed.records.precomputed import PrecomputedRows
from flowbed.server.page.assets import assets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from benchmarks.results import Options

ROWS, DIMENSIONS = 100_000, 384
SOURCES = ("chat", "wiki", "mail", "code", "issues", "notes")
WRITTEN = 20_000  # rows at a time
TIMES = 9  # of each interaction
FRAMES = 180  # of the map while it is moved: three seconds at 60 a second
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 300_000  # ms for one step: drawing the first map of 100,000 rows takes seconds

# What is measured in the page. A frame is on the screen when the frame after it begins.
FRAME = "requestAnimationFrame"
PAINTED = f"() => new Promise((done) => {FRAME}(() => {FRAME}(() => done(performance.now()))))"
ASKED = """() => document.querySelector('form[role=search]').addEventListener('submit', () => {
  window.asked = performance.now();
}, { capture: true })"""
SCROLL = f"""async (share) => {{
  const box = document.querySelector('.browser'), began = performance.now();
  box.scrollTop = share * (box.scrollHeight - box.clientHeight);
  const painted = await ({PAINTED})();
  return painted - began;
}}"""
CLICK = f"""async (point) => {{
  const {{ plot }} = document.querySelector('.canvas'), began = performance.now();
  const [x, y] = plot.position(point);
  plot.pick(plot.nearest(x, y));
  const painted = await ({PAINTED})();
  return painted - began;
}}"""
LASSO = f"""async (share) => {{
  const {{ plot }} = document.querySelector('.canvas'), began = performance.now();
  const [wide, high] = [plot.wide * share, plot.high * share];
  plot.select([[0, 0], [wide, 0], [wide, high], [0, high]]);
  const painted = await ({PAINTED})();
  return painted - began;
}}"""
MOVE = """(frames) => new Promise((done) => {
  const { plot } = document.querySelector('.canvas');
  const work = [];
  let left = frames, began;
  const draw = plot.draw.bind(plot);
  plot.draw = () => { const start = performance.now(); draw(); work.push(performance.now() - start); };
  const step = (now) => {
    began ??= now;
    if (left-- === 0) { done({ seconds: (now - began) / 1000, work }); return; }
    plot.pan(Math.cos(left / 9) * 8, Math.sin(left / 9) * 8);
    plot.zoom(left % 60 < 30 ? 1.02 : 1 / 1.02);
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


def measure(options: Options) -> dict[str, Any]:
    """Serve rows that have vectors, and look at them."""
    rows = options.scaled(options.rows or ROWS, fewest=2_000)
    folder = options.work / "project"
    folder.mkdir()
    (folder / "flowbed.toml").write_text(f'model = "seeded:{DIMENSIONS}"\n')
    asyncio.run(_write(folder, rows))
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise RuntimeError("no Chromium: make services")
    with _serving(folder) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        version = browser.version
        first = [_first_view(browser, url) for _ in range(TIMES)]
        found = _interactions(browser, url, rows)
        browser.close()
    weight = sum(len(each.compressed) for each in assets().values())
    return {"rows": rows, "weight": weight, "first": first, "browser": version, **found}


def _first_view(browser: Browser, url: str) -> dict[str, float]:
    """Open the page with an empty cache; in milliseconds."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{url}/")
    page.wait_for_selector("#query")
    usable = float(page.evaluate("performance.now()"))
    painted = page.evaluate(
        "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? performance.now()"
    )
    context.close()
    return {"painted": float(painted), "usable": usable}


def _interactions(browser: Browser, url: str, rows: int) -> dict[str, Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{url}/#/collections/rows")
    page.wait_for_selector(".browser:not([aria-busy])")
    scrolls = [page.evaluate(SCROLL, place / TIMES) for place in range(1, TIMES + 1)]
    searches = [_search(page, url, f"text {place}") for place in range(TIMES)]
    page.goto(f"{url}/#/map/rows")
    began = float(page.evaluate("performance.now()"))
    page.wait_for_selector(".canvas:not([aria-busy])")
    loaded = float(page.evaluate("performance.now()")) - began
    moved = page.evaluate(MOVE, FRAMES)
    clicks = [page.evaluate(CLICK, rows * place // TIMES) for place in range(TIMES)]
    lassos = [page.evaluate(LASSO, 0.2 + place / 20) for place in range(TIMES)]
    return {
        "scrolls": scrolls,
        "searches": searches,
        "clicks": clicks,
        "lassos": lassos,
        "loaded": loaded,
        "rate": FRAMES / moved["seconds"],
        "draw": statistics.median(moved["work"]),
    }


def _search(page: Page, url: str, text: str) -> float:
    """Return the milliseconds from Enter to the hits on the screen."""
    page.goto("about:blank")
    page.goto(f"{url}/#/search?c=rows")
    page.wait_for_selector("main .view:not([aria-busy])")
    page.locator("#query").fill(text)
    page.evaluate(ASKED)
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    return float(page.evaluate(f"async () => await ({PAINTED})() - window.asked"))


async def _write(folder: Path, rows: int) -> None:
    random = np.random.default_rng(5)
    centres = random.normal(size=(len(SOURCES), DIMENSIONS))
    async with await aopen(folder) as bed:
        for first in range(0, rows, WRITTEN):
            places = np.arange(first, min(first + WRITTEN, rows))
            vectors = centres[places % len(SOURCES)] + random.normal(
                scale=0.6, size=(len(places), DIMENSIONS)
            )
            given = PrecomputedRows(
                ids=[f"r{place:07}" for place in places],
                vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
                texts=[
                    f"text {place} of {SOURCES[place % len(SOURCES)]}, of some length" for place in places
                ],
                metadata=[
                    {"source": SOURCES[place % len(SOURCES)], "ts": 1.7e9 + int(place)} for place in places
                ],
            )
            await bed.write_rows("rows", given)
        await bed.compact("rows")


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "flowbed", "serve", "--port", "0", "--json", "--no-log-requests"]
    process = subprocess.Popen([*command, "--config", str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.communicate(timeout=60)


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare with the targets."""
    rows = f"{found['rows']:,} rows"
    follows = statistics.median([*found["scrolls"], *found["clicks"], *found["lassos"]])
    usable = statistics.median(each["usable"] for each in found["first"])
    return [
        Figure(
            what="The page, compressed",
            value=found["weight"] / 1e3,
            target=300,
            at_most=True,
            form="{:,.0f} KB",
        ),
        Figure(
            what="First view of the page, usable", value=usable, target=1_000, at_most=True, form="{:,.0f} ms"
        ),
        Figure(
            what=f"The page follows scrolling, a click and a lasso, {rows}",
            value=follows,
            target=100,
            at_most=True,
            form="{:,.0f} ms",
        ),
        Figure(
            what=f"Frames of the map while it is moved, {rows}",
            value=found["rate"],
            target=55,
            form="{:,.0f}/s",
        ),
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    first = found["first"]
    lines: list[list[object]] = [
        ["first view: painted", *_spread([each["painted"] for each in first])],
        ["first view: the search box can be used", *_spread([each["usable"] for each in first])],
        ["scrolling to another part of the rows", *_spread(found["scrolls"])],
        ["a search, from Enter to its hits", *_spread(found["searches"])],
        ["a click on the map", *_spread(found["clicks"])],
        ["a lasso on the map", *_spread(found["lassos"])],
    ]
    return f"""## The page

In headless Chromium {found["browser"]}, without a graphics card, on the machine that also serves. {found["rows"]:,}
rows of {DIMENSIONS} dimensions; a first view with an empty cache; until the frame is on the screen.

{table(["ms", "median", "worst"], lines)}

The first map of a version was there after {found["loaded"] / 1e3:,.1f} s, of which most is the projection; moving and
zooming it drew {found["rate"]:,.0f} frames a second, {found["draw"]:,.1f} ms of work each. The whole page is
{found["weight"] / 1e3:,.0f} KB compressed.
"""


def _spread(values: list[float]) -> list[str]:
    return [f"{statistics.median(values):,.0f}", f"{max(values):,.0f}"]
