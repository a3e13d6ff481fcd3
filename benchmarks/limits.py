"""How much of a provider's rate limit is used, and how often it is exceeded, with more work than it allows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.servers.redis import RedisServer

from benchmarks.process import Side
from benchmarks.results import Figure, table
from flowbed.testing.simulators.limits import Limits
from flowbed.testing.simulators.serving.process import SimulatorProcess
from flowbed.testing.simulators.vendors import VENDORS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.results import Options

SECONDS = 60.0
CALLERS = 32  # in all processes together


@dataclass(frozen=True, kw_only=True)
class Case:
    """One situation; `rates` are per minute, `burst` is what the provider allows at once, in seconds."""

    what: str
    rates: Mapping[str, int]
    vendor: str = "openai"
    burst: float = 60.0
    processes: int = 1
    texts: int = 16  # the most in a call
    words: int = 200  # the most in a text
    limited: bool = True


MILLION = {"tokens": 1_000_000}
CASES = {
    "tokens": Case(what="tokens, one process", rates=MILLION),
    "second": Case(what="tokens, held to a second's share", rates=MILLION, burst=1.0, texts=4),
    "shared": Case(what="tokens, three processes through Redis", rates=MILLION, processes=3),
    "guessed": Case(what="tokens, counted by guess (Voyage)", rates=MILLION, vendor="voyage"),
    "requests": Case(what="requests", rates={"requests": 3_000}, texts=1),
    "inputs": Case(what="inputs (Cohere)", rates={"inputs": 2_000}, vendor="cohere", texts=8),
    "unlimited": Case(what="tokens, without keeping to limits", rates=MILLION, limited=False),
}
UNLIMITED = "unlimited"


def measure(options: Options) -> dict[str, Any]:
    """Measure each case in turn."""
    seconds = SECONDS * options.scale
    return {
        "seconds": seconds,
        "callers": CALLERS,
        "cases": {name: _case(case, seconds) for name, case in CASES.items()},
    }


def figures(found: dict[str, Any]) -> list[Figure]:
    """Return the worst of all cases that obey limits."""
    kept = [case for name, case in found["cases"].items() if name != UNLIMITED]
    return [
        Figure(
            what="Share of a provider's rate limit used (the worst of six cases)",
            value=100 * min(case["used"] for case in kept),
            target=95,
            form="{:.1f} %",
        ),
        Figure(
            what="Share of answers with 429 (the worst of six cases)",
            value=100 * max(case["refused"] for case in kept),
            target=1,
            at_most=True,
            form="{:.2f} %",
        ),
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    lines: list[list[object]] = [
        [
            CASES[name].what,
            _shown(CASES[name].rates),
            f"{case['answers']:,}",
            f"{100 * case['used']:.1f} %",
            f"{100 * case['refused']:.2f} %",
        ]
        for name, case in found["cases"].items()
        if name in CASES
    ]
    return f"""## Rate limits

A simulator in another process enforces a limit per minute; {found["callers"]} callers with more to embed than it allows
send requests for {found["seconds"]:.0f} s. *Used* is what the simulator answered, as a share of what the limit allows
in that time; an idle key has half a second more. Without rate limiting, callers wait as long as each refusal says; the
simulator lets an idle key send a minute's worth at once, which is the use above 100 %.

{table(["limit", "per minute", "answers", "used", "429"], lines)}
"""


def _case(case: Case, seconds: float) -> dict[str, Any]:
    with ExitStack() as stack:
        limits = Limits(**case.rates, burst=case.burst)
        simulator = stack.enter_context(SimulatorProcess(case.vendor, limits=limits))
        redis = stack.enter_context(RedisServer()).url if case.processes > 1 else ""
        sides = [stack.enter_context(Side("limited")) for _ in range(case.processes)]
        for side in sides:
            side.ask("ready")  # so that all start at once
        vendor = VENDORS[case.vendor]
        arguments = {
            "model": vendor.model,
            "options": vendor.options(simulator.url),
            "rates": dict(case.rates),
            "redis": redis,
            "seconds": seconds,
            "callers": CALLERS // case.processes,
            "texts": case.texts,
            "words": case.words,
            "limited": case.limited,
        }
        with ThreadPoolExecutor(case.processes) as threads:
            asking = [
                threads.submit(side.ask, "drive", **arguments, seed=place) for place, side in enumerate(sides)
            ]
            outcomes = [each.result() for each in asking]
        totals = simulator.totals()
    answered = totals.statuses.get(200, 0)
    refused = totals.statuses.get(429, 0)
    done = {
        "tokens": totals.billed,
        "requests": answered,
        "inputs": sum(each.get("texts", 0) for each in outcomes),
    }
    (unit,) = case.rates
    return {
        "used": done[unit] / (case.rates[unit] * seconds / 60),
        "refused": refused / max(1, answered + refused),
        "answers": answered,
        "outcomes": outcomes,
    }


def _shown(rates: Mapping[str, int]) -> str:
    return ", ".join(f"{limit:,} {unit}" for unit, limit in rates.items())
