"""The options of a source, as a person wrote them in `flowbed.toml` or on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Options:
    """Options of one kind of source, each read once and checked.

    Raises:
        Misconfigured: an option is not one of `known`.
    """

    def __init__(self, kind: str, options: Mapping[str, object], known: Sequence[str]) -> None:
        """Refuse options that the kind does not know, which may be misspelt ones that it does."""
        self._kind = kind
        self._options = options
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise Misconfigured(
                f"a source of kind {kind!r} has no option {', '.join(map(repr, unknown))}; "
                f"its options are: {', '.join(known) or 'none'}"
            )

    def text(self, name: str, default: str) -> str:
        """Read an option that is one text."""
        value = self._options.get(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Read an option that is one of a few words, the first unless said otherwise."""
        value = self.text(name, choices[0])
        if value not in choices:
            raise self._wrong(name, f"one of: {', '.join(choices)}")
        return value

    def listed(self, name: str) -> tuple[str, ...]:
        """Read an option that is a list of texts, or one text with commas between them."""
        value = self._options.get(name, ())
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of texts, or one text with commas between them")
        return tuple(item.strip() for item in value if item.strip())

    def number(self, name: str, default: int) -> int:
        """Read an option that is an integer above 0; the command line hands it over as text."""
        value = self._options.get(name, default)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._wrong(name, "an integer above 0")
        return value

    def _wrong(self, name: str, wanted: str) -> Misconfigured:
        return Misconfigured(
            f"option {name!r} of a source of kind {self._kind!r} has to be {wanted}, not {self._options[name]!r}"
        )
