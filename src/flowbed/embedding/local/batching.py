"""Splits token ids into windows and padded batches, and joins their vectors. No I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

# Padded tokens in one batch, and texts in one. Measured on one core: from about 120 to 384 tokens the time per token is
# constant; at 1,024 it is 4 % higher for lines and 7 % for passages, at 16,384 three times as high, since activations
# no longer fit the processor's caches. And with few batches, one core runs the last while the others idle.
TOKENS = 384
TEXTS = 128
# Padded tokens that are worth one more core: the fixed cost of a batch is then a quarter. On two idle cores 16 lines
# took 32 ms instead of 43.
SHARE = 64

# The fixed cost of a batch, in tokens: the weights are read again.
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Window:
    """Consecutive tokens of one text, without special ones; `text` is its position in the call."""

    text: int
    ids: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows of similar length: their positions among all windows, their padded ids and their mask."""

    windows: Sequence[int]
    ids: NDArray[np.int64]
    mask: NDArray[np.int64]


def windows_of(text: int, ids: Sequence[int], size: int) -> list[Window]:
    """Split one text's tokens into as few windows as possible, of similar length."""
    count = max(1, -(-len(ids) // size))
    bounds = [len(ids) * part // count for part in range(count + 1)]
    return [Window(text=text, ids=ids[bounds[part] : bounds[part + 1]]) for part in range(count)]


def batches_of(
    windows: Sequence[Window], *, prefix: Sequence[int], suffix: Sequence[int], padding: int, cores: int
) -> Iterator[Batch]:
    """Pad windows into batches, largest first; `prefix` and `suffix` are the special tokens around a window.

    The size of batches is such that none of `cores` runs out of work before the others.
    """
    import numpy as np

    order = sorted(range(len(windows)), key=lambda window: -len(windows[window].ids))
    special = len(prefix) + len(suffix)
    widths = [len(windows[window].ids) + special for window in order]
    # Largest first: memory is allocated once, at the start, and no core begins a long batch when others have finished.
    for cut in sorted(
        split_batches(widths, most=batch_tokens(sum(widths), cores)),
        key=lambda cut: -(cut.stop - cut.start) * widths[cut.start],
    ):
        members, width = order[cut], widths[cut.start]
        ids = np.full((len(members), width), padding, dtype=np.int64)
        mask = np.zeros((len(members), width), dtype=np.int64)
        for row, member in enumerate(members):
            tokens = [*prefix, *windows[member].ids, *suffix]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        yield Batch(windows=members, ids=ids, mask=mask)


def batch_tokens(tokens: int, cores: int) -> int:
    """Return the largest batch with which each core gets an equal share of a call of `tokens`."""
    rounds = -(-tokens // (TOKENS * cores))
    return min(TOKENS, max(SHARE, -(-tokens // (max(1, rounds) * cores))))


def split_batches(widths: Sequence[int], *, most: int = TOKENS) -> list[slice]:
    """Split windows, widest first, into the batches that take the least time, padding included.

    A batch of n windows takes n times the widest one's tokens plus `BATCH`; only a single window may exceed `most`
    tokens. Batches that end between two windows of one width, though they are not full, are not considered: they could
    save a few tokens, and looking at all of them takes ten times as long.
    """
    ends = [place for place in range(1, len(widths)) if widths[place] < widths[place - 1]]
    ends.append(len(widths))
    least = [math.inf] * (len(widths) + 1)  # cost of batching all windows before a position
    least[0] = 0.0
    last_start = [0] * (len(widths) + 1)  # where the last of these batches starts
    following = 0
    for start, width in enumerate(widths):
        while ends[following] <= start:
            following += 1
        if math.isinf(least[start]):
            continue
        full = min(start + max(1, min(TEXTS, most // width)), len(widths))
        for end in (*takewhile(full.__gt__, islice(ends, following, None)), full):
            taken = least[start] + BATCH + (end - start) * width
            if taken < least[end]:
                least[end], last_start[end] = taken, start
    found: list[slice] = []
    end = len(widths)
    while end:
        found.append(slice(last_start[end], end))
        end = last_start[end]
    return found[::-1]


def pool(output: NDArray[np.float32], mask: NDArray[np.int64], pooling: str) -> NDArray[np.float32]:
    """Turn a graph's output, token vectors (texts, tokens, dimensions) or pooled ones, into unit vectors."""
    import numpy as np

    if output.ndim == 3:  # noqa: PLR2004 - the shape above
        weights = mask.astype(np.float32)[:, :, None]
        output = output[:, 0] if pooling == "cls" else (output * weights).sum(axis=1)
    return unit_vectors(output)


def join_windows(vectors: NDArray[np.float32], windows: Sequence[Window], texts: int) -> NDArray[np.float32]:
    """Average the windows of each text, weighted by their tokens; windows are in the order of their texts."""
    import numpy as np

    if len(windows) == texts:
        return vectors
    weights = np.array([max(1, len(window.ids)) for window in windows], dtype=np.float32)
    owners = np.array([window.text for window in windows])
    starts = np.searchsorted(owners, np.arange(texts))
    return unit_vectors(np.add.reduceat(vectors * weights[:, None], starts, axis=0))


def unit_vectors(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1; a row of zeros stays zero."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return scaled
