"""A real Chromium in front of a server that a test can slow down; a page whose faults fail the test."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import TimeoutError, expect, sync_playwright  # noqa: A004 - playwright's own
from tests.server.conftest import Running

from flowbed.bed import aopen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    from fastapi import FastAPI
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page

AXE = (
    Path(__file__).parent.parent.parent.parent
    / ".clients"
    / "node"
    / "node_modules"
    / "axe-core"
    / "axe.min.js"
)
NAMES = ("chromium", "chromium-browser", "google-chrome")
# Milliseconds for one step of a test in the browser: far more than it takes, on a machine that is busy.
PATIENCE = 20_000
expect.set_options(timeout=PATIENCE)
# What Chromium says of requests that it ends when an interface of the machine comes or goes, as containers do.
NETWORK = "ERR_NETWORK_CHANGED"
SHOWN = "main .view:not([aria-busy])"
# Texts that were made to become markup, script or an address. Each calls `attacked` if it does.
ATTACKS = (
    "<script>attacked(1)</script>",
    "<img src=x onerror=attacked(2)>",
    '"><svg onload=attacked(3)>',
    "'><iframe srcdoc='<script>parent.attacked(4)</script>'>",
    "javascript:attacked(5)",
    "<a href='javascript:attacked(6)'>press</a>",
    "{{constructor.constructor('attacked(7)')()}}",
    "${attacked(8)}",
    "<style>@import '//elsewhere.example/x.css'</style>",
    "</textarea></title></script><script>attacked(9)</script>",
    "<math><mtext><table><mglyph><style><img src=x onerror=attacked(10)>",
    "&lt;img src=x onerror=attacked(11)&gt;",
    "\u202e<b>reversed</b>\u0000\u0007",
    "<base href='//elsewhere.example/'><form action=javascript:attacked(12)><button>go",
)


class Slowed(Running):
    """A server whose answers to some paths wait until a test lets them go."""

    def outermost(self, app: FastAPI) -> Any:
        """Put the wait in front of the application."""
        self.held: dict[str, asyncio.Event] = {}

        async def waiting(scope: Any, receive: Any, send: Any) -> None:
            if (event := self.held.get(scope.get("path", ""))) is not None:
                await event.wait()
            await app(scope, receive, send)

        return waiting

    def hold(self, path: str) -> None:
        """Let requests for a path wait."""
        self.held[path] = asyncio.Event()

    def let_go(self, path: str) -> None:
        """Answer the requests that wait, and later ones at once."""

        async def go() -> None:
            self.held.pop(path).set()

        self.wait(go())


@dataclass
class Faults:
    """What a page must not do: log errors, break its policy, ask other hosts, or run what was a text."""

    allowed: tuple[str, ...] = (NETWORK,)  # parts of messages that a test, or the machine, causes
    found: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext, page: Page, url: str) -> None:
        """Record the faults of a page of a server."""
        context.expose_function("attacked", lambda which: self.found.append(f"text {which} ran"))
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation', (event) =>"
            " console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"
        )
        page.on("console", self._logged)
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("dialog", self._asked)
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(url) else self.found.append(f"asked {request.url}")
            ),
        )

    def _asked(self, dialog: Dialog) -> None:
        self.found.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _logged(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(each in message.text for each in self.allowed):
            self.found.append(f"logged: {message.text}")


def corpus() -> list[dict[str, Any]]:
    """Return documents: sentences, attacks, a long one, a Japanese one, and one of whole numbers of many digits."""
    found: list[dict[str, Any]] = [
        {
            "id": f"d{n}",
            "text": f"sentence {n} about keys",
            "author": ["ann", "bo"][n % 2],
            "n": n,
            "ts": 1.7e9 + n,
        }
        for n in range(30)
    ]
    found += [
        {
            "id": f"x{n} {''.join(filter(str.isprintable, text))}",
            "text": f"attack {n} {text}",
            "author": text,
            "url": text,
        }
        for n, text in enumerate(ATTACKS)
    ]
    found.append({"id": "long", "text": "A long one. " * 90, "author": "ann"})
    found.append({"id": "japanese", "text": "会議室の鍵は毎週月曜日に交換します。", "author": "ann"})
    found.append(
        {
            "id": "big",
            "text": "🔑 chat of many digits",
            "n": 1_179_062_000_123_456_789,
            "url": "https://chat.example/m/1",
        }
    )
    return found


def write_project(folder: Path, documents: list[dict[str, Any]], settings: str = "") -> Path:
    """Create a project of these documents."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "documents.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in documents))
    fields = '{ metadata = ["author", "n", "ts", "url"] }'
    source = f'[sources.docs]\nkind = "jsonl"\nlocation = "documents.jsonl"\noptions = {fields}\n'
    (folder / "flowbed.toml").write_text(f'model = "seeded:64"\n{settings}\n{source}')
    return folder


def write_indexed(folder: Path, documents: list[dict[str, Any]], settings: str = "") -> Path:
    """Create a project of these documents, and index it."""
    write_project(folder, documents, settings)

    async def index() -> None:
        async with await aopen(folder) as bed:
            report = await bed.run()
            assert not report.failures

    with ThreadPoolExecutor(1) as thread:  # playwright has an event loop in this one
        thread.submit(asyncio.run, index()).result()
    return folder


@pytest.fixture(scope="session")
def chromium(lacking: Callable[[str], NoReturn]) -> str:
    """Return the browser's program."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        lacking("no Chromium: make services")
    return found


@pytest.fixture(scope="session")
def axe(lacking: Callable[[str], NoReturn]) -> str:
    """Return the script of axe-core."""
    if not AXE.exists():
        lacking(".clients/node/node_modules/axe-core is not there: make clients")
    return AXE.read_text("utf-8")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Start one browser for the tests of a module."""
    with sync_playwright() as playwright:
        # A container has no namespaces for the sandbox, and little shared memory.
        arguments = ["--disable-dev-shm-usage", "--disable-gpu"]
        running = playwright.chromium.launch(
            executable_path=chromium, args=arguments, chromium_sandbox=os.geteuid() != 0
        )
        yield running
        running.close()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slowed]:
    """Run a server over the indexed corpus, for all tests of a module."""
    running = Slowed(write_indexed(tmp_path_factory.mktemp("page") / "project", corpus()))
    yield running
    running.close()


@pytest.fixture
def faults() -> Faults:
    """Return what a page did wrong; a test may allow what it causes."""
    return Faults()


@pytest.fixture
def page(browser: Browser, shown: Slowed, faults: Faults) -> Iterator[Page]:
    """Open the page in a fresh context; at the end it has done nothing wrong."""
    context = browser.new_context(base_url=shown.url, viewport={"width": 1200, "height": 800})
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    faults.watch(context, opened, shown.url)
    yield opened
    context.close()
    assert faults.found == []


def open_view(page: Page, view: str) -> None:
    """Open a view, and wait until it is there."""
    cut: list[object] = []
    page.on("requestfailed", lambda request: cut.append(request) if NETWORK in str(request.failure) else None)
    page.goto(f"/#/{view}")
    try:
        page.wait_for_selector(SHOWN)
    except TimeoutError:
        if not cut:
            raise
        page.reload()
        page.wait_for_selector(SHOWN)
