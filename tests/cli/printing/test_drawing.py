"""`flowbed map` and `flowbed report` write files that open anywhere."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.server.page.conftest import ATTACKS, corpus, write_indexed

from flowbed.bed import aopen
from flowbed.cli.app import run
from flowbed.ledger import DeadLetter, SpendRow
from flowbed.server.page.report_file import html_of

if TYPE_CHECKING:
    from pathlib import Path

ROWS = len(corpus()) + 1  # the long document has two chunks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an indexed project whose texts try to become markup."""
    return write_indexed(tmp_path_factory.mktemp("drawing") / "</title><b>", corpus())


def call(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a command on a project, and return its status and its JSON."""
    status = run([*arguments, "--json", "--config", str(folder)])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


class Elements(HTMLParser):
    """Collects the elements of a file, their attributes, and what scripts and styles contain."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value for name, value in attrs if name in {"src", "href"}]


def test_map_html_holds_its_points_and_texts_and_nothing_from_elsewhere(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "map.html"
    status, said = call(folder, capsys, "map", "docs", str(file))
    assert (status, said["points"], said["rows"]) == (0, ROWS, ROWS)
    text = file.read_text("utf-8")
    elements = Elements(text)
    assert elements.addresses == []
    assert not elements.names & {"iframe", "base", "form", "img", "b", "a"}
    assert not any(each.startswith("on") for each in elements.attributes)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    texts = {row for _, row in data["rows"]}
    assert all(f"attack {n} {attack}"[:280] in texts for n, attack in enumerate(ATTACKS))
    assert base64.b64decode(data["map"])[:6] == b"FBMAP1"
    assert "unsafe" not in text.partition("<style>")[0]


def test_map_png_is_a_picture_with_the_points(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "map.png"
    assert call(folder, capsys, "map", "docs", str(file))[0] == 0
    body = file.read_bytes()
    assert body[:8] == b"\x89PNG\r\n\x1a\n"
    parts, place = {}, 8
    while place < len(body):
        (length,) = struct.unpack(">I", body[place : place + 4])
        kind, data = body[place + 4 : place + 8], body[place + 8 : place + 8 + length]
        assert struct.unpack(">I", body[place + 8 + length : place + 12 + length])[0] == zlib.crc32(
            kind + data
        )
        parts[kind] = data
        place += 12 + length
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    pixels = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)[:, 1:]
    drawn = (pixels.reshape(height, width, 3) != 255).any(axis=2).sum()
    assert ROWS * 9 < drawn <= ROWS * 25


def test_map_draws_a_sample_where_fewer_points_are_asked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = call(folder, capsys, "map", "docs", str(tmp_path / "map.html"), "--points", "10")[1]
    assert (said["points"], said["rows"]) == (10, ROWS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("map", "docs", "map.svg"), "a map is written as .html or .png, and map.svg is neither"),
        (("map", "doc", "map.html"), "did you mean"),
        (("report", "report.pdf"), "a report is written as .html, and report.pdf is not"),
    ],
)
def test_drawing_what_cannot_be_drawn_says_why(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    status, said = call(folder, capsys, *arguments)
    assert status in {1, 2}
    assert message in said["error"]["message"]


async def test_report_says_quality_freshness_cost_and_growth_as_text(folder: Path) -> None:
    """Names of folders, reasons and sources are escaped."""
    async with await aopen(folder) as bed:
        letter = DeadLetter(kind="source", owner="docs", subject="x", reason=ATTACKS[1], at=1)
        await bed.ledger.dead_letters.add([letter])
        spent = {"lane": "realtime", "source": ATTACKS[0], "document": "d", "texts": 5, "planned": 1000}
        row = SpendRow(run="r", billed=1100, cost_usd=0.25, at=bed.clock(), **spent)  # type: ignore[arg-type]
        await bed.ledger.spending.record([row])
        text = html_of(await bed.report())
    elements = Elements(text)
    assert elements.addresses == []
    assert not elements.names & {"script", "img", "b", "iframe", "a"}
    assert "&lt;img src=x onerror=attacked(2)&gt;" in text
    for heading in ("Quality", "Freshness", "Cost", "Growth"):
        assert f"<h2>{heading}</h2>" in text
    for figure in (
        f"<dd>{ROWS}</dd>",
        "1,100",
        "$0.25",
        "Versions of docs",
        "Rows written or deleted by day",
    ):
        assert figure in text


def test_report_command_writes_the_file_and_its_figures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.html"
    status, said = call(folder, capsys, "report", str(file))
    assert (status, said["rows"], said["collections"]) == (0, ROWS, 1)
    assert file.read_text("utf-8").startswith("<!doctype html>\n<html")
