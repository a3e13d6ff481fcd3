"""`flowbed serve` and the conformance suite, as a user runs both."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from flowbed.testing.conformance import CHECKS

if TYPE_CHECKING:
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


def examine(served: Served) -> dict[str, Any]:
    """Run the suite against a server, and return its report."""
    command = [sys.executable, "-m", "flowbed.testing.conformance", served.url, "--json"]
    command += ["--model", served.model]
    command += ["--key", served.key] if served.key else []
    command += ["--limited-key", served.limited_key] if served.limited_key else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if report["failed"] else 0), done.stderr
    return report


def test_servers_pass_every_check_with_both_clients(seeded: Served, local: Served, upstream: Served) -> None:
    """No check fails, only checks of optional features are skipped, and each check is passed by one server.

    Dimensions and the token counts of OpenAI's models are checked in front of its API, keys and limits elsewhere.
    """
    with ThreadPoolExecutor() as pool:  # a suite waits for batches and limits most of its time
        reports = list(pool.map(examine, (seeded, local, upstream)))
    optional = {check.sentence for check in CHECKS if check.run.__name__ in OPTIONAL}
    for report in reports:
        assert [each for each in report["checks"] if each["verdict"] == "failed"] == []
        assert {each["check"] for each in report["checks"] if each["verdict"] == "skipped"} <= optional
        assert report["passed"] >= 2 * (len(CHECKS) - len(OPTIONAL))
    passed = {each["check"] for report in reports for each in report["checks"] if each["verdict"] == "passed"}
    assert passed == {check.sentence for check in CHECKS}
