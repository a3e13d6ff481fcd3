"""Servers that speak OpenAI's API: requested as their options say, trusted as another model only after a comparison."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web

from flowbed.embedding import open_embedder
from flowbed.embedding.local.onnx import open_onnx
from flowbed.errors import Misconfigured, Rejected
from flowbed.testing.simulators import OpenAI, Simulator, running, vector_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from flowbed.embedding.local.onnx import Onnx


class Serving:
    """A server of a local model, like Infinity or TEI; it records its requests."""

    def __init__(self, model: Onnx, *, prompt: str = "") -> None:
        self.model = model
        self.prompt = prompt
        self.asked: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        """Answer /embeddings."""
        body = await request.json()
        self.asked.append(body)
        texts = [self.prompt + text for text in body["input"]]
        try:
            found = await self.model.embed(texts, purpose="document")
        except Rejected as error:
            return web.json_response({"error": {"message": str(error)}}, status=422)
        data = [
            {"index": index, "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()}
            for index, vector in enumerate(found.vectors)
        ]
        return web.json_response({"data": data, "usage": {"prompt_tokens": found.tokens}})


@asynccontextmanager
async def served(serving: Serving, folder: Path, **options: str) -> AsyncIterator[Any]:
    """Open the model of a server."""
    app = web.Application()
    app.router.add_post("/v1/embeddings", serving.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    embedder: Any = open_embedder(
        "compatible:tiny", cache=folder, options={"base_url": f"{site.name}/v1", **options}
    )
    try:
        yield embedder
    finally:
        await embedder.aclose()
        await runner.cleanup()


def local(folder: Path, cache: Path, **options: str) -> Onnx:
    return open_onnx(str(folder), cache=cache, options=options)


async def test_same_as_server_of_the_same_model_shares_its_space(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """Its tokens are counted by the local model's tokenizer."""
    folder = tiny()
    model = local(folder, tmp_path)
    async with served(Serving(model), tmp_path, same_as=f"onnx:{folder}") as embedder:
        assert embedder.space == model.space
        found = await embedder.embed(["a b c", "d"], purpose="document")
        np.testing.assert_allclose(
            found.vectors, (await model.embed(["a b c", "d"], purpose="document")).vectors, atol=1e-5
        )
        assert embedder.count("a b c") == 3


@pytest.mark.parametrize("changes", [{"seed": 1}, {"pooling": "cls"}])
async def test_same_as_server_of_another_model_is_refused(
    tiny: Callable[..., Path], tmp_path: Path, changes: Mapping[str, Any]
) -> None:
    """By the first call, before a vector is used, and by every later one."""
    other = local(tiny("other", **changes), tmp_path)
    async with served(Serving(other), tmp_path, same_as=f"onnx:{tiny()}") as embedder:
        for _ in range(2):
            with pytest.raises(Misconfigured, match="same_as"):
                await embedder.embed(["a"], purpose="document")


async def test_same_as_server_with_a_prompt_is_refused(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny()
    serving = Serving(local(folder, tmp_path), prompt="query: ")
    async with served(serving, tmp_path, same_as=f"onnx:{folder}") as embedder:
        with pytest.raises(Misconfigured, match="same_as"):
            await embedder.embed(["a"], purpose="document")


@pytest.mark.parametrize("overflow", ["truncate", "reject"])
async def test_same_as_truncating_server_gets_no_long_texts(
    tiny: Callable[..., Path], tmp_path: Path, overflow: str
) -> None:
    """The local model averages the windows of a long text."""
    folder = tiny()
    serving = Serving(local(folder, tmp_path, overflow=overflow))
    async with served(serving, tmp_path, same_as=f"onnx:{folder}") as embedder:
        await embedder.embed(["a b"], purpose="document")
        with pytest.raises(Rejected) as refused:
            await embedder.embed(["a b", "a " * 30], purpose="document")
    assert refused.value.inputs == (1,)


async def test_same_as_splitting_server_gets_long_texts(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """As another Flowbed does."""
    folder = tiny()
    model = local(folder, tmp_path)
    async with served(Serving(model), tmp_path, same_as=f"onnx:{folder}") as embedder:
        found = await embedder.embed(["a " * 30], purpose="document")
    np.testing.assert_allclose(
        found.vectors, (await model.embed(["a " * 30], purpose="document")).vectors, atol=1e-5
    )


async def test_same_as_is_verified_once(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny()
    serving = Serving(local(folder, tmp_path))
    async with served(serving, tmp_path, same_as=f"onnx:{folder}") as embedder:
        await asyncio.gather(*(embedder.embed([f"{letter}"], purpose="query") for letter in "abcde"))
    assert len(serving.asked) == 3 + 5


async def test_compatible_prompts_and_input_types_follow_the_options(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """The space names them."""
    serving = Serving(local(tiny(), tmp_path))
    options = {"dimensions": "16", "query_prompt": "b ", "send_input_type": "true", "encoding": "none"}
    async with served(serving, tmp_path, **options) as embedder:
        await embedder.embed(["a"], purpose="query")
        await embedder.embed(["a"], purpose="document")
        assert embedder.space.prompts == (
            ("document", "input_type:document"),
            ("query", "b "),
            ("query", "input_type:query"),
        )
        assert embedder.bill("a", 1) == 1
    assert serving.asked == [
        {"input": ["b a"], "model": "tiny", "input_type": "query"},
        {"input": ["a"], "model": "tiny", "input_type": "document"},
    ]


async def test_compatible_other_dimensions_of_a_known_model_are_requested(tmp_path: Path) -> None:
    async with running(Simulator(OpenAI())) as url:
        embedder: Any = open_embedder(
            "compatible:text-embedding-3-small",
            cache=tmp_path,
            options={"base_url": f"{url}/v1", "api_key": "any", "dimensions": "64"},
        )
        try:
            found = await embedder.embed(["a"], purpose="document")
        finally:
            await embedder.aclose()
    np.testing.assert_allclose(found.vectors[0], vector_of("text-embedding-3-small", "a", 64), atol=1e-6)
    options = {"base_url": "http://localhost:9", "dimensions": "768", "matryoshka": "true"}
    declared: Any = open_embedder("compatible:nomic", cache=tmp_path, options=options)
    assert declared.matryoshka


async def test_compatible_unknown_model_needs_dimensions_and_address(tmp_path: Path) -> None:
    for options, named in (({}, "base_url"), ({"base_url": "http://localhost:9"}, "dimensions")):
        with pytest.raises(Misconfigured, match=named):
            open_embedder("compatible:tiny", cache=tmp_path, options=options)


async def test_compatible_document_prompt_is_billed(tmp_path: Path) -> None:
    embedder: Any = open_embedder(
        "compatible:tiny",
        cache=tmp_path,
        options={"base_url": "http://localhost:9", "dimensions": "8", "document_prompt": "passage: "},
    )
    assert embedder.bill("hello world", embedder.count("hello world")) > embedder.count("hello world")
