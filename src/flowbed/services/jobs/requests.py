"""What a client asks a job to do, and its input as it is kept in the store until the job has ended."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import orjson

from flowbed.chunking import LEAST_CAPACITY, MOST_CAPACITY
from flowbed.chunking.metadata import require_scalar
from flowbed.errors import NotFound, Rejected
from flowbed.ledger.text import require_storable
from flowbed.records import canonical
from flowbed.records.names import is_name, rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowbed.records import Scalar
    from flowbed.storage import Store

# The folder of the store for the input of jobs. No collection can have its name.
FOLDER = "index-jobs"
PRIORITY, PRIORITY_MOST = 50, 100
DOCUMENTS_MOST = 50_000  # as many inputs as a batch has
ID_MOST = 512  # characters of a document's id
KEY_MOST = 255  # characters of an idempotency key
# Characters of a document, about, that one chunk has: the cost of a job is its size in chunks.
CHUNK_CHARACTERS = 1_000

Kind = Literal["texts", "document", "files", "reembed"]


class KeyReused(Rejected):
    """An idempotency key was used for another request."""


@dataclass(frozen=True, kw_only=True)
class JobDocument:
    """A document to write: `kind` is `text` or `markdown`.

    One with the same id is replaced. Without an id, it is a new document, named after the job.
    """

    id: str
    text: str
    kind: str = "text"
    title: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobFile:
    """A file of the Files API to write as the document `id`."""

    file: str
    id: str
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class IndexRequest:
    """What to write into a collection: documents, stored files, and ids of documents to remove; or `reembed` it.

    With a `model`, a collection is embedded with that one `into` another collection, which has a space of its own.

    `capacity` is the most tokens of a chunk, None for the default. `metadata` is the job's own. A repeated request with
    the same `idempotency` key makes no other job.
    """

    collection: str
    documents: Sequence[JobDocument] = ()
    files: Sequence[JobFile] = ()
    removed: Sequence[str] = ()
    reembed: bool = False
    model: str = ""
    into: str = ""
    capacity: int | None = None
    priority: int = PRIORITY
    metadata: Mapping[str, str] = field(default_factory=dict)
    idempotency: str | None = None

    @property
    def kind(self) -> Kind:
        """Say in one word what it is."""
        if self.reembed:
            return "reembed"
        if self.files:
            return "files"
        return "document" if len(self.documents) == 1 else "texts"

    @property
    def fingerprint(self) -> str:
        """Return 64 hex digits over everything but the idempotency key."""
        said = {**asdict(self), "idempotency": None}
        if not self.model:  # as before there were other models
            del said["model"], said["into"]
        return hashlib.sha256(canonical(said)).hexdigest()

    @property
    def chunking(self) -> dict[str, int]:
        """Return the chunking rules that it names."""
        return {} if self.capacity is None else {"capacity": self.capacity}

    def named(self, job: str) -> IndexRequest:
        """Return the request with an id for each document that has none: that of the job, and a number if several."""
        alone = len(self.documents) == 1
        documents = [
            each if each.id else replace(each, id=job if alone else f"{job}-{number:05d}")
            for number, each in enumerate(self.documents)
        ]
        return replace(self, documents=documents)

    def check(self) -> None:
        """Check what can be checked without reading anything.

        Raises:
            Rejected: something is missing, too much, or not storable; `param` names it.
        """
        _check_name(self.collection, "collection")
        _check_name(self.into or self.collection, "into")
        ids = [*(each.id for each in self.documents), *(each.id for each in self.files), *self.removed]
        if not (ids or self.reembed):
            raise Rejected(
                "The job has nothing to do: send texts, a document, a file_id or a url, or reembed.",
                param="texts",
                code="missing_required_parameter",
            )
        if ids and self.reembed:
            raise Rejected("A job either writes documents or embeds a collection again.", param="reembed")
        if len(ids) > DOCUMENTS_MOST:
            raise Rejected(
                f"A job may have {DOCUMENTS_MOST:,} documents, and this one has {len(ids):,}: send several jobs.",
                param="texts",
                code="array_above_max_length",
            )
        if len(set(ids)) < len(ids):
            twice = next(each for each in ids if ids.count(each) > 1)
            raise Rejected(f"Two documents of the job have the id {twice[:80]!r}.", param="texts")
        for each in ids:
            _check_id(each)
        for metadata in (
            *(each.metadata for each in self.documents),
            *(each.metadata for each in self.files),
        ):
            for name, value in metadata.items():
                require_scalar(name, value)
        self._check_options()

    def _check_options(self) -> None:
        if bool(self.model) != bool(self.into) or (self.model and not self.reembed):
            raise Rejected(
                "To embed a collection with another model, send reembed, the model, and into: the name of a new"
                " collection, since vectors of two models are never mixed.",
                param="into" if self.model else "model",
            )
        if self.capacity is not None and not LEAST_CAPACITY <= self.capacity <= MOST_CAPACITY:
            raise Rejected(
                f"The capacity of a chunk must be {LEAST_CAPACITY} to {MOST_CAPACITY:,} tokens.",
                param="chunking",
            )
        if not 0 <= self.priority <= PRIORITY_MOST:
            raise Rejected(f"The priority must be 0 to {PRIORITY_MOST}.", param="priority")
        key = self.idempotency
        if key is not None and not (0 < len(key) <= KEY_MOST and key.isprintable()):
            raise Rejected(
                f"An idempotency key has 1 to {KEY_MOST} printable characters.", param="idempotency_key"
            )

    def cost(self) -> int:
        """Estimate its size in chunks."""
        return max(
            1, sum(1 + len(each.text) // CHUNK_CHARACTERS for each in self.documents) + len(self.files)
        )


def _check_name(collection: str, param: str) -> None:
    if not is_name(collection):
        raise Rejected(f"{collection[:80]!r} cannot be the name of a collection: {rule()}.", param=param)


def _check_id(id_: str) -> None:
    if not 0 < len(id_) <= ID_MOST or not id_.strip():
        raise Rejected(f"The id of a document has 1 to {ID_MOST} characters.", param="id")
    require_storable([id_])


def encode(request: IndexRequest) -> bytes:
    """Encode the input of a job: a JSON object per line."""
    lines: list[dict[str, Any]] = [
        *map(asdict, request.documents),
        *map(asdict, request.files),
        *({"removed": each} for each in request.removed),
    ]
    return b"".join(orjson.dumps(each) + b"\n" for each in lines)


def decode(body: bytes) -> Iterator[JobDocument | JobFile | str]:
    """Decode the input of a job: documents, files, and the ids of documents to remove."""
    for line in body.splitlines():
        said = orjson.loads(line)
        if "removed" in said:
            yield said["removed"]
        else:
            yield JobFile(**said) if "file" in said else JobDocument(**said)


def input_key(job: str) -> str:
    """Return the key of a job's input in the store."""
    return f"{FOLDER}/{job}/input.jsonl"


async def read_input(store: Store, job: str) -> list[JobDocument | JobFile | str]:
    """Read the input of a job.

    Raises:
        Rejected: it is not there any more.
    """
    try:
        body = (await store.get(input_key(job))).body
    except NotFound as error:
        raise Rejected("the input of the job is not stored any more: send it again as a new job") from error
    return list(decode(body))


def id_of(each: JobDocument | JobFile | str) -> str:
    """Return the id of the document that a part of the input is about."""
    return each if isinstance(each, str) else each.id
