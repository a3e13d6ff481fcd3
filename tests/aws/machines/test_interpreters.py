"""The machines in two interpreters that know nothing of each other: what holds in both is the language, not a quirk."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.aws.answers import BATCHES, CALLED, PENDING, PLAIN, RECEIPTS
from tests.support.aws.interpreters import ACCOUNT, REGION, Exited

from flowbed.errors import Conflict, Rejected, Transient

if TYPE_CHECKING:
    from tests.support.aws.interpreters import Machines

STATE_BYTES = 256 * 1024
ATTEMPTS = 7  # the first, and six more


@dataclass
class Failing:
    """Plain answers, but the first calls of one function with one event fail: of the first event that it gets."""

    function: str
    errors: list[Exception]
    chosen: list[Any] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, name: str, event: Any) -> Any:
        """Answer, or fail."""
        with self.lock:
            if name == self.function:
                self.chosen = self.chosen or [event]
                if event == self.chosen[0] and self.errors:
                    raise self.errors.pop(0)
        return PLAIN[name]


def with_a_lost_machine(definition: str) -> str:
    """Let a machine go on in one that does not exist."""
    lost = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:lost"
    return definition.replace('"StateMachineArn.$": "$$.StateMachine.Id"', f'"StateMachineArn": "{lost}"')


class TestMachines:
    """What each machine does, in both interpreters."""

    @pytest.mark.parametrize("function", CALLED)
    def test_task_that_fails_for_a_time_is_repeated(self, machines: Machines, function: str) -> None:
        """A service that is busy, another call that was faster, and a process that was killed."""
        functions, called = machines.functions, CALLED[function]
        functions.answer = Failing(function, [Transient("busy"), Exited(), Conflict("another was faster")])
        ended = machines.execute(called.machine)
        assert ended["status"] == "SUCCEEDED", ended
        assert functions.number(function) == called.times + 3
        assert not called.after or functions.number(called.after)

    @pytest.mark.parametrize("function", CALLED)
    def test_task_that_is_refused_is_not_repeated_and_is_recorded(
        self, machines: Machines, function: str
    ) -> None:
        """One item of a Map stops no other; a machine that cannot go on ends with the error."""
        functions, called = machines.functions, CALLED[function]
        functions.answer = failing = Failing(function, [Rejected("poison")])
        ended = machines.execute(called.machine)
        assert functions.number(function) == called.times
        if called.times == 1:
            assert (ended["status"], ended["error"]) == ("FAILED", called.failed), ended
            assert ended["cause"].startswith("Rejected: ")
            assert "poison" in ended["cause"]
            assert not called.after or functions.number(called.after) == 0
        else:
            assert ended["status"] == "SUCCEEDED", ended
            assert not called.after or functions.number(called.after) == 1
            if machines.proxy is not None:  # the emulator's history has nothing of the items of a Map
                recorded = machines.passed(ended["arn"])[called.failed]
                assert (recorded.pop("status"), recorded.pop("error")) == ("failed", "Rejected")
                assert recorded.items() <= failing.chosen[0].items()

    @pytest.mark.parametrize("function", CALLED)
    def test_task_that_always_fails_is_given_up(self, machines: Machines, function: str) -> None:
        functions, called = machines.functions, CALLED[function]
        functions.answer = Failing(function, [Transient("down") for _ in range(20)])
        ended = machines.execute(called.machine)
        assert functions.number(function) == called.times - 1 + ATTEMPTS
        if called.times == 1:
            assert (ended["status"], ended["error"]) == ("FAILED", called.failed), ended
            assert ended["cause"].startswith("Transient: ")
        else:
            assert ended["status"] == "SUCCEEDED", ended

    def test_realtime_that_cannot_go_on_in_another_execution_says_so(self, machines: Machines) -> None:
        """Its receipts are done, and those that wait are found by the next start."""
        machines.create("realtime", called="realtime-alone", change=with_a_lost_machine)
        functions = machines.functions
        functions.answer = lambda name, _: (
            {**PLAIN[name], "last_evaluated_key": "one"} if "find" in name else PLAIN[name]
        )
        ended = machines.execute("realtime-alone")
        assert (ended["status"], ended["error"]) == ("FAILED", "ContinueFailed"), ended
        assert "StateMachineDoesNotExist" in ended["cause"]
        assert functions.number("process_receipt_realtime") == 3

    def test_machines_pass_on_keys_as_the_functions_need_them(self, machines: Machines) -> None:
        functions = machines.functions
        functions.answer = lambda name, _: PLAIN[name]
        for name in ("create-batches", "poll-store", "realtime"):
            assert machines.execute(name)["status"] == "SUCCEEDED"
        events: dict[str, list[Any]] = {}
        for name, event in functions.calls:
            events.setdefault(name, []).append(event)
        assert sorted(events.pop("submit_openai"), key=json.dumps) == BATCHES
        assert sorted(events.pop("line_polling"), key=json.dumps) == [
            {**each, "skip_sqs_notification": True} for each in PENDING
        ]
        assert sorted(events.pop("process_receipt_realtime"), key=json.dumps) == RECEIPTS
        assert events == {
            "find_unembedded": [{}],
            "list_pending": [{}],
            "compaction": [{}],
            "find_receipts_realtime": [{"limit": 1000, "last_evaluated_key": None}],
        }

    @pytest.mark.parametrize(
        ("machine", "empty", "called"),
        [
            ("create-batches", {"find_unembedded": {"batches": []}}, ["find_unembedded"]),
            ("poll-store", {"list_pending": []}, ["list_pending", "compaction"]),
            (
                "realtime",
                {"find_receipts_realtime": {"receipts": [], "last_evaluated_key": None}},
                ["find_receipts_realtime"],
            ),
        ],
    )
    def test_machine_with_nothing_to_do_ends(
        self, machines: Machines, machine: str, empty: dict[str, Any], called: list[str]
    ) -> None:
        machines.functions.answer = lambda name, _: {**PLAIN, **empty}[name]
        assert machines.execute(machine)["status"] == "SUCCEEDED"
        assert [name for name, _ in machines.functions.calls] == called

    def test_map_runs_ten_at_once_and_no_more(self, machines: Machines) -> None:
        """The first ten wait for each other; an eleventh would be counted."""
        together = threading.Barrier(10, timeout=60)

        def answer(name: str, _: Any) -> Any:
            if name == "line_polling":
                together.wait()
            return [PENDING[0]] * 20 if name == "list_pending" else PLAIN[name]

        machines.functions.answer = answer
        assert machines.execute("poll-store")["status"] == "SUCCEEDED"
        assert machines.functions.number("line_polling") == 20
        assert machines.functions.most_at_once["line_polling"] == 10

    def test_realtime_goes_on_with_the_next_page_in_another_execution(self, machines: Machines) -> None:
        pages = {None: (RECEIPTS[:1], "one"), "one": (RECEIPTS[1:2], "two"), "two": (RECEIPTS[2:], None)}

        def answer(name: str, event: Any) -> Any:
            if name != "find_receipts_realtime":
                return PLAIN[name]
            receipts, key = pages[event["last_evaluated_key"]]
            return {"receipts": receipts, "last_evaluated_key": key}

        machines.create("realtime", called="realtime-pages")
        machines.functions.answer = answer
        assert machines.execute("realtime-pages")["status"] == "SUCCEEDED"
        while machines.functions.number("process_receipt_realtime") < 3:
            machines.executions("realtime-pages")
        assert machines.executions("realtime-pages") == ["SUCCEEDED"] * 3
        assert machines.functions.number("find_receipts_realtime") == 3

    @pytest.mark.parametrize("interpreter", ["moto"], indirect=True)
    def test_list_that_is_too_long_for_a_state_ends_the_machine_with_the_reason(
        self, machines: Machines
    ) -> None:
        """AWS ends it with `States.DataLimitExceeded` too, which no Catch sees there; the emulator lets it pass."""
        long = [{**PENDING[0], "batch_id": "x" * STATE_BYTES}]
        machines.functions.answer = lambda name, _: long if name == "list_pending" else PLAIN[name]
        ended = machines.execute("poll-store")
        assert (ended["status"], ended["error"]) == ("FAILED", "ListFailed"), ended
        assert ended["cause"].startswith("States.DataLimitExceeded: ")
