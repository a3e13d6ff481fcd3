"""Vector stores through the official OpenAI SDK for Node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.conftest import Served


def test_node_vector_stores_pass_every_check(seeded: Served, in_node: Callable[..., Any]) -> None:
    """No check of stores, files, batches or searches fails."""
    found = in_node("stores.mjs", seeded)
    assert [each for each in found if each["verdict"] != "passed"] == []
    assert len(found) == 3
