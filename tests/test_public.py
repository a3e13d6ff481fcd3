"""What the package offers at its face, and what looking at it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import flowbed

VENDORS = (
    "aiohttp",
    "alembic",
    "fastapi",
    "lance",
    "numpy",
    "obstore",
    "onnxruntime",
    "prometheus_client",
    "pyarrow",
    "rich",
    "sqlalchemy",
    "structlog",
    "tokenizers",
    "typer",
    "uvicorn",
)


def loaded_by(code: str) -> set[str]:
    """Run `code` in a fresh interpreter and name the vendors' packages that it has loaded."""
    probe = f"{code}\nimport sys\nprint(*(name for name in {VENDORS!r} if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_public_names_are_pinned() -> None:
    """The public names are exactly these: adding or dropping one is a decision, made here."""
    assert flowbed.__all__ == [
        "Chunk",
        "Document",
        "Flowbed",
        "Hit",
        "Plan",
        "Report",
        "__version__",
        "aopen",
        "errors",
        "open",
    ]


@pytest.mark.parametrize("name", flowbed.__all__)
def test_every_public_name_resolves(name: str) -> None:
    """Every public name can be had from the package itself."""
    assert getattr(flowbed, name) is not None
    assert name in dir(flowbed)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that does not exist is refused as Python's own modules refuse it."""
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = flowbed.nonsense


def test_version_is_that_of_the_installed_package() -> None:
    """`flowbed.__version__` is the version that was installed."""
    assert flowbed.__version__ == metadata.version("flowbed")


def test_importing_the_package_loads_no_vendor() -> None:
    """`import flowbed` loads none of the packages that take long to load."""
    assert loaded_by("import flowbed") == set()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import flowbed.sources", id="sources"),
        pytest.param("import flowbed.ledger", id="ledger"),
        pytest.param(
            "import pathlib, tempfile\nfrom flowbed.storage import open_store\n"
            "open_store('file://' + tempfile.mkdtemp(), folder=pathlib.Path())",
            id="storage",
        ),
        pytest.param("import flowbed.pipeline.sync", id="sync"),
    ],
)
def test_finding_and_listing_work_loads_no_heavy_package(code: str) -> None:
    """Listing, finding and storing work runs where lance, pyarrow and ONNX Runtime are not installed."""
    assert loaded_by(code).isdisjoint({"lance", "onnxruntime", "pyarrow"})
