"""Turns a BERT checkpoint into one ONNX graph of fused operators: token ids in, unit vectors out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

# Part of a cached graph's name: increment it with every change here that changes a graph.
REVISION = 1

# First token position of each family (RoBERTa reserves the first two rows of its table for padding).
FIRST_POSITION = {"bert": 0, "roberta": 2, "xlm-roberta": 2, "camembert": 2}

OPSET = 17
IR_VERSION = 8  # belongs to opset 17, so that an older onnxruntime can read the graph
FUSED = "com.microsoft"
LARGEST_GRAPH = 2**31 - 2**20  # protobuf holds less than 2 GiB in one message

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
SENTENCE_EMBEDDING = "sentence_embedding"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the weights of a BERT-family model do not say."""

    family: str
    layers: int
    heads: int
    epsilon: float
    pooling: str

    @classmethod
    def of(cls, config: Mapping[str, Any], *, pooling: str, subject: object) -> Architecture:
        """Read the model's own `config.json`; an error message names `subject`.

        Raises:
            Misconfigured: the model is not of the BERT family, or is an unusual one.
        """
        family = str(config.get("model_type", ""))
        activation = config.get("hidden_act")
        position = config.get("position_embedding_type", "absolute")
        if family not in FIRST_POSITION or activation != "gelu" or position != "absolute":
            raise Misconfigured(
                f"model {subject} (type {family!r}, activation {activation!r}, {position} positions) cannot be "
                f"converted into a graph; choose one of type {', '.join(sorted(FIRST_POSITION))} with exact gelu and "
                "absolute positions, or a folder that holds onnx/model.onnx"
            )
        return cls(
            family=family,
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            epsilon=float(config["layer_norm_eps"]),
            pooling=pooling,
        )


class GraphWriter:
    """Collects the nodes and constants of a graph."""

    def __init__(self) -> None:
        """Begin with none."""
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; return its name."""
        import numpy as np
        from onnx import numpy_helper  # slow, and needed only to build a graph, which is rare

        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(
        self,
        operator: str,
        inputs: list[str],
        output: str,
        *,
        domain: str = "",
        **attributes: Any,  # as in ONNX
    ) -> str:
        """Add a node; return the name of its output."""
        from onnx import helper

        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes)
        )
        return output

    def output(self, value: str) -> None:
        """Make unit vectors of `value`, the graph's result."""
        self.node("LpNormalization", [value], SENTENCE_EMBEDDING, axis=-1, p=2)

    def serialised(self, *, dimensions: int, subject: Path) -> bytes:
        """Return the graph as a serialised ONNX model, whose vectors have these dimensions.

        Raises:
            Misconfigured: it is too large for one file.
        """
        import onnx

        model = onnx.helper.make_model(
            onnx.helper.make_graph(
                self.nodes,
                "embed",
                [
                    onnx.helper.make_tensor_value_info(
                        INPUT_IDS, onnx.TensorProto.INT32, ["batch", "length"]
                    ),
                    onnx.helper.make_tensor_value_info(
                        ATTENTION_MASK, onnx.TensorProto.INT32, ["batch", "length"]
                    ),
                ],
                [
                    onnx.helper.make_tensor_value_info(
                        SENTENCE_EMBEDDING, onnx.TensorProto.FLOAT, ["batch", dimensions]
                    )
                ],
                self.initializers,
            ),
            opset_imports=[onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(FUSED, 1)],
            ir_version=IR_VERSION,
            producer_name="flowbed",
        )
        if model.ByteSize() > LARGEST_GRAPH:
            raise Misconfigured(
                f"weights {subject} are too large for one graph; choose a folder that holds onnx/model.onnx"
            )
        written: bytes = model.SerializeToString()
        return written


