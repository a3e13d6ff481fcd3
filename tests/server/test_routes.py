"""Models, search, health, administration and metrics, over providers that fail on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest
from tests.server.conftest import MODEL, Running, write_project

from flowbed.testing.simulators import Cohere, Fault, OpenAI, Simulator, running_thread
from flowbed.testing.simulators.reranking import relevance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


SMALL = "text-embedding-3-small"


@pytest.fixture
def simulator() -> Simulator:
    return Simulator(OpenAI())


@pytest.fixture
def remote(simulator: Simulator, tmp_path: Path) -> Iterator[Running]:
    """Run a server over a simulated provider and a fallback of another model."""
    with running_thread(simulator) as url:
        settings = (
            f'vector_cache_mb = 0\n[providers.openai]\napi_key = "sk-test"\nbase_url = "{url}/v1"\n'
            f'[serve]\nmodels = ["openai:{SMALL}"]\naliases = {{ small = "{SMALL}" }}\ncrossing = true\n'
            f'fallback = {{ "{SMALL}" = ["seeded:64"] }}\n'
        )
        running = Running(write_project(tmp_path / "project", settings))
        yield running
        running.close()


def ask(running: Running, text: str, **headers: str) -> Any:
    """Request one vector."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return running.call("POST", "/v1/embeddings", {"model": "small", "input": text}, sent)


def metric(running: Running, line: str) -> float:
    """Read one value of the metrics."""
    for each in running.call("GET", "/metrics").body.decode().splitlines():
        if each.startswith(f"{line} "):
            return float(each.rpartition(" ")[2])
    raise AssertionError(f"{line} is not counted")


def test_list_models_includes_aliases_with_their_root(remote: Running) -> None:
    listed = remote.call("GET", "/v1/models").json
    assert listed["object"] == "list"
    assert {each["id"]: each["root"] for each in listed["data"]} == {SMALL: SMALL, "small": SMALL}
    assert {each["owned_by"] for each in listed["data"]} == {"openai"}
    alias = remote.call("GET", "/v1/models/small").json
    assert alias in listed["data"]
    assert alias["dimensions"] == 1536


def test_embeddings_failing_provider_gives_503_with_retry_after(
    remote: Running, simulator: Simulator
) -> None:
    """Once its breaker is open, at once."""
    simulator.order(Fault(kind="error", status=500))
    for n in range(8):
        reply = ask(remote, f"text {n}")
        assert (reply.status, reply.refused()["code"]) == (503, "service_unavailable")
        assert reply.headers["retry-after"]
    before = (
        len(simulator.script.faults),
        metric(remote, 'flowbed_breaker_state{name="openai:text-embedding-3-small"}'),
    )
    assert before == (1, 2.0)
    reply = ask(remote, "text")
    assert (reply.status, reply.refused()["code"]) == (503, "provider_unavailable")
    assert 0 < int(reply.headers["retry-after"]) <= 15
    assert metric(remote, 'flowbed_breaker_opened_total{name="openai:text-embedding-3-small"}') == 1


def test_admin_breakers_are_shown_and_reset(remote: Running, simulator: Simulator) -> None:
    name = f"openai:{SMALL}"
    simulator.order(Fault(kind="error", status=503))
    for n in range(8):
        ask(remote, f"text {n}")
    states = {
        each["name"]: each["state"] for each in remote.call("GET", "/v1/admin/breakers").json["breakers"]
    }
    assert states[name] == "open"
    (provider,) = remote.call("GET", "/v1/admin/providers").json["providers"]
    assert (provider["name"], provider["model"], provider["state"]) == (name, SMALL, "open")
    assert provider["remote"]
    assert provider["usd_per_million_tokens"] == 0.02
    simulator.order()
    assert ask(remote, "text").status == 503
    reset = remote.call("POST", "/v1/admin/breakers/reset", {"name": name})
    assert reset.json["breakers"] == [{"name": name, "state": "closed", "opened": 1}]
    assert ask(remote, "text").status == 200
    unknown = remote.call("POST", "/v1/admin/breakers/reset", {"name": "nobody"})
    assert unknown.status == 404
    unknown.refused()


def test_ready_only_model_fails_gives_503_with_the_reason(remote: Running, simulator: Simulator) -> None:
    """/health/live still answers."""
    simulator.order(Fault(kind="error", status=500))
    reply = remote.call("GET", "/health/ready")
    assert reply.status == 503
    checks = {each["name"]: each for each in reply.json["checks"]}
    assert reply.json["status"] == checks[SMALL]["state"] == "unhealthy"
    assert checks[SMALL]["reason"]
    assert checks["ledger"]["state"] == "ok"
    assert remote.call("GET", "/health/live").json == {"status": "ok"}


