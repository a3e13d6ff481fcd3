"""Dumps of GitLab: which records become which documents, and what is reported about the others."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import Misconfigured
from flowbed.records.issues import Issue
from flowbed.sources.gitlab import open_gitlab
from flowbed.testing.sources import entries, pages

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.projects import Project

    from flowbed.records import Document, Page

SITE = "https://git.example/sub"


def later() -> int:
    return time.time_ns() // 1_000 + 60_000_000


def issue(iid: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": 900 + iid,
        "iid": iid,
        "project_id": 7,
        "title": f"Issue {iid}",
        "description": f"what went wrong in {iid}",
        "state": "opened",
        "labels": ["bug", "ui"],
        "author": {"id": 1, "username": "ann", "name": "Ann"},
        "created_at": "2026-01-02T03:04:05.678Z",
        "web_url": f"{SITE}/web/app/-/issues/{iid}",
        "references": {"full": f"web/app#{iid}"},
        "notes": [],
        **fields,
    }


def note(number: int, body: str, **fields: Any) -> dict[str, Any]:
    author = {"id": 2, "username": "bob", "name": "Bob"}
    return {
        "id": number,
        "body": body,
        "author": author,
        "created_at": f"2026-02-01T00:00:{number:02}Z",
        "system": False,
        **fields,
    }


async def fetched(folder: Path, location: str = "dump.json", **options: object) -> list[Page]:
    return await pages(open_gitlab(location, folder=folder, options=options, clock=later))


async def read(folder: Path, location: str = "dump.json", **options: object) -> dict[str, Document]:
    return {entry.document: entry.read() for entry in entries(await fetched(folder, location, **options))}


def told(found: list[Page]) -> list[tuple[str, str, str]]:
    return [(each.subject, each.reason, each.document) for page in found for each in page.problems]


async def test_dump_becomes_documents_with_urls(tmp_path: Path) -> None:
    """An issue, a merge request and a wiki page have stable ids, and the address of each is kept."""
    records = [
        issue(1, notes=[note(5, "second"), note(4, "first"), note(6, "changed the title", system=True)]),
        issue(2, source_branch="fix", web_url=f"{SITE}/web/app/-/merge_requests/2"),
        {"project_id": 7, "slug": "dir/home", "title": "Home", "format": "markdown", "content": "# Hello"},
    ]
    (tmp_path / "dump.json").write_text(json.dumps(records, indent=1))
    found = await read(tmp_path)
    assert list(found) == ["7#1", "7!2", "7/wikis/dir/home"]
    first = Issue.from_json(found["7#1"].text)
    assert [(each.id, each.body, each.url) for each in first.notes] == [
        ("4", "first", f"{SITE}/web/app/-/issues/1#note_4"),
        ("5", "second", f"{SITE}/web/app/-/issues/1#note_5"),
    ]
    assert (first.author, first.labels, first.url) == ("Ann", ("bug", "ui"), f"{SITE}/web/app/-/issues/1")
    assert dict(found["7#1"].metadata) == {
        "type": "issue",
        "project": "web/app",
        "iid": 1,
        "state": "opened",
        "labels": "bug, ui",
    }
    assert found["7!2"].metadata["type"] == "merge_request"
    assert (found["7/wikis/dir/home"].kind, found["7/wikis/dir/home"].text) == ("markdown", "# Hello")


async def test_dump_lines_and_list_give_the_same_documents(tmp_path: Path) -> None:
    """Records in a list, one per line, and with threads instead of notes are the same documents."""
    notes = [note(1, "one"), note(2, "two")]
    records = [issue(1, notes=notes), issue(2)]
    (tmp_path / "dump.json").write_text(json.dumps(records))
    (tmp_path / "dump.jsonl").write_text("\n".join(map(json.dumps, records)))
    threads = [{"id": "a", "notes": notes[:1]}, {"id": "b", "notes": notes[1:]}]
    bare = {name: value for name, value in records[0].items() if name != "notes"}
    (tmp_path / "threads.json").write_text(json.dumps([{**bare, "discussions": threads}, records[1]]))
    found = await read(tmp_path)
    assert found == await read(tmp_path, "dump.jsonl") == await read(tmp_path, "threads.json")


async def test_dump_confidential_is_left_out_unless_wanted(tmp_path: Path) -> None:
    """Confidential issues and internal notes are not listed, and not reported; the option includes them."""
    records = [
        issue(
            1, notes=[note(1, "for all"), note(2, "for us", internal=True), note(3, "old", confidential=True)]
        ),
        issue(2, confidential=True),
    ]
    (tmp_path / "dump.json").write_text(json.dumps(records))
    found = await fetched(tmp_path)
    assert [entry.document for entry in entries(found)] == ["7#1"]
    assert told(found) == []
    assert "for us" not in entries(found)[0].read().text
    everything = await read(tmp_path, confidential="true")
    assert set(everything) == {"7#1", "7#2"}
    assert everything["7#2"].metadata["confidential"] is True
    assert {each.id for each in Issue.from_json(everything["7#1"].text).notes} == {"1", "2", "3"}


async def test_dump_malformed_records_are_problems_of_their_own(tmp_path: Path) -> None:
    """A record of another shape is a problem that names what is wrong, and all others are documents."""
    records: list[Any] = [
        issue(1),
        "text",
        issue(0),
        issue(2, notes=[{"body": "no id"}]),
        {"iid": 3, "title": "of no project"},
        issue(4, labels="bug"),
        issue(5),
    ]
    (tmp_path / "dump.json").write_text(json.dumps(records))
    found = await fetched(tmp_path)
    assert told(found) == [
        ("dump.json:2", "expected a JSON object, found a string", ""),
        ("dump.json:3", "iid must be an integer above 0, not 0", ""),
        ("dump.json:5", "project_id must be an integer above 0, not None", ""),
    ]
    reasons = {}
    for entry in entries(found):
        try:
            entry.read()
        except Exception as error:  # noqa: BLE001 - every reason is compared
            reasons[entry.document] = str(error)
    assert [entry.document for entry in entries(found)] == ["7#1", "7#2", "7#4", "7#5"]
    assert reasons == {
        "7#2": "a note must be an object with an id, not {'body': 'no id'}",
        "7#4": "labels must be a list, not 'bug'",
    }


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('{"iid": 2, "project_id": 7, "title": }', "not JSON"),
        ('{"iid": 2, "project_id": 7, "labels": ["bug"}', "not JSON"),
        ('{"iid": 2, "project_id": 7, "title": "a \\q"}', "not JSON"),
    ],
)
async def test_dump_broken_item_spoils_only_itself(tmp_path: Path, broken: str, reason: str) -> None:
    """One item of a list that is not JSON does not hide the others."""
    items = [json.dumps(issue(1), indent=1), broken, json.dumps(issue(3, description='][}{", \\"'), indent=1)]
    (tmp_path / "dump.json").write_text("[" + ",\n".join(items) + "]\n")
    found = await fetched(tmp_path)
    assert [entry.document for entry in entries(found)] == ["7#1", "7#3"]
    ((subject, why, _),) = told(found)
    assert (subject, why[: len(reason)]) == ("dump.json:2", reason)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ('{"iid": 2, "proj', "the file ends in the middle of the list"),
        ("{}] []", "something follows the end"),
    ],
)
async def test_dump_cut_short_keeps_what_is_whole(tmp_path: Path, end: str, reason: str) -> None:
    """A list that was not written to its end says so, and its whole items are documents; nothing counts as gone."""
    (tmp_path / "dump.json").write_text("[" + json.dumps(issue(1)) + "," + end)
    found = await fetched(tmp_path)
    assert [entry.document for entry in entries(found)] == ["7#1"]
    assert [why for _, why, _ in told(found) if why.startswith(reason)]


async def test_dump_list_larger_than_a_record_is_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list longer than any record is read in the memory of a page, whatever its layout."""
    monkeypatch.setattr("flowbed.sources.lines.LONGEST_RECORD", 100_000)
    monkeypatch.setattr("flowbed.sources.paging.PAGE_BYTES", 200_000)
    monkeypatch.setattr("flowbed.sources.arrays.READ_BYTES", 10_000)
    records = [issue(n, description='words \\" ] } of some length' * 120) for n in range(1, 3_001)]
    (tmp_path / "dump.json").write_text(json.dumps(records, indent=1))
    size = (tmp_path / "dump.json").stat().st_size
    del records
    source = open_gitlab("dump.json", folder=tmp_path, options={}, clock=later)
    tracemalloc.start()
    try:
        names = [entry.document async for page in source.fetch("") for entry in page.entries]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert names == [f"7#{n}" for n in range(1, 3_001)]
    assert peak < size / 3


