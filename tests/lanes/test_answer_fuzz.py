"""Answers of a provider in every wrong form, with fixed seeds: right vectors or an error, and no lost neighbours."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import gzip
import random
import struct
import tracemalloc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
import stamina

from flowbed.embedding import open_embedder
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.memory import VectorMemory
from flowbed.errors import Error
from flowbed.lanes.realtime import embed
from flowbed.records import text_hash
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from flowbed.lanes.outcome import Outcome

    Bytes = Callable[[Sequence[str]], bytes]
    Spoil = Callable[[dict[str, Any]], Any]

DIMENSIONS = 8
KEY = "sk-of-this-fuzz"
ATTEMPTS = 3
ODD = "an odd text, of which no word may be repeated"
GOOD = [f"text {number}" for number in range(9)]
# Bytes that any answer may take in memory, with what the test itself holds: a small part of what it pretends to be.
MOST_MEMORY = 2**25
# Seconds without a byte after which an answer is given up.
SILENCE = 0.1


def right(texts: Sequence[str]) -> dict[str, Any]:
    """Answer as OpenAI does."""
    data = [
        {"object": "embedding", "index": place, "embedding": vector.tolist()}
        for place, vector in enumerate(seeded(texts, DIMENSIONS))
    ]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": len(texts)}}


@functools.cache
def bomb() -> bytes:
    """Pack 256 MB of spaces, which takes a second."""
    return gzip.compress(b" " * 2**28)


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """Make an answer of HTTP."""
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def spoiled(spoil: Spoil) -> Bytes:
    """Answer rightly but for one change; the change is made in place, or returned."""

    def answer(texts: Sequence[str]) -> bytes:
        payload = right(texts)
        made = spoil(payload)
        return http(orjson.dumps(payload if made is None else made))

    return answer


def written(change: Callable[[bytes], bytes], **headers: str) -> Bytes:
    """Answer rightly, with other bytes."""
    return lambda texts: http(change(orjson.dumps(right(texts))), **headers)


def each(name: str, value: Any) -> Bytes:
    """Give a field of every vector the same value."""
    return spoiled(lambda payload: [item.update({name: value}) for item in payload["data"]] and None)


def last(value: Any) -> Bytes:
    """Give the last text another vector."""
    return spoiled(lambda payload: payload["data"][-1].update(embedding=value))


def number(text: bytes) -> Bytes:
    """Write the first number of the answer in another way."""
    return written(
        lambda body: body.replace(b"[", b"[" + text + b",", 2).replace(b"[" + text + b",", b"[", 1)
    )


def usage(value: Any) -> Bytes:
    """Bill another number of tokens."""
    return spoiled(lambda payload: payload.update(usage={"prompt_tokens": value, "total_tokens": value}))


def encoded(vector: Sequence[float]) -> str:
    return base64.b64encode(np.array(vector, "<f4").tobytes()).decode()


def nested(levels: int) -> bytes:
    return b'{"data":' + b"[" * levels + b"]" * levels + b"}"


def error(said: Any, status: str = "200 OK", **headers: str) -> Bytes:
    return lambda _: http(orjson.dumps(said), status, **headers)


PAGE = (
    b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>" + b"<p>x</p>" * 100 + b"</body></html>"
)

# Unusual, but right.
FINE: dict[str, Bytes] = {
    "plain": spoiled(lambda payload: None),
    "shuffled": spoiled(lambda payload: payload["data"].reverse()),
    "index left out where it is 0": spoiled(lambda payload: payload["data"][0].pop("index") or None),
    "byte order mark": written(lambda body: b"\xef\xbb\xbf" + body),
    "utf-16": written(lambda body: body.decode().encode("utf-16")),
    "gzip": written(gzip.compress, Content_Encoding="gzip"),
    "base64": spoiled(
        lambda payload: (
            [item.update(embedding=encoded(item["embedding"])) for item in payload["data"]] and None
        )
    ),
    "whitespace": written(lambda body: b" \r\n\t" + body + b"\n" * 1_000),
    "more fields": spoiled(lambda payload: payload.update(x=[{"y": [1, {"z": None}]}] * 9, id=2**63)),
    "usage of 400 digits": written(
        lambda body: body.replace(b'"prompt_tokens":', b'"prompt_tokens":' + b"9" * 300)
    ),
    "usage beyond 63 bits": usage(2**63),
    "usage negative": usage(-5),
    "usage not whole": usage(0.5),
    "usage a text": usage("many"),
    "usage a list": usage([1]),
    "another type": written(lambda body: body, Content_Type="text/plain; charset=latin-1"),
}

# Wrong: the text has no vector, or all have none.
WRONG: dict[str, Bytes] = {
    "too few": spoiled(lambda payload: payload["data"].pop() and None),
    "too many": spoiled(lambda payload: payload["data"].append(payload["data"][0])),
    "none": spoiled(lambda payload: payload.update(data=[])),
    "doubled index": spoiled(lambda payload: payload["data"].extend([payload["data"].pop()] * 2)),
    "huge index": each("index", 10**18),
    "huger index": each("index", 2**64 - 1),
    "negative index": each("index", -1),
    "index a text": each("index", "0"),
    "index a fraction": each("index", 0.5),
    "vectors null": each("embedding", None),
    "vectors texts": each("embedding", ["a"] * DIMENSIONS),
    "vectors nested": each("embedding", [[0.1] * DIMENSIONS]),
    "vectors objects": each("embedding", {"0": 1}),
    "vectors empty": each("embedding", []),
    "vectors zero": each("embedding", [0.0] * DIMENSIONS),
    "last vector zero": last([0.0] * DIMENSIONS),
    "last vector null": last(None),
    "last vector of nulls": last([None] * DIMENSIONS),
    "last vector too large": last([1e300] * DIMENSIONS),
    "number not a number": number(b"NaN"),
    "number infinite": number(b"Infinity"),
    "number negative infinite": number(b"-Infinity"),
    "number beyond double": number(b"1e999"),
    "number of 400 digits": number(b"9" * 400),
    "base64 cut": last(encoded([0.5] * DIMENSIONS)[:-3]),
    "base64 of no floats": last(base64.b64encode(b"abcde").decode()),
    "base64 garbage": last("!" * 44),
    "base64 not a number": last(encoded([float("nan")] * DIMENSIONS)),
    "base64 infinite": last(encoded([float("inf")] * DIMENSIONS)),
    "JSON cut": written(lambda body: body[: len(body) // 2]),
    "JSON nested": lambda _: http(nested(100_000)),
    "JSON nested a little": lambda _: http(nested(900)),
    "error nested": lambda _: http(b'{"error":' * 900 + b"1" + b"}" * 900),
    "JSON with a rest": written(lambda body: body + b'{"data": []}'),
    "JSON twice": written(lambda body: body * 2),
    "not UTF-8": written(lambda body: body.replace(b"list", b"\xff\xfe\xfd")),
    "utf-16 without a mark": written(lambda body: body.decode().encode("utf-16-le")),
    "utf-16 cut": written(lambda body: body.decode().encode("utf-16")[:-3]),
    "page": lambda _: http(PAGE, Content_Type="text/html"),
    "page of a firewall": lambda _: http(PAGE, "403 Forbidden", Content_Type="text/html"),
    "page of a gateway": lambda _: http(PAGE, "502 Bad Gateway", Content_Type="text/html"),
    "empty": lambda _: http(b""),
    "no content": lambda _: b"HTTP/1.1 204 No Content\r\n\r\n",
    "null": lambda _: http(b"null"),
    "number": lambda _: http(b"7"),
    "list": lambda _: http(b"[1, [2], {}]"),
    "text": lambda _: http(b'"no"'),
    "lines": lambda _: http(b"data: {}\n\ndata: [DONE]\n\n"),
    "error within 200": error({"error": {"message": "out of memory", "code": 500}}),
    "error within 200 as a text": error({"error": "out of memory"}),
    "error within 200 without words": error({"error": {"a": [1]}}),
    "server error": error({"error": "unsupported value: NaN"}, "500 Internal Server Error"),
    "overloaded": error({}, "529 Overloaded"),
    "failed dependency": error({"error": "failed", "error_type": "backend"}, "424 Failed Dependency"),
    "not acceptable": error("no", "406 Not Acceptable"),
    "validation": error({"detail": [{"loc": ["body", "input", 2**63], "msg": "no"}]}, "422 Unprocessable"),
    "validation in no form": error({"detail": [[], {"loc": {}}, 7, {"loc": [None]}]}, "422 Unprocessable"),
    "redirect": error({}, "302 Found", Location="http://127.0.0.1:9/"),
    "redirect to itself": error({}, "307 Temporary Redirect", Location="/embeddings"),
    "not HTTP": lambda _: b"\x15\x03\x01\x00\x02\x02P" * 9,
    "status of words": lambda _: b"HTTP/1.1 all fine\r\n\r\n",
    "header of 100 KB": lambda _: http(b"{}", X_Long="x" * 100_000),
    "10,000 headers": lambda _: b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
    "closed at once": lambda _: b"",
    "closed within the head": lambda _: b"HTTP/1.1 200 OK\r\nContent-Le",
    "closed within the body": lambda texts: http(orjson.dumps(right(texts)))[:-40],
    "chunks broken": lambda _: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "gzip broken": written(lambda body: gzip.compress(body)[:-20] + b"x" * 20, Content_Encoding="gzip"),
    "gzip claimed": written(lambda body: body, Content_Encoding="gzip"),
    "length negative": written(lambda body: body, Content_Length="-1"),
    "length of 5,000 zeros": written(lambda body: body, Content_Length="0" * 5_000),
    "gzip bomb": lambda _: http(bomb(), Content_Encoding="gzip"),
    "endless": lambda _: http(b"[" * 2**22),
    "endless refusal": lambda _: http(b"x" * 2**22, "400 Bad Request"),
}
# Answers that no text is to blame for: its whole request waits, or the run ends.
BUSY: dict[str, Bytes] = {
    "last vector shorter": last([0.5] * (DIMENSIONS - 1)),
    "other dimensions": each("embedding", [0.5] * (DIMENSIONS * 2)),
    "rate limit": error({"error": "slow down"}, "429 Too Many Requests", Retry_After="nan"),
    "rate limit within 200": error({"error": {"message": "slow down", "code": 429}}),
    "rate limit of centuries": error({}, "429 Too Many Requests", Retry_After="9" * 300),
    "rate limit reset by a date": error({}, "429 Too Many Requests", Retry_After="1796000000"),
}
# Silent in the middle of an answer.
DRIP = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"


class Fuzzing:
    """A server that answers some requests with given bytes, and others rightly."""

    def __init__(self, answer: Bytes, *, everybody: bool, silent: bool = False) -> None:
        self.answer = answer
        self.everybody = everybody
        self.silent = silent
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, and close it after a wrong answer."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                texts = orjson.loads(await reader.readexactly(size))["input"]
                self.requests += 1
                spoiled = self.everybody or ODD in texts
                writer.write(self.answer(texts) if spoiled else http(orjson.dumps(right(texts))))
                await writer.drain()
                if spoiled:
                    if self.silent:
                        await reader.read()
                    break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Retry at once."""
    stamina.set_testing(testing=True, attempts=ATTEMPTS, cap=True)
    yield
    stamina.set_testing(testing=False)


