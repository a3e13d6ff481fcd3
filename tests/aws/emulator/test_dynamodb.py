"""What the ledger needs of DynamoDB and its streams: a version of the emulator that breaks it fails here by name."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = {"PK": {"S": "p"}, "SK": {"S": "s"}}
NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def dynamodb(client: Callable[[str], Any]) -> Any:
    return client("dynamodb")


@pytest.fixture
def table(dynamodb: Any) -> str:
    """Create a table with a sparse index and a stream."""
    name = f"rows{next(NUMBERS)}"
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in ("PK", "SK", "G")],
        KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}, {"AttributeName": "SK", "KeyType": "RANGE"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "open",
                "KeySchema": [{"AttributeName": "G", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )
    return name


def item(name: str, **more: Any) -> dict[str, Any]:
    return {"PK": {"S": "p"}, "SK": {"S": name}, **more}


def put(table: str, name: str, **more: Any) -> dict[str, Any]:
    return {"Put": {"TableName": table, "Item": item(name, **more)}}


def refused(code: str, call: Callable[..., Any], **parameters: Any) -> dict[str, Any]:
    """Call, and return the answer of a refusal with a code."""
    with pytest.raises(ClientError) as raised:
        call(**parameters)
    assert raised.value.response["Error"]["Code"] == code, raised.value.response
    return dict(raised.value.response)


def test_failed_condition_returns_the_item_that_is_there(dynamodb: Any, table: str) -> None:
    dynamodb.put_item(TableName=table, Item=item("s", v={"N": "1"}))
    told = refused(
        "ConditionalCheckFailedException",
        dynamodb.put_item,
        TableName=table,
        Item=item("s"),
        ConditionExpression="attribute_not_exists(PK)",
        ReturnValuesOnConditionCheckFailure="ALL_OLD",
    )
    assert told["Item"]["v"] == {"N": "1"}


def test_transaction_has_at_most_100_items_each_once_and_tells_reasons(dynamodb: Any, table: str) -> None:
    many = [put(table, f"{each:03}") for each in range(101)]
    refused("ValidationException", dynamodb.transact_write_items, TransactItems=many)
    dynamodb.transact_write_items(TransactItems=many[:100])
    twice = [put(table, "a"), put(table, "a")]
    refused("ValidationException", dynamodb.transact_write_items, TransactItems=twice)
    wrong = {**put(table, "000")["Put"], "ConditionExpression": "attribute_not_exists(PK)"}
    told = refused(
        "TransactionCanceledException",
        dynamodb.transact_write_items,
        TransactItems=[put(table, "new"), {"Put": wrong}],
    )
    assert [each["Code"] for each in told["CancellationReasons"]] == ["None", "ConditionalCheckFailed"]
    assert "Item" not in dynamodb.get_item(TableName=table, Key=item("new"))


def test_transaction_with_a_token_is_carried_out_once(dynamodb: Any, table: str) -> None:
    add = {
        "TableName": table,
        "Key": KEY,
        "UpdateExpression": "ADD n :one",
        "ExpressionAttributeValues": {":one": {"N": "1"}},
    }
    for _ in range(2):
        dynamodb.transact_write_items(TransactItems=[{"Update": add}], ClientRequestToken="token")
    assert dynamodb.get_item(TableName=table, Key=KEY)["Item"]["n"] == {"N": "1"}


def test_items_and_keys_of_too_many_bytes_are_refused(dynamodb: Any, table: str) -> None:
    big = {"B": b"x" * (400 << 10)}
    refused("ValidationException", dynamodb.put_item, TableName=table, Item=item("s", v=big))
    refused(
        "ValidationException",
        dynamodb.update_item,
        TableName=table,
        Key=KEY,
        UpdateExpression="SET v = :v",
        ExpressionAttributeValues={":v": big},
    )
    for long in ({"PK": {"S": "p" * 2_049}, "SK": {"S": "s"}}, {"PK": {"S": "p"}, "SK": {"S": "s" * 1_025}}):
        refused("ValidationException", dynamodb.put_item, TableName=table, Item=long)


def test_transaction_of_more_than_4_mb_is_refused(dynamodb: Any, table: str) -> None:
    large = [put(table, f"{each}", v={"B": b"x" * (390 << 10)}) for each in range(11)]
    refused("ValidationException", dynamodb.transact_write_items, TransactItems=large)
    assert dynamodb.scan(TableName=table)["Items"] == []


def test_index_takes_texts_that_are_not_empty_is_sparse_and_never_consistent(
    dynamodb: Any, table: str
) -> None:
    for wrong in ({"N": "1"}, {"S": ""}):
        refused("ValidationException", dynamodb.put_item, TableName=table, Item=item("s", G=wrong))
    dynamodb.put_item(TableName=table, Item=item("in", G={"S": "g"}))
    dynamodb.put_item(TableName=table, Item=item("out"))
    asked = {
        "TableName": table,
        "IndexName": "open",
        "KeyConditionExpression": "G = :g",
        "ExpressionAttributeValues": {":g": {"S": "g"}},
    }
    assert [each["SK"]["S"] for each in dynamodb.query(**asked)["Items"]] == ["in"]
    refused("ValidationException", dynamodb.query, **asked, ConsistentRead=True)


def test_query_has_pages_of_a_megabyte_in_the_order_of_utf8(dynamodb: Any, table: str) -> None:
    names = ["b", "ä", "\uffff", "😀"]  # UTF-16 would put the last before the third
    for name in reversed(names):
        dynamodb.put_item(TableName=table, Item=item(name, v={"B": b"x" * (300 << 10)}))
    asked = {
        "TableName": table,
        "KeyConditionExpression": "PK = :p",
        "ExpressionAttributeValues": {":p": {"S": "p"}},
    }
    page = dynamodb.query(**asked)
    assert len(page["Items"]) < len(names)
    rest = dynamodb.query(**asked, ExclusiveStartKey=page["LastEvaluatedKey"])
    assert [each["SK"]["S"] for each in page["Items"] + rest["Items"]] == names


def test_requests_take_100_reads_or_25_writes(dynamodb: Any, table: str) -> None:
    keys = [item(f"{each}") for each in range(101)]
    refused("ValidationException", dynamodb.batch_get_item, RequestItems={table: {"Keys": keys}})
    dynamodb.batch_get_item(RequestItems={table: {"Keys": keys[:100]}})
    writes = [{"PutRequest": {"Item": each}} for each in keys[:26]]
    refused("ValidationException", dynamodb.batch_write_item, RequestItems={table: writes})
    dynamodb.batch_write_item(RequestItems={table: writes[:25]})
    found = [
        len(dynamodb.scan(TableName=table, Segment=segment, TotalSegments=4)["Items"]) for segment in range(4)
    ]
    assert sum(found) == 25


def test_threads_at_once_lose_no_update(dynamodb: Any, table: str) -> None:
    """Each adds one where nobody else has meanwhile."""

    def increment(_: int) -> None:
        for _ in range(200):
            old = dynamodb.get_item(TableName=table, Key=KEY, ConsistentRead=True).get("Item", {}).get("n")
            try:
                dynamodb.update_item(
                    TableName=table,
                    Key=KEY,
                    UpdateExpression="SET n = :new",
                    ConditionExpression="n = :old" if old else "attribute_not_exists(n)",
                    ExpressionAttributeValues={
                        ":new": {"N": str(int(old["N"]) + 1 if old else 1)},
                        **({":old": old} if old else {}),
                    },
                )
            except ClientError as error:
                assert error.response["Error"]["Code"] == "ConditionalCheckFailedException"  # noqa: PT017
            else:
                return
        raise AssertionError("another thread was always faster")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(increment, range(24)))
    assert dynamodb.get_item(TableName=table, Key=KEY)["Item"]["n"] == {"N": "24"}


def test_statements_of_a_batch_fail_each_for_itself(dynamodb: Any, table: str) -> None:
    """The request is answered 200, with failures inside."""
    dynamodb.put_item(TableName=table, Item=item("s", v={"N": "1"}))
    insert = f"INSERT INTO \"{table}\" VALUE {{'PK': ?, 'SK': ?}}"
    update = f'UPDATE "{table}" SET v = ? WHERE PK = ? AND SK = ? AND v = ?'  # noqa: S608 - our own name
    told = dynamodb.batch_execute_statement(
        Statements=[
            {"Statement": insert, "Parameters": [{"S": "p"}, {"S": "s"}]},
            {"Statement": insert, "Parameters": [{"S": "p"}, {"S": "new"}]},
            {"Statement": update, "Parameters": [{"N": "2"}, {"S": "p"}, {"S": "s"}, {"N": "7"}]},
            {"Statement": update, "Parameters": [{"N": "3"}, {"S": "p"}, {"S": "new"}, {"N": "1"}]},
        ]
    )["Responses"]
    codes = [each.get("Error", {}).get("Code", "") for each in told]
    assert codes == ["DuplicateItem", "", "ConditionalCheckFailed", "ConditionalCheckFailed"]


def test_written_capacity_is_told_and_a_moved_key_of_an_index_costs_two(dynamodb: Any, table: str) -> None:
    def units(**more: Any) -> float:
        told = dynamodb.put_item(TableName=table, Item=item("s", **more), ReturnConsumedCapacity="TOTAL")
        return float(told["ConsumedCapacity"]["CapacityUnits"])

    assert (units(), units(G={"S": "a"}), units(G={"S": "b"})) == (1, 2, 3)


def test_read_capacity_of_an_index_is_told(dynamodb: Any, table: str) -> None:
    dynamodb.put_item(TableName=table, Item=item("s", G={"S": "g"}))
    told = dynamodb.query(
        TableName=table,
        IndexName="open",
        KeyConditionExpression="G = :g",
        ExpressionAttributeValues={":g": {"S": "g"}},
        ReturnConsumedCapacity="INDEXES",
    )
    assert told["ConsumedCapacity"]["GlobalSecondaryIndexes"] == {"open": {"CapacityUnits": 0.5}}


def test_stream_tells_both_images_and_nothing_of_what_did_not_change(
    dynamodb: Any, client: Callable[[str], Any], table: str
) -> None:
    for value in ("1", "1", "2"):
        dynamodb.put_item(TableName=table, Item=item("s", v={"N": value}))
    dynamodb.delete_item(TableName=table, Key=KEY)
    streams = client("dynamodbstreams")
    arn = dynamodb.describe_table(TableName=table)["Table"]["LatestStreamArn"]
    (shard,) = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
    iterator = streams.get_shard_iterator(
        StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    records = streams.get_records(ShardIterator=iterator)["Records"]
    told = [
        (
            each["eventName"],
            *(each["dynamodb"].get(image, {}).get("v", {}).get("N") for image in ("OldImage", "NewImage")),
        )
        for each in records
    ]
    assert told == [("INSERT", None, "1"), ("MODIFY", "1", "2"), ("REMOVE", "2", None)]


class TestDifferences:
    """Where the emulator is not as AWS: when one of these fails it has learned it."""

    @pytest.mark.long  # it writes 17 MB
    def test_reads_of_more_than_16_mb_come_whole(self, dynamodb: Any, table: str) -> None:
        """AWS leaves `UnprocessedKeys`, which the ledger asks for again."""
        keys = [item(f"{each:03}") for each in range(44)]
        for key in keys:
            dynamodb.put_item(TableName=table, Item={**key, "v": {"S": "x" * (390 << 10)}})
        told = dynamodb.batch_get_item(RequestItems={table: {"Keys": keys}})
        assert len(told["Responses"][table]) == len(keys)
        assert told["UnprocessedKeys"] == {}

    def test_writes_beyond_what_was_provisioned_are_not_throttled(self, dynamodb: Any) -> None:
        """`test_bad_hour.py` puts a proxy before it that throttles."""
        dynamodb.create_table(
            TableName="emulator-small",
            ProvisionedThroughput={"ReadCapacityUnits": 1, "WriteCapacityUnits": 1},
            AttributeDefinitions=[{"AttributeName": "PK", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}],
        )
        for each in range(20):
            told = dynamodb.put_item(
                TableName="emulator-small", Item={"PK": {"S": str(each)}, "v": {"B": b"x" * 9_000}}
            )
            assert told["ResponseMetadata"]["RetryAttempts"] == 0

    def test_reads_of_batches_tell_no_capacity(self, dynamodb: Any, table: str) -> None:
        """Tests of the budget count requests."""
        dynamodb.put_item(TableName=table, Item=item("s"))
        told = dynamodb.batch_get_item(RequestItems={table: {"Keys": [KEY]}}, ReturnConsumedCapacity="TOTAL")
        assert not told.get("ConsumedCapacity")
