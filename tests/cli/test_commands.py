"""Every command, in words and in JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import pytest

from flowbed.testing.simulators import Simulator, Voyage, running_thread
from flowbed.testing.simulators.reranking import relevance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Called

    Call = Callable[..., Called]


def test_init_add_plan_run_search_finds_the_text(project: Path, flowbed: Call) -> None:
    (project / "docs").mkdir()
    (project / "docs" / "a.md").write_text("# Keys\n\nWe rotate the keys each month.\n")
    assert "flowbed add" in flowbed("init").out
    assert flowbed("add", "docs", "files", "docs", "--option", "include=*.md").status == 0
    plan = flowbed("plan", "--json").json
    assert {"plan_id", "new", "changed", "reused", "deleted", "tokens", "lanes"} <= set(plan)
    assert (plan["new"], plan["changed"], plan["reused"], plan["deleted"]) == (1, 0, 0, 0)
    assert plan["lanes"]["batch"] is None
    assert set(plan["lanes"]["realtime"]) == {"cost_usd", "seconds"}
    report = flowbed("run", "--json").json
    assert report["tokens"] == plan["tokens"]
    promised = [
        "fetched",
        "chunks",
        "embedded",
        "reused",
        "deleted",
        "failed",
        "tokens",
        "cost_usd",
        "seconds",
        "versions",
    ]
    assert set(promised) <= set(report)
    assert (report["fetched"], report["chunks"], report["embedded"], report["failed"]) == (1, 1, 1, 0)
    found = flowbed("search", "# Keys\n\nWe rotate the keys each month.", "-n", "1", "--json").json
    (hit,) = found["hits"]
    assert set(hit) >= {"id", "score", "document", "metadata", "collection"}
    assert hit["id"] == "docs#a.md#00000"
    assert found["versions"] == report["versions"]
    assert "We rotate the keys" in flowbed("search", "keys", "-c", "docs").out


def test_status_counts_rows_chunks_and_dead_letters(notes: Path, flowbed: Call) -> None:
    found = flowbed("status", "--json").json
    assert found["collections"]["notes"]["rows"] == 3
    assert set(found["collections"]["notes"]) == {"rows", "unindexed_rows", "version", "space", "updated"}
    assert found["chunks"] == {"SUCCESS": 3}
    assert found["dead_letters"] == 0
    assert re.search(
        r"notes: 3 rows at version \d+, space \w{8}, written 20\d\d-\d\d-\d\d ", flowbed("status").out
    )


def test_search_key_that_no_row_has_names_the_keys_that_there_are(notes: Path, flowbed: Call) -> None:
    out = flowbed("search", "tea", "--where", '{"sauce": "notes"}').out
    assert out.startswith(
        "nothing found\n  no row has the metadata key 'sauce': did you mean 'source'? rows have"
    )
    (warning,) = flowbed("search", "tea", "--where", '{"sauce": "notes"}', "--json").json["warnings"]
    assert "document, " in warning
    assert flowbed("search", "tea", "--json").json["warnings"] == []


def test_search_by_words_shows_them(notes: Path, flowbed: Call) -> None:
    """The words are shown below a hit; an unknown mode is refused with those that there are."""
    assert "words: teas" in flowbed("search", "teas", "--mode", "text").out
    (hit,) = flowbed("search", "teas", "--mode", "text", "--json").json["hits"]
    (first, *_) = hit["highlights"]
    assert hit["document"][first["start"] : first["end"]].lower() == "tea"
    assert flowbed("search", "teas", "--mode", "hybrid", "--json").json["hits"][0]["id"] == hit["id"]
    refused = flowbed("search", "tea", "--mode", "words")
    assert refused.status == 2
    assert "mode is 'words'; use vector, text, hybrid" in refused.out + refused.err
    assert "full-text index built" in flowbed("compact", "notes", "--full-text").out
    assert "words: teas" in flowbed("search", "teas", "--mode", "text").out


def test_search_by_time_likeness_and_page(notes: Path, flowbed: Call) -> None:
    first = flowbed("search", "tea", "-n", "2", "--json").json
    second = flowbed("search", "tea", "-n", "2", "--cursor", first["next"], "--json").json
    assert second["next"] is None
    ids = [hit["id"] for page in (first, second) for hit in page["hits"]]
    assert sorted(ids) == ["notes#cats.txt#00000", "notes#keys.md#00000", "notes#tea.txt#00000"]
    like = flowbed("search", "--like", ids[0], "--order", "newest", "--json").json
    assert {hit["id"] for hit in like["hits"]} == set(ids[1:])
    assert flowbed("search", "tea", "--since", "7d", "--json").json["hits"] == []
    assert flowbed("search", "tea", "--before", "7d", "--json").json["hits"] == []
    grouped = flowbed("search", "tea", "--by-document", "--where", json.dumps({"$id": ids[0]}), "--json").json
    assert [hit["id"] for hit in grouped["hits"]] == ids[:1]
    refused = flowbed("search", "tea", "--rerank")
    assert (refused.status, 'reranker = "cohere:rerank-v3.5"' in refused.err) == (2, True)
    refused = flowbed("search", "tea", "--since", "yesterday")
    assert (refused.status, "such as 12h, 7d or 2w" in refused.err) == (2, True)
    assert "looks for" in flowbed("search", " ", "--mode", "text").err


def test_search_reranked_orders_hits_and_records_the_cost(
    notes: Path, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is the variable of the vendor's package."""
    with running_thread(Simulator(Voyage(keys=["pa-test"]))) as url:
        monkeypatch.setenv("FLOWBED_RERANKER", "voyage:rerank-2.5-lite")
        monkeypatch.setenv("FLOWBED_PROVIDERS__VOYAGE__BASE_URL", f"{url}/v1")
        monkeypatch.setenv("VOYAGE_API_KEY", "pa-test")
        hits = flowbed("search", "where is the tea", "--rerank", "--json").json["hits"]
        assert len(hits) == 3
        for hit in hits:
            assert hit["score"] == hit["scores"]["rerank"] == relevance("where is the tea", hit["document"])
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
        assert len({hit["score"] for hit in hits}) > 1
        (spent,) = flowbed("status", "--cost", "--json").json["spending"]["rows"]
        assert (spent["name"], spent["texts"], spent["cost_usd"] > 0) == ("rerank", 3, True)
        ever = flowbed("status", "--cost", "--days", "99999999999", "--json").json["spending"]["rows"]
        assert ever == [spent]


