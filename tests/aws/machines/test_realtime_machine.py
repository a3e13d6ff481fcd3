"""The machine of receipts on the emulator: page by page, with a failure that stops nothing."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, NoReturn

from tests.support.aws.functions import Functions

from flowbed.testing.simulators import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.aws.conftest import Deployment

    from flowbed.testing.aws import Emulator
    from flowbed.testing.simulators import SimulatorProcess


def test_realtime_machine_records_a_failure_and_goes_on_in_another_execution(
    deployment: Deployment,
    aws: Emulator,
    provider: SimulatorProcess,
    lacking: Callable[[str], NoReturn],
) -> None:
    """Two receipts in pages of one: the first is refused, and the second is embedded."""
    if not importlib.util.find_spec("awslambdaric"):
        lacking("no awslambdaric: make setup")
    provider.order(Fault(kind="error", status=400, text="CASH"))
    deployment.call("data_fetcher")
    settings = (deployment.package / "flowbed.toml").read_text()
    functions = Functions(account=deployment.account, settings=settings, variables={}, own={})
    for name in ("find_receipts_realtime", "process_receipt_realtime"):
        functions.create(name)
    functions.machine("realtime", change=lambda text: text.replace('"limit": 1000', '"limit": 1'))
    first = functions.execute("realtime")
    assert first["status"] == "SUCCEEDED", first
    assert functions.executions("realtime") == ["SUCCEEDED"] * 2
    deployment.call("compaction")
    assert deployment.contents().total == 8
    letters = deployment.use(lambda bed: bed.dead_letters())
    assert {each.subject.split("#")[1] for each in letters} == {"image-1"}