@asynccontextmanager
async def serving(server: Fuzzing) -> AsyncIterator[dict[str, str]]:
    """Serve, and yield the options that lead to the server."""
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield {
            "base_url": f"http://127.0.0.1:{port}",
            "api_key": KEY,
            "dimensions": str(DIMENSIONS),
            "encoding": "none",
            "price": "1",
            "items": "4",
            "timeout": str(SILENCE if server.silent else 5.0),
        }


async def ask(server: Fuzzing, folder: Path, texts: Sequence[str]) -> Outcome | Error:
    """Send texts, and return what came of it."""
    async with serving(server) as options:
        remote: Any = open_embedder("compatible:m", cache=folder, options=options)
        try:
            outcome = await embed(
                {text_hash(text): text for text in texts},
                embedder=Cached(remote, [VectorMemory(limit=2**20, ttl=60)]),
                index=None,
                concurrency=4,
            )
        except Error as failure:
            assert_readable(str(failure))
            return failure
        finally:
            await remote.aclose()
    for key, vector in outcome.vectors.items():
        assert key not in outcome.failures
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    for kind, reason in outcome.failures.values():
        assert kind in ("transient", "rejected")
        assert_readable(reason)
    assert {*outcome.vectors, *outcome.failures, *outcome.unsent} == {text_hash(text) for text in texts}
    assert all(0 <= paid.billed <= 10**9 for paid in outcome.paid.values())
    return outcome


