"""A simulator in its own process, for load tests where it must not share a core with its client.

    with SimulatorProcess("openai", faults=[Fault(kind="slow", delay=0.01)]) as simulator:
        ...  # simulator.url

`python -m flowbed.testing.simulators JSON` serves until its standard input ends, and prints its address.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.request
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

import orjson
import uvicorn

from flowbed.errors import Misconfigured
from flowbed.testing.simulators.account import Totals
from flowbed.testing.simulators.faults import read_faults
from flowbed.testing.simulators.limits import Limits
from flowbed.testing.simulators.serving.control import CONTROL
from flowbed.testing.simulators.serving.running import running
from flowbed.testing.simulators.simulator import Simulator
from flowbed.testing.simulators.vendors import VENDORS

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from flowbed.testing.simulators.faults import Fault

TIMEOUT = 30  # seconds: a simulator under load answers late


class SimulatorProcess:
    """A simulator that runs while its context is open; `url` is its address."""

    def __init__(
        self,
        vendor: str,
        *,
        faults: Sequence[Fault] = (),
        seed: int = 0,
        limits: Limits | None = None,
        options: Mapping[str, float] | None = None,
    ) -> None:
        """Store the options; `options` are the vendor's own, such as `batch_seconds`."""
        self.url = ""
        self._order = {
            "vendor": vendor,
            "faults": [asdict(fault) for fault in faults],
            "seed": seed,
            "limits": asdict(limits or Limits()),
            "options": dict(options or {}),
        }

    def __enter__(self) -> Self:
        """Start the simulator, and wait until it answers."""
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "flowbed.testing.simulators", orjson.dumps(self._order).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            self._process.communicate()
            raise Misconfigured("the simulator did not start; see its standard error")
        return self

    def __exit__(self, *_: object) -> None:
        """End the simulator; its account is lost."""
        self._process.communicate()  # it ends when its input ends

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._process.pid

    def order(self, *faults: Fault, seed: int = 0) -> None:
        """Replace the faults, and count from 1 again."""
        self._ask("POST", "faults", {"faults": [asdict(fault) for fault in faults], "seed": seed})

    def totals(self) -> Totals:
        """Return the simulator's totals."""
        body = self._ask("GET", "requests")["totals"]
        return Totals(**{**body, "statuses": {int(status): n for status, n in body["statuses"].items()}})

    def billed_again(self) -> dict[str, int]:
        """Return the texts that were billed more than once, and how often beyond the first time."""
        body: dict[str, int] = self._ask("GET", "billed-again")
        return body

    def advance(self, seconds: float) -> None:
        """Advance the simulator's clock."""
        self._ask("POST", "time", {"seconds": seconds})

    def forget(self) -> None:
        """Reset the account."""
        self._ask("DELETE", "requests")

    def _ask(self, method: str, what: str, payload: object = None) -> Any:  # parsed JSON
        request = urllib.request.Request(  # noqa: S310 - our own http address
            f"{self.url}{CONTROL}{what}", data=orjson.dumps(payload), method=method
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            return orjson.loads(answer.read())


def run(serve: Coroutine[Any, Any, None]) -> None:
    """Run `serve` on the fastest event loop that is installed."""
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        runner.run(serve)


async def serve(order: dict[str, Any]) -> None:
    """Serve the simulator in `order` until standard input ends; print its address first."""
    simulator = Simulator(
        VENDORS[order["vendor"]].open(**order["options"]),
        limits=Limits(**order["limits"]),
        faults=read_faults(order["faults"]),
        seed=order["seed"],
    )
    async with running(simulator) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
