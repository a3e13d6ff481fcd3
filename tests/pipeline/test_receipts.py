"""The real receipts: every line and word, under its id."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from flowbed.bed import aopen
from flowbed.testing.index import contents_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.projects import Project


# So many receipts, or all, and how many lines and words they have.
SOME, ALL = (50, (2_659, 5_659)), (None, (16_879, 36_235))


@pytest.mark.parametrize(("receipts", "size"), [SOME, pytest.param(*ALL, marks=pytest.mark.long)])
async def test_run_receipts_index_every_line_and_word_once(
    receipts: int | None, size: tuple[int, int], data: Path, tmp_path: Path
) -> None:
    """Both collections are complete with exact ids, can be filtered by merchant, and a second run embeds nothing."""
    file = tmp_path / "receipts.jsonl"
    records = (data / "receipts.jsonl").read_text("utf-8").splitlines(keepends=True)
    file.write_text("".join(records[:receipts]), "utf-8")
    lines, words, merchants = {}, {}, set()
    for record in map(json.loads, file.read_text("utf-8").splitlines()):
        merchants.add(record["merchant_name"])
        prefix = f"IMAGE#{record['image_id']}#RECEIPT#{record['receipt_id']:05d}"
        for line in record["lines"]:
            key = f"{prefix}#LINE#{line['line_id']:05d}"
            lines[key] = (line["text"], record["merchant_name"])
            for word in line["words"]:
                words[f"{key}#WORD#{word['word_id']:05d}"] = (word["text"], record["merchant_name"])
    assert (len(lines), len(words)) == size
    (tmp_path / "flowbed.toml").write_text('model = "seeded:32"\n', "utf-8")
    async with await aopen(tmp_path) as bed:
        await bed.add("receipts", kind="receipts", location=file)
        report = await bed.run()
        assert (report.chunks, report.failed) == (len(lines) + len(words), 0)
        assert report.embedded == len({text for text, _ in (*lines.values(), *words.values())})
        found = contents_of(tmp_path)
        assert found.doubled == ()
        for collection, expected in (("lines", lines), ("words", words)):
            rows = found.rows[collection]
            assert {
                key: (row.document, row.metadata["merchant_name"]) for key, row in rows.items()
            } == expected
        merchant = "RESTORAN WAN SHENG"
        assert merchant in merchants
        wanted = {key for key, (_, name) in lines.items() if name == merchant}
        hits = await bed.search(
            "TOTAL", collection="lines", where={"merchant_name": merchant}, limit=len(wanted) + 10
        )
        assert {hit.id for hit in hits} == wanted
        assert await bed.search("TOTAL", collection="lines", where={"merchant_name": "NOBODY"}) == ()
        (best, *_) = await bed.search("TOTAL", collection="words", where={"receipt_id": 1})
        assert best.document == "TOTAL"
        assert best.score == pytest.approx(1.0)
        again = await bed.run()
        assert (again.fetched, again.chunks, again.embedded) == (0, 0, 0)
        assert again.versions == report.versions
        assert (await bed.status()).chunks == {"SUCCESS": len(lines) + len(words)}


async def test_run_receipt_with_another_merchant_embeds_nothing(receipts: Project) -> None:
    async with await receipts.open() as bed:
        await bed.run()
    file = receipts.folder / "receipts.jsonl"
    file.write_text(file.read_text("utf-8").replace("WAN SHENG", "WAN SHENG TRADING"), "utf-8")
    receipts.sent()
    async with await receipts.open() as bed:
        report = await bed.run()
        assert not receipts.sent()
        (hit,) = await bed.search("GRAND TOTAL 7.80", where={"merchant_name": "WAN SHENG TRADING"}, limit=1)
    assert (report.fetched, report.embedded) == (1, 0)
    assert hit.document == "GRAND TOTAL 7.80"
