"""Flipped bits and truncation in every kind of file of a project: a finding, and a command that fixes it."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.test_doctor import carry_out

from flowbed.cli.app import run
from flowbed.testing.index import assert_same, contents_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Called

    Call = Callable[..., Called]

KINDS = {
    "manifest": "store/r/index/*/_versions/*.manifest",
    "data": "store/r/index/*/data/*",
    "index": "store/r/index/*/_indices/*/*",
    "deletion": "store/r/index/*/_deletions/*",
    "delta": "store/r/delta/*/*",
    "batch file": "store/r/chunked/*/*/*/*",
    "active": "store/r/active.json",
    "lease": "store/r/lease.json",
    "binding": "store/flowbed.json",
    "ledger": "ledger.db",
    "vectors": "vectors/vectors.db",
    "settings": "settings.passed",
}
FLIPS = 5


def flip(body: bytearray, chance: random.Random) -> bytearray:
    """Flip a few bits."""
    for _ in range(FLIPS):
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    return body


def cut(body: bytearray, chance: random.Random) -> bytearray:
    """Truncate."""
    return body[: chance.randrange(len(body))]


def write_records(folder: Path, count: int, topic: str) -> None:
    lines = [{"id": f"d{i}", "text": f"text {i} about {topic if i % 7 else 'tea'}"} for i in range(count)]
    (folder / "r.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in lines))


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a project that has every kind of file."""
    folder = tmp_path_factory.mktemp("complete")
    (folder / "flowbed.toml").write_text(
        'model = "seeded:16"\n[sources.r]\nkind = "jsonl"\nlocation = "r.jsonl"\n'
    )
    write_records(folder, 300, "things")
    for command in (["run"], ["compact", "r", "--index", "always"], ["keys", "create", "web"]):
        assert run([*command, "--json", "--config", str(folder)]) == 0
    write_records(folder, 280, "others")
    assert run(["run", "--json", "--config", str(folder)]) == 0
    return folder


