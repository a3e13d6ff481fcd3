"""The source of another package in docs/sources.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from flowbed.testing.simulators import running_thread
from flowbed.testing.simulators.serving.asgi import read_request, send_answer
from flowbed.testing.simulators.wire import Answer, as_json

if TYPE_CHECKING:
    from flowbed.testing.simulators.serving.asgi import Receive, Scope, Send

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text("utf-8")
BLOCKS = dict(
    re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL),
)
TOKEN = "sesame-0815-open"  # noqa: S105 - of the test only


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package of the page, as if it were installed there."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("acme_tickets.py", "test_tickets.py"):
        (folder / name).write_text(BLOCKS[name])
    described = folder / "acme_tickets-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tickets\nVersion: 1.0\n")
    found = re.search(
        r'^\[project\.entry-points\."(flowbed\.sources)"\]\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL
    )
    assert found is not None
    (described / "entry_points.txt").write_text(f"[{found[1]}]\n{found[2]}".replace('"', ""))
    (folder / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    return folder


def python(package: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, where the package is installed."""
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "TICKETS_TOKEN": TOKEN}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_documented_source_passes_the_contract(package: Path) -> None:
    """Its module and its test are taken from the page, and run as another package's would be."""
    done = python(package, package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_tickets.py")
    assert done.returncode == 0, done.stdout[-3_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 8


class Desk:
    """A help desk of two tickets and something else, which refuses other tokens and repeats the one it was given."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await read_request(scope, receive)
        assert request is not None
        await send_answer(send, self.answer(request.bearer))

    def answer(self, token: str) -> Answer:
        if token != TOKEN:
            return as_json(403, {"error": f"{token} may not"})
        texts = ("The printer is on fire.", "The coffee machine leaks.")
        tickets = [
            {"id": str(at), "title": "Help", "body": text, "revision": "1"} for at, text in enumerate(texts)
        ]
        return as_json(200, [*tickets, "no ticket"])


def test_documented_source_is_indexed_and_its_token_is_nowhere(package: Path, tmp_path: Path) -> None:
    """The kind is known by its entry point, its token comes from the environment, and one bad ticket stops no other."""
    (tmp_path / "flowbed.toml").write_text('model = "seeded:32"\n')
    with running_thread(Desk()) as url:
        added = python(package, tmp_path, "-m", "flowbed", "add", "desk", "tickets", url)
        assert added.returncode == 0, added.stderr
        ran = python(package, tmp_path, "-m", "flowbed", "run", "--json", "--yes")
    report = orjson.loads(ran.stdout.splitlines()[-1])
    assert (ran.returncode, report["fetched"], report["embedded"], report["failed"]) == (1, 2, 2, 1)
    assert "ticket 2" in ran.stdout + ran.stderr
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert TOKEN not in ran.stdout + ran.stderr + added.stdout + added.stderr
    assert not any(TOKEN.encode() in body for body in written)
