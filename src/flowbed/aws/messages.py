"""Messages about runs, in the shape that existing compactors read and write."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class RunMessage:
    """What is told about one collection of a run; `record` is the position in the stream that gave cause for it."""

    entity: Mapping[str, Any]
    collection: str
    event_name: str
    record: str
    at: int
    region: str

    @property
    def run(self) -> str:
        """The id of the run."""
        return str(self.entity["run_id"])

    def body(self) -> dict[str, Any]:
        """Return the message as JSON."""
        return {
            "source": "dynamodb_stream",
            "entity_type": "COMPACTION_RUN",
            "entity_data": dict(self.entity),
            "changes": {},
            "event_name": self.event_name,
            "timestamp": datetime.fromtimestamp(self.at / 1e6, UTC).isoformat(),
            "stream_record_id": self.record,
            "aws_region": self.region,
        }


def run_entity(run: str, collection: str, key: str) -> dict[str, Any]:
    """Return what a message says of a run of Flowbed; `key` is that of its delta."""
    return {"run_id": run, "collection": collection, "delta_s3_prefix": f"{key.rpartition('/')[0]}/"}