async def test_dump_uploads_become_whole_addresses(tmp_path: Path) -> None:
    """The address of an uploaded file, which GitLab writes from the project on, is made whole."""
    link = f"![screen](/uploads/{'a' * 32}/screen.png)"
    (tmp_path / "dump.json").write_text(json.dumps([issue(1, description=link, notes=[note(1, link)])]))
    text = Issue.from_json((await read(tmp_path))["7#1"].text)
    whole = f"![screen]({SITE}/web/app/uploads/{'a' * 32}/screen.png)"
    assert (text.description, text.notes[0].body) == (whole, whole)


async def test_dump_option_url_completes_records_without_one(tmp_path: Path) -> None:
    """Records without `web_url` get their address from the option `url`."""
    (tmp_path / "dump.json").write_text(json.dumps([issue(1, web_url=None)]))
    (found,) = (await read(tmp_path, url=f"{SITE}/")).values()
    assert Issue.from_json(found.text).url == f"{SITE}/web/app/-/issues/1"


async def test_dump_misspelt_option_is_misconfigured(tmp_path: Path) -> None:
    """An unknown option names the one that was meant, and a wrong value what it must be."""
    with pytest.raises(Misconfigured, match="did you mean confidential"):
        await fetched(tmp_path, confidental=True)
    with pytest.raises(Misconfigured, match="must be true or false, not 'perhaps'"):
        await fetched(tmp_path, confidential="perhaps")


