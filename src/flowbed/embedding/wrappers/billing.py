"""Asks the payer of a call before texts that may have been billed are sent again."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Payer(Protocol):
    """Pays for the texts of a call."""

    def allow_resend(self) -> bool:
        """Count the texts as billed, and return whether the budget allows sending them again."""
        ...


# In a context variable, like a deadline: the wrappers between payer and provider do not need it.
_PAYER: ContextVar[Payer | None] = ContextVar("payer", default=None)


@contextmanager
def billed_to(payer: Payer) -> Iterator[None]:
    """Make `payer` pay for the embedder calls inside the block."""
    token = _PAYER.set(payer)
    try:
        yield
    finally:
        _PAYER.reset(token)


def may_resend() -> bool:
    """Return whether the texts of the current call may be sent again; without a payer they may."""
    payer = _PAYER.get()
    return payer is None or payer.allow_resend()
