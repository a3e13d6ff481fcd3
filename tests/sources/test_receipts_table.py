"""Receipts of an existing table: the layout as it is, incremental by status, and what cannot be read."""

from __future__ import annotations

import json
import uuid
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from tests.support.aws.receipts_table import create_table, items_of
from tests.support.projects import receipt

from flowbed.errors import Misconfigured
from flowbed.sources import open_source
from flowbed.testing.aws import variables
from flowbed.testing.clock import FixedClock
from flowbed.testing.sources import SourceContract, entries, etags, pages

if TYPE_CHECKING:
    from flowbed.sources import Source
    from flowbed.testing.aws import Emulator

HOUR = 3_600_000_000


class Table:
    """A table of receipts."""

    def __init__(self, aws: Emulator, account: str) -> None:
        """Create it."""
        self.client = boto3.client("dynamodb", **aws.client(account=account))
        create_table(self.client, "receipts")

    def put(self, record: dict[str, Any], *, status: str = "NONE") -> str:
        """Write the items of a receipt, and return its document."""
        requests = [{"PutRequest": {"Item": each}} for each in items_of(record, status=status)]
        for start in range(0, len(requests), 25):
            self.client.batch_write_item(RequestItems={"receipts": requests[start : start + 25]})
        return f"IMAGE#{record['image_id']}#RECEIPT#{record['receipt_id']:05d}"

    def remove(self, record: dict[str, Any]) -> None:
        """Delete the items of a receipt."""
        for item in items_of(record):
            self.client.delete_item(TableName="receipts", Key={"PK": item["PK"], "SK": item["SK"]})


