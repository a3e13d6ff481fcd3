"""The tools for agents, asked by the official client."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from flowbed.server.mcp.tools import SHOWN, mcp_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.projects import Project

pytestmark = pytest.mark.asyncio

ROOT = Path(__file__).parents[2]
SECONDS = 60  # until a process that hangs is killed
MOST_BYTES = 4_000  # of all descriptions and schemas together, which every conversation pays for


@asynccontextmanager
async def asked(project: Project, *, may_change: bool = False) -> AsyncIterator[Client]:
    async with await project.open() as bed, Client(mcp_server(lambda: bed, may_change=may_change)) as client:
        yield client


@contextmanager
def listening(folder: Path) -> Iterator[str]:
    """Start the tools over HTTP, and return their address."""
    command = [sys.executable, "-m", "flowbed", "mcp", "--http", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(SECONDS, process.kill)
        watchdog.start()
        try:
            assert process.stderr is not None
            said = next(line for line in process.stderr if "serving" in line)
            found = re.search(r"http://\S+/mcp", said)
            assert found is not None
            yield found.group()
            process.terminate()
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            watchdog.cancel()


async def answer(client: Client, tool: str, **arguments: Any) -> Any:
    """Call a tool that succeeds, and parse its answer."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return json.loads(result.content[0].text)  # type: ignore[union-attr]


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    """Call a tool that fails, and return what it says."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)  # type: ignore[union-attr]


async def test_tools_by_default_only_read(notes: Project) -> None:
    async with asked(notes) as client:
        tools = (await client.list_tools()).tools
    assert {tool.name for tool in tools} == {"search", "read", "why", "status", "plan"}
    assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)


async def test_tools_with_changes_allowed_also_run(notes: Project) -> None:
    notes.write("notes/five.txt", "note five")
    async with asked(notes, may_change=True) as client:
        done = await answer(client, "run", sources=["notes"])
        found = await answer(client, "search", query="note five", limit=1)
    assert done["embedded"] == 1
    assert found["hits"][0]["text"] == "note five"


async def test_tools_descriptions_are_short(notes: Project) -> None:
    async with asked(notes, may_change=True) as client:
        tools = (await client.list_tools()).tools
    described = [(tool.name, tool.description, tool.input_schema) for tool in tools]
    assert len(json.dumps(described).encode()) < MOST_BYTES


async def test_search_with_a_filter_returns_texts_with_links(project: Project) -> None:
    project.write_lines(
        "talks.jsonl",
        [
            {"id": "a", "text": "how the boiler is drained", "url": "https://example.com/a", "floor": 1},
            {"id": "b", "text": "how the boiler is filled", "floor": 2},
        ],
    )
    async with await project.open() as bed:
        await bed.add("talks", kind="jsonl", location="talks.jsonl", options={"metadata": ["url", "floor"]})
        await bed.run()
    async with asked(project) as client:
        found = await answer(client, "search", query="how the boiler is drained", where={"floor": 1})
    (hit,) = found["hits"]
    assert hit["text"] == "how the boiler is drained"
    assert hit["link"] == "https://example.com/a"
    assert hit["metadata"]["floor"] == 1


async def test_search_with_an_unknown_collection_says_so(notes: Project) -> None:
    async with asked(notes) as client:
        said = await refusal(client, "search", query="note", collection="nowhere")
        assert "nowhere" in said
        # The server goes on.
        assert (await answer(client, "search", query="note one", limit=1))["hits"]


async def test_search_with_too_many_hits_wanted_is_refused(notes: Project) -> None:
    async with asked(notes) as client:
        assert "limit" in await refusal(client, "search", query="note", limit=1_000)


async def test_read_returns_what_stands_around_a_hit(project: Project) -> None:
    paragraphs = [f"Paragraph {number}. " + "It says many words. " * 60 for number in range(6)]
    project.write("notes/long.md", "\n\n".join(f"# Part {n}\n\n{text}" for n, text in enumerate(paragraphs)))
    project.write("notes/other.md", "Another document.")
    async with await project.open() as bed:
        await bed.add("notes", kind="files", location="notes")
        await bed.run()
        rows = sorted(name for name in project.documents("notes") if "#long.md#" in name)
        assert len(rows) > 4
        async with Client(mcp_server(lambda: bed, may_change=False)) as client:
            middle = await answer(client, "read", id=rows[2], before=1, after=2)
            first = await answer(client, "read", id=rows[0], before=2, after=0)
            missing = await refusal(client, "read", id="notes#long.md#99999")
    assert [each["id"] for each in middle["texts"]] == rows[1:5]
    assert [each["id"] for each in first["texts"]] == rows[:1]
    assert middle["texts"][1]["text"] == project.documents("notes")[rows[2]][:SHOWN]
    assert "flowbed why" in missing


async def test_state_tools_answer_like_their_commands(notes: Project) -> None:
    notes.write("notes/five.txt", "note five")
    async with asked(notes) as client:
        state = await answer(client, "status")
        planned = await answer(client, "plan")
        reasons = await answer(client, "why", subject="notes#one.txt")
    assert [each["name"] for each in state["sources"]] == ["notes"]
    written = (notes.folder / ".flowbed").stat().st_mtime
    updated = datetime.fromisoformat(state["status"]["collections"]["notes"]["updated"]).timestamp()
    assert abs(updated - written) < 3_600
    assert planned["new"] == 1
    assert reasons[0]["chunk"]["document"] == "one.txt"


async def test_streams_of_the_documented_command_serve_an_agent(notes: Project) -> None:
    page = (ROOT / "docs" / "agents.md").read_text("utf-8")
    configured = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert configured is not None
    said = json.loads(configured.group(1).replace("/path/to/project", str(notes.folder)))["mcpServers"][
        "team"
    ]
    assert said["command"] == "flowbed"
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "flowbed", *said["args"]], env=dict(os.environ)
    )
    async with Client(command, read_timeout_seconds=60) as client:
        found = await answer(client, "search", query="note three", limit=1)
    assert found["hits"][0]["text"] == "note three"


async def test_http_with_keys_serves_only_their_holders(notes: Project) -> None:
    async with await notes.open() as bed:
        _, secret = await bed.keys().create("agent", secret=lambda: "a" * 43)
    with listening(notes.folder) as url:
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {secret}"}) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            found = await answer(client, "search", query="note two", limit=1)
        async with httpx2.AsyncClient() as http:
            refused = await http.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert found["hits"][0]["text"] == "note two"
    assert refused.status_code == 401
    assert "API key" in refused.json()["error"]["message"]


async def test_http_without_keys_refuses_web_pages_from_elsewhere(notes: Project) -> None:
    with listening(notes.folder) as url:
        async with httpx2.AsyncClient() as http:
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            rebound = await http.post(url, json=body, headers={"Host": "evil.example:80"})
            page = await http.post(url, json=body, headers={"Origin": "https://evil.example"})
    assert (rebound.status_code, page.status_code) == (421, 403)
