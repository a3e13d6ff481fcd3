"""The full-text index of a dataset: how texts become words, and how the index is built and extended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from flowbed.index.native import tokenize

if TYPE_CHECKING:
    import lance

    from flowbed.index.native import Dataset

NAME, COLUMN = "text", "document"
# ICU finds words in every script, Japanese and Chinese too, from dictionaries that Lance brings along. Names such as
# error_code and v2.3.1 are split, so that their parts are found. Stems and stop words are English; in other languages
# words are found as they are written, but for case and accents.
WORDS: dict[str, Any] = {
    "base_tokenizer": "icu/split",
    "language": "English",
    "lower_case": True,
    "ascii_folding": True,
    "stem": True,
    "remove_stop_words": True,
}
# The same words as they are written, all of them.
WRITTEN: dict[str, Any] = {
    "base_tokenizer": "icu/split",
    "lower_case": False,
    "ascii_folding": False,
    "stem": False,
    "remove_stop_words": False,
    "max_token_length": None,
}
# Positions count from the first word that is kept, so one that always is comes first.
ANCHOR = "q "
MEMORY = 512  # MiB; the index of 100,000 rows of 750 characters takes 14 MB on disk
# Every search by text reads the unindexed rows, which takes 40 µs for each of 750 characters.
UNINDEXED = 2_000
# An append takes with it the last segments of up to this many times its rows, at 10 µs a row: so few segments are left,
# which every search reads, and no row is moved often.
JOINED = 2

Work = Literal["build", "extend"]


@dataclass(frozen=True, kw_only=True)
class FullText:
    """A full-text index: the numbers of the fragments in each of its segments, in the order of their appending."""

    segments: tuple[frozenset[int], ...]

    @property
    def fragments(self) -> frozenset[int]:
        """The fragments whose rows are indexed."""
        return frozenset().union(*self.segments)


class Word(NamedTuple):
    """A word of a text: its stem, and the characters `start` to `end` where it is written."""

    stem: str
    start: int
    end: int


def full_text(dataset: lance.LanceDataset | Dataset) -> FullText | None:
    """Describe the full-text index of a version; None if there is none."""
    found = [each for each in dataset.describe_indices() if each.field_names == [COLUMN]]
    if not found:
        return None
    return FullText(
        segments=tuple(frozenset(segment.fragment_ids) for each in found for segment in each.segments)
    )


def plan_full_text(dataset: lance.LanceDataset, *, wanted: bool) -> Work | None:
    """Decide what to do about the full-text index of a version; one that is `wanted` is built, and extended at once."""
    index = full_text(dataset)
    if index is None:
        return "build" if wanted and dataset.count_rows() else None
    return "extend" if _unindexed(dataset, index) > (0 if wanted else UNINDEXED) else None


def _unindexed(dataset: lance.LanceDataset, index: FullText) -> int:
    """Count the rows that are not in the index, tombstones included."""
    held = index.fragments
    return sum(each.count_rows() for each in dataset.get_fragments() if each.fragment_id not in held)


def build_full_text(dataset: lance.LanceDataset) -> None:
    """Build the full-text index of all rows, or build it again: 50 µs of CPU for a row of 750 characters."""
    # One worker: more make as many shards, each of which a search reads.
    dataset.create_scalar_index(
        COLUMN, "INVERTED", name=NAME, replace=True, num_workers=1, memory_limit=MEMORY, **WORDS
    )


def extend_full_text(dataset: lance.LanceDataset) -> None:
    """Add the unindexed rows to the full-text index, in one segment with the last small ones."""
    index = full_text(dataset)
    if index is None:
        return
    rows = {each.fragment_id: each.count_rows() for each in dataset.get_fragments()}
    added, joined = _unindexed(dataset, index), 0
    for segment in reversed(index.segments):
        size = sum(rows.get(number, 0) for number in segment)
        if size > JOINED * added:
            break
        added, joined = added + size, joined + 1
    dataset.optimize.optimize_indices(num_indices_to_merge=joined, index_names=[NAME])


def words_of(text: str) -> list[Word]:
    """Return the words of a text that a search by text finds, in order; stop words are left out."""
    anchored = ANCHOR + text
    places: list[tuple[int, int]] = []
    at = 0
    for token in tokenize(anchored, WRITTEN):
        start = anchored.find(token.text, at)
        at = max(at, start + len(token.text))  # a word that is written in another way has no place
        places.append((start - len(ANCHOR), at - len(ANCHOR)) if start >= 0 else (0, 0))
    stems = tokenize(anchored, WORDS)[1:]
    return [Word(token.text, *places[token.position]) for token in stems]
