"""The options of an embedder, as a person wrote them in `flowbed.toml` or in the environment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flowbed.embedding import Rates
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What every provider that is reached over HTTP can be told.
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


class Options:
    """Options of one vendor, each read once and checked; an empty one counts as not given.

    Raises:
        Misconfigured: an option is not one of `known`.
    """

    def __init__(self, vendor: str, options: Mapping[str, str], known: Sequence[str]) -> None:
        """Refuse options that the vendor does not know, which may be misspelt ones that it does."""
        self.vendor = vendor
        self._options = {name: value for name, value in options.items() if value != ""}
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise Misconfigured(
                f"option {', '.join(unknown)} is not known to {vendor} models; known are: {', '.join(sorted(known))}"
            )

    def __contains__(self, name: str) -> bool:
        """Tell whether an option was given."""
        return name in self._options

    def text(self, name: str, default: str = "") -> str:
        """Read an option that is a text."""
        return self._options.get(name, default)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Read an option that is one of a few words, the first unless said otherwise."""
        value = self.text(name, choices[0])
        if value not in choices:
            raise self._wrong(name, f"one of: {', '.join(choices)}")
        return value

    def flag(self, name: str) -> bool:
        """Read an option that is true or false, and false unless said otherwise."""
        return self.choice(name, ("false", "true")) == "true"

    def number(self, name: str) -> int | None:
        """Read an option that is an integer above 0; None where it was not given."""
        if name not in self:
            return None
        value = self._options[name]
        if not (value.isdecimal() and int(value)):
            raise self._wrong(name, "an integer above 0")
        return int(value)

    def amount(self, name: str) -> float | None:
        """Read an option that is a number, 0 or more; None where it was not given."""
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
        """Read what a minute may hold: as the options say, and else as the vendor lets everybody."""
        return Rates(
            requests=self.number("requests_per_minute") or requests,
            inputs=self.number("inputs_per_minute") or inputs,
            tokens=self.number("tokens_per_minute") or tokens,
        )

    def prompts(self) -> dict[str, str]:
        """Read what is put in front of a text, by purpose."""
        read = {purpose: self.text(f"{purpose}_prompt") for purpose in ("document", "query")}
        return {purpose: prompt for purpose, prompt in read.items() if prompt}

    def _wrong(self, name: str, wanted: str) -> Misconfigured:
        return Misconfigured(
            f"option {name}={self._options[name]} of a {self.vendor} model has to be {wanted}"
        )
