"""Takes the pictures of docs/pictures: `make pictures`. No part of the suite: it writes into the documentation."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from tests.server.page.conftest import PATIENCE, Slowed, open_view

from flowbed.ledger import DeadLetter, SpendRow
from flowbed.ledger.rows import SubmissionRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page, ViewportSize

PICTURES = Path(__file__).parent.parent.parent.parent / "docs" / "pictures"
MODEL = "onnx:sentence-transformers/all-MiniLM-L6-v2"
SIZE: ViewportSize = {"width": 1180, "height": 760}
PHONE: ViewportSize = {"width": 390, "height": 760}
DAY = 86_400_000_000
PEOPLE = ("ann", "bo", "chi", "dev", "eli")
SUBJECTS = (
    "The door reader fails after the update",
    "Invoice totals differ by one cent",
    "The rotation of the signing keys is due on Monday",
    "The nightly backup was slow",
    "Search misses the newest notes",
    "The printer on floor 3 is out of toner",
    "The deploy of the billing service was rolled back",
    "Disk usage on the index node grows",
    "The holiday calendar lacks December",
)
ENDS = (
    "It was seen twice.",
    "A restart helped.",
    "The vendor was asked and has not answered.",
    "See the handbook for the steps.",
)
HANDBOOK = {
    "keys.md": "# Keys\n\nSigning keys are rotated every Monday. The old key stays valid for a day, so that tokens in"
    " flight are not refused. Revoke a key at once if it was seen in a log.",
    "backups.md": "# Backups\n\nThe nightly backup starts at two. A backup that takes longer than four hours is"
    " reported to the people on call, who look at the disks first.",
    "doors.md": "# Doors\n\nReaders are updated in pairs, so that one of two doors always opens. After an update, walk"
    " through both.",
    "billing.md": "# Billing\n\nTotals are rounded once, at the end. An invoice that differs by a cent from its lines"
    " is sent back to the team of the shop.",
}
SETTINGS = f"""model = "{MODEL}"
[sources.handbook]
kind = "files"
location = "handbook"
[sources.tickets]
kind = "jsonl"
location = "tickets.jsonl"
options = {{ metadata = ["author", "ts", "open", "url"] }}
"""


def documents() -> list[dict[str, Any]]:
    """Return tickets of some weeks."""
    choose = random.Random(3)
    found = []
    for number in range(360):
        subject = choose.choice(SUBJECTS)
        text = (
            f"{subject}; reported by {choose.choice(PEOPLE)} in week {1 + number % 52}. {choose.choice(ENDS)}"
        )
        found.append(
            {
                "id": number,
                "text": text,
                "author": choose.choice(PEOPLE),
                "ts": 1_790_000_000 + 7_200 * number,
                "open": number % 3 == 0,
                "url": f"https://tickets.example/{number}",
            }
        )
    return found


async def fill(running: Slowed) -> None:
    """Index the project, and give it a history."""
    bed: Any = running.service.bed
    await bed.run()
    now = bed.clock()
    ledger = bed.ledger
    choose = random.Random(4)
    rows = []
    for day in range(21):
        planned = choose.randrange(40_000, 260_000)
        billed = round(planned * choose.uniform(0.99, 1.04))
        rows.append(
            SpendRow(
                run=f"r{day}",
                lane=choose.choice(("realtime", "batch")),
                source=choose.choice(("tickets", "handbook")),
                document="d",
                texts=planned // 120,
                planned=planned,
                billed=billed,
                cost_usd=billed * 0.13e-6,
                at=now - day * DAY,
            )
        )
    await ledger.spending.record(rows)
    reasons = dict.fromkeys(("tickets.jsonl:17", "tickets.jsonl:201"), "it is not JSON: expected a comma")
    letters = [
        DeadLetter(kind="source", owner="tickets", subject=subject, reason=reason, at=now - 9_000_000_000)
        for subject, reason in reasons.items()
    ]
    letters.append(
        DeadLetter(
            kind="source",
            owner="handbook",
            subject="old.pdf",
            reason="it needs a password",
            at=now - DAY,
            attempts=3,
        )
    )
    await ledger.dead_letters.add(letters)
    for number, (state, done) in enumerate((("submitted", 612), ("ready", 0))):
        await ledger.submissions.create(
            SubmissionRow(
                id=f"{number}f3a9c0d5e7b",
                space="{}",
                account="openai",
                key="k",
                bytes=1,
                texts=1_450 - 600 * number,
                chunks=1_450,
                tokens=182_400,
                created=now - 4_000_000_000,
                state=state,
                submitted=now - 3_000_000_000 if state == "submitted" else 0,
                done=done,
                deadline=now + DAY,
            )
        )
    for name, admin in (("operators", True), ("search page", False), ("nightly import", False)):
        await running.service.keys.create(name, secret=bed.secret, admin=admin)
    # Keys would have to be given to the page: they are shown, but not asked for.
    running.service.keys._required = False
    running.service.keys._open_until = float("inf")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slowed]:
    """Run a server over a project that looks like a team's."""
    folder = tmp_path_factory.mktemp("pictures") / "project"
    (folder / "handbook").mkdir(parents=True)
    for name, text in HANDBOOK.items():
        (folder / "handbook" / name).write_text(text)
    (folder / "tickets.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in documents()))
    (folder / "flowbed.toml").write_text(SETTINGS)
    server = Slowed(folder)
    server.wait(fill(server))
    yield server
    server.close()


def take(page: Page, name: str) -> None:
    """Save a picture of what a page shows."""
    page.evaluate("document.activeElement?.blur()")
    picture = Image.open(io.BytesIO(page.screenshot()))
    PICTURES.mkdir(exist_ok=True)
    picture.convert("RGB").save(PICTURES / f"{name}.webp", quality=76, method=6)


VIEWS = {
    "search": "search?q=how+often+are+keys+changed%3F",
    "collections": "collections/tickets",
    "map": "map/tickets",
    "flow": "flow",
    "work": "work",
    "letters": "letters",
    "doctor": "doctor",
    "spend": "spend",
    "keys": "keys",
}


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *((name, "light") for name in VIEWS),
        *((name, "dark") for name in ("search", "map")),
        *((name, "phone") for name in ("search", "flow")),
    ],
)
def test_picture_of_a_view(browser: Browser, running: Slowed, name: str, scheme: str) -> None:
    """The documentation has each view in light colours, and some in dark ones and on a phone."""
    context = browser.new_context(
        base_url=running.url,
        viewport=PHONE if scheme == "phone" else SIZE,
        color_scheme="dark" if scheme == "dark" else "light",
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    open_view(page, VIEWS[name])
    if name == "search":
        page.locator(".hit").first.wait_for()
    if name == "map":
        page.wait_for_selector(".canvas:not([aria-busy])")
        page.locator(".canvas canvas").first.focus()
        page.keyboard.press("Enter")
        page.locator(".side .facts").wait_for()
    take(page, name if scheme == "light" else f"{name}-{scheme}")
    context.close()
