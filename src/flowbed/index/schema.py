"""The columns of a row, in deltas and in the index."""

from __future__ import annotations

import pyarrow as pa

# Lance reads this mark from the field's metadata. Without it, two processes that merge overlapping rows silently leave
# duplicates and stale rows.
PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}
METADATA = pa.json_(pa.utf8())


def schema(dimensions: int) -> pa.Schema:
    """Return the schema of rows with vectors of `dimensions`."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
            pa.field("version", pa.int64(), nullable=False),
            pa.field("deleted", pa.bool_(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dimensions)),
            pa.field("document", pa.string()),
            pa.field("metadata", METADATA),
            pa.field("text_hash", pa.string()),
            pa.field("run_id", pa.string(), nullable=False),
        ]
    )
