"""The control endpoints of a simulator, beside the vendor's own paths."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Misconfigured
from flowbed.testing.simulators.faults import read_faults
from flowbed.testing.simulators.wire import as_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.testing.simulators.simulator import Simulator
    from flowbed.testing.simulators.wire import Answer, Request

CONTROL = "/_simulator/"


def control(simulator: Simulator, request: Request) -> Answer:
    """Order faults, advance the clock, report or reset the account."""
    does = DOES.get((request.method, request.path.removeprefix(CONTROL)))
    if does is None:
        return as_json(404, {"error": f"a simulator has no {request.method} {request.path}"})
    return does(simulator, request)


def _faults(simulator: Simulator, _: Request) -> Answer:
    return as_json(200, {"faults": [asdict(fault) for fault in simulator.script.faults]})


def _requests(simulator: Simulator, _: Request) -> Answer:
    account = simulator.account
    requests = [asdict(exchange) for exchange in account.exchanges]
    return as_json(200, {"totals": asdict(account.totals()), "requests": requests})


def _forget(simulator: Simulator, _: Request) -> Answer:
    simulator.account.forget()
    return as_json(200, {})


def _billed_again(simulator: Simulator, _: Request) -> Answer:
    return as_json(200, simulator.account.billed_again)


def _order(simulator: Simulator, request: Request) -> Answer:
    try:
        payload: Any = orjson.loads(request.body)
        simulator.order(*read_faults(payload["faults"]), seed=int(payload.get("seed", 0)))
    except (Misconfigured, KeyError, TypeError, ValueError) as error:
        return as_json(400, {"error": f'wanted {{"faults": [...], "seed": 0}}: {error}'})
    return as_json(200, {"faults": len(simulator.script.faults)})


def _advance(simulator: Simulator, request: Request) -> Answer:
    try:
        simulator.advance(float(orjson.loads(request.body)["seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        return as_json(400, {"error": f'wanted {{"seconds": 3600}}: {error}'})
    return as_json(200, {})


DOES: dict[tuple[str, str], Callable[[Simulator, Request], Answer]] = {
    ("GET", "faults"): _faults,
    ("POST", "faults"): _order,
    ("GET", "requests"): _requests,
    ("DELETE", "requests"): _forget,
    ("GET", "billed-again"): _billed_again,
    ("POST", "time"): _advance,
}
