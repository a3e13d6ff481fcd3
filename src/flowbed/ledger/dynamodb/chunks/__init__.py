"""The chunks: found by their documents and batches, and claimed by conditional writes of single items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.ledger.dynamodb.chunks.carrying import Carrying
from flowbed.ledger.dynamodb.chunks.claims import Claims
from flowbed.ledger.dynamodb.chunks.finding import Finding

if TYPE_CHECKING:
    from flowbed.ledger.dynamodb.chunks.parts import Parts


class DynamoChunks:
    """`Chunks` in a table of DynamoDB."""

    def __init__(self, parts: Parts) -> None:
        """Join what finds chunks, what claims them, and what leaves them to submissions."""
        finding, claims, carrying = Finding(parts), Claims(parts), Carrying(parts)
        self.of, self.find, self.owners = finding.of, finding.find, finding.owners
        self.marks, self.used, self.counts = finding.marks, finding.used, finding.counts
        self.ready, self.batches, self.claim = claims.ready, claims.batches, claims.claim
        self.renew, self.workers, self.release = claims.renew, claims.workers, claims.release
        self.give_back, self.fail = claims.give_back, claims.fail
        self.retry, self.requeue = claims.retry, claims.requeue
        self.bind, self.hand_over, self.in_flight = carrying.bind, carrying.hand_over, carrying.in_flight
        self.take, self.submitted, self.let_go = carrying.take, carrying.submitted, carrying.let_go
