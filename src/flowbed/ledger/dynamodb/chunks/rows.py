"""How chunks are stored: one short item each, which says little where its run, worker or submission says it.

A row is PENDING from its claim on. Once it is in a run, the run's own row decides: a commit, a refusal or a rollback is
one write, not one per chunk. A claim lasts as long as the chunk says, or its worker, which renews all its claims at
once. What a worker has left to a submission is said by the submission.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from flowbed.ledger.dynamodb.table import key_of, value_to
from flowbed.ledger.rows import ChunkRow
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.ledger.items.table import Item, Key

# Short names, since a row is stored and written a million times: with them most rows take 300 bytes of the 1,024 that
# a write is billed for.
_NAMES = {
    "source": "s",
    "document": "d",
    "ordinal": "o",
    "tokens": "n",
    "text_hash": "t",
    "row_hash": "h",
    "version": "v",
    "deleted": "x",
    "worker": "w",
    "until": "u",
    "run": "r",
    "submission": "m",
    "attempts": "a",
    "failure": "f",
    "error": "e",
}
# Empty fields are not stored; these have no default.
_EMPTY: Mapping[str, Any] = {
    "source": "", "document": "", "ordinal": 0, "tokens": 0, "text_hash": "", "row_hash": "", "version": 0
}  # fmt: skip
_HOME, _STATUS, _WRITER, _TOKEN, _MARK, _TAKEN = "b", "st", "y", "k", "q", "l"
_LETTERS = {
    Status.NONE: "N",
    Status.PENDING: "P",
    Status.SUCCESS: "S",
    Status.FAILED: "F",
    Status.SKIPPED: "K",
    Status.REVERTED: "R",
}
_STATUSES = {letter: status for status, letter in _LETTERS.items()}
_DIGEST = 64  # hexadecimal digits of a sha256, stored as 32 bytes
_HEX = frozenset("0123456789abcdef")
# What deletions have instead of a batch file: those of one swap are listed together.
DELETIONS = "-"

COMMITTED, REFUSED, REVERTED = "committed", "refused", "reverted"


class Stored(NamedTuple):
    """A chunk as it is stored, with what its row does not say.

    `home` is the batch that lists it, for a deletion one that begins with `DELETIONS`. `writer` and `token` are the
    source and the token of the swap that wrote it. `mark` changes with every write. `taken` says that its worker took
    it from its submission. `there` are the stored attributes; empty for a chunk that is not stored yet.
    """

    row: ChunkRow
    home: str
    writer: str
    token: int
    mark: str = ""
    taken: bool = False
    there: Mapping[str, Any] = {}

    @property
    def key(self) -> Key:
        """The key of its item."""
        return chunk_key(self.row.collection, self.row.id)


class Fates(NamedTuple):
    """What decides about chunks beside their own rows: runs, ends of workers' claims, and what was handed over."""

    runs: Mapping[str, Item]
    untils: Mapping[str, int]
    handed: frozenset[tuple[str, str]]

    def of(self, stored: Stored) -> ChunkRow:
        """Return a row as it counts now."""
        row = stored.row
        if row.status is not Status.PENDING:
            return row
        if row.run:
            return _in_run(row, self.runs.get(row.run))
        if not row.worker:
            return row
        if not stored.taken and (row.submission, row.worker) in self.handed:
            return row._replace(worker="", until=0)
        until = self.untils.get(row.worker, 0)
        return row._replace(until=until) if until > row.until else row


def _in_run(row: ChunkRow, run: Item | None) -> ChunkRow:
    state = run["state"] if run else ""
    if state == COMMITTED:
        return row._replace(status=Status.SUCCESS, worker="")
    if state == REVERTED:
        return row._replace(status=Status.REVERTED, worker="")
    if state == REFUSED and run:
        return row._replace(
            status=Status.FAILED,
            failure="rejected",
            error=run["error"],
            attempts=row.attempts + 1,
            worker="",
        )
    return row


def chunk_key(collection: str, chunk: str) -> Key:
    """Return the key of a chunk: chunks of one id share a partition."""
    return f"C#{chunk}", collection


def home_of(row: ChunkRow, token: int) -> str:
    """Return the batch that lists a chunk which a swap writes."""
    return row.batch or f"{DELETIONS}{token}#{row.source}"


def stored_from(raw: Mapping[str, Any]) -> Stored:
    """Read an item as a chunk."""
    values = {name: _from(raw[short]) for name, short in _NAMES.items() if short in raw}
    home = _from(raw[_HOME])
    row = ChunkRow(
        **{**_EMPTY, **values},
        collection=raw["SK"]["S"],
        id=raw["PK"]["S"][2:],
        batch="" if home.startswith(DELETIONS) else home,
        status=_STATUSES[raw[_STATUS]["S"]],
    )
    return Stored(
        row=row,
        home=home,
        writer=raw[_WRITER]["S"] if _WRITER in raw else row.source,
        token=int(raw[_TOKEN]["N"]),
        mark=raw[_MARK]["S"],
        taken=_TAKEN in raw,
        there=raw,
    )


def item_of(stored: Stored) -> dict[str, Any]:
    """Return the item of a chunk, in DynamoDB's words, without what is empty."""
    row = stored.row
    item = {short: _to(getattr(row, name)) for name, short in _NAMES.items() if getattr(row, name)}
    item[_HOME] = _to(stored.home)
    item[_STATUS] = {"S": _LETTERS[row.status]}
    item[_TOKEN] = {"N": str(stored.token)}
    item[_MARK] = {"S": stored.mark}
    if stored.writer != row.source:
        item[_WRITER] = {"S": stored.writer}
    if stored.taken:
        item[_TAKEN] = {"BOOL": True}
    return item | key_of(stored.key)


def _to(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and len(value) == _DIGEST and _HEX.issuperset(value):
        return {"B": bytes.fromhex(value)}
    return value_to(value)


def _from(value: Mapping[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "N":
        return int(content)
    return content.hex() if kind == "B" else content


class Tally(NamedTuple):
    """What chunks of a batch are counted by: a collection, the letter of a state, and what decides on them.

    That is the submission of a PENDING chunk. One that is in a run has the state `p`, and its run decides.
    """

    collection: str
    state: str
    decides: str = ""

    @property
    def status(self) -> Status:
        """Its status."""
        return _STATUSES[self.state.upper()]


def tally_of(row: ChunkRow) -> Tally | None:
    """Return what a chunk is counted by; a deletion that has succeeded is not counted."""
    if row.status is Status.SUCCESS:
        return None if row.deleted else Tally(row.collection, "S")
    if row.status is Status.PENDING and row.run:
        return Tally(row.collection, "p", row.run)
    if row.status is Status.PENDING:
        return Tally(row.collection, "P", row.submission)
    return Tally(row.collection, _LETTERS[row.status])
