"""A receipt as it is listed: its record, what names its merchant, and what identifies the shop. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.records import Document
from flowbed.records.values import LARGEST, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD, NEIGHBOUR, PLACES, NONE = "record", "neighbour", "places", "none"

# A number that is called a telephone number, or begins with the sign of a country.
PHONE = re.compile(
    r"(?:\b(?:tel|telephone|phone|ph|hp|contact|mobile)\b[^0-9+]{0,12}\+?|\+)(\d[\d\s().-]{6,18}\d)",
    re.IGNORECASE,
)
# A number that is called one of a tax or a register, or that ends in a check letter (002043319-W).
REGISTERED = re.compile(
    r"\b(?:gst|sst|vat|tax|abn|ein|tin|ust|siret|roc|reg)\b[^0-9]{0,24}?([a-z]{0,3}\d[\d\s.-]{6,18}\d)"
    r"|\b(\d{5,12}\s?-\s?[a-z])\b",
    re.IGNORECASE,
)
# Digits of a telephone number, without those that depend on where it is dialled; shorter ones are extensions.
DIALLED, LONGEST_PHONE = 8, 15
# Shorter ones are dates, amounts and names of a street.
SHORTEST_REGISTERED, SHORTEST_ADDRESS = 7, 16
# Letters of a first line that may be a name.
SHORTEST_NAME = 4
# The shop is named and described in the first lines; a query has at most so many characters.
HEADING, LONGEST_QUERY = 4, 200


def receipt_identity(record: Mapping[str, Any]) -> str:
    """Return the id of a receipt.

    Raises:
        Rejected: its image or its number is missing or invalid.
    """
    image = record.get("image_id")
    if not isinstance(image, str) or not image or "#" in image:
        raise Rejected(f"image_id must be a string without '#', not {shown(image)}")
    number = record.get("receipt_id")
    # A bool is an int in Python, but not a number of a receipt.
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < LARGEST:
        raise Rejected(
            f"receipt_id must be an integer of 0 or more, and of at most 64 bits, not {shown(number)}"
        )
    return f"IMAGE#{image}#RECEIPT#{number:05d}"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A receipt of a listing; called, it creates the document, whose lines and words the chunker reads."""

    name: str
    record: Mapping[str, Any]
    text: str
    merchant: str = ""
    merchant_by: str = RECORD

    def __call__(self) -> Document:
        """Create the document, with the merchant where the record has none."""
        found = {"merchant_name": self.merchant} if self.merchant else {}
        return Document(
            id=self.name,
            kind="receipt",
            text=self.text,
            metadata={"merchant_by": self.merchant_by, **found},
        )

    @property
    def lacks_merchant(self) -> bool:
        """Whether the record names no merchant; what is not a name is for the chunker to refuse."""
        value = self.record.get("merchant_name")
        return value is None or (isinstance(value, str) and not value.strip())

    @cached_property
    def texts(self) -> list[str]:
        """The texts of its lines; what is malformed is left out."""
        lines = self.record.get("lines")
        rows = lines if isinstance(lines, list) else []
        found = (row.get("text") for row in rows if isinstance(row, dict))
        return [text.strip() for text in found if isinstance(text, str) and text.strip()]

    @property
    def identifiers(self) -> set[str]:
        """What only receipts of the same shop have in common: telephone, tax number, address, first line."""
        found = set()
        for text in self.texts:
            for phone in PHONE.findall(text):
                digits = re.sub(r"\D", "", phone)
                if DIALLED <= len(digits) <= LONGEST_PHONE:
                    found.add(f"phone {digits[-DIALLED:]}")
            for named, checked in REGISTERED.findall(text):
                number = normal(named or checked)
                if len(number) >= SHORTEST_REGISTERED:
                    found.add(f"number {number}")
        address = normal(self._address)
        if len(address) >= SHORTEST_ADDRESS:
            found.add(f"address {address}")
        if self._first:
            found.add(f"first {normal(self._first)}")
        return found

    @property
    def query(self) -> str:
        """What a search for the shop is made of, empty where the receipt has nothing to search for."""
        if not self._first:
            return ""
        parts = [self._first, self._address] if self._address else self.texts[:HEADING]
        return ", ".join(parts)[:LONGEST_QUERY]

    @property
    def _address(self) -> str:
        address = self.record.get("address")
        return address.strip() if isinstance(address, str) else ""

    @cached_property
    def _first(self) -> str:
        """The first line that may be a name."""
        return next((text for text in self.texts if len(re.sub(r"[\W\d_]", "", text)) >= SHORTEST_NAME), "")


def read_receipt(name: str, record: Mapping[str, Any], text: str) -> Receipt:
    """Return the receipt of a record."""
    return Receipt(name=name, record=record, text=text)


def normal(text: str) -> str:
    """Return the letters and digits of a text, in one case."""
    return re.sub(r"[\W_]+", "", text.casefold())