def graph_bytes(weights: Path, architecture: Architecture) -> bytes:
    """Return the graph of the checkpoint `weights` (safetensors) as a serialised ONNX model.

    Raises:
        Misconfigured: the file does not hold the tensors of its architecture.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(weights)
        writer = _Bert(tensors, architecture)
        writer.write()
    except (KeyError, SafetensorError) as error:
        raise Misconfigured(
            f"weights {weights} cannot be read as a {architecture.family} model ({error}); fetch them again"
        ) from error
    return writer.serialised(dimensions=writer.hidden, subject=weights)


class _Bert(GraphWriter):
    """The nodes and constants of a BERT's graph."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]], architecture: Architecture) -> None:
        super().__init__()
        # Checkpoints of the bare model name tensors `embeddings...`, those with a head `bert.embeddings...`.
        suffix = "embeddings.word_embeddings.weight"
        named = next((name for name in tensors if name.endswith(suffix)), suffix)
        self.prefix = named.removesuffix(suffix)
        self.tensors = tensors
        self.architecture = architecture
        self.hidden = int(self.tensor(suffix).shape[1])

    def tensor(self, name: str) -> NDArray[np.float32]:
        import numpy as np

        return self.tensors[self.prefix + name].astype(np.float32, copy=False)

    def norm(self, name: str) -> list[str]:
        return [
            self.constant(f"{name}.gamma", self.tensor(f"{name}.weight")),
            self.constant(f"{name}.beta", self.tensor(f"{name}.bias")),
        ]

    def product(self, value: str, name: str) -> str:
        """Multiply by a dense layer's weights; the fused operator that follows adds its bias."""
        weight = self.constant(f"{name}.weight", self.tensor(f"{name}.weight").T)
        return self.node("MatMul", [value, weight], f"{name}.product")

    def bias(self, name: str) -> str:
        return self.constant(f"{name}.bias", self.tensor(f"{name}.bias"))

    def write(self) -> None:
        hidden = self.embeddings()
        for layer in range(self.architecture.layers):
            hidden = self.layer(hidden, f"encoder.layer.{layer}")
        self.pool(hidden)

    def embeddings(self) -> str:
        words = self.tensor("embeddings.word_embeddings.weight")
        positions = self.tensor("embeddings.position_embeddings.weight")[
            FIRST_POSITION[self.architecture.family] :
        ]
        # Every token of a single text has type 0, so its row is added once, here.
        positions = positions + self.tensor("embeddings.token_type_embeddings.weight")[0]
        output = "embeddings.output"
        self.node(
            "EmbedLayerNormalization",
            [
                INPUT_IDS,
                "",
                self.constant("embeddings.words", words),
                self.constant("embeddings.positions", positions),
                "",
                *self.norm("embeddings.LayerNorm"),
            ],
            output,
            domain=FUSED,
            epsilon=self.architecture.epsilon,
        )
        # The operator declares a second output, the lengths, which is only computed from a mask.
        self.nodes[-1].output.append("embeddings.lengths")
        return output

    def layer(self, hidden: str, name: str) -> str:
        import numpy as np

        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        attention = self.node(
            "Attention",
            [
                hidden,
                self.constant(
                    f"{name}.qkv.weight",
                    np.concatenate([self.tensor(f"{part}.weight").T for part in parts], axis=1),
                ),
                self.constant(
                    f"{name}.qkv.bias", np.concatenate([self.tensor(f"{part}.bias") for part in parts])
                ),
                ATTENTION_MASK,
            ],
            f"{name}.attention",
            domain=FUSED,
            num_heads=self.architecture.heads,
        )
        attended = self.add_and_norm(
            self.product(attention, f"{name}.attention.output.dense"), hidden, f"{name}.attention.output"
        )
        inner = self.node(
            "BiasGelu",
            [self.product(attended, f"{name}.intermediate.dense"), self.bias(f"{name}.intermediate.dense")],
            f"{name}.intermediate",
            domain=FUSED,
        )
        return self.add_and_norm(self.product(inner, f"{name}.output.dense"), attended, f"{name}.output")

    def add_and_norm(self, value: str, residual: str, name: str) -> str:
        return self.node(
            "SkipLayerNormalization",
            [value, residual, *self.norm(f"{name}.LayerNorm"), self.bias(f"{name}.dense")],
            f"{name}.normed",
            domain=FUSED,
            epsilon=self.architecture.epsilon,
        )

    def pool(self, hidden: str) -> None:
        import numpy as np

        if self.architecture.pooling == "cls":
            first = self.constant("pool.first", np.array(0, dtype=np.int64))
            pooled = self.node("Gather", [hidden, first], "pool.cls", axis=1)
        else:
            # The sum over unmasked tokens has the direction of their mean, and only the direction is kept.
            mask = self.node("Cast", [ATTENTION_MASK], "pool.mask", to=1)  # 1 is float32
            row = self.node("Unsqueeze", [mask, self.constant("pool.axis", np.array([1]))], "pool.row")
            summed = self.node("MatMul", [row, hidden], "pool.sums")
            pooled = self.node("Squeeze", [summed, "pool.axis"], "pool.sum")
        self.output(pooled)
