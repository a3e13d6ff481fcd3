"""Requests with parameters in their path reach the route that FastAPI would find, without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.server.chroma.conftest import DATABASE

from flowbed.server.api.embeddings import DirectRoutes
from flowbed.server.app import ROUTES

if TYPE_CHECKING:
    from tests.server.chroma.conftest import Peer

    from flowbed.services.service import Service

COLLECTIONS = f"/api/v2{DATABASE}/collections"
CASES = [
    ("POST", f"{COLLECTIONS}/some-id/query", {"id": "some-id"}),
    ("GET", f"{COLLECTIONS}/some-id/count", {"id": "some-id"}),
    ("POST", COLLECTIONS, {}),
    ("GET", f"{COLLECTIONS}/count", None),  # a collection of this name
    ("GET", f"{COLLECTIONS}/by-id/some-id", None),
    ("GET", f"{COLLECTIONS}/a/b/count", None),
    ("DELETE", f"{COLLECTIONS}/some-id/query", None),
    ("POST", "/v1/embeddings", {}),
    ("POST", "/v1/embeddings/", None),
]


@pytest.mark.parametrize(
    ("method", "path", "parameters"), CASES, ids=[f"{each[0]} {each[1]}" for each in CASES]
)
async def test_direct_route_of_a_path_has_its_parameters(
    service: Service, method: str, path: str, parameters: dict[str, str] | None
) -> None:
    routes = DirectRoutes([route for make in ROUTES for route in make(service).routes])
    found = routes.find(method, path)
    if parameters is None:
        assert found is None
    else:
        assert found is not None
        names = {"tenant": "default_tenant", "database": "default_database"} if "tenants" in path else {}
        assert found[1] == {**names, **parameters}


def test_collection_named_like_an_action_is_described(flowbed: Peer) -> None:
    for name in ("count", "query"):
        status, made = flowbed.call("POST", "collections", {"name": name})
        assert status == 200
        assert flowbed.call("GET", f"collections/{name}")[1]["id"] == made["id"]
        assert flowbed.call("GET", f"collections/{made['id']}/count") == (200, 0)


def test_metrics_name_the_route_and_not_the_collection(flowbed: Peer) -> None:
    """Labels that callers can choose would grow without bound."""
    flowbed.about("cosine", "GET", "count")
    text = flowbed.text("/metrics")
    assert "/collections/{id}/count" in text
    assert flowbed.collections["cosine"] not in text
