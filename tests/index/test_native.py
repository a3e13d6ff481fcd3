"""Lance's native part, loaded by itself, before or after the rest, and the public classes in its place."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from lance.lance import _Dataset, _Fragment, _Scanner

from flowbed.index import native
from flowbed.index.compaction import compact
from flowbed.index.datasets import Datasets
from flowbed.index.search import search
from flowbed.index.search.row_cache import RowCache

if TYPE_CHECKING:
    import lance
    from tests.index.conftest import Bench

    from flowbed.records import SearchResults

OPENED = """
from flowbed.index import native
session = native.new_session()
"""
# A program packed without folders: a finder of its own finds Lance and its native part.
PACKED = """
import sys
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location

class Finder:
    @staticmethod
    def find_spec(name, path, target=None):
        if name == "lance":
            return spec_from_file_location(name, FOUND.origin, submodule_search_locations=[])
        if name.startswith("lance."):
            return PathFinder.find_spec(name, FOUND.submodule_search_locations)

FOUND = PathFinder.find_spec("lance")
sys.meta_path.insert(0, Finder)
"""


def ran(code: str) -> str:
    """Run `code` in a new process, and give what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(OPENED + "import lance", id="first"),
        pytest.param("import lance\n" + OPENED, id="last"),
        pytest.param(PACKED + OPENED + "import lance", id="packed"),
    ],
)
def test_native_session_is_lances_own_whatever_is_loaded_first(code: str) -> None:
    same = "print(type(session) is lance.Session, native._native().__name__)"
    assert ran(f"{code}\n{same}") == "True lance.lance"


def test_native_concurrent_first_loads_share_one_module() -> None:
    code = """
import threading
from flowbed.index import native
start, made = threading.Barrier(3), []
def session():
    start.wait()
    made.append(type(native.new_session()))
def whole():
    start.wait()
    import lance
    made.append(lance.Session)
threads = [threading.Thread(target=each) for each in (session, session, whole)]
for each in threads: each.start()
for each in threads: each.join()
print(len(made), len(set(made)))
"""
    assert ran(code) == "3 1"


def test_native_session_loads_no_python_part_of_lance() -> None:
    """This also fails when Python's private import lock, or a private class of Lance, has another name."""
    loaded = "import sys\nprint(*sorted({'lance', 'pyarrow.compute', 'pyarrow.dataset'} & set(sys.modules)))"
    assert ran(OPENED + loaded) == ""


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (native.Dataset, _Dataset),
        (native.Fragment, _Fragment),
        (native.Scanner, _Scanner),
    ],
)
def test_native_classes_have_every_name_that_searches_use(ours: type, theirs: type) -> None:
    wanted = {name for name in {*vars(ours), *ours.__annotations__} if not name.startswith("_")}
    assert wanted
    assert wanted <= set(dir(theirs))


@pytest.mark.parametrize("indexed", [False, True])
async def test_native_names_gone_searches_use_the_public_classes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, indexed: bool
) -> None:
    """Every hit is the same through either, found by a scan, by the vector index or among the rows in memory."""
    await bench.lay_down([bench.upsert(f"r{number}", 1, f"text {number}", n=number) for number in range(300)])
    await bench.commit()
    live = await bench.datasets.begin("docs", bench.space, now=1)
    if indexed:
        await compact(
            live, datasets=bench.datasets, vector_index="always", oldest_pending=None, now=bench.clock()
        )
    vector = bench.upsert("q", 1, "text 7").vector

    async def answers() -> list[SearchResults]:
        datasets, cache = Datasets(bench.store), RowCache()
        return [
            await search(
                vector, [live], datasets=datasets, where=where, exact=not indexed, cache=cache, limit=40
            )
            for _ in range(3)  # from the second search on, rows are kept in memory
            for where in (None, {"n": {"$gte": 100}})
        ]

    expected = await answers()
    opened: list[native.PublicDataset] = []

    class Seen(native.PublicDataset):
        def __init__(self, dataset: lance.LanceDataset) -> None:
            super().__init__(dataset)
            opened.append(self)

    monkeypatch.setattr(native, "_native", lambda: None)
    monkeypatch.setattr(native, "PublicDataset", Seen)
    assert await answers() == expected
    assert opened
