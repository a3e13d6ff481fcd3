"""Conditional writes of single items, 25 in a request: each is billed once, and succeeds or fails by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import stamina

from flowbed.errors import Transient
from flowbed.ledger.dynamodb.failures import Waits, refused
from flowbed.ledger.items.table import ConditionFailed, Unanswered, groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.ledger.dynamodb.client import Client
    from flowbed.ledger.items.table import Key

TOGETHER = 25  # DynamoDB's limit
# Requests in flight at once: as many as boto3 can send on one core while DynamoDB works on others.
FLIGHT = 8
_PATIENCE = 60.0  # s: as long as a table that is throttled may take to grow
_UNKNOWN = {"InternalServerError"}
_FAILED = {"ConditionalCheckFailed", "DuplicateItem"}

Statement = dict[str, Any]


def insert(table: str, item: Mapping[str, Any]) -> Statement:
    """Return the statement that writes an item which does not exist."""
    names = ", ".join(f"'{name}': ?" for name in item)
    return {"Statement": f'INSERT INTO "{table}" VALUE {{{names}}}', "Parameters": list(item.values())}


def update(
    table: str, key: Key, *, before: Mapping[str, Any], after: Mapping[str, Any], mark: str
) -> Statement:
    """Return the statement that changes an item from `before` to `after`, if its `mark` has not changed."""
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    gone = [name for name in before if name not in after]
    text = f'UPDATE "{table}"'
    text += "".join(f' SET "{name}" = ?' for name in changed)
    text += "".join(f' REMOVE "{name}"' for name in gone)
    return {
        "Statement": f'{text} WHERE "PK" = ? AND "SK" = ? AND "{mark}" = ?',
        "Parameters": [*changed.values(), {"S": key[0]}, {"S": key[1]}, before[mark]],
    }


async def execute(client: Client, statements: Sequence[Statement]) -> list[bool]:
    """Execute statements about different items; False for those whose condition failed or whose answer was lost.

    Raises:
        Transient: the table stays throttled.
        Misconfigured: a statement is not allowed.
    """
    room = asyncio.Semaphore(FLIGHT)

    async def one(some: list[Statement]) -> list[bool]:
        async with room:
            return await _execute(client, some)

    done = await asyncio.gather(*(one(some) for some in groups(statements, TOGETHER)))
    return [each for some in done for each in some]


async def _execute(client: Client, statements: list[Statement]) -> list[bool]:
    done: dict[int, bool] = {}

    async def rest() -> None:
        left = [place for place in range(len(statements)) if place not in done]
        done.update(await _execute_once(client, statements, left))
        if len(done) < len(statements):
            raise Waits(f"the ledger {client.place.url} is throttled; run again, or raise its capacity")

    try:
        async for attempt in stamina.retry_context(
            on=Waits, attempts=None, timeout=_PATIENCE, wait_initial=0.05, wait_max=5.0, wait_jitter=1.0
        ):
            with attempt:
                await rest()
    except Waits as error:
        raise Transient(str(error)) from error
    return [done[place] for place in range(len(statements))]


async def _execute_once(client: Client, statements: list[Statement], left: list[int]) -> dict[int, bool]:
    """Return which statements were carried out, and which were not; those that were throttled are missing."""
    try:
        answer = await client.write(
            "batch_execute_statement", Statements=[statements[place] for place in left]
        )
    except Unanswered:
        return dict.fromkeys(left, False)
    done: dict[int, bool] = {}
    for place, one in zip(left, answer["Responses"], strict=True):
        code = one.get("Error", {}).get("Code", "")
        if not code or code in _FAILED or code in _UNKNOWN:
            done[place] = not code
            continue
        meant = refused(code, one["Error"].get("Message", ""), client.place)
        if not isinstance(meant, Waits | ConditionFailed):
            raise meant
    return done