def test_ready_lists_every_dependency_with_its_time(server: Running) -> None:
    reply = server.call("GET", "/health/ready")
    assert reply.status == 200
    assert reply.json["status"] == "ok"
    assert [each["name"] for each in reply.json["checks"]] == [MODEL, "ledger"]
    assert all(each["seconds"] >= 0 and each["reason"] == "" for each in reply.json["checks"])


def test_fallback_of_another_space_answers_only_requests_that_allow_it(
    remote: Running, simulator: Simulator
) -> None:
    """The response names who answered."""
    own = ask(remote, "before")
    assert own.headers["x-flowbed-provider"] == "openai"
    simulator.order(Fault(kind="error", status=500))
    assert ask(remote, "text").status == 503
    other = ask(remote, "text", x_flowbed_allow_crossing="1")
    assert other.status == 200
    assert other.json["model"] == MODEL
    assert other.headers["x-flowbed-provider"] == "seeded"
    assert other.headers["x-flowbed-space"] != own.headers["x-flowbed-space"]
    assert len(other.json["data"][0]["embedding"]) == 64


def test_sdk_retries_a_short_failure(remote: Running, simulator: Simulator) -> None:
    simulator.order(Fault(kind="error", status=500, calls=(1,)))
    with openai.OpenAI(base_url=f"{remote.url}/v1", api_key="none", max_retries=2) as client:
        assert len(client.embeddings.create(model="small", input="text").data) == 1


def test_embeddings_provider_refuses_the_key_gives_500_without_retry(
    remote: Running, simulator: Simulator
) -> None:
    """The operator is told the reason."""
    simulator.order(Fault(kind="error", status=401))
    reply = ask(remote, "text")
    assert (reply.status, reply.refused()["code"]) == (500, "misconfigured")
    assert reply.headers["x-should-retry"] == "false"
    assert "sk-test" not in reply.body.decode()


def test_admin_cache_is_shown_cleared_and_warmed(remote: Running, simulator: Simulator) -> None:
    for text in ("often", "often", "once"):
        ask(remote, text)
    memory, *_ = remote.call("GET", "/v1/admin/cache").json["tiers"]
    assert (memory["model"], memory["hits"], memory["vectors"]) == (SMALL, 1, 2)
    assert remote.call("DELETE", "/v1/admin/cache").json == {"cleared": True}
    assert remote.call("GET", "/v1/admin/cache").json["tiers"][0]["vectors"] == 0
    assert remote.call("POST", "/v1/admin/cache/warm", {"model": "small", "most": 1}).json == {"warmed": 1}
    simulator.order(Fault(kind="error", status=500))
    assert ask(remote, "often").status == 200
    assert ask(remote, "once").status == 503
    assert remote.call("POST", "/v1/admin/cache/warm", {"model": "nobody"}).status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/admin/cache"),
        ("DELETE", "/v1/admin/cache"),
        ("POST", "/v1/admin/cache/warm"),
        ("GET", "/v1/admin/breakers"),
        ("POST", "/v1/admin/breakers/reset"),
        ("GET", "/v1/admin/providers"),
    ],
)
def test_admin_without_the_scope_is_forbidden(remote: Running, method: str, path: str) -> None:
    def key(*, admin: bool) -> dict[str, str]:
        _, secret = remote.wait(
            remote.service.keys.create("a key", secret=remote.service.bed.secret, admin=admin)
        )
        return {"authorization": f"Bearer {secret}"}

    refused = remote.call(method, path, headers=key(admin=False))
    assert refused.status == 403
    assert refused.refused()["code"] == "permission_denied"
    assert remote.call(method, path, headers=key(admin=True)).status in {200, 400}
    assert remote.call(method, path).status == 401


def test_metrics_count_requests_inputs_tokens_and_cost(remote: Running, simulator: Simulator) -> None:
    """No label's values are chosen by callers."""
    for _ in range(2):
        ask(remote, "two words")
    remote.call("GET", "/nowhere/1")
    remote.call("GET", "/nowhere/2")
    remote.call("BREW", "/v1/embeddings")
    remote.call("POST", "/v1/embeddings", {"model": "mine", "input": "text"})
    route = 'route="/v1/embeddings"'
    of_model = f'model="{SMALL}",provider="openai"'
    assert metric(remote, f'flowbed_http_requests_total{{method="POST",{route},status="200"}}') == 2
    assert metric(remote, 'flowbed_http_requests_total{method="GET",route="unmatched",status="404"}') == 2
    assert metric(remote, f'flowbed_http_requests_total{{method="other",{route},status="405"}}') == 1
    assert metric(remote, f"flowbed_http_request_seconds_count{{{route}}}") == 4
    assert metric(remote, f'flowbed_embedding_inputs_total{{{of_model},source="cache"}}') == 1
    assert metric(remote, f'flowbed_embedding_inputs_total{{{of_model},source="provider"}}') == 1
    assert metric(remote, f"flowbed_embedding_tokens_total{{{of_model}}}") == 4
    assert (
        metric(remote, f'flowbed_cache_lookups_total{{model="{SMALL}",result="hit",tier="VectorMemory"}}')
        == 1
    )
    assert metric(remote, f'flowbed_provider_tokens_total{{model="{SMALL}"}}') == 2
    assert metric(remote, f'flowbed_cost_usd_total{{model="{SMALL}"}}') == pytest.approx(2 * 0.02 / 1e6)
    remote.call("GET", "/v1/admin/cache")
    remote.call("GET", "/v1/models/mine/too")
    routes = {"/v1/admin/cache": 200, "/v1/models/{model:path}": 404}
    for route, status in routes.items():
        line = f'flowbed_http_requests_total{{method="GET",route="{route}",status="{status}"}}'
        assert metric(remote, line) == 1
    body = remote.call("GET", "/metrics").body.decode()
    assert "mine" not in body
    assert "nowhere" not in body


