"""A table in the layout of existing receipts, filled from records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INDEXES = {
    "GSI1": ("GSI1PK", "GSI1SK"),
    "GSI2": ("GSI2PK", "GSI2SK"),
    "GSI3": ("GSI3PK", "GSI3SK"),
    "GSI4": ("GSI4PK", "GSI4SK"),
    "GSITYPE": ("TYPE", ""),
}
IMAGE = "0a345fdf-0000-4000-8000-{:012d}"


def create_table(client: Any, name: str) -> None:
    """Create an empty table with its five indexes and its stream."""
    keys = {"PK", "SK", *(key for pair in INDEXES.values() for key in pair if key)}
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in sorted(keys)],
        KeySchema=_schema("PK", "SK"),
        GlobalSecondaryIndexes=[
            {"IndexName": index, "KeySchema": _schema(*pair), "Projection": {"ProjectionType": "ALL"}}
            for index, pair in INDEXES.items()
        ],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )


def items_of(record: Mapping[str, Any], *, status: str = "NONE") -> Iterator[dict[str, Any]]:
    """Iterate over the items of a receipt: itself, its place, and its lines and words with a status."""
    image, number = record["image_id"], record["receipt_id"]
    receipt = f"RECEIPT#{number:05d}"
    path = f"IMAGE#{image}#{receipt}"
    yield {
        **_strings(PK=f"IMAGE#{image}", SK=receipt, TYPE="RECEIPT", GSI1PK=f"IMAGE#{image}", GSI1SK=receipt),
        **_strings(GSI2PK="RECEIPT", GSI2SK=path, GSI4PK=path, GSI4SK="0_RECEIPT"),
        "width": {"N": "791"},
        "height": {"N": "1623"},
    }
    if merchant := record.get("merchant_name"):
        yield {
            **_strings(
                PK=f"IMAGE#{image}", SK=f"{receipt}#PLACE", TYPE="RECEIPT_PLACE", merchant_name=merchant
            ),
            **_strings(GSI1PK=f"MERCHANT#{merchant.upper()}", GSI1SK=path, GSI4PK=path, GSI4SK="1_PLACE"),
        }
    for line in record["lines"]:
        at = f"#LINE#{line['line_id']:05d}"
        yield _text_item(record, "LINE", at, line, f"2_LINE{at}", status)
        for word in line.get("words", ()):
            below = f"{at}#WORD#{word['word_id']:05d}"
            yield _text_item(record, "WORD", below, word, f"3_WORD{below}", status)


def _text_item(
    record: Mapping[str, Any], kind: str, at: str, text: Mapping[str, Any], order: str, status: str
) -> dict[str, Any]:
    image, receipt = record["image_id"], f"RECEIPT#{record['receipt_id']:05d}"
    path = f"IMAGE#{image}#{receipt}"
    box = text.get("bounding_box", {"x": 0, "y": 0, "width": 1, "height": 1})
    return {
        **_strings(PK=f"IMAGE#{image}", SK=f"{receipt}{at}", TYPE=f"RECEIPT_{kind}", text=text["text"]),
        **_strings(GSI1PK=f"EMBEDDING_STATUS#{status}", GSI1SK=f"{kind}#{path}{at}", embedding_status=status),
        **_strings(GSI3PK=path, GSI3SK=kind, GSI4PK=path, GSI4SK=order),
        **(_strings(GSI2PK="RECEIPT", GSI2SK=f"{path}{at}") if kind == "WORD" else {}),
        "bounding_box": {"M": {name: {"N": str(value)} for name, value in box.items()}},
        "confidence": {"N": "0.98"},
        "is_noise": {"BOOL": bool(text.get("is_noise", False))},
    }


def _strings(**values: str) -> dict[str, Any]:
    return {name: {"S": value} for name, value in values.items()}


def _schema(partition: str, sort: str) -> list[dict[str, str]]:
    keys = [{"AttributeName": partition, "KeyType": "HASH"}]
    return [*keys, {"AttributeName": sort, "KeyType": "RANGE"}] if sort else keys
