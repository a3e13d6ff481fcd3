"""A simulator in a process of its own, for load that must not share a core with what it is aimed at.

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
from flowbed.testing.simulators.control import CONTROL
from flowbed.testing.simulators.faults import read_faults
from flowbed.testing.simulators.limits import Limits
from flowbed.testing.simulators.running import running
from flowbed.testing.simulators.simulator import Simulator
from flowbed.testing.simulators.vendors import VENDORS

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from flowbed.testing.simulators.faults import Fault

TIMEOUT = 30  # seconds: a simulator under load answers late


class SimulatorProcess:
    """A simulator, from entering it as a context until leaving it; `url` is its address."""

    def __init__(
        self,
        vendor: str,
        *,
        faults: Sequence[Fault] = (),
        seed: int = 0,
        limits: Limits | None = None,
        options: Mapping[str, float] | None = None,
    ) -> None:
        """Start nothing yet; `options` are the vendor's own, such as `batch_seconds`."""
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
            raise Misconfigured("the simulator did not start; its standard error says why")
        return self

    def __exit__(self, *_: object) -> None:
        """End the simulator, and with it its account."""
        self._process.communicate()  # the end of its input is the end of it

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._process.pid

    def order(self, *faults: Fault, seed: int = 0) -> None:
        """Have these faults from now on in the place of those before, and count from 1 again."""
        self._ask("POST", "faults", {"faults": [asdict(fault) for fault in faults], "seed": seed})

    def totals(self) -> Totals:
        """Tell what the simulator was asked, in sums."""
        told = self._ask("GET", "requests")["totals"]
        return Totals(**{**told, "statuses": {int(status): n for status, n in told["statuses"].items()}})

    def billed_again(self) -> dict[str, int]:
        """Tell the texts that were billed more than once, and how often they were beyond their first time."""
        told: dict[str, int] = self._ask("GET", "billed-again")
        return told

    def advance(self, seconds: float) -> None:
        """Let time pass at the simulator."""
        self._ask("POST", "time", {"seconds": seconds})

    def forget(self) -> None:
        """Begin the account anew."""
        self._ask("DELETE", "requests")

    def _ask(self, method: str, what: str, said: object = None) -> Any:  # what it tells
        request = urllib.request.Request(  # noqa: S310 - our own http address
            f"{self.url}{CONTROL}{what}", data=orjson.dumps(said), method=method
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            return orjson.loads(answer.read())


def run(serve: Coroutine[Any, Any, None]) -> None:
    """Run to the end what serves, on the fastest event loop that is installed."""
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        runner.run(serve)


async def serve(order: dict[str, Any]) -> None:
    """Serve the simulator that was ordered until standard input ends, and print its address first."""
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
