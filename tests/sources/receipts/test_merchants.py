"""Merchants of receipts: by the record, by neighbours, and by a simulated Google Places with faults."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.bed import aopen
from flowbed.errors import Misconfigured
from flowbed.sources import open_source
from flowbed.sources.receipts.places import PLACES
from flowbed.testing.index import contents_of
from flowbed.testing.simulators import running
from flowbed.testing.simulators.sources.google_places import GooglePlaces

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.records import Document, Page

KEY = "AIza-secret-key-of-places"
WAN_SHENG = ("Restoran Wan Sheng", "2, Jalan Temenggung, 43200 Cheras")


def files_with(text: str, folder: Path) -> list[Path]:
    """Return the files below a folder that contain a text."""
    return [file for file in folder.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


def later() -> int:
    """Return a time after every change of a file, in microseconds."""
    return 4_000_000_000_000_000


def receipt(number: int, *lines: str, **fields: Any) -> dict[str, Any]:
    texts = [{"line_id": line, "text": text} for line, text in enumerate(lines, start=1)]
    return {"image_id": "i", "receipt_id": number, "lines": texts, **fields}


@dataclass
class Shelf:
    """A file of receipts, and what an index holds after following it from fetch to fetch."""

    folder: Path
    options: dict[str, object] = field(default_factory=dict)
    key: str = KEY
    cursor: str = ""
    etags: dict[str, str] = field(default_factory=dict)
    held: dict[str, Document] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def write(self, *receipts: dict[str, Any]) -> None:
        (self.folder / "receipts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in receipts))

    async def follow(self) -> list[Page]:
        source = open_source(
            "receipts",
            "receipts.jsonl",
            folder=self.folder,
            options=self.options,
            clock=later,
            token=self.key,
        )
        self.read, self.said = [], []
        found = [page async for page in source.fetch(self.cursor)]
        for page in found:
            self.said += [problem.reason for problem in page.problems]
            for entry in page.entries:
                if self.etags.get(entry.document) != entry.etag:
                    self.etags[entry.document] = entry.etag
                    self.held[entry.document] = entry.read()
                    self.read.append(entry.document)
        self.cursor = found[-1].cursor
        return found

    def resolved(self, number: int = 1) -> tuple[object, object]:
        metadata = self.held[f"IMAGE#i#RECEIPT#{number:05d}"].metadata
        return metadata["merchant_by"], metadata.get("merchant_name")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


async def test_merchant_of_record_is_kept_and_needs_nobody(shelf: Shelf) -> None:
    """A receipt that names its merchant is as before, and says so."""
    shelf.write(receipt(1, "SHOP", merchant_name="Shop Ltd"))
    await shelf.follow()
    assert shelf.resolved() == ("record", None)  # the chunker takes the name from the record
    assert not (shelf.folder / ".flowbed").exists()
    assert shelf.cursor
    assert await shelf.follow()
    assert shelf.read == []


@pytest.mark.parametrize(
    ("line", "other"),
    [
        pytest.param("Tel: 03-9076 1234", "TEL 03 9076-1234", id="phone"),
        pytest.param("+60 3 9076 1234", "Phone (03) 90761234", id="phone with country"),
        pytest.param("GST ID: 000 656 728 064", "gst no 000656728064", id="tax number"),
        pytest.param("002043319-W", "(002043319 - W)", id="company number"),
        pytest.param("T1234567890123 TAX", "", id="no match"),
    ],
)
async def test_merchant_same_identifier_is_taken_from_neighbour(line: str, other: str, shelf: Shelf) -> None:
    """The identifier decides, however it is written, and wherever in the file the neighbour is."""
    shelf.write(receipt(1, "HELLO", line), receipt(2, "WELCOME", other, merchant_name="Wan Sheng"))
    await shelf.follow()
    assert shelf.resolved() == (("neighbour", "Wan Sheng") if other else ("none", None))


async def test_merchant_neighbours_disagree_is_none(shelf: Shelf) -> None:
    """An identifier that several merchants share says nothing, nor do two that point to different ones."""
    shelf.write(
        receipt(1, "HELLO", "Tel 0390761234"),
        receipt(2, "A", "Tel 0390761234", merchant_name="A"),
        receipt(3, "B", "Tel 0390761234", merchant_name="B"),
        receipt(4, "HELLO", "Tel 11112222", "GST 12345678"),
        receipt(5, "C", "Tel 11112222", merchant_name="C"),
        receipt(6, "D", "GST 12345678", merchant_name="D"),
    )
    await shelf.follow()
    assert shelf.resolved(1) == shelf.resolved(4) == ("none", None)


async def test_merchant_first_line_needs_two_neighbours(shelf: Shelf) -> None:
    """One receipt with the same first line proves nothing; two of the same merchant do, in the usual spelling."""
    named = [receipt(2, "SE7EN MART", merchant_name="Seven Mart")]
    shelf.write(receipt(1, "SE7EN MART", "x"), *named)
    await shelf.follow()
    assert shelf.resolved() == ("none", None)
    named += [
        receipt(3, "se7en-mart", merchant_name="SEVEN MART"),
        receipt(4, "SE7EN MART", merchant_name="Seven Mart"),
    ]
    shelf.write(receipt(1, "SE7EN MART", "x"), *named)
    await shelf.follow()
    assert shelf.resolved() == ("neighbour", "Seven Mart")
    shelf.write(receipt(1, "SE7EN MART", "x"))
    await shelf.follow()
    assert shelf.resolved() == ("none", None)


async def test_merchant_malformed_receipts_stop_nobody(shelf: Shelf) -> None:
    """What is malformed is left to the chunker."""
    shelf.write(
        {"image_id": "i", "receipt_id": 1, "lines": [1, {"text": 2}, {"text": "Tel 0390761234"}]},
        {"image_id": "i", "receipt_id": 2, "lines": None, "address": [1], "merchant_name": " "},
        receipt(3, "Tel 0390761234", merchant_name=7),
        receipt(4, "Tel 0390761234", merchant_name="Shop"),
    )
    await shelf.follow()
    assert [shelf.resolved(each)[0] for each in (1, 2, 3, 4)] == ["neighbour", "none", "record", "record"]


async def test_merchant_of_real_receipts_is_found_by_neighbours(data: Path, shelf: Shelf) -> None:
    """Every tenth receipt loses its merchant: half are found again, at most a tenth in another spelling."""
    records = [json.loads(line) for line in (data / "receipts.jsonl").read_text("utf-8").splitlines()]
    names = {}
    for place, record in enumerate(records):
        if place % 10 == 0:
            names[f"IMAGE#{record['image_id']}#RECEIPT#{record['receipt_id']:05d}"] = record.pop(
                "merchant_name"
            )
    shelf.write(*records)
    await shelf.follow()
    found = {name: shelf.held[name].metadata.get("merchant_name") for name in names}
    right = sum(found[name] == names[name] for name in names)
    wrong = sum(found[name] is not None for name in names) - right
    assert right >= len(names) / 2, found
    assert wrong <= len(names) / 10, [(names[name], found[name]) for name in names]


async def test_places_off_is_never_asked(shelf: Shelf) -> None:
    """Without the option nothing leaves the machine, even if there is a key."""
    places = GooglePlaces(key=KEY, places=[WAN_SHENG])
    async with running(places, dated=False) as url:
        shelf.options = {"places_url": url}
        shelf.write(receipt(1, "RESTORAN WAN SHENG"))
        await shelf.follow()
    assert places.queries == []
    assert shelf.resolved() == ("none", None)


async def test_places_is_asked_once_and_only_for_the_unknown(shelf: Shelf) -> None:
    """A receipt is asked for once, found or not, even if it changes, everything is read again or the source moves."""
    places = GooglePlaces(key=KEY, places=[WAN_SHENG, ("Tesco", "Elsewhere 1")])
    async with running(places, dated=False) as url:
        shelf.options = {"places": True, "places_url": url}
        rows = [
            receipt(1, "RESTORAN WAN SHENG", "Jalan Temenggung"),
            receipt(2, "NOBODY KNOWS"),
            receipt(3, "Known", merchant_name="Known"),
            receipt(4, "12.50"),
        ]
        shelf.write(*rows)
        await shelf.follow()
        assert shelf.resolved(1) == ("places", "Restoran Wan Sheng")
        assert shelf.resolved(2) == shelf.resolved(4) == ("none", None)
        assert places.queries == ["RESTORAN WAN SHENG, Jalan Temenggung", "NOBODY KNOWS"]
        assert shelf.cursor
        assert shelf.said == []
        shelf.write(*rows[1:], receipt(1, "RESTORAN WAN SHENG", "Corrected"))
        shelf.cursor, shelf.etags = "", {}
        await shelf.follow()
        assert shelf.resolved(1) == ("places", "Restoran Wan Sheng")
    assert len(places.queries) == 2
    assert (shelf.folder / PLACES).stat().st_mode & 0o077 == 0


async def test_places_answer_that_does_not_fit_is_none(shelf: Shelf) -> None:
    """A candidate of which neither the name nor the address is on the receipt is another shop."""
    places = GooglePlaces(key=KEY, places=[("Wan Trading Company", "Somewhere 5")])
    async with running(places, dated=False) as url:
        shelf.options = {"places": True, "places_url": url}
        shelf.write(receipt(1, "RESTORAN WAN SHENG"))
        await shelf.follow()
    assert shelf.resolved() == ("none", None)


@pytest.mark.parametrize(
    ("fault", "asked"),
    [("storm", 1), ("outage", 3), ("cut", 3), ("silent", 3), ("garbled", 3)],
)
async def test_places_fails_receipts_are_indexed_and_asked_later(
    fault: str, asked: int, shelf: Shelf
) -> None:
    """A fetch gives up after a 429 or three failures, says why, and the next one asks for all of them."""
    places = GooglePlaces(key=KEY, places=[WAN_SHENG])
    setattr(places, fault, asked)
    async with running(places, dated=False) as url:
        shelf.options = {"places": True, "places_url": url}
        shelf.write(*(receipt(number, "RESTORAN WAN SHENG") for number in range(1, 6)))
        found = await shelf.follow()
        assert len(places.queries) == asked
        assert {shelf.resolved(number) for number in range(1, 6)} == {("none", None)}
        assert found[-1].complete
        assert all(problem.skipped for page in found for problem in page.problems)
        (said,) = shelf.said
        assert said.startswith("5 receipts without a merchant: Google Places at 127.0.0.1")
        assert said.endswith("; the next run asks again")
        assert KEY not in said
        await shelf.follow()
    assert {shelf.resolved(number) for number in range(1, 6)} == {("places", "Restoran Wan Sheng")}
    assert (len(places.queries), shelf.said) == (asked + 5, [])
    assert shelf.cursor


async def test_places_cap_is_kept_and_the_next_run_goes_on(shelf: Shelf) -> None:
    """At most `places_calls` calls in a fetch, failed ones included."""
    places = GooglePlaces(key=KEY, places=[WAN_SHENG], outage=1)
    async with running(places, dated=False) as url:
        shelf.options = {"places": "true", "places_url": url, "places_calls": "2"}
        shelf.write(*(receipt(number, "RESTORAN WAN SHENG") for number in range(1, 6)))
        calls = []
        for _ in range(4):
            await shelf.follow()
            calls.append(len(places.queries))
            if len(calls) == 1:
                (said,) = shelf.said
                assert said.startswith(
                    "4 receipts without a merchant: it was called 2 times, the most for a run"
                )
    assert calls == [2, 4, 6, 6]
    assert {shelf.resolved(number)[0] for number in range(1, 6)} == {"places"}


@pytest.mark.parametrize(
    ("key", "says", "calls"),
    [
        ("", "set GOOGLE_PLACES_API_KEY", 0),
        ("two words", "GOOGLE_PLACES_API_KEY has a character", 0),
        ("AIza-of-another-project", "API key not valid.; set GOOGLE_PLACES_API_KEY", 1),
    ],
)
async def test_places_refused_key_is_reported_without_it(
    key: str, says: str, calls: int, shelf: Shelf
) -> None:
    """Receipts are indexed without a merchant, one call at most is made, and the message does not have the key."""
    places = GooglePlaces(key=KEY, places=[WAN_SHENG])
    async with running(places, dated=False) as url:
        shelf.options, shelf.key = {"places": True, "places_url": url}, key
        shelf.write(receipt(1, "RESTORAN WAN SHENG"), receipt(2, "RESTORAN WAN SHENG"))
        await shelf.follow()
        (said,) = shelf.said
        assert says in said
        assert "2 receipts" in said
        assert not key or key not in said
        assert len(places.queries) == calls
        shelf.key = KEY
        await shelf.follow()
    assert shelf.resolved() == ("places", "Restoran Wan Sheng")


async def test_places_answers_damaged_are_not_asked_again(shelf: Shelf) -> None:
    """Without the file of answers nobody could say what was asked: no call is made, and the file is named."""
    (shelf.folder / ".flowbed").mkdir()
    (shelf.folder / PLACES).write_bytes(b"no database" * 100)
    places = GooglePlaces(key=KEY, places=[WAN_SHENG])
    async with running(places, dated=False) as url:
        shelf.options = {"places": True, "places_url": url}
        shelf.write(receipt(1, "RESTORAN WAN SHENG"))
        await shelf.follow()
    assert places.queries == []
    assert "places.db" in shelf.said[0]
    assert shelf.resolved() == ("none", None)


@pytest.mark.parametrize(
    "options", [{"places": "perhaps"}, {"places_calls": 0}, {"place": True}], ids=["flag", "calls", "name"]
)
async def test_options_invalid_are_refused(options: dict[str, object], shelf: Shelf) -> None:
    """A wrong option is named."""
    shelf.options = options
    with pytest.raises(Misconfigured, match="option"):
        await shelf.follow()


async def test_run_receipts_merchants_are_in_hits_and_the_key_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A project finds receipts by merchant however it was found; ids and texts do not depend on it."""
    monkeypatch.setenv("GOOGLE_PLACES_API_KEY", KEY)
    places = GooglePlaces(key=KEY, places=[WAN_SHENG], outage=1)
    Shelf(tmp_path).write(receipt(1, "RESTORAN WAN SHENG"), receipt(2, "Known", merchant_name="Known"))
    async with running(places, dated=False) as url:
        (tmp_path / "flowbed.toml").write_text(
            'model = "seeded:32"\n[sources.scans]\nkind = "receipts"\nlocation = "receipts.jsonl"\n'
            f'[sources.scans.options]\nplaces = true\nplaces_url = "{url}"\n'
        )
        async with await aopen(tmp_path) as bed:
            report = await bed.run()
            assert report.failed == 0
            before = contents_of(tmp_path).rows["lines"]
            again = await bed.run()
            assert (again.fetched, again.embedded) == (1, 0)
            assert KEY not in f"{report}{again}"
            hits = await bed.search("wan", collection="lines", where={"merchant_by": "places"})
            assert [hit.metadata["merchant_name"] for hit in hits] == ["Restoran Wan Sheng"]
    rows = contents_of(tmp_path).rows["lines"]
    assert {key: row.document for key, row in rows.items()} == {
        key: row.document for key, row in before.items()
    }
    assert rows["IMAGE#i#RECEIPT#00002#LINE#00001"].metadata["merchant_by"] == "record"
    assert files_with(KEY, tmp_path) == []
    assert KEY not in caplog.text
