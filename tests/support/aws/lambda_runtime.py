"""AWS's runtime client for a function that is killed at a point of the data flow, once.

    export KILL_AT=index.merged KILL_MARKS=folder
    python -m tests.support.aws.lambda_runtime flowbed.aws.handlers.embedder.handler

With PROXY, the function sees AWS through the proxy at that address.

Claims of a killed function end after CLAIM_SECONDS: its sandbox is gone, and nobody else can know that it is dead.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

from flowbed import telemetry
from flowbed.lanes import claims
from flowbed.testing.faults import die


def arm(point: str, mark: Path) -> None:
    """Kill this process when it reaches a point, unless an earlier one has been killed there."""

    def reached(at: str, facts: object) -> None:
        if at == point and not mark.exists():
            mark.touch()
            die()

    telemetry.listen(reached)


def shorten_claims(seconds: float) -> None:
    """Set how long claims last, also in modules that a fork finds loaded."""
    usual, claims.CLAIM = claims.CLAIM, int(seconds * 1e6)
    loaded: dict[str, Any] = dict(sys.modules)
    for name, module in loaded.items():
        if name.startswith("flowbed.") and getattr(module, "CLAIM", None) == usual:
            module.CLAIM = claims.CLAIM


def main() -> None:
    """Serve a handler."""
    shorten_claims(float(os.environ.get("CLAIM_SECONDS", "60")))
    if point := os.environ.get("KILL_AT"):
        arm(point, Path(os.environ["KILL_MARKS"]) / f"{sys.argv[1]} {point}")
    if proxy := os.environ.get("PROXY"):  # the emulator names itself to every function
        os.environ["AWS_ENDPOINT_URL"] = proxy
    sys.argv[0] = "awslambdaric"
    runpy.run_module("awslambdaric", run_name="__main__")


if __name__ == "__main__":
    main()
