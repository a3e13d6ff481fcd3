"""The official OpenAI SDK for Node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from rs_bpe.bpe import openai as bpe
from tests.clients.conftest import SMALL, Served
from tests.testing.conformance.flaws import Flawed, asking

from flowbed.testing.simulators import Fault, OpenAI, Simulator, running_thread
from flowbed.testing.simulators.providers.openai import Model

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = ["The keys are rotated each month.", "Grüße aus Köln", "すべての書類は金庫にあります。"]
IN_ORDER = {
    "a list has a vector for each of its strings, in order",
    "a text that comes twice has its vector at both places",
    "a list of token arrays has a vector for each, in order",
    "2,048 items are answered in order",
}
BASE64 = {
    "by default the SDK asks for base64, gets it, and hands over numbers",
    "base64 is handed over where it is asked for",
}


@pytest.fixture(scope="session")
def outcomes(in_node: Callable[..., Any]) -> Callable[[Served], Any]:
    """Return the verdicts of the checks in Node."""
    tokens = [list(bpe.cl100k_base().encode(text)) for text in TEXTS]
    return lambda served: in_node("check.mjs", served, tokens=tokens)


def test_node_client_each_server_passes_every_check(
    served: Served, outcomes: Callable[[Served], Any]
) -> None:
    """No check fails, and none is skipped except that of keys on a server without keys."""
    found = outcomes(served)
    assert [each for each in found if each["verdict"] == "failed"] == []
    skipped = [each["check"] for each in found if each["verdict"] == "skipped"]
    assert skipped == ([] if served.key else ["a wrong key is refused"])
    assert len(found) > 20


@pytest.mark.parametrize(
    ("flaw", "wanted"),
    [
        (Fault(kind="wrong_order"), IN_ORDER),
        (Fault(kind="wrong_index"), IN_ORDER),
        (asking(lambda asked: asked.but(encoding_format="float")), BASE64),
    ],
    ids=["wrong order", "wrong index", "floats for base64"],
)
def test_node_client_flawed_server_is_found(
    flaw: Any, wanted: set[str], outcomes: Callable[[Served], Any]
) -> None:
    """The checks find vectors in the wrong place, and floats instead of base64."""
    simulator = Simulator(OpenAI(models={SMALL: Model(dimensions=16)}))
    app: Any = simulator
    if isinstance(flaw, Fault):
        simulator.order(flaw)
    else:
        app = Flawed(simulator, flaw)
    with running_thread(app) as url:
        found = outcomes(Served(url=f"{url}/v1", model=SMALL))
    assert wanted <= {each["check"] for each in found if each["verdict"] == "failed"}
    assert "a string has one vector" in {each["check"] for each in found if each["verdict"] == "passed"}
