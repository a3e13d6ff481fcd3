"""Names of groups by the words that tell them apart, and times of rows by their metadata. No I/O."""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.index.full_text import WRITTEN
from flowbed.index.native import tokenize
from flowbed.index.projection import Times

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

NAMED = 3  # words of a name
# Words of a text that count, and how many texts of a group need one.
WORD = re.compile(r"[^\W\d_]{3,24}")
# Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese.
JOINED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3041-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f]"
)
# Words of hiragana alone are endings, particles and pronouns; those of one letter say little by themselves.
TELLS_NOTHING = re.compile("[\u3041-\u309f\u30fc]*|.")
COMMON = frozenset(
    """about after all also and any are because been before but can could does for from had has have her his how into
    its just may more most not now off one only other our out over said same she should some such than that the their
    them then there these they this those through too under until very was were what when where which while who will
    with would you your""".split()  # noqa: SIM905 - words are easier to read and to add to as a text
)
FEWEST = 2
# Fields that say when a row is from, the most telling first.
FIELDS = (
    *("last_ts", "ts", "timestamp", "time", "date"),
    *("created_at", "created", "updated_at", "updated", "published_at"),
)
# Share of the rows that need a time before a map shows times.
SHARE = 0.5
# Numbers of this size are milliseconds or microseconds, not seconds.
MILLIS, MICROS = 1e11, 1e14
# Years that are times: smaller or larger numbers count something else.
EARLIEST, LATEST = 0.0, 4_102_444_800.0


def names_of(texts: Sequence[str], group: Sequence[int], number: int) -> list[str]:
    """Name each of `number` groups of texts by the words that it has more often than the others."""
    counts = [Counter[str]() for _ in range(number)]
    sizes = Counter(group)
    for text, each in zip(texts, group, strict=True):
        counts[each].update({word.lower() for word in _words(text)} - COMMON)
    whole = sum(counts, Counter())
    named: list[str] = []
    for each, counted in enumerate(counts):
        share = {
            word: found / sizes[each] * math.log(found / sizes[each] / (whole[word] / len(texts)))
            for word, found in counted.items()
            if found >= min(FEWEST, sizes[each])
        }
        telling = (word for word in share if share[word] > 0 or number == 1)
        words = sorted(telling, key=lambda word: (-share[word], word))[:NAMED]
        name = ", ".join(words) or f"group {each + 1}"
        named.append(name if name not in named else f"{name} ({each + 1})")
    return named


def _words(text: str) -> Iterator[str]:
    if not JOINED.search(text):
        yield from WORD.findall(text)
        return
    for token in tokenize(text, WRITTEN):
        if not JOINED.search(token.text):
            yield from WORD.findall(token.text)
        elif not TELLS_NOTHING.fullmatch(token.text):
            yield token.text


def place_of(values: Sequence[str], most: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Number values by how common they are; those after the first `most - 1` are one, named others."""
    common = [value for value, _ in sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))]
    if len(common) > most:
        common = [*common[: most - 1], "others"]
    places = {value: place for place, value in enumerate(common)}
    last = len(common) - 1
    return np.fromiter((places.get(value, last) for value in values), np.uint8, len(values)), common


def times_of(rows: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float64], Times | None]:
    """Read the time of each row, in seconds since 1970: NaN where it has none, and None if few rows have one."""
    for name in FIELDS:
        found = np.fromiter((seconds(row.get(name)) for row in rows), np.float64, len(rows))
        known = found[~np.isnan(found)]
        if len(rows) and len(known) >= SHARE * len(rows):
            return found, Times(field=name, first=float(known.min()), last=float(known.max()))
    return np.full(len(rows), np.nan), None


def seconds(value: object) -> float:
    """Read a time as numbers of seconds, milliseconds or microseconds, or as ISO 8601; NaN if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        number = float(value)
    except ValueError:
        return _iso(str(value))
    except OverflowError:
        return math.nan
    if number >= MICROS:
        number /= 1e6
    elif number >= MILLIS:
        number /= 1e3
    # Years and counters are no times: nothing that was written is from 1970 or 1971.
    return number if EARLIEST + 63_072_000 < number < LATEST else math.nan


def _iso(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        return math.nan
