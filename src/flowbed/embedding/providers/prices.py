"""What models cost, in US dollars, as their vendors' price lists say; `[prices]` in `flowbed.toml` overrides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from flowbed.embedding.options import Options


@dataclass(frozen=True, kw_only=True)
class Price:
    """Dollars per million tokens; `batch` is the part of it that a Batch API takes, None where there is none."""

    dollars: float
    batch: float | None = None


# Looked up in 2026. Voyage's first tokens of an account are free, which nothing here can know of.
PRICES = {
    "text-embedding-3-small": Price(dollars=0.02, batch=0.5),
    "text-embedding-3-large": Price(dollars=0.13, batch=0.5),
    "text-embedding-ada-002": Price(dollars=0.10, batch=0.5),
    "voyage-4-large": Price(dollars=0.12, batch=0.67),
    "voyage-4": Price(dollars=0.06, batch=0.67),
    "voyage-4-lite": Price(dollars=0.02, batch=0.67),
    "voyage-3-large": Price(dollars=0.18, batch=0.67),
    "voyage-3.5": Price(dollars=0.06, batch=0.67),
    "voyage-3.5-lite": Price(dollars=0.02, batch=0.67),
    "voyage-code-3": Price(dollars=0.18, batch=0.67),
    "voyage-finance-2": Price(dollars=0.12),
    "voyage-law-2": Price(dollars=0.12),
    "voyage-2": Price(dollars=0.10),
    "embed-v4.0": Price(dollars=0.12),
    "embed-english-v3.0": Price(dollars=0.10),
    "embed-multilingual-v3.0": Price(dollars=0.10),
    "embed-english-light-v3.0": Price(dollars=0.10),
    "embed-multilingual-light-v3.0": Price(dollars=0.10),
}


def price_of(options: Options, name: str) -> float:
    """Tell what a model costs: as the options say, or as the table does.

    Raises:
        Misconfigured: neither does. Taken for free, its bill would come as a surprise.
    """
    said = options.amount("price")
    if said is not None:
        return said
    if name not in PRICES:
        raise Misconfigured(
            f'the price of model {options.vendor}:{name} is not known: set "{name}" = ..., in US dollars per million '
            "tokens, in [prices]"
        )
    return PRICES[name].dollars
