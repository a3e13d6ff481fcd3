"""The table of vendors, and the records that it names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flowbed.embedding.vendors import VENDORS, known_model, vendor_of
from flowbed.errors import Misconfigured

REMOTE = sorted(name for name, target in VENDORS.items() if ".providers." in target)
LOAD = """
import sys
from flowbed.embedding.vendors import vendor_of
for name in sys.argv[1:]:
    vendor_of(name + ":model")
print(*sys.modules)
"""


def test_vendor_of_provider_loads_neither_numpy_nor_an_http_client() -> None:
    """Settings read a vendor's environment variables wherever a command starts."""
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, *REMOTE], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"numpy", "aiohttp", "redis", "tokenizers"}.isdisjoint(ran)


@pytest.mark.parametrize("name", sorted(VENDORS))
def test_vendor_of_built_in_vendor_has_an_opener(name: str) -> None:
    assert callable(vendor_of(f"{name}:model").open)


def test_vendor_of_entry_point_has_only_an_opener() -> None:
    """An entry point that names a function is a vendor without a Batch API and variables."""
    seeded = vendor_of("seeded:8")
    assert seeded.open("8", cache=None, options={}).space.dimensions == 8
    assert (seeded.open_jobs, dict(seeded.variables), seeded.over_http) == (None, {}, False)


def test_vendor_of_unknown_vendor_names_the_known_ones() -> None:
    with pytest.raises(Misconfigured, match=r"'nobody:x' names no known vendor.*cohere.*seeded.*voyage"):
        vendor_of("nobody:x")


def test_known_model_is_found_at_any_vendor() -> None:
    """A server of another vendor's model bills that model's price."""
    model = known_model("voyage-4")
    assert model is not None
    assert model.price == 0.06
    assert known_model("nobody's") is None