@pytest.fixture
def harmed(project: Path, complete: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy it into the current folder."""
    monkeypatch.delenv("FLOWBED_MODEL")
    shutil.copytree(complete, project, dirs_exist_ok=True)
    return project


def files_of(folder: Path, kind: str) -> list[Path]:
    """Return the files of a kind, the newest manifest only."""
    found = sorted(each for each in (folder / ".flowbed").glob(KINDS[kind]) if each.is_file())
    return found[:1] if kind == "manifest" else found


def fix_everything(flowbed: Call) -> list[dict[str, Any]]:
    """Carry out what the doctor says, and return what it found first."""
    called = flowbed("doctor", "--json")
    first: list[dict[str, Any]] = called.json["findings"]
    for fix in dict.fromkeys(each["fix"] for each in first):
        assert not {"mv", "rm"} & set(fix.split()), fix
        carry_out(fix, flowbed)
    return first


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("kind", [each for each in KINDS if each != "settings"])
def test_damaged_file_is_reported_and_fixed_by_the_printed_command(
    kind: str,
    damage: Callable[[bytearray, random.Random], bytearray],
    harmed: Path,
    flowbed: Call,
) -> None:
    """Whatever was hit: no traceback, a run goes on or says why not, and afterwards all is as before."""
    healthy = contents_of(harmed)
    chance = random.Random(1)
    file = chance.choice(files_of(harmed, kind))
    file.write_bytes(damage(bytearray(file.read_bytes()), chance))
    for command in (["run", "--json"], ["search", "tea"], ["status"], ["verify"], ["gc"]):
        flowbed(*command)  # an exception that is not Flowbed's own would end this test
    fix_everything(flowbed)
    if damage is cut and kind == "ledger":
        fix_everything(flowbed)  # its keys were lost, of which the store knows
    assert flowbed("doctor", "--json").json["findings"] == []
    assert flowbed("verify", "--json").json["faults"] == 0
    assert_same(contents_of(harmed), healthy)
    assert flowbed("keys", "list", "--json").json["keys"]


@pytest.mark.parametrize("damage", [flip, cut])
def test_damaged_mark_of_valid_settings_is_written_again(
    damage: Callable[[bytearray, random.Random], bytearray],
    harmed: Path,
    flowbed: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [each for each in os.environ if each.startswith("FLOWBED_")]:
        monkeypatch.delenv(name)  # settings in variables are validated each time
    assert flowbed("status").status == 0
    mark = harmed / ".flowbed" / "settings.passed"
    before = mark.read_bytes()
    mark.write_bytes(damage(bytearray(before), random.Random(1)))
    assert flowbed("status").status == 0
    assert mark.read_bytes() == before


@pytest.mark.long
@pytest.mark.parametrize("kind", [each for each in KINDS if each != "settings"])
def test_damaged_file_many_times_is_always_fixed(
    kind: str, harmed: Path, complete: Path, flowbed: Call
) -> None:
    healthy = contents_of(harmed)
    for seed in range(100, 130):
        chance = random.Random(seed)
        shutil.rmtree(harmed / ".flowbed")
        shutil.copytree(complete / ".flowbed", harmed / ".flowbed")
        file = chance.choice(files_of(harmed, kind))
        file.write_bytes(chance.choice([flip, cut])(bytearray(file.read_bytes()), chance))
        fix_everything(flowbed)
        fix_everything(flowbed)
        assert flowbed("doctor", "--json").json["findings"] == [], seed
        assert flowbed("verify", "--json").json["faults"] == 0, seed
        assert_same(contents_of(harmed), healthy)


def change_ledger(folder: Path, statement: str) -> None:
    """Change the ledger as no command would."""
    with sqlite3.connect(folder / ".flowbed" / "ledger.db") as ledger:
        ledger.execute(statement)
    ledger.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE documents SET id = CAST(x'64ff3438' AS TEXT) WHERE id = 'd48'",
        "UPDATE documents SET etag = CAST(x'64ff3438' AS TEXT) WHERE id = 'd48'",
        "UPDATE chunks SET id = CAST(x'64ff3438' AS TEXT) WHERE document = 'd48'",
        "UPDATE chunks SET document = CAST(x'64ff3438' AS TEXT) WHERE document = 'd48'",
        "UPDATE chunks SET status = 'SUcCESS' WHERE document = 'd48'",
        "UPDATE chunks SET row_hash = 'zz' || substr(row_hash, 3) WHERE document = 'd48'",
        # A flipped bit in the text of the schema.
        "ALTER TABLE documents RENAME COLUMN etag TO etah",
        "ALTER TABLE keys RENAME COLUMN tier TO uier",
    ],
)
def test_ledger_with_a_wrong_value_is_reported_and_fixed(statement: str, harmed: Path, flowbed: Call) -> None:
    """An id that is not UTF-8 ended a run in a traceback, and the doctor found nothing."""
    healthy = contents_of(harmed)
    change_ledger(harmed, statement)
    flowbed("run")
    assert fix_everything(flowbed)
    assert flowbed("doctor", "--json").json["findings"] == []
    assert flowbed("verify", "--json").json["faults"] == 0
    assert_same(contents_of(harmed), healthy)
    assert flowbed("keys", "list", "--json").json["keys"]


def test_salvaged_ledger_keeps_the_damaged_files_together(harmed: Path, flowbed: Call) -> None:
    file = harmed / ".flowbed" / "ledger.db"
    body = bytearray(file.read_bytes())
    body[100:200] = bytes(100)  # the page with the schema
    file.write_bytes(body)
    (finding,) = flowbed("doctor", "--json").json["findings"]
    file.with_name("ledger.db-wal").write_bytes(b"a log that belongs to it")
    carry_out(finding["fix"], flowbed)
    aside = file.with_name("ledger.db.damaged")
    assert {each.name for each in aside.iterdir()} >= {"ledger.db", "ledger.db-wal"}
    assert (aside / "ledger.db").read_bytes() == body


def test_ledger_whose_column_name_is_not_utf8_keeps_its_rows(harmed: Path, flowbed: Call) -> None:
    """The driver decodes the names of columns apart from their values, and raises an error of another kind."""
    file = harmed / ".flowbed" / "ledger.db"
    body = bytearray(file.read_bytes())
    body[body.index(b"name ", body.index(b"CREATE TABLE keys"))] = 0xF2
    file.write_bytes(body)
    (finding,) = flowbed("doctor", "--json").json["findings"]
    assert "the name of a column is not UTF-8" in finding["what"]
    carry_out(finding["fix"], flowbed)
    assert [key["name"] for key in flowbed("keys", "list", "--json").json["keys"]] == ["web"]


def test_doctor_ledger_of_a_newer_flowbed_says_upgrade(harmed: Path, flowbed: Call) -> None:
    """It is healthy: moving it away would lose keys, spending and submissions."""
    change_ledger(harmed, "UPDATE ledger_version SET version_num = '9999'")
    before = (harmed / ".flowbed" / "ledger.db").read_bytes()
    called = flowbed("doctor", "--json")
    (finding,) = called.json["findings"]
    assert (called.status, finding["check"], finding["fix"]) == (
        1,
        "version",
        "pip install --upgrade flowbed",
    )
    assert "made by a newer Flowbed" in finding["what"]
    assert "made by a newer Flowbed" in flowbed("verify", "--repair").err
    assert (harmed / ".flowbed" / "ledger.db").read_bytes() == before


def test_doctor_store_of_a_newer_flowbed_says_upgrade(harmed: Path, flowbed: Call) -> None:
    file = harmed / ".flowbed" / "store" / "flowbed.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    (finding,) = flowbed("doctor", "--json").json["findings"]
    assert (finding["check"], finding["fix"]) == ("version", "pip install --upgrade flowbed")
    assert "made by a newer Flowbed" in flowbed("verify", "--repair").err


def test_doctor_store_path_that_cannot_be_made_leaves_the_ledger_alone(
    harmed: Path, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (harmed / "file").write_text("")
    monkeypatch.setenv("FLOWBED_STORE", "file/store")
    called = flowbed("doctor")
    assert "cannot be created" in called.err
    assert "mv" not in called.out + called.err
    assert "ledger" not in called.out


def test_repair_ledger_setting_that_names_another_file_is_left_alone(
    harmed: Path, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (harmed / "letter.txt").write_text("Dear Sir or Madam, this is no database.\n")
    monkeypatch.setenv("FLOWBED_LEDGER", "letter.txt")
    flowbed("doctor")
    assert "is left alone" in flowbed("verify", "--repair").err
    assert (harmed / "letter.txt").read_text().startswith("Dear")
    assert not list(harmed.glob("letter.txt?*"))


@pytest.mark.parametrize("name", ["x y straße", "a[1]*", "a?b#c", "50%25", "-x it's $HOME"])
def test_project_folder_of_any_name_works(
    name: str, harmed: Path, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses of SQLite and Lance give some of these characters a meaning."""
    folder = harmed.parent / name
    shutil.copytree(harmed, folder)
    healthy = contents_of(harmed)
    for place, options in ((folder, ()), (harmed.parent, ("--config", os.fspath(folder)))):
        monkeypatch.chdir(place)
        assert flowbed("run", "--json", *options).status == 0
        assert flowbed("doctor", "--json", *options).json["findings"] == []
        assert flowbed("verify", "--json", *options).json["faults"] == 0
        assert len(flowbed("search", "tea", "--json", *options).json["hits"]) == 10
        assert flowbed("gc", *options).status == 0
    assert_same(contents_of(folder), healthy)


def test_index_whose_space_nobody_knows_is_dropped_by_a_command(harmed: Path, flowbed: Call) -> None:
    """The ledger that knew it is lost, and so is the pointer to it: no file has to be deleted by hand."""
    healthy = contents_of(harmed)
    for file in (harmed / ".flowbed").glob("ledger.db*"):
        file.unlink()
    (harmed / ".flowbed" / "store" / "r" / "active.json").write_text("{")
    called = flowbed("verify", "--repair")
    assert called.status == 1
    assert "--allow-deletes, which drops the index" in called.out
    assert list((harmed / ".flowbed" / "store" / "r" / "index").iterdir())
    flowbed("verify", "--repair", "--allow-deletes")
    assert flowbed("run").status == 0
    assert flowbed("verify", "--json").json["faults"] == 0
    assert_same(contents_of(harmed), healthy)


def damage_store(store: Path, harm: str) -> None:
    """Make a collection unreadable: its pointer, its rows, or what marks deleted ones."""
    place = {"pointer": "active.json", "rows": "index/*/data/*", "deletions": "index/*/_deletions/*"}[harm]
    files = list(store.glob(place))
    assert files
    for file in files:
        file.write_bytes(b"\xff" * file.stat().st_size)


@pytest.mark.parametrize("harm", ["pointer", "rows", "deletions"])
def test_commands_over_all_collections_go_on_past_one_that_cannot_be_read(
    harm: str, harmed: Path, flowbed: Call
) -> None:
    (harmed / "s.jsonl").write_text('{"id": "s1", "text": "text about tea"}\n')
    settings = harmed / "flowbed.toml"
    settings.write_text(
        f'{settings.read_text()}[publish.all]\nkind = "parquet"\ncollections = ["*"]\n', "utf-8"
    )
    assert flowbed("add", "s", "jsonl", "s.jsonl").status == 0
    assert flowbed("run").status == 0
    damage_store(harmed / ".flowbed" / "store" / "r", harm)
    (harmed / "s.jsonl").write_text('{"id": "s1", "text": "text about coffee"}\n')
    write_records(harmed, 280, "later things")
    report = flowbed("run", "--json")
    assert report.status == 1
    assert "collection r" in [each["subject"] for each in report.json["failures"]]
    assert list(report.json["published"]) == ["all s"]
    assert list(flowbed("status", "--json").json["unreadable"]) == ["r"]
    (hit,) = flowbed("search", "coffee", "-c", "s", "--json").json["hits"]
    assert hit["document"] == "text about coffee"
    for command, done in (("compact", "collections"), ("versions", "versions")):
        called = flowbed(command, "--json")
        assert (called.status, list(called.json[done])) == (1, ["s"])
        assert [each["subject"] for each in called.json["failures"]] == ["collection r"]
    assert "collection r: " in flowbed("compact").out
    collected = flowbed("gc", "--json").json["failures"]  # which reads no rows
    assert [each["subject"] for each in collected] == (["collection r"] if harm == "pointer" else [])
    published = flowbed("publish", "--json")
    assert published.status == 1
    assert [each["collection"] for each in published.json["published"]] == ["s"]
    assert [each["subject"] for each in published.json["failures"]] == ["publication all of r"]
    verified = flowbed("verify", "--json")
    assert (verified.status, verified.json["faults"]) == (1, 1)
    flowbed("verify", "--repair", "--allow-deletes")
    assert flowbed("run").status == 0
    assert flowbed("verify", "--json").json["faults"] == 0
    assert "things" in flowbed("search", "later things", "-c", "r", "--json").json["hits"][0]["document"]


@pytest.mark.parametrize("harm", ["overwrite", "remove", "pointer"])
def test_collection_that_cannot_be_read_stops_no_search_of_others(
    harm: str, harmed: Path, flowbed: Call
) -> None:
    """Searches of everything and `status` name it, and answer from the other collections."""
    (harmed / "s.jsonl").write_text('{"id": "s1", "text": "text about tea"}\n')
    assert flowbed("add", "s", "jsonl", "s.jsonl").status == 0
    assert flowbed("run").status == 0
    store = harmed / ".flowbed" / "store" / "r"
    for file in [store / "active.json"] if harm == "pointer" else list(store.glob("index/*/data/*")):
        if harm == "remove":
            file.unlink()
        else:
            file.write_bytes(b"\xff" * file.stat().st_size)
    found = flowbed("search", "tea", "--json").json
    assert {hit["collection"] for hit in found["hits"]} == {"s"}
    assert list(found["versions"]) == ["s"]
    assert found["warnings"] == [
        "r was not searched, because its index cannot be read; `flowbed doctor` says what to do"
    ]
    state = flowbed("status", "--json")
    assert state.status == 0
    assert "s" in state.json["collections"]
    assert list(state.json["unreadable"]) == ["r"]
    if harm == "overwrite":
        (harmed / "s.jsonl").write_text('{"id": "s1", "text": "text about coffee"}\n')
        assert flowbed("plan", "s").status == 0
        assert flowbed("run", "s", "--json").json["embedded"] == 1
    alone = flowbed("search", "tea", "-c", "r")
    assert alone.status != 0
    assert "Traceback" not in alone.err
    diagnosis = flowbed("doctor", "--json").json["findings"]
    assert [each["subject"] for each in diagnosis if each["severity"] == "error"] == ["r"]
