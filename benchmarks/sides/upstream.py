"""An embeddings provider that costs almost nothing: it answers at once, always with the same vector.

`python -m benchmarks.sides.upstream PORT`; GET returns how many requests and inputs it has received.
"""

from __future__ import annotations

import asyncio
import sys
from base64 import b64encode
from itertools import count
from typing import Any

import httptools
import numpy as np
import orjson
import uvloop

DIMENSIONS = 1536
NUMBERS = count(1)


def _forms() -> dict[str, bytes]:
    """Write the vector in both encodings."""
    vector = np.random.default_rng(0).normal(size=DIMENSIONS).astype("<f4")
    vector /= np.linalg.norm(vector)
    packed = b'"%b"' % b64encode(vector.tobytes())
    return {"base64": packed, "float": orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)}


FORMS = _forms()


class Told:
    """What it has received so far."""

    requests = 0
    inputs = 0


class Upstream(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: Any) -> None:  # the loop's
        """Start reading."""
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._body = bytearray()

    def data_received(self, data: bytes) -> None:
        """Parse more bytes."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answer one request."""
        if self._parser.get_method() == b"GET":
            self._write(orjson.dumps({"requests": Told.requests, "inputs": Told.inputs}))
            return
        request = orjson.loads(self._body)
        self._body.clear()
        given_input = request["input"]
        inputs = 1 if isinstance(given_input, str) else len(given_input)
        Told.requests += 1
        Told.inputs += inputs
        form = FORMS[request.get("encoding_format") or "float"]
        rows = b",".join(
            b'{"object":"embedding","index":%d,"embedding":%b}' % (n, form) for n in range(inputs)
        )
        self._write(
            b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
            % (rows, orjson.dumps(request["model"]), 8 * inputs, 8 * inputs)
        )

    def _write(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: %d\r\ncontent-length: %d\r\n\r\n%b"
            % (next(NUMBERS), len(body), body)
        )


async def main(port: int) -> None:
    """Answer until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1])))
