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
    ("line", "reason", "document"),
    [
        pytest.param(b'{"id": 1, "text": "x"', "not JSON", "", id="not json"),
        pytest.param(b'{"id": 1, "text": "x", "n": NaN}', "NaN is not valid", "1", id="nan"),
        pytest.param(
            b'{"id": 1, "text": "x", "n": 1e999}', "n is inf, which is no finite number", "1", id="infinite"
        ),
        pytest.param(b'{"text": "x"}', "id or _id is missing", "", id="no id"),
        pytest.param(b'{"id": true, "text": "x"}', "id or _id must be", "", id="bool id"),
        pytest.param(b'{"id": "  ", "text": "x"}', "id or _id must be", "", id="blank id"),
        pytest.param(b'{"id": "a\\nb", "text": "x"}', "control characters", "a\\nb", id="line end in id"),
        pytest.param(b'{"id": 1}', "text is missing", "1", id="no text"),
        pytest.param(b'{"id": 1, "text": 5}', "text must be a string, not 5", "1", id="number as text"),
        pytest.param(
            b'{"id": 1, "text": "x", "title": []}', "title must be a string", "1", id="list as title"
        ),
        pytest.param(
            b'{"id": 1, "text": "\\ud83d"}', "half a character (\\ud83d", "1", id="half a character"
        ),
        pytest.param(b'{"id": 1, "text": "\xff"}', "not UTF-8", "1", id="not utf-8"),
        pytest.param(
            b'{"id": 1, "text": "x", "n": 18446744073709551616}',
            "n is 18446744073709551616",
            "1",
            id="64 bits",
        ),
        pytest.param(
            b'{"id": 1, "text": "x", "n": 1' + b"0" * 400 + b"}", "about 401 digits", "1", id="400 digits"
        ),
        pytest.param(
            b'{"id": 1, "text": "x", "n": 1' + b"0" * 9_000 + b"}", "not JSON", "1", id="9,000 digits"
        ),
        pytest.param(b'{"id": [[[[[1]]]]], "text": "x"}', "id or _id must be", "", id="list as id"),
        pytest.param(b"\x00\x01\x02", "binary", "", id="binary"),
        pytest.param(b"[1]", "expected a JSON object, found a list", "", id="list"),
        pytest.param(b"3", "found a number", "", id="number"),
        pytest.param(b'{"id":' + b"[" * 100_000, "not JSON", "", id="deep"),
    ],
)
async def test_invalid_line_is_a_problem_and_others_are_listed(
    tmp_path: Path, line: bytes, reason: str, document: str
) -> None:
    """A line that is not a record is a problem with file, line and, if known, document; the others are listed."""
    good = b'{"id":"%s","text":"t"}\n'
    (tmp_path / "a.jsonl").write_bytes(good % b"first" + line + b"\n" + good % b"last")
    fetched = await pages(opened(tmp_path, metadata="n"))
    assert list(etags(fetched)) == ["first", "last"]
    ((subject, said),) = problems(fetched)
    assert subject == "a.jsonl:2"
    assert reason in said
    assert len(said) < 300
    assert [problem.document for page in fetched for problem in page.problems] == [document]


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
        file.writelines(line % number for number in range(12_500))
    tracemalloc.start()
    try:
        count = 0
        async for page in opened(tmp_path).fetch(""):
            count += len(page.entries)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 12_500
    assert peak < 30_000_000  # of 50 MB


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
    with pytest.raises(Misconfigured, match=r"its options are: places, .*, neighbours"):
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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
async def test_utf16_file_is_one_problem(tmp_path: Path, encoding: str) -> None:
    """A file in UTF-16 is one problem that says what to do, instead of one for each line."""
    (tmp_path / "a.jsonl").write_bytes(
        ("\ufeff" * (encoding == "utf-16-be") + '{"id":1}\n' * 9).encode(encoding)
    )
    ((subject, reason),) = problems(await pages(opened(tmp_path)))
    assert subject == "a.jsonl"
    assert "UTF-16" in reason
    assert "iconv" in reason


async def test_suffix_in_capitals_is_read(tmp_path: Path) -> None:
    """Suffixes count in capitals too, also that of a file with a list of records, after a byte order mark."""
    (tmp_path / "A.JSONL").write_text('{"id":1,"text":"one"}\n')
    (tmp_path / "B.NdJson").write_text('{"id":2,"text":"two"}\n')
    assert [document.id for document in await documents(tmp_path, ".")] == ["1", "2"]
    receipts = [{"image_id": "i", "receipt_id": number, "lines": []} for number in range(2)]
    (tmp_path / "C.JSON").write_text("\ufeff" + json.dumps(receipts, indent=1), "utf-8")
    source = open_receipts("C.JSON", folder=tmp_path, options={}, clock=later)
    assert len(entries(await pages(source))) == 2


