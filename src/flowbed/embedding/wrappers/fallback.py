"""Calls the next provider if one fails; only one of the same space, unless a request allows others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from flowbed import telemetry
from flowbed.embedding import Closes
from flowbed.embedding.wrappers import Wrapper
from flowbed.embedding.wrappers.billing import may_resend
from flowbed.errors import Misconfigured, Transient, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.embedding import Embedder
    from flowbed.records import Embedded, Purpose

Failure = TypeVar("Failure", Transient, Misconfigured)


class Fallback(Wrapper):
    """An embedder that calls `embedders` in turn until one answers.

    It counts tokens as the first does. A call may have as many texts as all of them take. Its `price` is that of the
    most expensive one, so that a budget holds whichever answers; an answer has the price of the one that gave it.
    """

    def __init__(
        self, embedders: Sequence[Embedder], *, names: Sequence[str] = (), crossing: bool = False
    ) -> None:
        """Take the embedders in order of preference, and their providers' `names`; `crossing` permits other spaces.

        Raises:
            Misconfigured: there are none, or one is of another space and `crossing` is not set.
        """
        if not embedders:
            raise Misconfigured("a fallback chain needs at least one model; name one")
        first = embedders[0]
        super().__init__(first)
        foreign = [each for each in embedders if each.space.fingerprint != first.space.fingerprint]
        if foreign and not crossing:
            raise Misconfigured(
                f"{foreign[0].space.model} ({foreign[0].space.space8}) is of another vector space than "
                f"{first.space.model} ({first.space.space8}), so it cannot be its fallback; use another provider of "
                "the same model, or allow crossing for requests that ask for it"
            )
        self._order = list(zip(embedders, names or [each.space.model for each in embedders], strict=True))
        self._crossing = crossing
        same = [each for each in embedders if each.space.fingerprint == first.space.fingerprint]
        self.items = min(each.items for each in same)
        self.tokens = min(each.tokens for each in same)
        self.price = max(each.price for each in same)

    @property
    def members(self) -> Sequence[tuple[Embedder, str]]:
        """The embedders in order, each with its name."""
        return self._order

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none in the one space; the `provider` of the result names who answered.

        Raises:
            Transient: none answered, and one may later; `retry_after` is the soonest they named.
            Rejected: a text will never be accepted; no other provider is called.
            Misconfigured: no provider can answer until a setting changes.
        """
        answer, _ = await self.embed_from(texts, purpose=purpose)
        return answer

    async def embed_from(
        self, texts: Sequence[str], *, purpose: Purpose, crossing: bool = False
    ) -> tuple[Embedded, Embedder]:
        """Embed every text or none, and return who answered; `crossing` is the request's permission to change spaces.

        Vectors of another space go to this request only, and are never stored.

        Raises:
            Transient, Rejected, Misconfigured: as `embed` does.
        """
        errors: list[Transient | Misconfigured] = []
        failed = ""
        for embedder, name in self._order:
            same = embedder.space.fingerprint == self.space.fingerprint
            if not same and not (crossing and self._crossing):
                continue
            if errors:
                if errors[-1].perhaps_billed and not may_resend():
                    break
                telemetry.reached(telemetry.FALLBACK, provider=failed, reason=str(errors[-1]))
            try:
                answer = await embedder.embed(texts, purpose=purpose)
            except (Transient, Misconfigured) as error:
                errors.append(error)
                failed = name
                continue
            return replace(answer, provider=name, price=embedder.price), embedder
        raise _combined(errors)

    async def aclose(self) -> None:
        """Close the embedders."""
        for embedder, _ in self._order:
            if isinstance(embedder, Closes):
                await embedder.aclose()


def _combined(errors: Sequence[Transient | Misconfigured]) -> Transient | Misconfigured:
    """Combine the errors of all providers; what all but the last may bill is accounted for already."""
    if len(errors) == 1:
        return errors[0]
    message = f"none of {len(errors)} providers answered: {'; '.join(map(str, errors))}"
    passing = [error for error in errors if isinstance(error, Transient)]
    if not passing:
        return _marked(Misconfigured(message), errors)
    waits = [error.retry_after for error in passing if error.retry_after is not None]
    kind = Unavailable if all(isinstance(error, Unavailable) for error in passing) else Transient
    return _marked(kind(message, retry_after=min(waits, default=None)), errors)


def _marked(error: Failure, errors: Sequence[Transient | Misconfigured]) -> Failure:
    error.perhaps_billed = errors[-1].perhaps_billed
    error.perhaps_input = all(each.perhaps_input for each in errors)
    return error
