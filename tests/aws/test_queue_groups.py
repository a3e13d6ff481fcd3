"""The groups of a queue that keeps order are ids that SQS takes."""

from __future__ import annotations

import pytest

from flowbed.aws.messages import RunMessage
from flowbed.aws.queues import _entry


def group_of(image: str, collection: str = "lines") -> str:
    """Return the group of a message about an image."""
    message = RunMessage(
        entity={"run_id": "r", "image_id": image},
        collection=collection,
        event_name="INSERT",
        record="1",
        at=0,
        region="us-east-1",
    )
    return str(_entry(0, message, fifo=True)["MessageGroupId"])


def test_group_of_an_image_is_its_id_and_collection() -> None:
    assert group_of("24a30ce9") == "COMPACTION_RUN:24a30ce9:lines"


@pytest.mark.parametrize("image", ["x" * 200, "två bilder", "a b", "\ud83d"])
def test_group_that_sqs_would_refuse_is_shortened_by_a_hash(image: str) -> None:
    """SQS takes 1 to 128 characters of ASCII without spaces."""
    group = group_of(image, "c" * 63)
    assert len(group) <= 128
    assert group.isascii()
    assert group.isprintable()
    assert " " not in group
    assert group == group_of(image, "c" * 63)
    assert group != group_of(image + "y", "c" * 63)
