"""A simulated Google Places: text search over a list of places.

    places = GooglePlaces(key="any", places=[("Restoran Wan Sheng", "No. 2, Jalan Temenggung, Cheras")])
    async with running(places, dated=False) as url:
        ...  # a source of kind receipts with the options places and places_url = url

It answers `POST /v1/places:searchText` with the places that share most words with the query, `{}` where none does, and
with Google's errors where the key or the list of fields is missing. Every query is in `queries`. `POST /_simulator/do`
with `{"do": "add", "name": ..., "address": ...}` adds a place, and with `{"do": "fail", "fault": "storm", "times": 3}`
orders a fault.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.testing.simulators.serving.asgi import read_request, send_answer, transport_of
from flowbed.testing.simulators.sources.script import carry_out
from flowbed.testing.simulators.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.testing.simulators.serving.asgi import Receive, Scope, Send
    from flowbed.testing.simulators.wire import Request


SCRIPT = ("add", "fail")
FAULTS = ("storm", "outage", "cut", "silent", "garbled")


@dataclass
class GooglePlaces:
    """Places by name and address.

    The faults: `storm` requests are answered 429, `outage` ones 503 (with the key in the message, as a proxy may repeat
    it), `cut` ones by half a body, `silent` ones by a closed connection, `garbled` ones by something that is not JSON.
    """

    key: str = "simulated"
    places: Sequence[tuple[str, str]] = ()
    storm: int = 0
    outage: int = 0
    cut: int = 0
    silent: int = 0
    garbled: int = 0
    queries: list[str] = field(default_factory=list)

    def add(self, name: str, address: str) -> None:
        """Add a place."""
        self.places = (*self.places, (name, address))

    def fail(self, fault: str, times: int = 1) -> None:
        """Order a fault for so many of the next requests.

        Raises:
            KeyError: there is no such fault.
        """
        if fault not in FAULTS:
            raise KeyError(f"no fault is called {fault!r}; there are {', '.join(FAULTS)}")
        setattr(self, fault, times)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        if scope["type"] != "http":
            raise NotImplementedError(
                f"a simulator knows no {scope['type']}"
            )  # as the ASGI specification requires
        request = await read_request(scope, receive)
        if request is None:
            return
        if request.path == "/_simulator/do":
            await send_answer(send, _json(*carry_out(self, orjson.loads(request.body), script=SCRIPT)))
            return
        if request.path != "/v1/places:searchText":
            await send_answer(send, _error(404, "NOT_FOUND", "Requested entity was not found."))
            return
        self.queries.append(str(orjson.loads(request.body).get("textQuery", "")))
        if self.silent:
            self.silent -= 1
            transport_of(scope).abort()
            return
        answer = self._faulty() or self._answered(request)
        if self.cut and answer.status == 200:
            self.cut -= 1
            await send_answer(send, answer, half=True)
            transport_of(scope).abort()
            return
        await send_answer(send, answer)

    def _faulty(self) -> Answer | None:
        if self.storm:
            self.storm -= 1
            return _error(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'SearchTextRequest'")
        if self.outage:
            self.outage -= 1
            return _error(503, "UNAVAILABLE", f"The service is unavailable for key {self.key}.")
        if self.garbled:
            self.garbled -= 1
            return Answer(status=200, body=b"<html>", headers=((b"content-type", b"text/html"),))
        return None

    def _answered(self, request: Request) -> Answer:
        if request.headers.get("x-goog-api-key") != self.key:
            return _error(400, "INVALID_ARGUMENT", "API key not valid.", reason="API_KEY_INVALID")
        if not request.headers.get("x-goog-fieldmask"):
            return _error(400, "INVALID_ARGUMENT", "FieldMask is a required parameter.")
        body = orjson.loads(request.body)
        words = _words(str(body.get("textQuery", "")))
        if not words:
            return _error(400, "INVALID_ARGUMENT", "Empty text_query.")
        ranked = sorted(self.places, key=lambda place: -len(_words(" ".join(place)) & words))
        found = [place for place in ranked if _words(" ".join(place)) & words]
        if not found:
            return _json(200, {})
        rows = [
            {"displayName": {"text": name, "languageCode": "en"}, "formattedAddress": address}
            for name, address in found[: int(body.get("pageSize", 20))]
        ]
        return _json(200, {"places": rows})


def sample() -> GooglePlaces:
    """Return some places that are on the receipts of the demo, to try this without a key of Google."""
    return GooglePlaces(
        places=(
            ("The Copper Kettle Cafe", "8 Harbour Street, Westcliffe"),
            ("Greenleaf Grocers", "51 Orchard Lane"),
        )
    )


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _error(status: int, name: str, message: str, *, reason: str = "") -> Answer:
    error: dict[str, Any] = {"code": status, "message": message, "status": name}
    if reason:
        error["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}]
    return _json(status, {"error": error})


def _json(status: int, value: Any) -> Answer:  # any JSON value
    return Answer(
        status=status,
        body=orjson.dumps(value),
        headers=((b"content-type", b"application/json; charset=UTF-8"),),
    )
