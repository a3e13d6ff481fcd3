"""Who pays for a call: asked before what may have been billed already is sent once more."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Payer(Protocol):
    """Who pays for the texts of a call."""

    def allow_resend(self) -> bool:
        """Count the texts as billed, and allow for sending them once more; False where there is no money for that."""
        ...


# Beside the call, as a deadline is: what stands between who pays and who is asked has no use for it.
_PAYER: ContextVar[Payer | None] = ContextVar("payer", default=None)


@contextmanager
def billed_to(payer: Payer) -> Iterator[None]:
    """Let `payer` be asked about the calls of embedders within."""
    token = _PAYER.set(payer)
    try:
        yield
    finally:
        _PAYER.reset(token)


def may_resend() -> bool:
    """Tell whether the texts of the call under way may be sent once more; without a payer they always may."""
    payer = _PAYER.get()
    return payer is None or payer.allow_resend()