def assert_readable(message: str) -> None:
    """Assert that a message can be shown to anybody: short, without the key and the texts."""
    assert message
    assert len(message) < 1_000
    assert KEY not in message
    assert ODD not in message


def assert_right(vectors: Mapping[str, Any], texts: Sequence[str]) -> None:
    for text in texts:
        np.testing.assert_allclose(vectors[text_hash(text)], seeded([text], DIMENSIONS)[0], atol=1e-5)


@pytest.mark.parametrize("answer", FINE.values(), ids=FINE)
async def test_embed_unusual_answer_is_read(tmp_path: Path, answer: Bytes) -> None:
    """Every text gets its vector, in one attempt."""
    server = Fuzzing(answer, everybody=True)
    outcome = await ask(server, tmp_path, [*GOOD, ODD])
    assert not isinstance(outcome, Error)
    assert_right(outcome.vectors, [*GOOD, ODD])
    assert server.requests == 3


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
async def test_embed_wrong_answer_to_one_text_fails_it_alone(tmp_path: Path, answer: Bytes) -> None:
    """Its neighbours have their vectors after few requests, whatever the provider answered."""
    server = Fuzzing(answer, everybody=False)
    outcome = await ask(server, tmp_path, [*GOOD, ODD])
    assert not isinstance(outcome, Error)
    assert_right(outcome.vectors, GOOD)
    assert [kind for kind, _ in outcome.failures.values()] == ["rejected"]
    assert set(outcome.failures) == {text_hash(ODD)}
    assert server.requests <= 3 + ATTEMPTS + 12


