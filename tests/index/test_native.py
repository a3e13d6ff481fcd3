"""Lance's native part by itself: the same as within Lance, loaded before it, after it or without it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from lance.lance import _Dataset, _Fragment, _Scanner

from flowbed.index import native

OPENED = """
from flowbed.index import native
session = native.new_session()
"""
# As a program is packed whose modules lie in no folder: Lance itself is found, and its native part by its own finder.
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
def test_it_is_the_one_that_lance_uses(code: str) -> None:
    """Whichever is loaded first, there is one native part: a session that one has made is taken by the other."""
    same = "print(type(session) is lance.Session, native._native().__name__)"
    assert ran(f"{code}\n{same}") == "True lance.lance"


def test_two_threads_load_it_once() -> None:
    """Two searches that are the first in their process, and a thread that imports Lance, come to the same classes."""
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


def test_it_is_loaded_without_the_rest_of_lance() -> None:
    """A session needs neither Lance's Python part nor pyarrow's datasets and compute functions."""
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
def test_the_native_classes_have_what_searches_call(ours: type, theirs: type) -> None:
    """A release of Lance that names something otherwise is seen here, by its name."""
    wanted = {name for name in {*vars(ours), *ours.__annotations__} if not name.startswith("_")}
    assert wanted
    assert wanted <= set(dir(theirs))