def test_search_reranked_orders_hits_by_the_providers_scores(tmp_path: Path) -> None:
    """A provider that is down leaves them as they are, with a warning; without a reranker the setting is named."""
    simulator = Simulator(Cohere())
    with running_thread(simulator) as url:
        settings = (
            f'reranker = "cohere:rerank-v3.5"\n[providers.cohere]\nbase_url = "{url}"\napi_key = "sk-test"\n'
        )
        running = Running(write_project(tmp_path / "project", settings))
        bed: Any = running.service.bed
        running.wait(bed.run())
        query = "a sentence with the number 7"
        body = {"query": query, "limit": 3, "rerank": True}
        found = running.call("POST", "/v1/search", body).json
        best = found["hits"][0]
        assert best["id"] == "docs#d7#00000"
        assert best["score"] == best["scores"]["rerank"] == relevance(query, "sentence 7")
        assert found["warnings"] == []
        simulator.order(Fault(kind="gateway", status=503))
        plain = running.call("POST", "/v1/search", {**body, "rerank": False}).json
        failed = running.call("POST", "/v1/search", body).json
        assert [hit["id"] for hit in failed["hits"]] == [hit["id"] for hit in plain["hits"]]
        assert failed["warnings"][0].startswith("not reranked: ")
        running.close()


def test_search_reranked_without_a_reranker_names_the_setting(server: Running) -> None:
    bed: Any = server.service.bed
    server.wait(bed.run())
    reply = server.call("POST", "/v1/search", {"query": "sentence 7", "rerank": True})
    assert 'reranker = "cohere:rerank-v3.5"' in reply.refused()["message"]


def test_search_by_text_or_vector_finds_indexed_documents(server: Running) -> None:
    bed: Any = server.service.bed
    server.wait(bed.run())
    found = server.call("POST", "/v1/search", {"query": "sentence 7", "limit": 3}).json
    assert found["hits"][0]["id"] == "docs#d7#00000"
    shape = {"id", "score", "document", "metadata", "collection", "scores", "matched", "highlights"}
    assert set(found["hits"][0]) == shape
    assert found["hits"][0]["score"] == pytest.approx(1)
    assert list(found["versions"]) == ["docs"]
    filtered = server.call(
        "POST",
        "/v1/search",
        {"query": "sentence 7", "where": {"n": {"$lt": 3}}, "collection": "docs", "unit": "document"},
    ).json
    assert {each["metadata"]["n"] for each in filtered["hits"]} == {0, 1, 2}
    nothing = server.call("POST", "/v1/search", {"query": "sentence 7", "where": {"nn": 3}}).json
    assert nothing["hits"] == []
    assert nothing["warnings"][0].startswith("no row has the metadata key 'nn'")
    vector = server.call(
        "POST", "/v1/embeddings", {"model": MODEL, "input": "sentence 7", "encoding_format": "float"}
    )
    by_vector = server.call(
        "POST", "/v1/search", {"query": vector.json["data"][0]["embedding"], "limit": 3}
    ).json
    assert by_vector["hits"][0]["id"] == found["hits"][0]["id"]


def test_search_by_words_or_both_says_where_they_are(server: Running) -> None:
    """A query of words embeds nothing; a vector may bring the words of a hybrid search."""
    bed: Any = server.service.bed
    server.wait(bed.run())
    by_text = server.call("POST", "/v1/search", {"query": "SENTENCES 7", "mode": "text", "limit": 2}).json
    first = by_text["hits"][0]
    assert (first["id"], first["matched"]) == ("docs#d7#00000", ["SENTENCES", "7"])
    places = [first["document"][each["start"] : each["end"]] for each in first["highlights"]]
    assert places == ["sentence", "7"]
    hybrid = server.call("POST", "/v1/search", {"query": "sentence 7", "mode": "hybrid", "limit": 2}).json
    assert hybrid["hits"][0]["id"] == "docs#d7#00000"
    assert set(hybrid["hits"][0]["scores"]) == {"vector", "text"}
    vector = [1.0, *[0.0] * (len_of_vector(server) - 1)]
    words = {"query": vector, "text": "sentence 7", "mode": "hybrid"}
    assert ["sentence", "7"] in [
        each["matched"] for each in server.call("POST", "/v1/search", words).json["hits"]
    ]
    without = server.call("POST", "/v1/search", {"query": vector, "mode": "hybrid"})
    assert "looks for the words of a text" in without.refused()["message"]


