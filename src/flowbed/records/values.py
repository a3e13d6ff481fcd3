"""Values that come from outside: which numbers can be stored, and how messages show a value."""

from __future__ import annotations

import math
import reprlib
from typing import TYPE_CHECKING

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Larger integers have no type in the index, and would change.
LARGEST = 2**63

# Longer values would fill the screen without saying more.
SHOWN = 60
DIGITS_PER_BIT = math.log10(2)


def require_number(value: object, name: str) -> float:
    """Return a number that the index can store unchanged: a finite float, or an integer of at most 64 bits.

    Raises:
        Rejected: `value` is anything else; the message begins with `name`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Rejected(f"{name} must be a number, not {shown(value)}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Rejected(f"{name} is {value}, which is no finite number: correct it or leave it out")
    elif abs(value) >= LARGEST:
        raise Rejected(f"{name} is {shown(value)}, which needs more than 64 bits: write it as a string")
    return value


def listing(names: Sequence[str], *, none: str, most: int = 20) -> str:
    """Write up to `most` names, and how many more there are; `none` where there are none."""
    said = ", ".join(names[:most])
    return (f"{said} and {len(names) - most:,} more" if len(names) > most else said) or none


def count(number: int, noun: str) -> str:
    """Write a number of things, such as `1 entry` and `2 entries`; the last word of `noun` gets the plural."""
    if number == 1:
        return f"1 {noun}"
    last = noun.rpartition(" ")[2]
    plural = (
        f"{noun[:-1]}ies" if last == "entry" else f"{noun}es" if last in {"index", "process"} else f"{noun}s"
    )
    return f"{number:,} {plural}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean ...?)` with the name in `known` that is spelt most like `word`, or nothing."""
    import difflib  # only after a mistake

    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def shown(value: object) -> str:
    """Return a value as a message shows it: shortened, however large or deep it is."""
    if isinstance(value, int) and value.bit_length() > SHOWN / DIGITS_PER_BIT:
        return f"an integer of about {math.ceil(value.bit_length() * DIGITS_PER_BIT):,} digits"
    return _REPR.repr(value)


_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_REPR.maxstring = _REPR.maxother = SHOWN
