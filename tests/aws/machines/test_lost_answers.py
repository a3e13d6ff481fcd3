"""Lambda and Step Functions that throttle, are slow, or deny what they did, before an interpreter of machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.aws.answers import CALLED, PLAIN, RECEIPTS

from flowbed.testing.s3proxy import CUT, Answer, S3Fault, S3Proxy

if TYPE_CHECKING:
    from tests.support.aws.interpreters import Machines

MACHINES = ("create-batches", "poll-store", "realtime")
START, DESCRIBE = "AWSStepFunctions.StartExecution", "AWSStepFunctions.DescribeExecution"


def refusal(status: int, code: str) -> Answer:
    """Return what AWS answers to a request in JSON."""
    return Answer(status=status, body=json.dumps({"__type": code, "message": "a fault to order"}))


THROTTLED = refusal(429, "TooManyRequestsException")
FAILED, DENIED = refusal(500, "ServiceException"), refusal(403, "AccessDeniedException")
FAULTS: dict[str, dict[str, Any]] = {
    "throttled": {"before": THROTTLED},
    "late": {"delay": 0.1},
    "cut": {"before": CUT},
    "failed once done": {"after": FAILED},
    "cut once done": {"after": CUT},
}

pytestmark = pytest.mark.parametrize("interpreter", ["moto"], indirect=True)


def proxy_of(machines: Machines) -> S3Proxy:
    """Return the proxy of what an interpreter asks and is asked."""
    assert machines.proxy is not None
    return machines.proxy


def invocations(function: str) -> str:
    """Return the pattern of the calls of a function."""
    return f"*:{function}/invocations"


def two_pages(name: str, event: Any) -> Any:
    """Answer plainly, but that receipts have a second page."""
    if name != "find_receipts_realtime":
        return PLAIN[name]
    first = event["last_evaluated_key"] is None
    return {
        "receipts": RECEIPTS[:2] if first else RECEIPTS[2:],
        "last_evaluated_key": "one" if first else None,
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_calls_of_all_functions_and_starts_that_fail_once_are_repeated(
    machines: Machines, fault: str
) -> None:
    """The first call of each function, the start and the state of an execution, and a machine's own start of another.

    What was done before the answer was lost is done twice, which functions allow; an execution is started once.
    """
    proxy, functions = proxy_of(machines), machines.functions
    pages = f"realtime-{fault}".replace(" ", "-")
    machines.create("realtime", called=pages)
    functions.answer = two_pages
    struck = 0
    for machine in MACHINES:
        called = [name for name, each in CALLED.items() if each.machine == machine]
        asked = {"create-batches": (START, [1]), "poll-store": (DESCRIBE, [1]), "realtime": (START, [2])}
        key, calls = asked[machine]
        proxy.order(
            *(S3Fault(key=invocations(name), calls=[1], **FAULTS[fault]) for name in called),
            S3Fault(key=key, calls=calls, **FAULTS[fault]),
        )
        ended = machines.execute(pages if machine == "realtime" else machine)
        assert ended["status"] == "SUCCEEDED", ended
        struck += len(called) + 1
    assert machines.executions(pages) == ["SUCCEEDED"] * 2
    assert proxy.struck == struck
    twice = 1 if "done" in fault else 0
    for name, each in CALLED.items():
        paged = 1 if name == "find_receipts_realtime" else 0
        assert functions.number(name) == each.times + paged + twice, name


@pytest.mark.parametrize("function", CALLED)
def test_machine_function_denied_records_the_failure(machines: Machines, function: str) -> None:
    """A role that lost a right meanwhile: asking again would not help."""
    proxy, functions, called = proxy_of(machines), machines.functions, CALLED[function]
    functions.answer = lambda name, _: PLAIN[name]
    proxy.order(S3Fault(key=invocations(function), calls=[1], after=DENIED))
    ended = machines.execute(called.machine)
    assert functions.number(function) == called.times
    if called.times == 1:
        assert (ended["status"], ended["error"]) == ("FAILED", called.failed)
        assert ended["cause"].startswith("Lambda.AccessDeniedException: ")
    else:
        assert ended["status"] == "SUCCEEDED"
        assert machines.passed(ended["arn"])[called.failed]["error"] == "Lambda.AccessDeniedException"
    assert machines.execute(called.machine)["status"] == "SUCCEEDED"
    assert functions.number(function) == 2 * called.times


def test_function_that_is_always_throttled_is_given_up_with_the_reason(machines: Machines) -> None:
    proxy, functions = proxy_of(machines), machines.functions
    functions.answer = lambda name, _: PLAIN[name]
    proxy.order(S3Fault(key=invocations("compaction"), before=THROTTLED))
    ended = machines.execute("poll-store")
    assert (ended["status"], ended["error"]) == ("FAILED", "CompactFailed")
    assert ended["cause"].startswith("Lambda.TooManyRequestsException: ")
    assert proxy.struck == 7
    assert functions.number("compaction") == 0


def test_machine_next_execution_always_denied_ends_with_the_reason(
    machines: Machines,
) -> None:
    """The receipts of its page are done."""
    proxy, functions = proxy_of(machines), machines.functions
    functions.answer = two_pages
    machines.create("realtime", called="realtime-denied")
    proxy.order(S3Fault(key=START, calls=range(2, 20), before=DENIED))
    ended = machines.execute("realtime-denied")
    assert (ended["status"], ended["error"]) == ("FAILED", "ContinueFailed")
    assert ended["cause"].startswith("StepFunctions.AccessDenied")
    assert proxy.struck == 7
    assert functions.number("process_receipt_realtime") == 2