def test_fields_lists_keys_types_and_common_values(notes: Path, flowbed: Call) -> None:
    shown = flowbed("fields", "notes").out
    assert "notes: 3 rows at version" in shown
    assert "source: text in 3 rows, 1 value\n      notes (3)" in shown
    found = flowbed("fields", "notes", "-n", "1", "--where", '{"document": "tea.txt"}', "--json").json
    assert (found["rows"], found["fields"][0]["rows"]) == (1, 1)
    assert flowbed("fields", "nope").status == 2


def test_search_filter_of_2000_values_is_answered(notes: Path) -> None:
    """In a process of its own, which such a filter once ended."""
    for values in ([True] * 2_000, [2**53 + n for n in range(2_000)]):
        where = json.dumps({"start": {"$nin": values}})
        called = subprocess.run(
            [sys.executable, "-m", "flowbed", "search", "tea", "--where", where, "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert called.returncode == 0, called.stderr
        assert len(json.loads(called.stdout)["hits"]) == 3


def test_run_nothing_changed_makes_no_new_version(notes: Path, flowbed: Call) -> None:
    """Nor does it embed or fetch anything."""
    before = flowbed("status", "--json").json["collections"]["notes"]["version"]
    report = flowbed("run", "--json").json
    assert (report["fetched"], report["chunks"], report["embedded"], report["deleted"]) == (0, 0, 0, 0)
    assert report["versions"] == {"notes": before}


def test_run_after_edit_and_removal_updates_the_search(notes: Path, flowbed: Call) -> None:
    (notes / "tea.txt").write_text("Coffee is served at four.\n")
    (notes / "cats.txt").unlink()
    plan = flowbed("plan", "--json").json
    assert (plan["new"], plan["changed"], plan["deleted"]) == (0, 1, 1)
    report = flowbed("run", "--json").json
    assert (report["embedded"], report["deleted"]) == (1, 1)
    texts = {hit["document"] for hit in flowbed("search", "tea", "--json").json["hits"]}
    assert texts == {"# Keys\n\nWe rotate the keys each month.", "Coffee is served at four."}


def test_search_finds_the_old_text_until_the_new_one_is_embedded(notes: Path, flowbed: Call) -> None:
    """A failed edit leaves no hole in the index."""
    (notes / "tea.txt").write_text("POISON instead of tea.\n")
    assert flowbed("run").status == 1
    (hit,) = flowbed("search", "x", "--where", '{"document": "tea.txt"}', "--json").json["hits"]
    assert hit["document"] == "Tea is served at four."
    (notes / "tea.txt").write_text("Coffee is served at four.\n")
    assert flowbed("run").status == 0
    (hit,) = flowbed("search", "x", "--where", '{"document": "tea.txt"}', "--json").json["hits"]
    assert hit["document"] == "Coffee is served at four."


def test_search_with_where_and_at_returns_matching_rows_of_that_version(notes: Path, flowbed: Call) -> None:
    found = flowbed("search", "x", "--where", '{"document": "tea.txt"}', "--json").json
    assert [hit["id"] for hit in found["hits"]] == ["notes#tea.txt#00000"]
    version = str(found["versions"]["notes"])
    (notes / "tea.txt").unlink()
    flowbed("run")
    then = flowbed("search", "x", "-c", "notes", "--at", version, "--json").json
    assert len(then["hits"]) == 3
    assert len(flowbed("search", "x", "-c", "notes", "--json").json["hits"]) == 2


def test_why_names_batch_file_run_and_version(notes: Path, flowbed: Call) -> None:
    """A chunk is named by its id or by its document."""
    by_id = flowbed("why", "notes#tea.txt#00000", "--json").json["chunks"]
    by_document = flowbed("why", "tea.txt", "--json").json["chunks"]
    assert by_id == by_document
    assert by_id[0]["chunk"]["status"] == "SUCCESS"
    assert by_id[0]["run"]["state"] == "committed"
    told = flowbed("why", "tea.txt").out
    assert "in the index of notes since version" in told
    assert "notes/chunked/year=" in told


def test_why_says_what_keeps_a_file_from_being_indexed(notes: Path, flowbed: Call) -> None:
    """As a document, as a chunk, and as the path that people see; nothing outside the folder is told of."""
    (notes / "drafts").mkdir()
    for name in ("drafts/a.txt", "late.txt", ".hidden.txt"):
        (notes / name).write_text("A text.")
    (notes / "empty.txt").write_text("")
    flowbed("add", "notes", "files", "notes", "--option", "exclude=drafts/")
    flowbed("run")
    (notes / "late.txt").write_text("It has changed.")
    (notes / "new.txt").write_text("A new text.")
    (notes / "sjis.txt").write_bytes("会議室の鍵".encode("cp932"))
    told = {
        "notes#sjis.txt": "has no chunks: not UTF-8 (byte 0x89 at 0); convert it to UTF-8",
        "notes#sjis.txt#00000": "not UTF-8",
        "sjis.txt": "'sjis.txt' of source notes has no chunks: not UTF-8",
        "notes/sjis.txt": "not UTF-8",
        "notes#drafts/a.txt": "`exclude` leaves it out: drafts/",
        "notes#.hidden.txt": "hidden files are never read",
        "notes#empty.txt": "it contains no text",
        "notes#new.txt": "is not in the index yet: `flowbed run notes` fetches it",
        "notes/tea.txt": "is the document 'tea.txt' of source notes: `flowbed why 'notes#tea.txt'` says",
        "notes#gone.txt": "nothing is known of 'notes#gone.txt': source notes has no document 'gone.txt' in notes",
        "notes#gone.txt#00000": "source notes has no document 'gone.txt' in notes",
        "notes#../flowbed.toml": "source notes has no document '../flowbed.toml' in notes",
        "flowbed.toml": "nothing is known of",
    }
    for subject, reason in told.items():
        called = flowbed("why", subject)
        assert called.status == 2, subject
        assert reason in called.err, subject


def test_compact_makes_a_version_that_versions_lists(notes: Path, flowbed: Call) -> None:
    assert "files merged" in flowbed("compact", "notes").out
    assert "partitions" in flowbed("compact", "--index", "always").out
    kept = flowbed("versions", "notes", "--json").json["versions"]["notes"]
    assert kept[0]["rows"] == 3
    assert [each["version"] for each in kept] == sorted((each["version"] for each in kept), reverse=True)
    assert flowbed("search", "x", "--json").json["versions"]["notes"] == kept[0]["version"]


def test_dead_letters_of_one_cause_are_shown_together(notes: Path, flowbed: Call) -> None:
    """A provider that refuses every text alike leaves one of each: what an operator needs is the reason, once."""
    for number in range(5):
        (notes / f"bad{number}.txt").write_text("POISON\n")
    ran = flowbed("run")
    assert ran.status == 1
    found = flowbed("dead-letters", "list", "--json").json
    reason = found["dead_letters"][0]["reason"]
    assert {each["reason"] for each in found["dead_letters"]} == {reason}
    assert [(each["count"], each["kind"], each["owner"]) for each in found["causes"]] == [
        (5, "chunk", "notes")
    ]
    for out in (ran.out, flowbed("dead-letters", "list").out):
        assert out.count(reason) == 1
        assert "notes#bad0.txt#00000, notes#bad1.txt#00000, notes#bad2.txt#00000" in out
    assert "5 dead letters of 1 cause" in flowbed("dead-letters", "list").out
    assert "and 2 others: " in ran.out
    assert flowbed("dead-letters", "retry", "notes#bad4.txt#00000", "--json").json["waiting"] == 1


def test_run_refused_text_becomes_a_dead_letter_that_can_be_retried(notes: Path, flowbed: Call) -> None:
    """The run exits 1 and embeds the other texts."""
    (notes / "bad.txt").write_text("POISON\n")
    (notes / "good.txt").write_text("All is well.\n")
    ran = flowbed("run", "--json")
    assert ran.status == 1
    assert (ran.json["failed"], ran.json["embedded"]) == (1, 1)
    assert ran.json["failures"][0]["subject"] == "notes#bad.txt#00000"
    (letter,) = flowbed("dead-letters", "list", "--json").json["dead_letters"]
    assert (letter["subject"], letter["kind"]) == ("notes#bad.txt#00000", "chunk")
    assert "notes#bad.txt#00000" in flowbed("dead-letters", "list").out
    assert "dead-letters retry" in flowbed("why", "bad.txt").out
    assert flowbed("run").status == 0
    assert flowbed("dead-letters", "list", "--source", "other", "--json").json == {
        "dead_letters": [],
        "causes": [],
    }
    assert "in batch file notes/chunked/" in flowbed("dead-letters", "list", "--source", "notes").out
    assert flowbed("dead-letters", "retry", "--source", "notes", "--json").json["waiting"] == 1
    assert flowbed("run").status == 1
    (notes / "bad.txt").write_text("Mended.\n")
    assert flowbed("run").status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["search", "x", "-c", "nope"], 2, "there are: notes"),
        (["search", "x", "--where", "{bad"], 2, "--where takes JSON"),
        (["search", "x", "--where", '{"a": {"$like": 1}}'], 2, "is not an operator"),
        (["search", "x", "--at", "1"], 2, "name the collection too"),
        (["search", "x", "-c", "notes", "--at", "99"], 2, "flowbed versions"),
        (["search", "x", "-n", "0"], 2, "limit"),
        (["search", "  "], 2, "the query is empty"),
        (["search", "x", "--where", json.dumps({f"k{n}": n for n in range(100)})], 2, "and may have 64"),
        (["search", "x", "-c", "notes", "--at", "-1"], 2, "no version -1"),
        (["run", "nope"], 2, "there are: notes"),
        (["run", "--lane", "batch"], 2, "has no Batch API"),
        (["run", "--lane", "fast"], 2, "auto, realtime or batch"),
        (["run", "--status", "SUCCESS"], 2, "NONE or FAILED"),
        (["run", "--limit", "0"], 2, "limit"),
        (["why", "nope"], 2, "nothing is known of"),
        (["versions", "nope"], 2, "there are: notes"),
        (["compact", "nope"], 2, "there are: notes"),
        (["compact", "--index", "x"], 2, "auto, always or never"),
        (["dead-letters", "retry", "nope"], 2, "no dead letter is about nope"),
        (["add", "x", "files", "nowhere"], 2, "does not exist"),
        (["add", "x", "nope", "notes"], 2, "the kinds are: "),
        (["add", "Bad Name", "files", "notes"], 2, "lower-case letters"),
        (["add", "plans", "files", "notes"], 2, "cannot be used"),
        (["add", "x", "files", "notes", "--option", "nope=1"], 2, "nope"),
        (["add", "x", "files", "notes", "--option", "include"], 2, "key=value"),
        (["add", "x", "files", "notes", "--option", "capacity=many"], 2, "whole number"),
        (["status", "--config", "elsewhere.toml"], 2, "flowbed.toml"),
        (["frobnicate"], 2, "frobnicate"),
        (["run", "--frobnicate"], 2, "--frobnicate"),
        (["search"], 2, "QUERY"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_command_invalid_arguments_exits_2_and_says_what_to_write(
    notes: Path, flowbed: Call, arguments: list[str], status: int, says: str
) -> None:
    called = flowbed(*arguments)
    assert called.status == status
    assert says in called.err
    assert "Traceback" not in called.err


def test_command_error_with_json_is_json_on_standard_output(notes: Path, flowbed: Call) -> None:
    """Scripts read the last line."""
    assert flowbed("search", "x", "-c", "nope", "--json").json["error"]["kind"] == "NotFound"


def test_plan_with_json_prints_one_value(notes: Path, flowbed: Call) -> None:
    """Progress does not mix with it."""
    (notes / "new.txt").write_text("New.\n")
    assert json.loads(flowbed("plan", "--json").out)["new"] == 1


def test_status_invalid_variable_is_named_and_empty_one_ignored(
    notes: Path, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWBED_STORE", "")
    assert flowbed("status").status == 0
    monkeypatch.setenv("FLOWBED_MODEL_OPTIONS", "bad")
    called = flowbed("status")
    assert called.status == 2
    assert "model_options" in called.err


def test_run_source_over_the_project_folder_skips_flowbed_toml(project: Path, flowbed: Call) -> None:
    (project / "a.txt").write_text("A text.\n")
    flowbed("init")
    flowbed("add", "all", "files", ".")
    assert flowbed("run", "--json").json["fetched"] == 1


def test_init_with_config_writes_that_file(project: Path, flowbed: Call) -> None:
    """`--config` names the file or its folder."""
    assert flowbed("init", "--config", "there/flowbed.toml").status == 0
    assert (project / "there" / "flowbed.toml").exists()
    assert flowbed("status", "--config", "there").status == 0


def test_run_outside_a_project_names_init(project: Path, flowbed: Call) -> None:
    called = flowbed("run")
    assert called.status == 2
    assert "flowbed init" in called.err


def test_run_without_sources_names_add(project: Path, flowbed: Call) -> None:
    """A search says that nothing is indexed."""
    flowbed("init")
    assert "flowbed add" in flowbed("run").err
    assert "flowbed run" in flowbed("search", "x").err
    assert "nothing is indexed yet" in flowbed("status").out


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[sources.x", "not valid TOML"),
        ("modell = 'x'", "modell: no such setting"),
        ("concurrency = 0", "concurrency"),
        ("[sources.x]\nkind = 'files'", "sources.x.location"),
        ("[sources.'Bad Name']\nkind = 'files'\nlocation = '.'", "Bad Name"),
        ("[sources.x]\nkind = 'nope'\nlocation = '.'", "the kinds are"),
        ("store = 'ftp://x'\n[sources.x]\nkind = 'files'\nlocation = '.'", "ftp"),
        ("ledger = 'mysql://x'\n[sources.x]\nkind = 'files'\nlocation = '.'", "SQLite"),
    ],
)
def test_run_invalid_flowbed_toml_exits_2_and_names_the_place(
    project: Path, flowbed: Call, toml: str, says: str
) -> None:
    (project / "flowbed.toml").write_text(toml)
    called = flowbed("run")
    assert called.status == 2
    assert says in called.err


def test_run_missing_model_names_the_commands_that_install_it(
    notes: Path, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is indexed stays."""
    monkeypatch.setenv("FLOWBED_MODEL", "onnx:nobody/nothing")
    (notes / "new.txt").write_text("New.\n")
    called = flowbed("run")
    assert called.status == 2
    assert "hf download nobody/nothing" in called.err
    monkeypatch.setenv("FLOWBED_MODEL", "seeded:32")
    assert flowbed("run", "--json").json["embedded"] == 1


def test_run_unreadable_files_and_missing_folders_lose_no_rows(
    project: Path, notes: Path, flowbed: Call
) -> None:
    """Binary files are named and skipped, and an empty folder is nothing to do."""
    (project / "empty").mkdir()
    flowbed("add", "empty", "files", "empty")
    assert flowbed("run", "empty", "--json").json["fetched"] == 0
    (notes / "photo.txt").write_bytes(b"\x89PNG\0\0")
    (notes / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    ran = flowbed("run", "notes")
    assert ran.status == 0
    assert "photo.txt" in ran.out
    assert "latin.txt" in ran.out
    shutil.move(notes, project / "moved")
    gone = flowbed("run", "notes")
    assert gone.status == 2
    assert "does not exist" in gone.err
    assert flowbed("status", "--json").json["collections"]["notes"]["rows"] == 3
    both = flowbed("run", "--json")
    assert both.status == 1
    assert both.json["failures"][0]["subject"] == "source notes"


def test_run_invalid_jsonl_lines_become_dead_letters_and_the_rest_is_indexed(
    project: Path, flowbed: Call
) -> None:
    """They name file and line, and go once the file is fixed."""
    file = project / "records.jsonl"
    file.write_text(
        '{"id": 1, "text": "one"}\n{"id": 1, "text": "again"}\nnot json\n{"id": 2, "text": "two"}\n'
    )
    flowbed("init")
    flowbed("add", "records", "jsonl", "records.jsonl")
    ran = flowbed("run", "--json")
    assert ran.status == 1
    assert (ran.json["embedded"], ran.json["failed"]) == (2, 2)
    said = {each["subject"]: each["reason"] for each in ran.json["failures"]}
    assert set(said) == {"records.jsonl:2", "records.jsonl:3"}
    assert "records.jsonl:1" in said["records.jsonl:2"]
    assert flowbed("status", "--json").json["dead_letters"] == 2
    file.write_text('{"id": 1, "text": "one"}\n{"id": 2, "text": "two"}\n')
    assert flowbed("run").status == 0
    assert flowbed("status", "--json").json["dead_letters"] == 0


def test_run_large_deletion_waits_for_allow_deletes(project: Path, flowbed: Call) -> None:
    file = project / "records.jsonl"
    lines = [json.dumps({"id": n, "text": f"text {n}"}) for n in range(60)]
    file.write_text("\n".join(lines))
    flowbed("init")
    flowbed("add", "records", "jsonl", "records.jsonl")
    assert flowbed("run").status == 0
    file.write_text("\n".join(lines[:30]))
    ran = flowbed("run")
    assert ran.status == 1
    assert "--allow-deletes" in ran.out
    assert flowbed("status", "--json").json["collections"]["records"]["rows"] == 60
    assert flowbed("run", "--allow-deletes", "--json").json["deleted"] == 30
    assert flowbed("status", "--json").json["collections"]["records"]["rows"] == 30


def test_run_store_of_another_ledger_is_refused(notes: Path, flowbed: Call, project: Path) -> None:
    for file in (project / ".flowbed").glob("ledger.db*"):
        file.unlink()
    called = flowbed("run")
    assert called.status == 2
    assert "belongs to another ledger" in called.err


def test_init_existing_project_keeps_its_settings(notes: Path, flowbed: Call, project: Path) -> None:
    before = (project / "flowbed.toml").read_text()
    assert flowbed("init").status == 0
    assert (project / "flowbed.toml").read_text() == before


def test_add_keeps_comments_and_the_options_of_the_source_of_that_name(project: Path, flowbed: Call) -> None:
    (project / "flowbed.toml").write_text("# mine\nconcurrency = 3 # few\n")
    (project / "a").mkdir()
    flowbed("add", "x", "files", "a", "--option", "include=*.md", "--collection", "c1")
    flowbed("add", "x", "files", "a", "--collection", "c2")
    said = (project / "flowbed.toml").read_text()
    assert said.startswith("# mine\nconcurrency = 3 # few\n")
    assert said.count("[sources.x]") == 1
    assert "c1" not in said
    assert 'include = "*.md"' in said


def run_alone(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a separate process."""
    return subprocess.run(
        [sys.executable, "-m", "flowbed", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **more},
        timeout=120,
    )


def test_help_loads_no_heavy_package(project: Path) -> None:
    code = (
        "import sys; from flowbed.cli.app import run; run(['--help']);"
        "heavy = {'numpy', 'pyarrow', 'lance', 'onnxruntime', 'sqlalchemy', 'obstore', 'pydantic', 'tokenizers'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_run_and_search_work_without_a_network(
    notes: Path, project: Path, lacking: Callable[[str], NoReturn]
) -> None:
    """A run and a search with the local model succeed in a network namespace without a network."""
    (notes / "new.txt").write_text("Written without a network.\n")
    alone = ["unshare", "--map-root-user", "--net", sys.executable, "-m", "flowbed"]
    if shutil.which("unshare") is None:
        lacking("there is no unshare command here")
    if subprocess.run([*alone[:3], "true"], check=False, capture_output=True).returncode:
        lacking("network namespaces are not allowed here")
    local = {**os.environ, "FLOWBED_MODEL": "onnx:", "FLOWBED_STORE": "other", "FLOWBED_LEDGER": "other.db"}
    ran = subprocess.run(
        [*alone, "run", "--json"], env=local, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["embedded"] == 4
    asked = [*alone, "search", "how often are keys changed?", "-n", "1", "--json"]
    found = subprocess.run(asked, env=local, capture_output=True, text=True, check=False, timeout=120)
    assert json.loads(found.stdout)["hits"][0]["id"] == "notes#keys.md#00000"


def test_version_option_prints_the_installed_version(flowbed: Call) -> None:
    from importlib.metadata import version

    called = flowbed("--version")
    assert (called.status, called.out) == (0, f"flowbed {version('flowbed')}\n")


def test_python_m_flowbed_shows_the_help(project: Path) -> None:
    done = run_alone()
    assert "Usage: flowbed" in done.stdout + done.stderr
