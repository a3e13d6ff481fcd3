"""Asks Google Places for the shop of a receipt, once for each receipt, and keeps every answer."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.errors import Error, Misconfigured, Transient
from flowbed.http.client import HttpClient
from flowbed.records.values import count
from flowbed.storage.atomic import make_private_file

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.http.client import HttpResponse
    from flowbed.sources.receipts.reading import Receipt

ADDRESS = "https://places.googleapis.com"
VARIABLE = "GOOGLE_PLACES_API_KEY"
# Beside the project, and not among the raw answers: those may be deleted, and these were paid for.
PLACES = ".flowbed/places.db"
SCHEMA = "CREATE TABLE IF NOT EXISTS answers (receipt TEXT PRIMARY KEY, merchant TEXT NOT NULL)"
# Seconds to wait for another process that writes, and for an answer.
PATIENCE, ANSWER = 30.0, 10.0
# Candidates that are asked for, and the fields of each: more fields cost more.
CANDIDATES, FIELDS = 3, "places.displayName,places.formattedAddress"
# Failures in a row after which a fetch asks no more.
MOST_FAILURES = 3
# The share of the words of a name, or of an address, that the receipt must have.
NAME_SHARE, ADDRESS_SHARE = 0.5, 0.6
# Shorter words of a name say nothing: "of", "by".
SHORTEST_WORD = 3

# Bytes of three candidates, with much room, and characters of a name.
LARGEST_ANSWER, LONGEST_NAME = 2**20, 200

OK, BAD, TOO_MANY, REFUSED = 200, 400, 429, (401, 403)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Google Places with its key, the file of its answers, and the most calls of one fetch."""

    url: str
    key: str = field(repr=False)
    file: Path
    most: int

    def open(self) -> Asking:
        """Begin to ask for the receipts of one fetch.

        Raises:
            Misconfigured: the key is missing or cannot be one, or the address or the file cannot be used.
        """
        if not self.key:
            raise Misconfigured(f"places = true needs a key: set {VARIABLE}")
        if not (self.key.isascii() and self.key.isprintable()) or " " in self.key:
            raise Misconfigured(f"{VARIABLE} has a character that no key has; set it again")
        try:
            http = HttpClient(
                self.url.rstrip("/"),
                vendor="Google Places",
                headers={"X-Goog-Api-Key": self.key, "X-Goog-FieldMask": FIELDS},
                secrets=(self.key,),
                timeout=ANSWER,
            )
        except Misconfigured:
            raise Misconfigured("option places_url has to be an address such as " + ADDRESS) from None
        try:
            make_private_file(self.file)
            database = sqlite3.connect(self.file, timeout=PATIENCE, check_same_thread=False)
            database.execute(SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise Misconfigured(
                f"answers of Google Places cannot be kept in {self.file} ({error}), so it is not asked: make the file"
                " writable, or restore it from a backup"
            ) from error
        return Asking(http=http, database=database, most=self.most)


@dataclass(kw_only=True)
class Asking:
    """The calls of one fetch.

    `stopped` says why it asks no more, `failure` what failed last; `waiting` receipts are left to a later fetch.
    """

    http: HttpClient
    database: sqlite3.Connection
    most: int
    calls: int = 0
    waiting: int = 0
    stopped: str = ""
    failure: str = ""
    _failures: int = 0

    async def aclose(self) -> None:
        """Close the connections and the file."""
        self.database.close()
        await self.http.aclose()

    async def merchant(self, receipt: Receipt) -> str | None:
        """Return the merchant, an empty string where Places knows none, and None where a later fetch has to ask."""
        try:
            kept = self._kept(receipt)
            if kept is not None or not receipt.query:
                return kept or ""
            if not self.stopped and self.calls >= self.most:
                self.stopped = f"it was called {count(self.most, 'time')}, the most for a run (places_calls)"
            if self.stopped:
                self.waiting += 1
                return None
            found = await self._asked(receipt)
            with self.database:
                # Another process may have asked meanwhile.
                self.database.execute(
                    "INSERT OR IGNORE INTO answers VALUES (?, ?)", (_digest(receipt), found)
                )
        except (Transient, Misconfigured, sqlite3.Error) as error:
            self._failed(error)
            return None
        self._failures = 0
        return found

    def _failed(self, error: Exception) -> None:
        """Note why a receipt waits; a refusal, or several failures in a row, end the calls of this fetch."""
        self.waiting += 1
        self._failures += 1
        limited = isinstance(error, Transient) and error.retry_after is not None
        self.failure = str(error)
        if limited or not isinstance(error, Transient) or self._failures >= MOST_FAILURES:
            self.stopped = self.failure

    def _kept(self, receipt: Receipt) -> str | None:
        with closing(
            self.database.execute("SELECT merchant FROM answers WHERE receipt = ?", (_digest(receipt),))
        ) as rows:
            row = rows.fetchone()
        return str(row[0]) if row else None

    async def _asked(self, receipt: Receipt) -> str:
        """Search for the shop, and return the name of the first candidate that fits the receipt.

        Raises:
            Transient: Places does not answer this now.
            Misconfigured: it refuses the key.
        """
        self.calls += 1
        query = receipt.query
        response = await self.http.post(
            "/v1/places:searchText", {"textQuery": query, "pageSize": CANDIDATES}, limit=LARGEST_ANSWER
        )
        if response.status != OK:
            raise self._refusal(response, query)
        if not isinstance(response.json, dict):
            raise Transient(f"{self.http.label} answers with something that is not JSON")
        words = _words(" ".join(receipt.texts))
        places = response.json.get("places")  # left out where there are none
        for place in places if isinstance(places, list) else []:
            if name := _fitting(place, words):
                return name
        return ""

    def _refusal(self, response: HttpResponse, query: str) -> Error:
        error = response.json.get("error") if isinstance(response.json, dict) else None
        said = str(error.get("message", "")) if isinstance(error, dict) else ""
        message = self.http.redacted(f"{self.http.label} answers with {response.status}: {said}", (query,))
        if response.status in REFUSED or (response.status == BAD and "API_KEY" in str(error)):
            return Misconfigured(f"{message}; set {VARIABLE} to a key that may use the Places API (New)")
        wait = (response.retry_after or 0.0) if response.status == TOO_MANY else None
        return Transient(message, retry_after=wait)


def _digest(receipt: Receipt) -> str:
    return hashlib.sha256(receipt.name.encode()).hexdigest()


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _fitting(place: Any, words: set[str]) -> str:  # any JSON value
    """Return the name of a place, empty where neither its name nor its address is on the receipt."""
    if not isinstance(place, dict) or not isinstance(place.get("displayName"), dict):
        return ""
    name = place["displayName"].get("text")
    if not isinstance(name, str) or not name.strip():
        return ""
    named = {word for word in _words(name) if len(word) >= SHORTEST_WORD}
    address = _words(str(place.get("formattedAddress", "")))
    if (named and len(named & words) >= NAME_SHARE * len(named)) or (
        address and len(address & words) >= ADDRESS_SHARE * len(address)
    ):
        return name.strip()[:LONGEST_NAME]
    return ""
