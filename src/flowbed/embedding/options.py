"""The options of an embedder, as written in `flowbed.toml` or in the environment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flowbed.embedding import Rates
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Options of every provider that is called over HTTP.
COMMON = (
    "api_key",
    "base_url",
    "dimensions",
    "inputs_per_minute",
    "items",
    "no_proxy",
    "price",
    "proxy",
    "requests_per_minute",
    "timeout",
    "tokenizer",
    "tokens",
    "tokens_per_minute",
)


# Names the table `[providers.NAME]` where it is not the vendor's, for messages; nobody writes an option like this.
TABLE = "[table]"


class ModelOptions:
    """The options of one vendor, checked as they are read; an empty option counts as absent.

    `table` is the name of the table of `flowbed.toml` that they are from.

    Raises:
        Misconfigured: an option is not among `known`.
    """

    def __init__(self, vendor: str, options: Mapping[str, str], known: Sequence[str]) -> None:
        """Refuse unknown options, which may be misspelt ones."""
        self.vendor = vendor
        self.table = options.get(TABLE, vendor)
        self._options = {name: value for name, value in options.items() if value != ""}
        unknown = sorted(set(options) - {*known, TABLE})
        if unknown:
            raise Misconfigured(
                f"option {', '.join(unknown)} is unknown to {vendor} models; known options: {', '.join(sorted(known))}"
            )

    def __contains__(self, name: str) -> bool:
        """Return whether an option is set."""
        return name in self._options

    def text(self, name: str, default: str = "") -> str:
        """Read a text."""
        return self._options.get(name, default)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Read one of several words; the default is the first."""
        value = self.text(name, choices[0])
        if value not in choices:
            raise self._wrong(name, f"one of: {', '.join(choices)}")
        return value

    def flag(self, name: str) -> bool:
        """Read true or false; the default is false."""
        return self.choice(name, ("false", "true")) == "true"

    def number(self, name: str) -> int | None:
        """Read an integer above 0; None if the option is not set."""
        if name not in self:
            return None
        value = self._options[name]
        if not (value.isdecimal() and int(value)):
            raise self._wrong(name, "an integer above 0")
        return int(value)

    def amount(self, name: str) -> float | None:
        """Read a number, 0 or more; None if the option is not set."""
        if name not in self:
            return None
        try:
            value = float(self._options[name])
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise self._wrong(name, "a number, 0 or more")
        return value

    def rates(
        self, *, requests: int | None = None, inputs: int | None = None, tokens: int | None = None
    ) -> Rates:
        """Read the limits per minute; the defaults are the vendor's own."""
        return Rates(
            requests=self.number("requests_per_minute") or requests,
            inputs=self.number("inputs_per_minute") or inputs,
            tokens=self.number("tokens_per_minute") or tokens,
        )

    def prompts(self) -> dict[str, str]:
        """Read the prompts that are put in front of texts, by purpose."""
        read = {purpose: self.text(f"{purpose}_prompt") for purpose in ("document", "query")}
        return {purpose: prompt for purpose, prompt in read.items() if prompt}

    def _wrong(self, name: str, wanted: str) -> Misconfigured:
        return Misconfigured(f"option {name}={self._options[name]} of a {self.vendor} model must be {wanted}")
