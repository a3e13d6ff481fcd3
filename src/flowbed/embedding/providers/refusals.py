"""What a provider's error is about: the request, one of its texts, or something in front of the provider. No I/O."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flowbed.embedding.providers.parsing import message_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowbed.http.client import HttpResponse

Verdict = Literal["transient", "rejected", "too_large", "misconfigured"]

# What a status means unless the vendor is more specific. 402 is an unpaid bill, 407 a proxy that wants a password, 501
# a server without embeddings; 408, 409 and 425 are temporary; 424 says that the model behind the server has failed.
STATUSES: Mapping[int, Verdict] = {
    413: "too_large",
    **dict.fromkeys((401, 402, 403, 404, 405, 407, 501), "misconfigured"),
    **dict.fromkeys((408, 409, 424, 425, 429, 499), "transient"),
}
TOO_MANY, SERVERS_FAULT = 429, 500
# Statuses that a firewall answers for one text as well as for a wrong key or address: with any body, and with a page.
BLOCKED, BLOCKED_BY_PAGE = frozenset({403}), frozenset({401, 402, 403, 404, 405})
# The server was reached, and failed on this request.
FAILED = frozenset({424})

# Fields of a request by their names at any vendor: its texts, and the others.
TEXTS = frozenset({"input", "inputs", "texts"})
FIELDS = frozenset(
    {
        "dimensions",
        "embedding_types",
        "encoding_format",
        "input_type",
        "model",
        "normalize",
        "output_dimension",
        "output_dtype",
        "prompt_name",
        "truncate",
        "truncation",
    }
)
# Parts of a request that have no texts.
BESIDES = frozenset({"cookie", "header", "path", "query"})
# Messages that no other text would change, whatever the status.
UNFIT = re.compile(
    r"(not|n't|cannot) support(ed)?( the)? embeddings?\b|embeddings?( api)? (is|are) not (supported|enabled)"
    r"|not an? embeddings? model|(unknown|no such) model\b|invalid model( name| id)?\s*[:`'\"]"
    r"|model .{0,80}(does not exist|not found|not supported)",
    re.IGNORECASE,
)
UNFIT_STATUSES = frozenset({400, 422, 500})
MALFORMED = frozenset({400, 422})

PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
TITLE = re.compile(rb"<title>([^<]{1,200})</title>", re.IGNORECASE)
# Bytes at the start of a page in which its title is looked for.
HEAD = 4_096


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a refusal means, beyond its status.

    `too_large` is a request that may succeed in parts. `inputs` are positions in the request. `advice` is what to do.
    """

    verdict: Verdict | None = None
    inputs: tuple[int, ...] = ()
    retry_after: float | None = None
    advice: str = ""


def refusal_of_fields(response: HttpResponse) -> Refusal:
    """Interpret what any server may say of a malformed request: the field or the text that it names, or its message."""
    if response.status in MALFORMED:
        inputs = []
        for first, *rest in _places(response.json):
            if first in BESIDES or first not in TEXTS:
                return Refusal(
                    verdict="misconfigured", advice=f"change the option that sets {first}, or leave it out"
                )
            inputs += [each for each in rest[:2] if isinstance(each, int)][:1]
        if inputs:
            return Refusal(verdict="rejected", inputs=tuple(inputs))
    if response.status in UNFIT_STATUSES and UNFIT.search(message_of(response.json)):
        return Refusal(verdict="misconfigured")
    return Refusal()


def _places(payload: Any) -> Iterator[Sequence[str | int]]:  # parsed JSON
    """Yield what an error names, as field and positions: `param` of OpenAI's errors, `loc` of FastAPI's."""
    fields = payload if isinstance(payload, dict) else {}
    error = fields.get("error")
    for param in (fields.get("param"), error.get("param") if isinstance(error, dict) else None):
        place = _parsed(param) if isinstance(param, str) else []
        if place and place[0] in TEXTS | FIELDS:  # other words, such as `prompt`, may mean the texts
            yield place
    for each in fields["detail"] if isinstance(fields.get("detail"), list) else ():
        loc = each.get("loc") if isinstance(each, dict) else None
        place = [part for part in loc if isinstance(part, str | int)] if isinstance(loc, list) else []
        if place[:1] == ["body"]:
            del place[0]
        if place and isinstance(place[0], str):
            yield place


def _parsed(param: str) -> list[str | int]:
    """Parse `input[3]`, `input.3` or `$.input[3]`."""
    parts = re.findall(r"[a-z_]+|[0-9]{1,9}", param[:200].lower())
    return [int(part) if part.isdecimal() else part for part in parts if part != "body"]


def error_within(response: HttpResponse) -> str:
    """Return the error in a response whose status says that all went well; empty if there is none."""
    if is_page(response):
        return page_title(response)
    payload = response.json
    if isinstance(payload, str):
        return payload
    if not isinstance(payload, dict) or any(isinstance(payload.get(name), list | dict) for name in RESULTS):
        return ""
    error = payload.get("error")
    return message_of(payload) or (str(error) if error else "")


# Fields in which vendors answer with vectors.
RESULTS = ("data", "embeddings")


def status_within(response: HttpResponse) -> int:
    """Return the status that an error names in its `code`; 0 if it names none."""
    error = response.json.get("error") if isinstance(response.json, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 0  # noqa: PLR2004 - as HTTP counts


def is_page(response: HttpResponse) -> bool:
    """Tell whether a response is a page of HTML, which no API answers with, but a firewall or a proxy does."""
    return PAGE.match(response.body[:HEAD]) is not None


def page_title(response: HttpResponse) -> str:
    """Describe a page of HTML."""
    found = TITLE.search(response.body[:HEAD])
    title = " ".join(html.unescape(found[1].decode(errors="replace")).split()) if found else ""
    return f"a page of HTML ({title})" if title else "a page of HTML"


def is_perhaps_of_a_text(response: HttpResponse) -> bool:
    """Tell whether an error may be caused by one text of the request, though its status says otherwise."""
    status = response.status
    if status >= SERVERS_FAULT or status in FAILED:
        # One that says when to come back is busy.
        return STATUSES.get(status) != "misconfigured" and response.retry_after is None
    return status in BLOCKED or (status in BLOCKED_BY_PAGE and response.json is None)
