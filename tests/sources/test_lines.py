"""JSON Lines and receipts: which lines become documents, and what is reported about the others."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured
from flowbed.sources.jsonl import open_jsonl
from flowbed.sources.receipts import open_receipts
from flowbed.testing.sources import entries, etags, pages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowbed.records import Document, Page
    from flowbed.sources.lines import Lines


def now() -> int:
    return time.time_ns() // 1_000


def later() -> int:
    return now() + 60_000_000


def opened(folder: Path, location: str = "a.jsonl", **options: object) -> Lines:
    return open_jsonl(location, folder=folder, options=options, clock=later)


def problems(fetched: Sequence[Page]) -> list[tuple[str, str]]:
    return [(problem.subject, problem.reason) for page in fetched for problem in page.problems]


async def documents(folder: Path, location: str = "a.jsonl", **options: object) -> list[Document]:
    return [entry.read() for entry in entries(await pages(opened(folder, location, **options)))]


async def test_fields_have_default_names(tmp_path: Path) -> None:
    """Id, text and title are found under their usual names; blank lines are ignored."""
    (tmp_path / "a.jsonl").write_text(
        '{"_id":"x","title":"T","text":"one","n":1}\n\n  \r\n{"id":7,"text":"two"}'
    )
    first, second = await documents(tmp_path)
    assert (first.id, first.title, first.text, first.kind, dict(first.metadata)) == (
        "x",
        "T",
        "one",
        "text",
        {},
    )
    assert (second.id, second.title, second.text) == ("7", "", "two")


async def test_fields_can_be_named(tmp_path: Path) -> None:
    """Options name the fields, dots reach into objects, and metadata becomes flat scalars."""
    record = {
        "key": {"id": "x"},
        "body": "one",
        "meta": {"lang": "de", "tags": ["a", "ü"], "none": None, "stars": 4.5, "ok": True},
        "dotted.name": 3,
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    metadata = "meta.lang, meta.tags,meta.none,meta.stars,meta.ok,dotted.name,absent"
    (document,) = await documents(
        tmp_path, id="key.id", text="body", metadata=metadata, kind="markdown", title="meta.lang"
    )
    assert (document.id, document.kind, document.title) == ("x", "markdown", "de")
    assert document.metadata == {
        "meta.lang": "de",
        "meta.tags": '["a","ü"]',
        "meta.stars": 4.5,
        "meta.ok": True,
        "dotted.name": 3,
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b'{"id": 1, "text": "x"', "not JSON", id="not json"),
        pytest.param(b'{"id": 1, "text": "x", "n": NaN}', "NaN is not valid", id="nan"),
        pytest.param(b'{"id": 1, "text": "x", "n": 1e999}', "too large", id="infinite"),
        pytest.param(b'{"text": "x"}', "id or _id is missing", id="no id"),
        pytest.param(b'{"id": true, "text": "x"}', "id or _id must be", id="bool id"),
        pytest.param(b'{"id": "  ", "text": "x"}', "id or _id must be", id="blank id"),
        pytest.param(b'{"id": "a\\nb", "text": "x"}', "control characters", id="line end in id"),
        pytest.param(b'{"id": 1}', "text is missing", id="no text"),
        pytest.param(b'{"id": 1, "text": 5}', "text must be a string, not 5", id="number as text"),
        pytest.param(b'{"id": 1, "text": "x", "title": []}', "title must be a string", id="list as title"),
        pytest.param(b'{"id": 1, "text": "\\ud83d"}', "half a character (\\ud83d", id="half a character"),
        pytest.param(b'{"id": 1, "text": "\xff"}', "not UTF-8", id="not utf-8"),
        pytest.param(b"[1]", "expected a JSON object, found a list", id="list"),
        pytest.param(b"3", "found a number", id="number"),
        pytest.param(b'{"id":' + b"[" * 100_000, "not JSON", id="deep"),
    ],
)
async def test_invalid_line_is_a_problem_and_others_are_listed(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    """A line that is not a record is a problem with file and line; the others are listed."""
    good = b'{"id":"%s","text":"t"}\n'
    (tmp_path / "a.jsonl").write_bytes(good % b"first" + line + b"\n" + good % b"last")
    fetched = await pages(opened(tmp_path, metadata="n"))
    assert list(etags(fetched)) == ["first", "last"]
    ((subject, said),) = problems(fetched)
    assert subject == "a.jsonl:2"
    assert reason in said
    assert [problem.document for page in fetched for problem in page.problems] == [""]


async def test_truncated_file_keeps_earlier_records(tmp_path: Path) -> None:
    """A file that ends inside a record is a problem; the records before it are listed."""
    (tmp_path / "a.jsonl").write_text('{"id":1,"text":"one"}\n{"id":2,"tex')
    fetched = await pages(opened(tmp_path))
    assert list(etags(fetched)) == ["1"]
    ((subject, reason),) = problems(fetched)
    assert subject == "a.jsonl:2"
    assert "ends in the middle" in reason
    assert [problem.document for page in fetched for problem in page.problems] == [""]


async def test_duplicate_id_keeps_the_first(tmp_path: Path) -> None:
    """Of two records with one id the first counts; the problem names both places and the id."""
    (tmp_path / "b.jsonl").write_text('{"id":2,"text":"second"}\n{"id":1,"text":"again"}\n')
    (tmp_path / "a.jsonl").write_text('{"id":1,"text":"first"}\n')
    fetched = await pages(opened(tmp_path, "."))
    assert [entry.read().text for entry in entries(fetched)] == ["first", "second"]
    assert problems(fetched) == [("b.jsonl:2", "id '1' is already used at a.jsonl:1")]
    assert [problem.document for page in fetched for problem in page.problems] == ["1"]


async def test_untouched_file_is_not_read_again(tmp_path: Path) -> None:
    """Nothing is listed, and nothing gone, until a file is touched or an option changes."""
    file = tmp_path / "a.jsonl"
    file.write_text('{"id":1,"text":"one"}\n')
    (*_, last) = await pages(opened(tmp_path))
    (skipped,) = await pages(opened(tmp_path), last.cursor)
    assert (skipped.entries, skipped.complete, skipped.cursor) == ((), False, last.cursor)
    other = await pages(opened(tmp_path, metadata="text"), last.cursor)
    assert etags(other) != etags(await pages(opened(tmp_path)))
    os.utime(file, (1_000_000, 1_000_000))
    assert entries(await pages(opened(tmp_path), last.cursor))


async def test_recent_file_is_read_again(tmp_path: Path) -> None:
    """A file touched within the last two seconds may change unnoticed, so it is read again."""
    (tmp_path / "a.jsonl").write_text('{"id":1,"text":"one"}\n')
    source = open_jsonl("a.jsonl", folder=tmp_path, options={}, clock=now)
    assert (await pages(source))[-1].cursor == ""


async def test_problems_are_found_again(tmp_path: Path) -> None:
    """A file with problems is read again, and they are found again."""
    (tmp_path / "a.jsonl").write_text('{"id":1,"text":"one"}\n{}\n')
    first = await pages(opened(tmp_path))
    assert problems(await pages(opened(tmp_path), first[-1].cursor)) == problems(first) != []


async def test_file_changed_during_fetch_is_incomplete(tmp_path: Path) -> None:
    """A file that changes during the fetch makes it incomplete, and is read again next time."""
    file = tmp_path / "a.jsonl"
    file.write_text("".join(f'{{"id":{number},"text":"t"}}\n' for number in range(1_500)))
    fetched = []
    async for page in opened(tmp_path).fetch(""):
        fetched.append(page)
        file.write_text('{"id":1,"text":"t"}\n')
    assert (fetched[-1].complete, fetched[-1].cursor) == (False, "")


async def test_location_file_folder_or_pattern(tmp_path: Path) -> None:
    """A folder stands for its visible *.jsonl files, a pattern for its matches; none is an error."""
    for name in ("a.jsonl", "deep/b.jsonl", ".hidden/c.jsonl", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"id": name, "text": "t"}))
    assert list(etags(await pages(opened(tmp_path, ".")))) == ["a.jsonl", "deep/b.jsonl"]
    assert list(etags(await pages(opened(tmp_path, "*.txt")))) == ["d.txt"]
    assert list(etags(await pages(opened(tmp_path, "**/*.jsonl")))) == ["a.jsonl", "deep/b.jsonl"]
    with pytest.raises(Misconfigured, match="does not exist"):
        await pages(opened(tmp_path, "*.csv"))


async def test_large_file_is_streamed(tmp_path: Path) -> None:
    """A large file needs memory for a page and a few bytes per id."""
    line = json.dumps({"id": "%06d", "text": "x" * 4_000}) + "\n"
    with (tmp_path / "a.jsonl").open("w") as file:
        file.writelines(line % number for number in range(25_000))
    tracemalloc.start()
    try:
        count = 0
        async for page in opened(tmp_path).fetch(""):
            count += len(page.entries)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 25_000
    assert peak < 60_000_000  # of 100 MB


async def test_overlong_record_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record too long to be text is a problem, and the next one is read."""
    monkeypatch.setattr("flowbed.sources.lines.LONGEST_RECORD", 100)
    line = '{"id":%d,"text":"%s"}\n'
    (tmp_path / "a.jsonl").write_text(line % (1, "x" * 200) + line % (2, "x"))
    fetched = await pages(opened(tmp_path))
    assert list(etags(fetched)) == ["2"]
    assert problems(fetched) == [("a.jsonl:1", "longer than 100 bytes")]