@pytest.fixture
def table(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Return an empty table in an account of its own."""
    account = f"{uuid.uuid4().int % 10**12:012}"
    for name, value in variables(aws.url, account=account).items():
        monkeypatch.setenv(name, value)
    return Table(aws, account)


def opened(clock: FixedClock, **options: Any) -> Source:
    """Open the receipts of the table."""
    return open_source("receipts", "dynamodb://receipts", folder=Path(), options=options, clock=clock)


class TestTable(SourceContract):
    """Each fetch is a day after the last, and complete."""

    @pytest.fixture(autouse=True)
    def _use(self, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
        """Use a table, with small pages: the emulator takes a thousand receipts in half a minute."""
        self.table = table
        monkeypatch.setattr("flowbed.testing.sources.MANY", 25)
        monkeypatch.setattr("flowbed.sources.receipts.table.PAGE", 10)

    def open_source(self, folder: Path) -> Source:
        times = iter(range(10**15, 10**18, 25 * HOUR))
        name = "receipts" if folder.exists() else "nowhere"
        return open_source(
            "receipts", f"dynamodb://{name}", folder=folder, options={}, clock=lambda: next(times)
        )

    def write(self, folder: Path, name: str, text: str) -> str:
        return self.table.put({**receipt(1, [text]), "image_id": name})

    def remove(self, folder: Path, name: str) -> None:
        self.table.remove({**receipt(1, [f"the text of {name}"]), "image_id": name})


async def test_table_gives_the_same_documents_as_the_file_it_was_made_from(
    table: Table, data: Path, tmp_path: Path
) -> None:
    """Lines, words, boxes and merchants; the file has more fields, which the table has not."""
    with (data / "receipts.jsonl").open() as file:
        records = [json.loads(line) for line in islice(file, 3)]
    kept = ("image_id", "receipt_id", "merchant_name", "lines")
    records = [{name: each[name] for name in kept if name in each} for each in records]
    for each in records:
        table.put(each)
    (tmp_path / "receipts.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))
    clock = FixedClock()
    file_source = open_source("receipts", "receipts.jsonl", folder=tmp_path, options={}, clock=clock)
    read = {each.document: each.read() for each in entries(await pages(opened(clock)))}
    expected = {each.document: each.read() for each in entries(await pages(file_source))}
    assert {name: json.loads(each.text) for name, each in read.items()} == {
        name: json.loads(each.text) for name, each in expected.items()
    }
    assert [read[name].metadata["merchant_by"] for name in expected] == ["record"] * 3


async def test_table_after_the_first_fetch_reads_only_receipts_with_new_lines(table: Table) -> None:
    """A day later every receipt is listed again, and what is gone is noticed."""
    clock = FixedClock()
    source = opened(clock)
    records = [receipt(number, [f"line of {number}"]) for number in (1, 2, 3)]
    documents = [table.put(each, status="SUCCESS") for each in records]
    first = await pages(source)
    assert set(etags(first)) == set(documents)
    added = table.put(receipt(4, ["a new one"]))
    edited = table.put(receipt(2, ["another text"]))
    clock.advance(seconds=3_600)
    second = await pages(source, first[-1].cursor)
    assert set(etags(second)) == {added, edited}
    assert not any(page.complete for page in second)
    assert {page.cursor for page in second} == {first[-1].cursor}  # a fetch that is killed goes on as well
    table.remove(records[2])
    clock.advance(seconds=24 * 3_600)
    third = await pages(source, second[-1].cursor)
    assert third[-1].complete
    assert set(etags(third)) == {documents[0], edited, added}


async def test_table_leaves_noise_out_and_names_what_it_cannot_read(table: Table) -> None:
    record = receipt(1, ["TOTAL 7.80", "~~ |", "CASH 10.00"], merchant_name="WAN SHENG")
    record["lines"][1]["is_noise"] = True
    record["lines"][2]["words"][1]["is_noise"] = True
    document = table.put(record)
    bad = table.put(receipt(2, ["broken"]))
    key = {"PK": {"S": "IMAGE#image-2"}, "SK": {"S": "RECEIPT#00001#LINE#00001"}}
    table.client.update_item(
        TableName="receipts", Key=key, UpdateExpression="REMOVE #t", ExpressionAttributeNames={"#t": "text"}
    )
    fetched = await pages(opened(FixedClock()))
    (entry,) = entries(fetched)
    said = json.loads(entry.read().text)
    assert (entry.document, said["merchant_name"]) == (document, "WAN SHENG")
    texts = {line["text"]: [word["text"] for word in line["words"]] for line in said["lines"]}
    assert texts == {"TOTAL 7.80": ["TOTAL", "7.80"], "CASH 10.00": ["CASH"]}
    (problem,) = [each for page in fetched for each in page.problems]
    assert (problem.document, problem.reason) == (bad, "IMAGE#image-2 RECEIPT#00001#LINE#00001 has no text")


async def test_table_with_bytes_in_a_box_gives_every_receipt(table: Table) -> None:
    """JSON has no bytes: one such item kept all receipts from being fetched."""
    documents = [table.put(receipt(number, ["TOTAL"])) for number in (1, 2)]
    table.client.update_item(
        TableName="receipts",
        Key={"PK": {"S": "IMAGE#image-1"}, "SK": {"S": "RECEIPT#00001#LINE#00001"}},
        UpdateExpression="SET bounding_box = :box",
        ExpressionAttributeValues={
            ":box": {"M": {"x": {"N": "0"}, "mask": {"B": b"\xff"}, "all": {"BS": [b"a"]}}}
        },
    )
    fetched = entries(await pages(opened(FixedClock())))
    assert [each.document for each in fetched] == documents
    (line,) = json.loads(fetched[0].read().text)["lines"]
    assert line["bounding_box"] == {"x": 0, "mask": "/w==", "all": ["YQ=="]}


async def test_table_that_is_empty_or_absent_says_so(table: Table) -> None:
    (page,) = await pages(opened(FixedClock()))
    assert (page.empty, page.cursor) == ("its index GSITYPE has no item of type RECEIPT", "")
    source = open_source("receipts", "dynamodb://nowhere", folder=Path(), options={}, clock=FixedClock())
    with pytest.raises(Misconfigured, match="the table dynamodb://nowhere does not exist"):
        await pages(source)


@pytest.mark.parametrize(
    ("location", "options", "says"),
    [
        ("dynamodb://", {}, "is not the address of a table: write dynamodb://table"),
        ("dynamodb://t?zone=x", {}, "its options are: region, endpoint, profile"),
        ("dynamodb://t", {"places": True}, "places"),
        ("dynamodb://t", {"full_hours": 0}, "full_hours"),
    ],
)
def test_table_of_a_wrong_address_or_option_is_refused(
    location: str, options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured, match=says):
        open_source("receipts", location, folder=tmp_path, options=options, clock=FixedClock())
