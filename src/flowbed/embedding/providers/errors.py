"""The errors of providers: what a response other than an answer means, and what to do about it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from flowbed.embedding.providers.parsing import message_of
from flowbed.embedding.providers.refusals import (
    SERVERS_FAULT,
    STATUSES,
    TOO_MANY,
    Refusal,
    Verdict,
    is_page,
    is_perhaps_of_a_text,
    page_title,
    refusal_of_fields,
    status_within,
)
from flowbed.errors import Error, Misconfigured, Rejected, TooMany, Transient
from flowbed.http.client import wait_in_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.http.client import HttpClient, HttpResponse


class Refuses(Protocol):
    """The part of a vendor's format that words refusals."""

    def refused(self, response: HttpResponse) -> Refusal:
        """Interpret a refusal."""
        ...


class ResponseErrors:
    """Turns the responses of one provider to requests for one model into errors."""

    def __init__(self, api: Refuses, provider: HttpClient, *, model: str, key: str) -> None:
        """Interpret as `api` does; messages name the `model`, and `key`, the setting of its key."""
        self._api, self._provider, self._model, self._key = api, provider, model, key

    def refusal(self, response: HttpResponse) -> Refusal:
        """Interpret a refused response, as the vendor says and as HTTP does."""
        refused = self._api.refused(response)
        if refused.verdict is None:
            general = refusal_of_fields(response)
            refused = general if general.verdict is not None else refused
        if refused.verdict is not None:
            return refused
        fallback: Verdict = "transient" if response.status >= SERVERS_FAULT else "rejected"
        return replace(refused, verdict=STATUSES.get(response.status, fallback))

    def of(self, response: HttpResponse, refused: Refusal, texts: Sequence[str]) -> Error:
        """Return the error of a refused request; what it says of `texts` is left out."""
        said = page_title(response) if is_page(response) else message_of(response.json)
        message_text = self._provider.redacted(said, texts)
        message = f"{self._provider.label} answered {response.status}" + (
            f": {message_text}" if message_text else ""
        )
        perhaps = is_perhaps_of_a_text(response)
        if refused.verdict == "misconfigured":
            wrong = Misconfigured(message, advice=refused.advice or self._advice(response))
            # Where the message repeats a text, the words that were recognised may be the text's.
            wrong.perhaps_input = perhaps or message_text != self._provider.redacted(said)
            return wrong
        if refused.verdict == "transient":
            waits = (refused.retry_after, response.retry_after, wait_in_message(message))
            # A busy provider is up: callers of the key back off, and no breaker opens.
            kind = TooMany if response.status == TOO_MANY else Transient
            passing = kind(message, retry_after=next((wait for wait in waits if wait is not None), None))
            passing.perhaps_input = perhaps and passing.retry_after is None
            return passing
        inputs = tuple(place for place in refused.inputs if 0 <= place < len(texts))
        # A request of one text can only mean that text.
        return Rejected(message, inputs=inputs or ((0,) if len(texts) == 1 else ()))

    def within(self, response: HttpResponse, said: str, texts: Sequence[str]) -> Error:
        """Return the error in a response whose status says that all went well."""
        message = f"{self._provider.label} answered {response.status} with an error: " + (
            self._provider.redacted(said, texts)
        )
        if status_within(response) == TOO_MANY:
            wait = response.retry_after
            return TooMany(message, retry_after=wait_in_message(message) if wait is None else wait)
        error = Misconfigured(message, advice=self._advice(response))
        error.perhaps_billed = error.perhaps_input = True
        return error

    def _advice(self, response: HttpResponse) -> str:
        status = response.status
        if is_page(response) and status != 404:  # noqa: PLR2004 - as HTTP counts
            return (
                "a firewall or a proxy in front of the provider may have answered: check base_url and proxy in "
                f"[providers.{self._provider.table}], and that {self._key} may be used from here"
            )
        if status in (401, 403):
            return f"set {self._key} to a key that may use {self._model}"
        if status == 402:  # noqa: PLR2004 - payment required
            return "check the account's plan and credit, or set another model"
        if status == 407:  # noqa: PLR2004 - the proxy wants a password
            return (
                f"put the user and password into proxy in [providers.{self._provider.table}], or HTTPS_PROXY"
            )
        return f"check the model's name ({self._model}) and base_url in [providers.{self._provider.table}]"