async def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    """A byte order mark at the start of a file is ignored."""
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"id":1,"text":"one"}\n')
    assert [document.id for document in await documents(tmp_path)] == ["1"]


def test_invalid_options_are_misconfigured(tmp_path: Path) -> None:
    """An unknown option or kind of text is refused, and the message lists the valid ones."""
    with pytest.raises(Misconfigured, match="its options are: id, text, title, metadata, kind"):
        opened(tmp_path, txt="body")
    with pytest.raises(Misconfigured, match="one of: text, markdown"):
        opened(tmp_path, kind="receipt")
    with pytest.raises(Misconfigured, match="its options are: none"):
        open_receipts("a.jsonl", folder=tmp_path, options={"id": "x"}, clock=later)


async def test_cranfield_corpus_is_listed(data: Path) -> None:
    """Every document of the Cranfield corpus is listed, even empty ones."""
    fetched = await documents(data, "retrieval/corpus.jsonl")
    assert len(fetched) == 1_400
    assert [document.id for document in fetched if not document.text] == ["471", "995"]


async def test_real_receipts_are_listed(data: Path) -> None:
    """Every receipt is listed by its id, with its JSON for the chunker."""
    source = open_receipts("receipts.jsonl", folder=data, options={}, clock=later)
    fetched = [entry.read() for entry in entries(await pages(source))]
    assert len(fetched) == 313
    assert fetched[0].id == "IMAGE#01208955-0f9f-572a-878b-9e6e7fe1ceec#RECEIPT#00001"
    assert {document.kind for document in fetched} == {"receipt"}
    assert json.loads(fetched[0].text)["merchant_name"] == "RESTORAN WAN SHENG"


