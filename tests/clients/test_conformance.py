"""`flowbed serve` and the conformance suite, as a user runs both."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.testing.conformance import CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.conftest import Served

# Optional features of a server; each must be checked with at least one of them.
OPTIONAL = {
    "fewer_dimensions",
    "usage_of_openai",
    "wrong_key",
    "no_key",
    "wrong_key_elsewhere",
    "limited",
    "waited_for",
}


@pytest.fixture(scope="session")
def examined() -> Callable[[Served], dict[str, Any]]:
    """Return the suite's report of a server; each server is checked once."""
    reports: dict[Served, dict[str, Any]] = {}

    def examine(served: Served) -> dict[str, Any]:
        if served not in reports:
            command = [sys.executable, "-m", "flowbed.testing.conformance", served.url, "--json"]
            command += ["--model", served.model]
            command += ["--key", served.key] if served.key else []
            command += ["--limited-key", served.limited_key] if served.limited_key else []
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            reports[served] = json.loads(done.stdout)
            assert done.returncode == (1 if reports[served]["failed"] else 0), done.stderr
        return reports[served]

    return examine


def test_a_server_passes_every_check_with_both_clients(
    served: Served, examined: Callable[[Served], dict[str, Any]]
) -> None:
    """No check fails, and only checks of optional features are skipped."""
    report = examined(served)
    assert [each for each in report["checks"] if each["verdict"] == "failed"] == []
    optional = {check.sentence for check in CHECKS if check.run.__name__ in OPTIONAL}
    assert {each["check"] for each in report["checks"] if each["verdict"] == "skipped"} <= optional
    assert report["passed"] >= 2 * (len(CHECKS) - len(OPTIONAL))


def test_every_check_is_passed_by_one_of_the_servers(
    seeded: Served, local: Served, upstream: Served, examined: Callable[[Served], dict[str, Any]]
) -> None:
    """Dimensions and the token counts of OpenAI's models are checked in front of its API, keys and limits elsewhere."""
    passed = {
        each["check"]
        for served in (seeded, local, upstream)
        for each in examined(served)["checks"]
        if each["verdict"] == "passed"
    }
    assert passed == {check.sentence for check in CHECKS}
