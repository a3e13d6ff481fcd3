"""Opens the table of a ledger, and creates it where there is none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from flowbed.errors import Misconfigured, Newer, Transient
from flowbed.ledger.dynamodb.client import Client
from flowbed.ledger.dynamodb.failures import Missing, Place, Unfit
from flowbed.ledger.dynamodb.ledger import DynamoLedger
from flowbed.ledger.dynamodb.table import (
    INDEX,
    INDEX_PARTITION,
    INDEX_SORT,
    PARTITION,
    SORT,
    TTL,
    DynamoTable,
)
from flowbed.ledger.items.table import ABSENT, ConditionFailed, Put, Unanswered

if TYPE_CHECKING:
    from flowbed.ledger.dynamodb.client import Send

# What the items mean; a Flowbed that changes them raises it.
FORMAT = 1
FACTS = ("FACTS", "-")
NAME = re.compile(r"[A-Za-z0-9_.-]{3,255}")  # DynamoDB's rule
OPTIONS = ("region", "endpoint", "profile")
_OPENING = 1.0  # s between questions whether a new table is there; it takes some ten
_PATIENCE = 120.0  # s


def place_of(url: str) -> Place:
    """Read the address of a table: `dynamodb://table?region=eu-west-1`.

    Raises:
        Misconfigured: it is not of this form.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not NAME.fullmatch(parts.netloc) or parts.path.strip("/") or parts.fragment:
        raise Misconfigured(
            f"invalid ledger {url!r}: write dynamodb://table?region=eu-west-1, with a name of 3 to 255 letters, digits,"
            " _ . or -"
        )
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise Misconfigured(
            f"ledger {url!r}: a ledger in DynamoDB has no option {', '.join(unknown)}; its options are:"
            f" {', '.join(OPTIONS)}"
        )
    return Place(table=parts.netloc, **options)


async def open_dynamodb(url: str, *, new_id: str, send: Send | None = None) -> DynamoLedger:
    """Open the ledger in a table, creating the table where there is none; `new_id` names this process in it.

    `send` sends requests in place of boto3.

    Raises:
        Misconfigured: the address or the credentials cannot be used, or the table is not a ledger.
        Newer: a newer Flowbed made the ledger.
        Transient: DynamoDB cannot be reached.
    """
    client = Client(place_of(url), send=send)
    table = DynamoTable(client, name=f"{new_id[:16]}-")
    try:
        facts = await table.get(FACTS)
    except Missing:
        await _create(client)
        facts = None
    except Unfit as error:  # its keys are others
        raise _not_a_ledger(client.place.url) from error
    if facts is None:
        await _require_shape(client)
        facts = await _settled(table, new_id)
    if facts["format"] > FORMAT:
        raise Newer(f"the ledger {client.place.url} was made by a newer Flowbed: upgrade Flowbed")
    return DynamoLedger(table, id=facts["id"], location=client.place.url)


async def _settled(table: DynamoTable, new_id: str) -> dict[str, Any]:
    """Give a new ledger its id, unless another process did so first."""
    while (facts := await table.get(FACTS)) is None:
        item = {"record": "facts", "id": new_id, "format": FORMAT}
        try:
            await table.write(Put(FACTS, item, expected=ABSENT))
        except (ConditionFailed, Unanswered):
            continue
    return facts


async def _create(client: Client) -> None:
    import stamina

    try:
        await client.read(
            "create_table",
            AttributeDefinitions=[
                {"AttributeName": name, "AttributeType": "S"}
                for name in (PARTITION, SORT, INDEX_PARTITION, INDEX_SORT)
            ],
            KeySchema=_keys(PARTITION, SORT),
            GlobalSecondaryIndexes=[
                {
                    "IndexName": INDEX,
                    "KeySchema": _keys(INDEX_PARTITION, INDEX_SORT),
                    "Projection": {"ProjectionType": "KEYS_ONLY"},
                }
            ],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )
    except Misconfigured as error:
        if "ResourceInUseException" not in str(error):
            raise Misconfigured(
                f"there is no table for the ledger {client.place.url}, and it cannot be created: {error}"
            ) from error
    async for attempt in stamina.retry_context(
        on=Transient,
        attempts=None,
        timeout=_PATIENCE,
        wait_initial=_OPENING,
        wait_max=_OPENING,
        wait_jitter=0,
    ):
        with attempt:
            described = (await client.read("describe_table"))["Table"]
            if described["TableStatus"] not in {"ACTIVE", "UPDATING"}:
                raise Transient(
                    f"the table of the ledger {client.place.url} is still being created; run again"
                )
    await _complete(client)


async def _complete(client: Client) -> None:
    """Let DynamoDB delete what has expired, and keep backups of the last 35 days."""
    expiring = (await client.read("describe_time_to_live"))["TimeToLiveDescription"]
    if expiring.get("TimeToLiveStatus") not in {"ENABLED", "ENABLING"}:
        await client.read(
            "update_time_to_live", TimeToLiveSpecification={"Enabled": True, "AttributeName": TTL}
        )
    await client.read(
        "update_continuous_backups",
        PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
    )


async def _require_shape(client: Client) -> None:
    """Require the keys and the index of a ledger, before anything is written."""
    described = (await client.read("describe_table"))["Table"]
    indexes = {each["IndexName"]: each["KeySchema"] for each in described.get("GlobalSecondaryIndexes", [])}
    if described["KeySchema"] != _keys(PARTITION, SORT) or indexes.get(INDEX) != _keys(
        INDEX_PARTITION, INDEX_SORT
    ):
        raise _not_a_ledger(client.place.url)


def _keys(partition: str, sort: str) -> list[dict[str, str]]:
    return [
        {"AttributeName": partition, "KeyType": "HASH"},
        {"AttributeName": sort, "KeyType": "RANGE"},
    ]


def _not_a_ledger(url: str) -> Misconfigured:
    return Misconfigured(
        f"the table of {url} is not a ledger: its keys or its index are others. Set `ledger` to a table that does not"
        " exist, and Flowbed creates it"
    )
