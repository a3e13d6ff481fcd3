"""Writes through Chroma's API: Chroma's rules for merging, who may write, and when a write is seen."""

from __future__ import annotations

import asyncio
import base64
import itertools
import signal
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.server.chroma.conftest import DIMENSIONS, VECTORS, Peer
from tests.server.conftest import Running, write_project

from flowbed.bed import aopen
from flowbed.errors import Damaged
from flowbed.records.precomputed import PrecomputedRows
from flowbed.records.serving import Caller

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server.processes import ServerProcess

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
numbered = itertools.count()
ON = '[serve]\nchroma_writes = "{}"\n'

ids = st.sampled_from("abcd")
keys = st.dictionaries(
    st.sampled_from("mno"), st.sampled_from([1, 2.5, "text", True, None]), min_size=1, max_size=3
)
filled = st.dictionaries(
    st.sampled_from("mno"), st.sampled_from([1, 2.5, "text", True]), min_size=1, max_size=3
)
vectors = st.integers(0, len(VECTORS) - 1)


def column(values: st.SearchStrategy[Any], count: int) -> st.SearchStrategy[Any]:
    """Draw a column, or none."""
    return st.none() | st.lists(st.none() | values, min_size=count, max_size=count)


@st.composite
def writes(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Draw a write of some rows, of which some may be one."""
    action = draw(st.sampled_from(["add", "upsert", "update", "delete"]))
    chosen = draw(st.lists(ids, min_size=1, max_size=4))
    if action == "delete":
        where = draw(st.none() | filled.map(lambda keys: dict([next(iter(keys.items()))])))
        return action, {"ids": draw(st.none() | st.just(chosen)), "where": where} if where else {
            "ids": chosen
        }
    vector = vectors.map(lambda place: VECTORS[place].tolist())
    listed = st.lists(vector, min_size=len(chosen), max_size=len(chosen))
    embeddings = draw(column(vector, len(chosen)) if action == "update" else listed)
    body = {
        "ids": chosen,
        "embeddings": embeddings,
        "documents": draw(column(st.sampled_from(["one", "two"]), len(chosen))),
        "metadatas": draw(column(filled if action == "add" else keys, len(chosen))),
    }
    return action, {name: value for name, value in body.items() if value is not None}


def contents(peer: Peer, collection: str) -> dict[str, Any]:
    """Return every row by id, with the vector."""
    status, found = peer.call(
        "POST", f"collections/{collection}/get", {"include": ["documents", "metadatas", "embeddings"]}
    )
    assert status == 200, found
    columns = (found["documents"], found["metadatas"], found["embeddings"])
    return {id_: row for id_, *row in zip(found["ids"], *columns, strict=True)}


def create(peer: Peer, name: str) -> str:
    status, made = peer.call("POST", "collections", {"name": name})
    assert status == 200, made
    id_: str = made["id"]
    return id_


@shared
@given(operations=st.lists(writes(), min_size=1, max_size=5))
def test_writes_in_any_order_leave_the_rows_that_chroma_has(
    flowbed: Peer, chroma: Peer, operations: list[tuple[str, dict[str, Any]]]
) -> None:
    name = f"written-{next(numbered)}"
    ours, theirs = create(flowbed, name), create(chroma, name)
    for action, body in operations:
        status, answer = chroma.call("POST", f"collections/{theirs}/{action}", body)
        found_status, found = flowbed.call("POST", f"collections/{ours}/{action}", body)
        assert found_status == status, (answer, found)
        expected, rows = contents(chroma, theirs), contents(flowbed, ours)
        assert rows.keys() == expected.keys()
        for id_, (text, metadata, vector) in expected.items():
            assert rows[id_][:2] == [text, metadata]
            np.testing.assert_allclose(rows[id_][2], vector, atol=1e-5)
    assert flowbed.call("DELETE", f"collections/{name}") == (200, {})
    assert flowbed.call("GET", f"collections/{name}")[0] == 404


def test_write_base64_vectors_are_read(flowbed: Peer) -> None:
    collection = create(flowbed, "base64")
    text = base64.b64encode(VECTORS[3].astype("<f4").tobytes()).decode()
    body = {"ids": ["a"], "embeddings": [text]}
    assert flowbed.call("POST", f"collections/{collection}/add", body) == (201, {})
    np.testing.assert_allclose(contents(flowbed, collection)["a"][2], VECTORS[3], atol=1e-6)


UNIT = VECTORS[0].tolist()
REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("add", {"ids": ["a"], "embeddings": [[1.0, 2.0]]}, 400, "dimension of 64, got 2"),
    ("add", {"ids": ["a", "b"], "embeddings": [UNIT]}, 400, "Inconsistent number"),
    ("add", {"ids": [""], "embeddings": [UNIT]}, 400, "Empty ID"),
    ("add", {"ids": ["a"]}, 422, "embeddings"),
    ("add", {"ids": ["a"], "embeddings": [["x"]]}, 422, "embeddings"),
    ("add", {"ids": ["a"], "embeddings": ["not base64!"]}, 422, "embeddings"),
    ("add", {"ids": ["a"], "embeddings": [{"a": 1}]}, 422, "embeddings"),
    ("add", {"ids": ["a"], "embeddings": [[1e300] * DIMENSIONS]}, 400, "finite"),
    ("add", {"ids": ["a"], "embeddings": [[0.0] * DIMENSIONS]}, 400, "only zeros"),
    ("add", {"ids": ["a"], "embeddings": [UNIT], "metadatas": [{"l": [1]}]}, 400, "'l'"),
    ("add", {"ids": ["a"], "embeddings": [UNIT], "metadatas": ["x"]}, 422, "metadatas"),
    ("add", {"ids": ["a"], "embeddings": [UNIT], "uris": ["http://x"]}, 400, "no uris"),
    ("update", {"ids": ["a"], "documents": [1]}, 422, "documents"),
    ("delete", {"ids": []}, 400, "Either ids or where"),
    ("delete", {"ids": ["a"], "limit": 1}, 400, "limit can only be"),
    ("delete", {"where": {"a": {"$x": 1}}}, 400, "Invalid where clause"),
]


@pytest.mark.parametrize(
    ("action", "body", "status", "says"), REFUSED, ids=[f"{n}" for n in range(len(REFUSED))]
)
def test_write_that_cannot_be_stored_is_refused_and_writes_nothing(
    flowbed: Peer, action: str, body: dict[str, Any], status: int, says: str
) -> None:
    _, made = flowbed.call("POST", "collections", {"name": "refusing", "get_or_create": True})
    found_status, found = flowbed.call("POST", f"collections/{made['id']}/{action}", body)
    assert found_status == status, found
    assert says in found["message"]
    assert contents(flowbed, made["id"]) == {}


def change_of(peer: Peer, collection: str, body: Any) -> tuple[int, Any]:
    """Change a collection; Chroma's server fails while it still writes the one before."""
    for _ in range(50):
        status, answer = peer.call("PUT", f"collections/{collection}", body)
        if "locked" not in str(answer):
            break
        time.sleep(0.1)
    return status, answer


def test_collection_is_created_described_and_changed_as_chroma_does(flowbed: Peer, chroma: Peer) -> None:
    created = {
        "name": "described",
        "metadata": {"a": 1},
        "configuration": {"hnsw": {"space": "ip", "ef_search": 7}},
    }
    change = {"new_metadata": {"b": 2, "c": None}, "new_configuration": {"hnsw": {"ef_search": 9}}}
    kept = ("name", "metadata", "configuration_json", "tenant", "database")
    answers = []
    for peer in (flowbed, chroma):
        _, first = peer.call("POST", "collections", created)
        assert peer.call("POST", "collections", {"name": "described"})[0] == 409
        status, again = peer.call("POST", "collections", {"name": "described", "get_or_create": True})
        assert (status, again["id"]) == (200, first["id"])
        assert change_of(peer, first["id"], change) == (200, {})
        assert peer.call("PUT", f"collections/{first['id']}", {"new_metadata": {}})[0] == 400
        _, changed = peer.call("GET", "collections/described")
        answers.append([{name: each[name] for name in kept} for each in (first, again, changed)])
    assert answers[0] == answers[1]


def test_collection_distance_is_chosen_as_chroma_chooses_it(flowbed: Peer, chroma: Peer) -> None:
    cases: list[dict[str, Any]] = [
        {},
        {"metadata": {"hnsw:space": "cosine"}},
        {"configuration": {"hnsw": {"space": "cosine"}}},
    ]
    for number, body in enumerate(cases):
        spaces = []
        for peer in (flowbed, chroma):
            _, made = peer.call("POST", "collections", {"name": f"distance-{number}", **body})
            spaces.append(made["configuration_json"]["hnsw"]["space"])
        assert spaces[0] == spaces[1]


@pytest.mark.parametrize("name", ["x", "bad name", "Upper", "jobs", "-dash"])
def test_collection_name_that_cannot_be_a_key_is_refused(flowbed: Peer, name: str) -> None:
    status, answer = flowbed.call("POST", "collections", {"name": name})
    assert (status, answer["error"]) == (400, "InvalidArgumentError")


def served(folder: Path, settings: str) -> tuple[Running, Peer]:
    running = Running(write_project(folder, settings))
    return running, Peer(running.url, {})


def test_write_where_none_is_allowed_is_forbidden(tmp_path: Path) -> None:
    """Writes are off unless a setting allows them; reading with get_or_create still works."""
    running, peer = served(tmp_path / "off", "")
    try:
        running.wait(running.service.bed.run())  # type: ignore[attr-defined] # the whole project
        status, docs = peer.call("POST", "collections", {"name": "docs", "get_or_create": True})
        assert status == 200
        requests = [
            ("POST", "collections", {"name": "new"}),
            ("POST", f"collections/{docs['id']}/add", {"ids": ["a"], "embeddings": [UNIT]}),
            ("POST", f"collections/{docs['id']}/delete", {"ids": ["a"]}),
            ("PUT", f"collections/{docs['id']}", {"new_metadata": {"a": 1}}),
            ("DELETE", "collections/docs", None),
        ]
        for request in requests:
            status, answer = peer.call(*request)
            assert (status, answer["error"]) == (403, "AuthError")
            assert "chroma_writes" in answer["message"]
    finally:
        running.close()


async def test_write_needs_a_key_whose_tier_may_write(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "keyed", ON.format("committed") + "tiers.writers = { write = true }\n")
    async with await aopen(folder) as bed:
        _, reader = await bed.keys().create("reader", secret=bed.secret)
        _, writer = await bed.keys().create("writer", secret=bed.secret, tier="writers")
        _, admin = await bed.keys().create("admin", secret=bed.secret, admin=True)
    running = Running(folder)
    try:
        for secret, status in ((reader, 403), (writer, 200), (admin, 409)):
            headers = {"x-chroma-token": secret}
            path = "/api/v2/tenants/default_tenant/databases/default_database/collections"
            assert running.call("POST", path, {"name": "new"}, headers).status == status
    finally:
        running.close()


async def test_write_of_a_key_for_other_models_changes_no_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that may write, but not use the model of a collection, neither changes, deletes nor creates one."""
    folder = write_project(
        tmp_path / "keyed",
        ON.format("committed") + 'models = ["seeded:64", "seeded:32"]\ntiers.writers = { write = true }\n',
    )
    async with await aopen(folder) as bed:
        _, other = await bed.keys().create("other", secret=bed.secret, tier="writers", models=["seeded:32"])
        _, writer = await bed.keys().create("writer", secret=bed.secret, tier="writers")
    running = Running(folder)
    path = "/api/v2/tenants/default_tenant/databases/default_database/collections"

    def call(secret: str, method: str, below: str = "", body: Any = None) -> tuple[int, Any]:
        answer = running.call(method, f"{path}{below}", body, {"x-chroma-token": secret})
        return answer.status, answer.json

    try:
        status, made = call(writer, "POST", body={"name": "theirs"})
        assert status == 200
        for method, below, body in (
            ("PUT", f"/{made['id']}", {"new_metadata": {"a": 1}}),
            ("DELETE", "/theirs", None),
            ("POST", "", {"name": "mine"}),
            ("POST", f"/{made['id']}/add", {"ids": ["a"], "embeddings": [UNIT]}),
        ):
            status, said = call(other, method, below, body)
            assert (status, "does not have access to model" in str(said)) == (403, True), (method, said)
        assert call(writer, "GET", "/theirs") == (200, made)
        assert call(writer, "GET", "/mine")[0] == 404
        settings = folder / ".flowbed" / "store" / "theirs" / "chroma.json"
        settings.write_bytes(b"{")
        chroma = running.service.chroma
        # As read a moment ago: the damage is met when the change is saved.
        monkeypatch.setattr(chroma.collections, "_monotonic", lambda: 0.0)
        collection = running.wait(chroma.collections.named("theirs"))
        change = chroma.creation.modify(
            Caller(key="", name="root", tier="writers", admin=True),
            collection,
            name=None,
            metadata={"a": 1},
            hnsw=None,
            embedding_function=None,
        )
        with pytest.raises(Damaged, match=r"theirs/chroma\.json cannot be read .*restore it, or remove it"):
            running.wait(change)
    finally:
        running.close()


def test_write_into_a_collection_of_a_source_leaves_its_rows(tmp_path: Path) -> None:
    """Rows of the project's sources cannot be changed or deleted; rows beside them can."""
    running, peer = served(tmp_path / "mixed", ON.format("committed"))
    try:
        running.wait(running.service.bed.run())  # type: ignore[attr-defined]
        _, docs = peer.call("GET", "collections/docs")
        id_ = docs["id"]
        upsert = {"ids": ["docs#d3#00000"], "embeddings": [UNIT], "documents": ["mine"]}
        status, answer = peer.call("POST", f"collections/{id_}/upsert", upsert)
        assert status == 400
        assert "source" in answer["message"]
        status, answer = peer.call("POST", f"collections/{id_}/delete", {"where": {"n": {"$lt": 5}}})
        assert status == 400
        status, answer = peer.call("DELETE", "collections/docs")
        assert status == 400
        assert "flowbed run NAME --allow-deletes" in answer["message"]
        assert "flowbed import" not in answer["message"]
        assert peer.call("POST", f"collections/{id_}/add", {"ids": ["mine"], "embeddings": [UNIT]})[0] == 201
        assert peer.call("GET", f"collections/{id_}/count") == (200, 21)
        assert contents(peer, id_)["docs#d3#00000"][0] == "sentence 3"
        running.wait(running.service.bed.run())  # type: ignore[attr-defined]
        assert peer.call("GET", f"collections/{id_}/count") == (200, 21)
    finally:
        running.close()


def test_delete_of_an_imported_collection_says_how_its_rows_are_deleted(tmp_path: Path) -> None:
    """It has no source that could be removed."""
    running, peer = served(tmp_path / "imported", ON.format("committed"))
    try:
        rows = PrecomputedRows(ids=["a", "b"], vectors=[UNIT, UNIT])
        running.wait(asyncio.wait_for(running.service.bed.write_rows("taken", rows), 30))
        status, answer = peer.call("DELETE", "collections/taken")
        assert status == 400
        assert "delete the rows that came with their vectors (`flowbed import`" in answer["message"]
        _, taken = peer.call("GET", "collections/taken")
        assert peer.call("POST", f"collections/{taken['id']}/delete", {"ids": ["a", "b"]})[0] == 200
        assert peer.call("GET", f"collections/{taken['id']}/count") == (200, 0)
    finally:
        running.close()


def test_write_durable_is_kept_when_answered_and_seen_by_the_next_write(tmp_path: Path) -> None:
    """The next write merges with it, whether it was committed or not; all are committed when the server has closed."""
    running, peer = served(tmp_path / "durable", ON.format("durable"))
    try:
        collection = create(peer, "notes")
        for number in range(3):
            body = {"ids": ["a"], "embeddings": [UNIT], "metadatas": [{f"k{number}": number}]}
            assert peer.call("POST", f"collections/{collection}/upsert", body) == (200, {})
        assert (
            peer.call("POST", f"collections/{collection}/update", {"ids": ["a"], "documents": ["x"]})[0]
            == 200
        )
    finally:
        running.close()
    again, peer = served(tmp_path / "durable", ON.format("durable"))
    try:
        assert contents(peer, collection)["a"][:2] == ["x", {"k0": 0, "k1": 1, "k2": 2}]
    finally:
        again.close()


def test_write_durable_outlives_a_server_killed_after_its_answer(
    tmp_path: Path, serve: Callable[..., ServerProcess]
) -> None:
    """The next run commits it."""
    folder = write_project(tmp_path / "killed", ON.format("durable"))
    process = serve(folder)
    peer = Peer(process.url, {})
    collection = create(peer, "notes")
    added = {"ids": ["a", "b"], "embeddings": VECTORS[:2].tolist(), "documents": ["one", "two"]}
    assert peer.call("POST", f"collections/{collection}/add", added) == (201, {})
    process.end(signal.SIGKILL)
    running, peer = served(folder, ON.format("durable"))
    try:
        running.wait(running.service.bed.run())  # type: ignore[attr-defined] # the whole project
        assert {id_: row[0] for id_, row in contents(peer, collection).items()} == {"a": "one", "b": "two"}
    finally:
        running.close()