@pytest.mark.parametrize("name", ["a[1]", "*", "what?", "[!a]", "a b", "été", "line\nend"])
async def test_pattern_below_a_folder_with_any_name(tmp_path: Path, name: str) -> None:
    """The name of the project's folder is no pattern, and a location that exists is none either."""
    folder = tmp_path / name
    (folder / name).mkdir(parents=True)
    for number in range(2):
        (folder / name / f"{number}.jsonl").write_text(json.dumps({"id": number, "text": "t"}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "9.jsonl").write_text('{"id":9,"text":"t"}')
    assert list(etags(await pages(opened(folder, "*/*.jsonl")))) == ["0", "1"]
    assert list(etags(await pages(opened(folder, name)))) == ["0", "1"]
    assert list(etags(await pages(opened(folder, f"{name}/1.jsonl")))) == ["1"]


async def test_location_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A location may begin with the home folder, and end in a pattern."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text('{"id":1,"text":"t"}')
    for location in ("~/data", "~/data/a.jsonl", "~/data/*.jsonl"):
        assert list(etags(await pages(opened(tmp_path / "project", location)))) == ["1"]
    with pytest.raises(Misconfigured, match="does not exist"):
        await pages(opened(tmp_path, "~nobody-has-this-name/a.jsonl"))


async def test_folder_that_cannot_be_listed_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subfolder that cannot be listed is a problem of any document; the records elsewhere are listed."""
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text(json.dumps({"id": name, "text": "t"}))
    scandir = os.scandir

    def faulty(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", faulty)
    fetched = await pages(opened(tmp_path, "."))
    assert list(etags(fetched)) == ["open"]
    assert problems(fetched) == [("closed/", "cannot be listed: Permission denied")]
    assert fetched[-1].cursor == ""


async def test_many_unreadable_lines_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of lines that are no records makes a bounded number of problems; the last one counts the rest."""
    monkeypatch.setattr("flowbed.sources.lines.MOST_PROBLEMS", 10)
    (tmp_path / "a.jsonl").write_text("no record\n" * 500)
    found = problems(await pages(opened(tmp_path)))
    assert len(found) == 11
    assert found[-1] == ("a.jsonl", "490 more of its records could not be read")


async def test_changed_file_with_size_and_time_kept_is_read_again(tmp_path: Path) -> None:
    """A file changed in place, with its size kept and its time set back, is read again."""
    file = tmp_path / "a.jsonl"
    file.write_text('{"id":1,"text":"one"}\n')
    before = file.stat()
    (*_, last) = await pages(opened(tmp_path))
    assert last.cursor
    with file.open("r+") as opened_file:
        opened_file.write('{"id":1,"text":"two"}\n')
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    fetched = await pages(opened(tmp_path), last.cursor)
    assert [entry.read().text for entry in entries(fetched)] == ["two"]


async def test_long_file_of_one_object_is_one_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .json file of one object that is too long to parse is one problem, instead of one for each line."""
    monkeypatch.setattr("flowbed.sources.lines.LONGEST_RECORD", 100)
    (tmp_path / "a.json").write_text(json.dumps({"a": ["b"] * 99}, indent=1))
    source = open_receipts("a.json", folder=tmp_path, options={}, clock=later)
    ((subject, reason),) = problems(await pages(source))
    assert subject == "a.json"
    assert reason == "one JSON value of more than 100 bytes: write one record per line"


async def test_list_with_half_a_character_keeps_the_other_records(tmp_path: Path) -> None:
    """In a list of records, one that cannot be written as UTF-8 is a problem by itself."""
    good = {"image_id": "i", "receipt_id": 1, "lines": []}
    (tmp_path / "a.json").write_text(json.dumps([{**good, "receipt_id": 2, "date": "\ud83d"}, good]))
    source = open_receipts("a.json", folder=tmp_path, options={}, clock=later)
    fetched = await pages(source)
    assert list(etags(fetched)) == ["IMAGE#i#RECEIPT#00001"]
    (problem,) = [problem for page in fetched for problem in page.problems]
    assert problem.document == "IMAGE#i#RECEIPT#00002"
    assert "half a character" in problem.reason
