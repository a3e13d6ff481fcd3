"""The options of a source, as written in `flowbed.toml` or on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.records.values import shown, suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


# Of an integer of 64 bits; Python refuses those of thousands of digits.
DIGITS = 19


class SourceOptions:
    """The options of one source, checked when read.

    Raises:
        Misconfigured: an option is not in `known`.
    """

    def __init__(self, kind: str, options: Mapping[str, object], known: Sequence[str]) -> None:
        """Reject unknown options, which may be misspelt."""
        self._kind = kind
        self._options = options
        unknown = sorted(set(options) - set(known))
        if unknown:
            # The chunker's option is read before, and may be misspelt too.
            known = (*known, "neighbours" if kind == "receipts" else "capacity")
            raise Misconfigured(
                f"a source of kind {kind!r} has no option {', '.join(map(repr, unknown))}"
                f"{suggestion(unknown[0], known)}; "
                f"its options are: {', '.join(known) or 'none'}"
            )

    def string(self, name: str, default: str) -> str:
        """Return a string option."""
        value = self._options.get(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Return an option that must be one of `choices`; the first is the default."""
        value = self.string(name, choices[0])
        if value not in choices:
            raise self._wrong(name, f"one of: {', '.join(choices)}")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """Return an option that is a list of strings, or one string separated by commas."""
        value = self._options.get(name, ())
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of strings, or one string separated by commas")
        return tuple(item.strip() for item in value if item.strip())

    def flag(self, name: str) -> bool:
        """Return an option that is true or false, false by default; the command line passes it as a string."""
        value = self._options.get(name, False)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def positive_integer(self, name: str, default: int) -> int:
        """Return an integer option above 0; the command line passes it as a string."""
        value = self._options.get(name, default)
        if isinstance(value, str) and value.isdecimal() and len(value) <= DIGITS:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._wrong(name, "an integer above 0")
        return value

    def _wrong(self, name: str, wanted: str) -> Misconfigured:
        return Misconfigured(
            f"option {name!r} of a source of kind {self._kind!r} must be {wanted}, not {shown(self._options[name])}"
        )
