"""Check the server at an address: prints a line for each check.

Exit status: 0 all checks passed or were skipped, 1 a check failed, 2 no such server or no such model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from dataclasses import asdict
from urllib.parse import urlsplit

from flowbed.errors import Misconfigured

try:
    from flowbed.testing.conformance import CHECKS, GROUPS, Outcome, Report, Target, examine
except ImportError as error:  # the SDK is an extra
    sys.stderr.write(f"{error}: pip install 'flowbed[testing]'\n")
    raise SystemExit(2) from error


def main() -> int:
    """Check the server that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m flowbed.testing.conformance",
        description="Test an OpenAI-compatible server with the official SDK: embeddings, files and batches.",
    )
    parser.add_argument("url", metavar="URL", help="its base address, such as http://127.0.0.1:8080/v1")
    parser.add_argument("--key", default="", help="a key that the server knows")
    parser.add_argument("--model", default="", help="the model to request; by default the first listed one")
    parser.add_argument(
        "--limited-key", default="", help="a key limited to a hundred requests a minute or fewer"
    )
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for an answer")
    parser.add_argument(
        "--batch-timeout", type=float, default=600.0, help="seconds to wait for a batch to end"
    )
    parser.add_argument(
        "--only",
        choices=GROUPS,
        action="append",
        metavar="GROUP",
        help=f"test only this group: {', '.join(GROUPS)}; can be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    asked = parser.parse_args()
    target = Target(
        url=_base(asked.url),
        key=asked.key,
        model=asked.model,
        limited_key=asked.limited_key,
        timeout=asked.timeout,
        batch_timeout=asked.batch_timeout,
    )
    checks = [check for check in CHECKS if not asked.only or check.group in asked.only]
    try:
        report = asyncio.run(examine(target, checks=checks, told=(lambda _: None) if asked.json else _tell))
    except Misconfigured as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{_json(report) if asked.json else _summary(report)}\n")
    return 0 if report.conforms else 1


def _base(url: str) -> str:
    """Append /v1 to an address without a path."""
    return url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1"


def _tell(outcome: Outcome) -> None:
    because = f": {outcome.reason}" if outcome.reason else ""
    sys.stdout.write(f"{outcome.verdict:<7}  {outcome.client:<5}  {outcome.check}{because}\n")
    sys.stdout.flush()


def _summary(report: Report) -> str:
    counted = Counter(outcome.verdict for outcome in report.outcomes)
    counts = ", ".join(f"{counted[verdict]} {verdict}" for verdict in ("passed", "failed", "skipped"))
    absent = [f"absent   {group}: {why}" for group, why in report.absent.items()]
    left_out = f"; not offered: {', '.join(report.absent)}" if absent else ""
    return "\n".join([*absent, f"{report.url}, {report.model}: {counts}{left_out}"])


def _json(report: Report) -> str:
    counts = {verdict: report.count(verdict) for verdict in ("passed", "failed", "skipped")}
    fields = {"url": report.url, "model": report.model, **counts, "absent": dict(report.absent)}
    return json.dumps(
        {**fields, "checks": [asdict(outcome) for outcome in report.outcomes]}, ensure_ascii=False
    )


if __name__ == "__main__":
    sys.exit(main())