async def test_run_dump_hits_have_the_url_of_their_note(project: Project) -> None:
    """A search over a dump finds the note, with its address; a changed note sends its own text only."""
    records = [
        issue(n, notes=[note(10 * n + k, f"answer {k} to {n}: " + "word " * 140) for k in range(3)])
        for n in (1, 2)
    ]
    project.write("dump.json", json.dumps(records))
    async with await project.open() as bed:
        await bed.add("tracker", kind="gitlab", location="dump.json")
        report = await bed.run()
        assert (report.fetched, report.failed) == (2, 0)
        asked = f"Issue 2\nlabels: bug, ui\nnote by Bob\n\nanswer 1 to 2: {'word ' * 140}".strip()
        hit, *_ = await bed.search(asked)
        assert hit.metadata["url"] == f"{SITE}/web/app/-/issues/2#note_21"
        assert (hit.document, hit.metadata["state"], hit.metadata["iid"]) == (hit.document, "opened", 2)
        project.sent()
        records[1]["notes"][1]["body"] = "corrected " * 140
        project.write("dump.json", json.dumps(records))
        report = await bed.run()
    assert [text.partition("\n\n")[2] for text in project.sent()] == [("corrected " * 140).strip()]
    assert (report.chunks, report.embedded) == (1, 1)


async def test_real_issues_are_documents_with_urls(data: Path) -> None:
    """All issues of the shared data are documents, and those with an address keep it in every note."""
    found = await read(data, "issues.json")
    assert len(found) == 821
    texts = [Issue.from_json(each.text) for each in found.values()]
    assert sum(len(each.notes) for each in texts) == 963
    assert all(each.url.startswith(text.url) for text in texts if text.url for each in text.notes)


async def test_empty_dump_is_no_list_and_deletes_nothing(tmp_path: Path) -> None:
    """A program that is writing it has begun with an empty file."""
    (tmp_path / "a.json").write_text("\n")
    (tmp_path / "b.json").write_text(json.dumps([issue(1)]))
    (tmp_path / "c.jsonl").write_text("")
    fetched = await pages(open_gitlab(str(tmp_path), folder=tmp_path, options={}, clock=later))
    assert [entry.document for entry in entries(fetched)] == ["7#1"]
    (problem,) = [each for page in fetched for each in page.problems]
    assert (problem.subject, problem.document, problem.skipped) == ("a.json", "", False)
    assert problem.reason == "the file is empty, which is not JSON; a list without records is []"
