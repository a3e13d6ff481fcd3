"""State machines as data: every task is repeated and caught, every name is known, and payloads are small."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from tests.support.aws.answers import CALLED

import flowbed
from flowbed import errors
from flowbed.aws.handlers.find_receipts_realtime import MOST as MOST_RECEIPTS
from flowbed.aws.handlers.find_unembedded import MOST as MOST_BATCHES
from flowbed.aws.handlers.list_pending import MOST as MOST_PENDING
from flowbed.aws.machines import FUNCTION, NAMES, definition
from flowbed.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HANDLERS = {path.stem for path in Path(flowbed.__file__).parent.glob("aws/handlers/[a-z]*.py")}
INTEGRATIONS = {"arn:aws:states:::states:startExecution"}
OF_AWS = re.compile(r"(Lambda|Runtime|Sandbox|States)\.\w+")
STATE_BYTES = 256 * 1024
VALIDATOR = Path(__file__).parents[3] / ".tools" / "machines" / "node_modules" / ".bin" / "asl-validator"


def machines_of(machine: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Iterate over a machine, and those inside its Maps."""
    yield name, machine
    for state, said in machine["States"].items():
        if said["Type"] == "Map":
            yield from machines_of(said["ItemProcessor"], f"{name}, {state}")


EVERY = [pair for name in NAMES for pair in machines_of(definition(name), name)]
TASKS = [
    pytest.param(said, id=f"{name}, {state}")
    for name, machine in EVERY
    for state, said in machine["States"].items()
    if said["Type"] == "Task"
]


def following(said: Mapping[str, Any]) -> set[str]:
    """Return the states that may come after a state."""
    found = {said[name] for name in ("Next", "Default") if name in said}
    return found | {each["Next"] for each in (*said.get("Choices", ()), *said.get("Catch", ()))}


@pytest.mark.parametrize(("name", "machine"), EVERY, ids=[name for name, _ in EVERY])
def test_machine_reaches_every_state_and_ends(name: str, machine: Mapping[str, Any]) -> None:
    states = machine["States"]
    reached, left = set(), {machine["StartAt"]}
    while left:
        state = left.pop()
        reached.add(state)
        left |= following(states[state]) - reached  # a KeyError names a target that does not exist
    assert reached == set(states)
    assert all(len(state) <= 80 for state in states)
    for said in states.values():
        assert said.get("MaxConcurrency", 10) == 10
        assert said["Type"] in {"Succeed", "Fail"} or following(said) or said.get("End")


def test_machine_passes_the_validator_of_the_language(
    tmp_path: Path, lacking: Callable[[str], NoReturn]
) -> None:
    """Its schema, its paths, its ARNs and its targets; a machine with a wrong target does not pass."""
    if not VALIDATOR.exists():
        lacking(".tools/machines is not there: make tools (needs npm)")

    def check(*files: Path) -> subprocess.CompletedProcess[str]:
        arguments = [argument for file in files for argument in ("--json-path", str(file))]
        return subprocess.run(
            [VALIDATOR, *arguments], capture_output=True, text=True, timeout=120, check=False
        )

    arns = {name: f"arn:aws:lambda:eu-central-1:123456789012:function:flowbed-{name}" for name in HANDLERS}
    files = []
    for name in NAMES:
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(definition(name, arns)))
    checked = check(*files)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    wrong = tmp_path / "wrong.json"
    wrong.write_text(files[0].read_text().replace('"Next": "CheckBatches"', '"Next": "CheckBatch"'))
    checked = check(wrong)
    assert (checked.returncode != 0, "CheckBatch" in checked.stdout + checked.stderr) == (True, True)


@pytest.mark.parametrize("task", TASKS)
def test_task_is_repeated_with_jitter_and_its_failure_is_caught(task: Mapping[str, Any]) -> None:
    *named, retry = task["Retry"]
    assert all(each["MaxAttempts"] == 0 for each in named)
    assert (retry["JitterStrategy"], retry["MaxDelaySeconds"], retry["MaxAttempts"]) == ("FULL", 60, 6)
    assert task["Catch"][-1]["ErrorEquals"] == ["States.ALL"]
    assert task["TimeoutSeconds"] <= 900
    ours = [each for each in retry["ErrorEquals"] if not OF_AWS.fullmatch(each)]
    assert all(issubclass(getattr(errors, each), errors.Error) for each in ours)
    if task["Resource"] not in INTEGRATIONS:
        assert ours == ["Transient", "Conflict"]  # what handlers raise where the same call may succeed later
        assert FUNCTION.fullmatch(task["Resource"])[1] in HANDLERS  # type: ignore[index]


def test_definitions_each_task_has_a_recorded_failure_and_a_test_of_it() -> None:
    """A task that is added needs a failure of its own in them."""
    recorded: dict[str, str] = {}
    for _, machine in EVERY:
        for said in machine["States"].values():
            if said["Type"] == "Task":
                called = FUNCTION.fullmatch(said["Resource"])
                catching = said["Catch"][-1]["Next"]
                recorded[called[1] if called else said["Resource"]] = catching
                assert machine["States"][catching]["Type"] in {"Pass", "Fail"}
    tried = {name: each.failed for name, each in CALLED.items()}
    assert recorded == {**tried, "arn:aws:states:::states:startExecution": "ContinueFailed"}


def test_machine_with_an_unknown_function_is_refused() -> None:
    with pytest.raises(NotFound, match="poll-store calls functions without an ARN: compaction, list_pending"):
        definition("poll-store", {"line_polling": "arn"})
    with pytest.raises(NotFound, match="there are: create-batches, poll-store, realtime"):
        definition("poll", {})
    said = definition("create-batches", dict.fromkeys(HANDLERS, "arn:aws:lambda:x"))
    assert "${" not in json.dumps(said)


def test_longest_lists_fit_into_a_state() -> None:
    """The list and its input are one state, so half of it is room enough."""
    pending = [{"batch_id": "f" * 24, "openai_batch_id": f"batch_{'f' * 36}"}] * MOST_PENDING
    receipts = [{"image_id": "f" * 36, "receipt_id": 99_999}] * MOST_RECEIPTS
    batches = [
        {
            "s3_bucket": "b" * 63,
            "s3_key": f"{'p' * 60}/submissions/{'f' * 24}/input.jsonl",
            "line_count": 50_000,
        }
    ]
    for listed in (pending, receipts, batches * MOST_BATCHES):
        assert len(json.dumps(listed)) < STATE_BYTES * 0.9
