"""From a clone to a search in the page, as a new user does it: a new environment, two commands, and Chromium."""

from __future__ import annotations

import html
import io
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.browser import BROWSERS
from benchmarks.process import ROOT
from benchmarks.results import Figure, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from playwright.sync_api import Page, ViewportSize

    from benchmarks.results import Options

COMMANDS = ("make demo", "make page")
QUERY = "when are default values of parameters evaluated"
RECORDING = ROOT / "docs" / "pictures" / "start.webp"
SIZE: ViewportSize = {"width": 960, "height": 600}
FRAME = 2_500  # ms that the recording shows each step
LINES = 20  # of a command's output
PATIENCE = 60_000  # ms for one step in the browser
LONGEST = 1_800  # s until installing and indexing is given up, on a slow network
# A user's environment: what points Python or Flowbed elsewhere is left out.
UNSET = ("FLOWBED_", "PYTHON", "VIRTUAL_ENV")


def measure(options: Options) -> dict[str, Any]:
    """Clone what is committed, run the two commands, and search; rewrite the recording."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise RuntimeError("no Chromium: make services")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(UNSET)}
    opened = options.work / "opened"
    variables |= {
        "PIP_CACHE_DIR": str(options.work / "pip"),
        "PYTHONUNBUFFERED": "1",
        # What Python's webbrowser starts in place of a browser: it notes the address.
        "BROWSER": f"sh -c 'echo %s > {opened}'",
    }
    clone = options.work / "flowbed"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(PATIENCE)
        terminal = browser.new_page(viewport=SIZE)
        began = time.monotonic()
        _run(f"git clone -q {ROOT} {clone}", options.work, variables)
        cloned = time.monotonic()
        output, installed = _demo(clone, variables)
        indexed = time.monotonic()
        frames = [_terminal(terminal, f"$ {COMMANDS[0]}\n{output.replace(str(options.work), '~')}")]
        with _serving(clone, variables) as line:
            url = line.rpartition("a page at ")[2].partition(";")[0]
            hits, taken = _search(page, url)
        found = time.monotonic()
        frames += [_terminal(terminal, f"$ {COMMANDS[1]}\n{line}"), *taken]
        browser.close()
    if opened.read_text("utf-8").strip() != url:
        raise RuntimeError(f"{COMMANDS[1]} opened {opened.read_text('utf-8')}, not {url}")
    _record(frames)
    return {
        "clone": cloned - began,
        "install": installed - cloned,
        "index": indexed - installed,
        "search": found - indexed,
        "seconds": found - began,
        "hits": hits,
    }


def _run(command: str, folder: Path, variables: Mapping[str, str]) -> None:
    subprocess.run(command.split(), cwd=folder, env=variables, timeout=LONGEST, check=True)


def _demo(clone: Path, variables: Mapping[str, str]) -> tuple[str, float]:
    """Run the first command; returns what it says, and when its installation was done."""
    process = subprocess.Popen(
        COMMANDS[0].split(),
        cwd=clone,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said, installed = [], 0.0
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    for line in process.stdout:
        said.append(line)
        if line.startswith("Flowbed ") and not installed:
            installed = time.monotonic()
    if process.wait(LONGEST):
        raise RuntimeError(f"{COMMANDS[0]} ended with status {process.returncode}: {''.join(said[-20:])}")
    return "".join(said), installed


@contextmanager
def _serving(clone: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """Run the second command; yields the line that it prints when it serves."""
    process = subprocess.Popen(
        ["make", "page", "PORT=0"],
        cwd=clone,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        yield next(line for line in process.stdout if line.startswith("serving "))
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)


def _search(page: Page, url: str) -> tuple[int, list[Image.Image]]:
    """Open the page, type a query, and wait for its hits; with a picture of each step."""
    page.goto(f"{url}/")
    page.wait_for_selector("#query")
    taken = [_picture(page)]
    page.locator("#query").type(QUERY)
    taken.append(_picture(page))
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit mark")
    taken.append(_picture(page))
    if "Default parameter values are evaluated" not in page.locator(".hit").first.inner_text():
        raise RuntimeError("the first hit is another one")
    return page.locator(".hit").count(), taken


def _terminal(page: Page, text: str) -> Image.Image:
    """Draw the end of what a terminal shows."""
    lines = text.rstrip().splitlines()
    shown = lines if len(lines) <= LINES else [lines[0], "...", *lines[-LINES:]]
    style = (
        "margin:0;padding:20px;height:100vh;white-space:pre-wrap;"
        "background:#11151a;color:#e3e8ed;font:14px/1.5 monospace"
    )
    page.set_content(f'<body style="margin:0"><pre style="{style}">{html.escape(chr(10).join(shown))}</pre>')
    return _picture(page)


def _picture(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def _record(frames: list[Image.Image]) -> None:
    first, *others = frames
    first.save(RECORDING, save_all=True, append_images=others, duration=FRAME, loop=0, quality=70, method=6)


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare with the target."""
    return [
        Figure(
            what="From a clone to a search in the page, two commands",
            value=found["seconds"],
            target=180,
            at_most=True,
            form="{:,.0f} s",
        )
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    lines: list[list[object]] = [
        ["git clone", f"{found['clone']:,.1f}"],
        ["`make demo`: install Flowbed and the model from an empty cache", f"{found['install']:,.1f}"],
        ["`make demo`: index and search", f"{found['index']:,.1f}"],
        ["`make page`, to the hits of a search in Chromium", f"{found['search']:,.1f}"],
        ["in all", f"{found['seconds']:,.1f}"],
    ]
    return f"""## From a clone to a search

A new clone, a new environment, an empty cache of pip; packages come from a mirror over the network. [The
recording](pictures/start.webp) shows both commands and the search.

{table(["step", "seconds"], lines)}
"""
