"""Receipts: ids, metadata to filter by, context, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.chunking import Rules, chunk
from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Chunk, Document

if TYPE_CHECKING:
    from pathlib import Path

RULES = Rules(source="scans", collections=("lines", "words"))


def count(text: str) -> int:
    return len(text.split())


def word(number: int, text: str, **fields: Any) -> dict[str, Any]:
    return {"word_id": number, "text": text, **fields}


def receipt(**fields: Any) -> dict[str, Any]:
    """Return a receipt of two lines."""
    box = {"x": 1, "y": 2.5, "width": 30, "height": 4}
    total = [word(2, "GRAND"), word(3, "TOTAL", bounding_box=box), word(4, "7.80")]
    return {
        "image_id": "i1",
        "receipt_id": 1,
        "merchant_name": "SHOP",
        "date": "04-04-2018",
        "total": "7.80",
        "address": "",
        "lines": [
            {"line_id": 1, "text": "SHOP", "words": [word(1, "SHOP")]},
            {"line_id": 2, "text": "GRAND TOTAL 7.80", "bounding_box": box, "words": total},
        ],
        **fields,
    }


def line(**fields: Any) -> dict[str, Any]:
    return {"line_id": 1, "text": "SHOP", **fields}


def sides(**changes: Any) -> dict[str, Any]:
    return {"x": 1, "y": 2.5, "width": 30, "height": 4, **changes}


def chunked(content: object, rules: Rules = RULES, **metadata: str) -> list[Chunk]:
    text = content if isinstance(content, str) else json.dumps(content)
    return chunk(Document(id="doc", kind="receipt", text=text, metadata=metadata), rules, count)


def test_ids_and_collections_of_lines_and_words() -> None:
    """Lines and words have ids made of their numbers, each in its own collection."""
    assert [(made.collection, made.id, made.text) for made in chunked(receipt())] == [
        ("lines", "IMAGE#i1#RECEIPT#00001#LINE#00001", "SHOP"),
        ("lines", "IMAGE#i1#RECEIPT#00001#LINE#00002", "GRAND TOTAL 7.80"),
        ("words", "IMAGE#i1#RECEIPT#00001#LINE#00001#WORD#00001", "SHOP"),
        ("words", "IMAGE#i1#RECEIPT#00001#LINE#00002#WORD#00002", "GRAND"),
        ("words", "IMAGE#i1#RECEIPT#00001#LINE#00002#WORD#00003", "TOTAL"),
        ("words", "IMAGE#i1#RECEIPT#00001#LINE#00002#WORD#00004", "7.80"),
    ]


def test_metadata_of_lines_and_words() -> None:
    """A word has its position, its receipt and its neighbours; unknown values are left out."""
    (total,) = (made for made in chunked(receipt(), shelf="A") if made.text == "TOTAL")
    assert total.metadata == {
        "source": "scans",
        "document": "doc",
        "shelf": "A",
        "image_id": "i1",
        "receipt_id": 1,
        "line_id": 2,
        "word_id": 3,
        "merchant_name": "SHOP",
        "date": "04-04-2018",
        "total": "7.80",
        "x": 1,
        "y": 2.5,
        "width": 30,
        "height": 4,
        "previous": "GRAND",
        "next": "7.80",
    }
    first, second = (made for made in chunked(receipt()) if made.collection == "lines")
    assert (first.metadata["next"], second.metadata["previous"]) == ("GRAND TOTAL 7.80", "SHOP")
    assert "previous" not in first.metadata
    assert "word_id" not in first.metadata


def test_collections_may_have_any_name() -> None:
    """The first collection is for lines and the second for words, whatever their names."""
    rules = Rules(source="scans", collections=("shop-lines", "shop-words"))
    assert {made.collection for made in chunked(receipt(), rules)} == {"shop-lines", "shop-words"}


def test_neighbours_are_sent_with_a_word() -> None:
    """With neighbours, a word is sent with those beside it on its line; lines and texts stay as they are."""
    rules = Rules(source="scans", collections=("lines", "words"), neighbours=1)
    sent = {made.text: made.sent for made in chunked(receipt(), rules) if made.collection == "words"}
    assert sent == {
        "SHOP": "SHOP",
        "GRAND": "GRAND (GRAND TOTAL)",
        "TOTAL": "TOTAL (GRAND TOTAL 7.80)",
        "7.80": "7.80 (TOTAL 7.80)",
    }
    assert all(made.sent == made.text for made in chunked(receipt()))


def test_neighbours_keep_to_the_capacity() -> None:
    """Neighbours that would exceed the capacity are left out, the outer ones first."""
    words = [word(number, "a " * 9) for number in range(1, 6)]
    content = receipt(lines=[{"line_id": 1, "text": "x", "words": words}])
    rules = Rules(source="scans", collections=("lines", "words"), neighbours=2, capacity=40)
    assert [made.tokens for made in chunked(content, rules)] == [1, 36, 36, 36, 36, 36]


def test_blank_text_gives_no_chunk() -> None:
    """Blank lines and words give no chunks and are not neighbours; a line needs no words."""
    lines = [
        {"line_id": 1, "text": "A"},
        {"line_id": 2, "text": " ", "words": [word(1, ""), word(2, " B "), word(3, "\t")]},
        {"line_id": 3, "text": "C"},
    ]
    made = chunked(receipt(lines=lines))
    assert [part.text for part in made] == ["A", "C", "B"]
    assert made[0].metadata["next"] == "C"
    assert len({part.ordinal for part in made}) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("{", "doc: not JSON", id="not json"),
        pytest.param("[" * 100_000, "doc: not JSON", id="deep"),
        pytest.param([], "found a list", id="list"),
        pytest.param(receipt(image_id=None), "image_id must be a string", id="no image"),
        pytest.param(receipt(image_id="a#b"), "without '#'", id="hash in image"),
        pytest.param(receipt(receipt_id="1"), "receipt_id must be an integer.*'1'", id="text as number"),
        pytest.param(receipt(receipt_id=2**63), "receipt_id must .*64 bits", id="number over 63 bits"),
        pytest.param(
            receipt(receipt_id=10**4000), "not an integer of about 4,001 digits", id="number of 4,000 digits"
        ),
        pytest.param(receipt(total=2**64), "total is 18446744073709551616.*64 bits", id="total over 64 bits"),
        pytest.param(
            receipt(total=10**400), "total is an integer of about 401 digits", id="total of 400 digits"
        ),
        pytest.param(receipt(total=float("inf")), "total is inf", id="infinite total"),
        pytest.param(receipt(date=float("nan")), "date is nan", id="date that is no number"),
        pytest.param(receipt(address=[[1]]), "address must be a string or a number", id="list as address"),
        pytest.param(receipt(lines=[line(text="x" * 5_000)]), "5,000 characters", id="text without end"),
        pytest.param(
            receipt(lines=[line(line_id=2**63)]), "line_id must .*64 bits", id="line number over 63 bits"
        ),
        *(
            pytest.param(
                receipt(lines=[line(bounding_box=sides(x=value))]),
                f"x of bounding_box {says}",
                id=f"box of {name}",
            )
            for name, value, says in (
                ("400 digits", 10**400, "is an integer of about 401 digits"),
                ("over 64 bits", -(2**63), "is -9223372036854775808.*64 bits"),
                ("infinity", float("inf"), "is inf"),
                ("nan", float("nan"), "is nan"),
                ("text", "1", "must be a number, not '1'"),
                ("true", True, "must be a number, not True"),
            )
        ),
        pytest.param(receipt(receipt_id=True), "receipt_id must be an integer", id="bool as number"),
        pytest.param(receipt(lines=None), "lines must be a list", id="no lines"),
        pytest.param(receipt(lines=[1]), "every item of lines must be a JSON object", id="number as line"),
        pytest.param(receipt(lines=[{"text": "x"}]), "line_id must be an integer", id="no line_id"),
        pytest.param(receipt(lines=[{"line_id": 5}]), "line 5: text must be a string", id="no text"),
        pytest.param(receipt(total=[1]), "total must be a string or a number", id="list as total"),
        pytest.param(
            receipt(lines=[{"line_id": 5, "text": "x"}, {"line_id": 5, "text": "y"}]),
            "doc: line_id 5 occurs twice",
            id="line twice",
        ),
        pytest.param(
            receipt(lines=[{"line_id": 5, "text": "x", "words": [word(7, "x"), word(7, "x")]}]),
            "line 5: word_id 7 occurs twice",
            id="word twice",
        ),
        pytest.param(
            receipt(lines=[{"line_id": 5, "text": "x", "bounding_box": []}]),
            "bounding_box must be a JSON object",
            id="list as box",
        ),
        pytest.param(
            receipt(lines=[{"line_id": 5, "text": "x", "words": [word(7, "x", bounding_box={"x": 1})]}]),
            "line 5, word 7: y of bounding_box must be a number",
            id="box without y",
        ),
    ],
)
def test_malformed_receipt_is_rejected(content: object, message: str) -> None:
    """A malformed receipt is rejected with what is wrong, and where."""
    with pytest.raises(Rejected, match=message):
        chunked(content)


def test_one_collection_is_misconfigured() -> None:
    """Rules with one collection cannot be used for receipts."""
    with pytest.raises(Misconfigured, match="two collections"):
        chunked(receipt(), Rules(source="scans", collections=("lines",)))


def test_real_receipts_are_chunked(data: Path) -> None:
    """Every line and word of the real receipts becomes one chunk with a unique id."""
    made: list[Chunk] = []
    for number, line in enumerate((data / "receipts.jsonl").read_text().splitlines()):
        made += chunk(Document(id=str(number), kind="receipt", text=line), RULES, count)
    assert sum(part.collection == "lines" for part in made) == 16_879
    assert sum(part.collection == "words" for part in made) == 36_235
    assert len({part.id for part in made}) == len(made)


def test_many_blank_lines_keep_their_neighbours() -> None:
    """Among 20,000 blank lines, each text still names the one before and after it."""
    lines = [
        line(line_id=number, text="" if 0 < number < 20_000 else f"T{number}") for number in range(20_001)
    ]
    first, last = chunked(receipt(lines=lines))
    assert (first.metadata["next"], last.metadata["previous"]) == ("T20000", "T0")


def test_more_neighbours_than_words_are_all_words() -> None:
    """A number of neighbours without end takes as many steps as there are words."""
    all_of_it = Rules(source="scans", collections=("lines", "words"), neighbours=2**62)
    assert [part.sent for part in chunked(receipt(), all_of_it)][2:] == [
        "SHOP",
        *(f"{text} (GRAND TOTAL 7.80)" for text in ("GRAND", "TOTAL", "7.80")),
    ]
