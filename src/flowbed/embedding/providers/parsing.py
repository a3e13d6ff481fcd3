"""Vectors out of the answers of providers: each belongs to the text that it was asked for, or there is none. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybase64 import b64decode  # the standard library's takes ten times as long

from flowbed.errors import Misconfigured, Rejected, Transient

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

FLOAT = "<f4"
# Squares of lengths that single precision has no doubt about.
TINY, HUGE = 1e-30, 1e30


def indexed(data: Any, count: int) -> list[Any]:  # as JSON has it
    """Put the embeddings of `data`, a list of {index, embedding}, in the order of their texts.

    Raises:
        Transient: it is no such list, or an index is missing, doubled or out of range: no vector could be trusted.
    """
    if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
        raise Transient("the answer holds no list of embeddings")
    if len(data) != count:
        raise Transient(f"the answer holds {len(data)} vectors for {count} texts")
    found: dict[int, Any] = {}
    for each in data:
        index = each.get("index")
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
            raise Transient(f"the answer has a vector with index {str(index)[:20]} among {count} texts")
        if index in found:
            raise Transient(f"the answer has two vectors with index {index}: whose they are is not known")
        found[index] = each.get("embedding")
    return [found[index] for index in range(count)]


def positional(rows: Any, count: int) -> list[Any]:  # as JSON has it
    """Take embeddings that come in the order of their texts, and say nothing more of it.

    Raises:
        Transient: it is no list, or not of one for each text.
    """
    if not isinstance(rows, list):
        raise Transient("the answer holds no list of embeddings")
    if len(rows) != count:
        raise Transient(f"the answer holds {len(rows)} vectors for {count} texts")
    return rows


def matrix(embeddings: Sequence[Any], dimensions: int) -> NDArray[np.float32]:
    """Read embeddings, each base64 of little-endian float32 or a list of numbers, into one array.

    Raises:
        Transient: one cannot be read, or is of another length than its neighbours.
        Misconfigured: all of them have another number of dimensions than was set.
    """
    import numpy as np

    rows = [_row(embedding) for embedding in embeddings]
    lengths = {len(row) for row in rows}
    if lengths != {dimensions}:
        if len(lengths) == 1 and 0 not in lengths:
            (length,) = lengths
            raise Misconfigured(
                f"it answered vectors of {length} dimensions where {dimensions} are expected; "
                f"set the option dimensions to {length}, or ask for another model"
            )
        raise Transient(f"it answered vectors of {', '.join(map(str, sorted(lengths)[:3]))} numbers at once")
    return np.array(rows, dtype=np.float32)


def normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make every vector as long as 1.

    Raises:
        Transient: one has a number that is not finite.
        Rejected: one is all zeros, so that it points nowhere; `inputs` says which.
    """
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
    # Looked at one by one: of a few, as most calls are, numpy would take longer for that than for the product.
    if all(TINY < square < HUGE for square in squares.tolist()):
        unit: NDArray[np.float32] = vectors / np.sqrt(squares)[:, None]
        return unit
    # Not finite, zero, or so large or small that its square has no place here: double precision tells.
    precise = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not np.isfinite(precise).all():
        raise Transient("it answered a vector with numbers that are not finite")
    nowhere = np.flatnonzero(precise == 0)
    if len(nowhere):
        raise Rejected(f"it answered nothing but zeros for {len(nowhere)} texts", inputs=nowhere.tolist())
    divided: NDArray[np.float32] = (vectors / precise[:, None]).astype(np.float32)
    return divided


def usage(payload: Any, *path: str) -> int | None:  # as JSON has it
    """Read a count of tokens that lies at `path` in an answer; None where there is none."""
    for name in path:
        payload = payload.get(name) if isinstance(payload, dict) else None
    good = isinstance(payload, int | float) and not isinstance(payload, bool) and payload >= 0
    return int(payload) if good else None


def message_of(payload: Any) -> str:  # as JSON has it
    """Find what an error says of itself, in the several forms that servers have for it."""
    if isinstance(payload, str):
        return payload
    if isinstance(payload, list):
        # Validation errors of FastAPI's servers, which repeat the whole input beside their message.
        return "; ".join(filter(None, map(message_of, payload)))
    if isinstance(payload, dict):
        for name in ("error", "message", "detail", "msg"):
            if found := message_of(payload.get(name)):
                return found
    return ""


def _row(embedding: Any) -> NDArray[np.float32]:  # as JSON has it
    import numpy as np

    try:
        if isinstance(embedding, str):
            return np.frombuffer(b64decode(embedding, validate=True), FLOAT)
        if isinstance(embedding, list):
            with np.errstate(over="ignore"):  # too large for 32 bits is not finite, and told as such
                row = np.array(embedding, dtype=np.float32)
            if row.ndim == 1:
                return row
    except (ValueError, TypeError, OverflowError):
        pass
    raise Transient("the answer has a vector that is neither base64 nor a list of numbers")