def test_search_pages_times_and_likeness_over_http(server: Running) -> None:
    """A page goes on after the one before; a row stands in for a query; times narrow."""
    bed: Any = server.service.bed
    server.wait(bed.run())
    asked = {"query": "sentence 7", "limit": 3, "mode": "hybrid"}
    first = server.call("POST", "/v1/search", asked).json
    second = server.call("POST", "/v1/search", {**asked, "cursor": first["next"]}).json
    ids = [hit["id"] for page in (first, second) for hit in page["hits"]]
    assert len(ids) == len(set(ids)) == 6
    refused = server.call("POST", "/v1/search", {**asked, "cursor": "x"})
    assert (refused.status, "the cursor is damaged" in refused.refused()["message"]) == (400, True)
    like = server.call("POST", "/v1/search", {"like": ids[0], "order": "newest", "limit": 100}).json
    assert ids[0] not in {hit["id"] for hit in like["hits"]}
    assert like["hits"]
    assert server.call("POST", "/v1/search", {"query": "sentence 7", "since": "1d"}).json["hits"] == []
    assert server.call("POST", "/v1/search", {"query": "sentence 7", "before": "1d"}).json["hits"] == []
    chosen = {"query": "sentence 7", "unit": "document", "where": {"$id": {"$in": ids[:2]}}}
    assert {hit["id"] for hit in server.call("POST", "/v1/search", chosen).json["hits"]} == set(ids[:2])
    assert server.call("POST", "/v1/search", {"like": ids[0], "query": "a"}).status == 400
    assert server.call("POST", "/v1/search", {"like": "nobody"}).status == 404


def test_fields_of_a_collection_over_http(server: Running) -> None:
    bed: Any = server.service.bed
    server.wait(bed.run())
    found = server.call("GET", "/v1/collections/docs/fields?values=2").json
    assert found["rows"] == found["read"] > 0
    named = {each["name"]: each for each in found["fields"]}
    assert named["source"]["values"] == [{"value": "docs", "rows": found["rows"]}]
    assert (named["n"]["types"], len(named["n"]["values"])) == ({"number": found["rows"]}, 2)
    narrowed = server.call("GET", '/v1/collections/docs/fields?where={"n":{"$lt":3}}').json
    assert narrowed["rows"] == 3
    for path, status in (
        ("/v1/collections/nobody/fields", 404),
        ("/v1/collections/..docs/fields", 404),
        ("/v1/collections/docs/fields?values=0", 400),
        ("/v1/collections/docs/fields?where={", 400),
        ("/v1/collections/docs/fields?where=[1]", 400),
    ):
        assert server.call("GET", path).status == status, path


def len_of_vector(server: Running) -> int:
    """Return the dimensions of the served model."""
    reply = server.call("POST", "/v1/embeddings", {"model": MODEL, "input": "a", "encoding_format": "float"})
    return len(reply.json["data"][0]["embedding"])


@pytest.mark.parametrize(
    ("requested", "status", "param"),
    [
        ({}, 400, "query"),
        ({"query": ""}, 400, "query"),
        ({"query": [1.0, 2.0]}, 400, None),
        ({"query": "a", "limit": 0}, 400, "limit"),
        ({"query": "a", "limit": 10_001}, 400, "limit"),
        ({"query": "a", "where": {"$no": 1}}, 400, None),
        ({"query": "a", "where": {"$or": [{f"k{n}": n} for n in range(3_000)]}}, 400, None),
        ({"query": "a", "unit": "page"}, 400, "unit"),
        ({"query": "a", "mode": "words"}, 400, "mode"),
        ({"query": "a", "at": 1}, 400, None),
        ({"query": "a", "collection": "nobody"}, 404, None),
        ({"query": "a", "collection": "../docs"}, 404, None),
        ({"query": "a", "collection": "docs/../docs"}, 404, None),
        ({"query": "a", "nonsense": 1}, 400, "nonsense"),
    ],
)
def test_search_invalid_field_is_refused_by_name(
    server: Running, requested: dict[str, Any], status: int, param: str | None
) -> None:
    bed: Any = server.service.bed
    server.wait(bed.run())
    reply = server.call("POST", "/v1/search", requested)
    assert reply.status == status
    assert reply.refused()["param"] == param