@pytest.mark.parametrize("answer", [*WRONG.values(), *BUSY.values()], ids=[*WRONG, *BUSY])
async def test_embed_wrong_answer_to_everything_is_an_error_in_bounded_memory(
    tmp_path: Path, answer: Bytes
) -> None:
    """No text is given a vector, and only a text that was named is blamed."""
    server = Fuzzing(answer, everybody=True)
    answer([ODD])  # what the test itself holds is not counted
    tracemalloc.start()
    try:
        outcome = await ask(server, tmp_path, [*GOOD, ODD])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(outcome, Error) or not outcome.vectors
    assert peak < MOST_MEMORY + len(answer([ODD])) * 2
    assert server.requests <= 60


@pytest.mark.parametrize("everybody", [False, True])
async def test_embed_answer_that_stops_halfway_is_given_up(tmp_path: Path, everybody: bool) -> None:
    server = Fuzzing(lambda _: DRIP, everybody=everybody, silent=True)
    outcome = await ask(server, tmp_path, [*GOOD[:3], ODD])
    assert not isinstance(outcome, Error)
    assert set(outcome.failures) == {text_hash(text) for text in ([*GOOD[:3], ODD] if everybody else [ODD])}


# Forty a test: collecting thousands of tests takes seconds.
SEEDS = [
    range(40),
    *(pytest.param(range(at, at + 40), marks=pytest.mark.long) for at in range(40, 1_000, 40)),
]
VALUES: list[Any] = [None, True, -1, 0, 2**63, 1e308, "", "x", [], [[]], {}, {"data": []}, [None] * 9]


@contextlib.contextmanager
def named(seed: int) -> Iterator[None]:
    """Name the seed in what fails."""
    try:
        yield
    except Exception as failure:
        failure.add_note(f"seed {seed}")
        raise


def mutated(payload: Any, chance: random.Random) -> Any:
    """Replace, remove or repeat something anywhere in a value, but in the numbers of a vector."""
    if isinstance(payload, dict) and payload and chance.random() < 0.8:
        name = chance.choice(sorted(payload))
        if chance.random() < 0.2:
            return {key: value for key, value in payload.items() if key != name}
        return {**payload, name: mutated(payload[name], chance)}
    if isinstance(payload, list) and payload and isinstance(payload[0], dict) and chance.random() < 0.8:
        place = chance.randrange(len(payload))
        if chance.random() < 0.3:
            return payload[:place] + payload[place:] * chance.randrange(3)
        return [*payload[:place], mutated(payload[place], chance), *payload[place + 1 :]]
    return chance.choice(VALUES)


@pytest.mark.parametrize("seeds", SEEDS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
async def test_embed_mutated_answer_gives_right_vectors_or_an_error(
    tmp_path: Path, seeds: Sequence[int]
) -> None:
    """Of what is left whole, every vector is its text's."""
    for seed in seeds:

        def answer(texts: Sequence[str], seed: int = seed) -> bytes:
            return http(orjson.dumps(mutated(right(texts), random.Random(f"{seed} {texts}"))))

        server = Fuzzing(answer, everybody=True)
        with named(seed):
            outcome = await ask(server, tmp_path / str(seed), GOOD[:6])
            if not isinstance(outcome, Error):
                got = [text for text in GOOD[:6] if text_hash(text) in outcome.vectors]
                assert_right(outcome.vectors, got)
            assert server.requests <= 60


@pytest.mark.parametrize("seeds", SEEDS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
async def test_embed_flipped_bits_end_in_no_traceback(tmp_path: Path, seeds: Sequence[int]) -> None:
    """Anywhere in the answer, its head included; vectors that come of it have length 1."""
    for seed in seeds:

        def answer(texts: Sequence[str], seed: int = seed) -> bytes:
            chance = random.Random(f"{seed} {texts}")
            content = bytearray(http(orjson.dumps(right(texts))))
            for _ in range(chance.choice((1, 3, 30))):
                content[chance.randrange(len(content))] ^= struct.pack("B", 1 << chance.randrange(8))[0]
            return bytes(content)

        server = Fuzzing(answer, everybody=True)
        with named(seed):
            await ask(server, tmp_path / str(seed), GOOD[:6])
            assert server.requests <= 60