async def test_receipts_json_files_are_read(tmp_path: Path) -> None:
    """A .json file contains one receipt, a list of them, or one per line."""
    receipts = [{"image_id": f"i{number}", "receipt_id": number, "lines": []} for number in range(5)]
    (tmp_path / "a.json").write_text(json.dumps(receipts[0], indent=1))
    (tmp_path / "b.json").write_text(json.dumps(receipts[1:3]))
    (tmp_path / "c.json").write_text("\n".join(map(json.dumps, receipts[3:])))
    source = open_receipts(".", folder=tmp_path, options={}, clock=later)
    assert list(etags(await pages(source))) == [f"IMAGE#i{n}#RECEIPT#{n:05d}" for n in range(5)]


async def test_receipt_without_id_is_a_problem(tmp_path: Path) -> None:
    """A receipt without image or number is a problem that says which is missing."""
    (tmp_path / "a.jsonl").write_text(
        '{"receipt_id":1}\n{"image_id":"a#b","receipt_id":1}\n{"image_id":"a","receipt_id":"1"}\n{"image_id":"a","receipt_id":-1}\n'
    )
    source = open_receipts("a.jsonl", folder=tmp_path, options={}, clock=later)
    said = dict(problems(await pages(source)))
    assert "image_id" in said["a.jsonl:1"]
    assert "image_id" in said["a.jsonl:2"]
    assert "receipt_id" in said["a.jsonl:3"]
    assert "receipt_id" in said["a.jsonl:4"]
