"""Who imports what: a vendor's package only in its own room, no private names, and folders that can be surveyed."""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import flowbed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGE = Path(flowbed.__file__).parent

# Where each package may be imported: folders and modules below src/flowbed.
ROOMS: dict[str, tuple[str, ...]] = {
    "aws_cdk": ("aws/stack/",),
    "cdk_nag": ("aws/stack/",),
    "constructs": ("aws/stack/",),
    "aiohttp": ("client/", "http/", "testing/"),
    "alembic": ("ledger/",),
    "boto3": ("aws/", "ledger/dynamodb/", "storage/"),
    "botocore": ("aws/", "ledger/dynamodb/", "storage/"),
    "chromadb": ("publish/",),
    "cronsim": ("events/",),
    "dbos": ("workers/engines/",),
    "faiss": ("index/search/memory.py",),
    "fastapi": ("server/",),
    "haystack": ("integrations/haystack.py",),
    "lance": ("index/",),
    "langchain_core": ("integrations/langchain.py",),
    "llama_index": ("integrations/llamaindex.py",),
    "lxml": ("sources/extraction/",),
    "mammoth": ("sources/extraction/",),
    "mcp": ("server/mcp/",),
    "obstore": ("storage/",),
    "onnx": ("embedding/local/",),
    "onnxruntime": ("embedding/local/",),
    "openai": ("testing/",),
    "opentelemetry": ("server/",),
    "platformdirs": ("settings/",),
    "pptx": ("sources/extraction/",),
    "prometheus_client": ("server/",),
    "psycopg": ("ledger/",),
    "pypdfium2": ("sources/extraction/",),
    "python_calamine": ("sources/extraction/",),
    "python_multipart": ("server/",),
    # The cache, the rate limits and outages that processes share, and the one place that opens the connection of all.
    "redis": (
        "embedding/cache/",
        "embedding/stack.py",
        "embedding/wrappers/buckets.py",
        "embedding/wrappers/outages.py",
        "embedding/wrappers/request_rates.py",
    ),
    "rich": ("cli/",),
    "safetensors": ("embedding/local/",),
    "sentence_transformers": ("embedding/local/",),
    "sqlalchemy": ("ledger/",),
    "starlette": ("server/",),
    "structlog": ("server/",),
    "tokenizers": ("embedding/",),
    "tree_sitter": ("sources/extraction/",),
    "typer": ("cli/",),
    "uvicorn": ("server/", "testing/"),
    "watchfiles": ("events/",),
    "zstandard": ("storage/",),
}

# Private names that there is no public name for; `flowbed.index.native` says what happens when they are gone.
UNAVOIDABLE = {("index/native.py", "_ModuleLockManager"), ("index/native.py", "_Session")}
# Methods of named tuples, which are public in spite of their names.
PUBLIC = {"_asdict", "_fields", "_make", "_replace"}

MOST_MODULES = 15
# Folders that may have more, with the reason.
LARGE = {
    "ledger/sql/tables": "one module a table",
}


@functools.cache
def imported(tree: ast.Module) -> Sequence[tuple[str, list[str]]]:
    """Return each module that is imported, with the names that are imported from it."""
    found: list[tuple[str, list[str]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(name.name, []) for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, [name.name for name in node.names]))
    return found


@functools.cache
def modules() -> Mapping[str, ast.Module]:
    """Parse the modules of the package, by their path in it: at the first test, since collecting must stay quick."""
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC


def test_package_outside_its_room_is_not_imported() -> None:
    found = [
        f"{module} imports {name}"
        for module, tree in modules().items()
        for name, _ in imported(tree)
        if not module.startswith(ROOMS.get(name.split(".")[0], ("",)))
    ]
    assert found == []


def test_room_of_every_package_exists() -> None:
    """An entry that nothing needs any more is removed."""
    used = {name.split(".")[0] for tree in modules().values() for name, _ in imported(tree)}
    assert set(ROOMS) - used == set()


def test_private_names_of_other_modules_are_not_imported() -> None:
    found = {
        (module, each)
        for module, tree in modules().items()
        for _, names in imported(tree)
        for each in filter(private, names)
    }
    assert found == UNAVOIDABLE


def test_private_names_of_imported_modules_are_not_used() -> None:
    found = []
    for module, tree in modules().items():
        names = {
            alias.asname or alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        found += [
            f"{module}:{node.lineno} uses {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and private(node.attr)
            if isinstance(node.value, ast.Name) and node.value.id in names
        ]
    assert found == []


def test_every_folder_says_what_it_is() -> None:
    folders = {str(Path(module).parent) for module in modules()}
    silent = [
        folder
        for folder in sorted(folders)
        if not ast.get_docstring(modules().get(str(Path(folder) / "__init__.py"), ast.parse("")))
    ]
    assert silent == []


def test_no_folder_has_too_many_modules() -> None:
    counts = defaultdict[str, int](int)
    for module in modules():
        if Path(module).stem not in {"__init__", "__main__"}:
            counts[str(Path(module).parent)] += 1
    large = {folder for folder, count in counts.items() if count > MOST_MODULES}
    assert large == set(LARGE)
