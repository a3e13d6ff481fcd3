"""Fewer and smaller indexes of chunks, which a claim and its end write: they took as long as all else.

What submissions carry is known by other means; the end of a claim is looked for among claims, not among all chunks
that are unfinished; what nobody holds is in no index of what somebody holds; and to be claimed changes no place in the
index of what is unfinished.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


UNFINISHED = sa.text("status != 'SUCCESS'")
HELD = sa.text("status = 'PENDING' AND run = '' AND worker > ''")


def upgrade() -> None:
    """Drop what is written for nothing, and make the others anew."""
    for name in ("chunks_carried", "chunks_unfinished", "chunks_claimed"):
        op.drop_index(name, "chunks")
    for name, columns, where in (
        ("chunks_unfinished", ["batch"], UNFINISHED),
        ("chunks_held", ["worker", "until"], HELD),
    ):
        op.create_index(name, "chunks", columns, sqlite_where=where, postgresql_where=where)
