"""A local model through ONNX Runtime: no key, no server, and no download unless permitted."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flowbed.embedding.local.batching import Window, batches_of, join_windows, pool, windows_of
from flowbed.embedding.local.cores import usable_cores
from flowbed.embedding.local.graph import REVISION, Architecture, graph_bytes
from flowbed.embedding.local.priority import BACKGROUND, lower_thread_priority
from flowbed.embedding.local.weights import Checkpoint, digest, find_checkpoint
from flowbed.embedding.options import ModelOptions
from flowbed.embedding.tokens import text_of
from flowbed.embedding.unicode import require_unicode
from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.records import Embedded, Space
from flowbed.records.values import count
from flowbed.storage.atomic import write_whole
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.embedding.local.batching import Batch
    from flowbed.embedding.reading import Reader
    from flowbed.records import Purpose, Reading

# The model of `flowbed.embedding.local.universal`, which is loaded where it is used.
UNIVERSAL = "universal-sentence-encoder-multilingual"

OPTIONS = ("document_prompt", "download", "overflow", "query_prompt", "threads")

# Texts and tokens in one call. Padding costs a fifth more work for 256 short texts sorted by length, and a twentieth
# for 2,048; 16,384 tokens take one to two seconds on two cores, after which progress is shown and vectors are kept.
ITEMS = 2_048
TOKENS = 16_384

# Warnings are only about graphs saved by another version.
ERRORS_ONLY = 3

# ONNX Runtime's names for the types of ids, and numpy's.
INPUT_TYPES = {"tensor(int32)": "int32", "tensor(int64)": "int64"}


@dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """The model's options: what to do with texts that are too long, prompts, threads, and whether to download."""

    overflow: str
    download: bool
    threads: int
    prompts: Mapping[str, str]

    @classmethod
    def of(cls, options: Mapping[str, str]) -> OnnxOptions:
        """Parse the options of the settings.

        Raises:
            Misconfigured: an option is unknown or has an invalid value.
        """
        read = ModelOptions("onnx", options, OPTIONS)
        return cls(
            overflow=read.choice("overflow", ("split", "truncate", "reject")),
            download=read.flag("download"),
            threads=read.number("threads") or usable_cores(),
            # An empty prompt counts: it removes the model's own.
            prompts={
                purpose: options[f"{purpose}_prompt"]
                for purpose in ("document", "query")
                if f"{purpose}_prompt" in options
            },
        )


def open_onnx(name: str, *, cache: Path, options: Mapping[str, str]) -> Onnx:
    """Open a local model: a folder, a hub id, or the default model if `name` is empty.

    `cache` keeps the graph built from the model's weights; the first call that embeds loads it. Options: `overflow`
    (split, truncate or reject texts longer than the window), `download` (true permits a download from the hub),
    `threads`, `query_prompt` and `document_prompt`.

    Raises:
        Misconfigured: an option is wrong, or the model is missing; the message says how to get it.
    """
    choices = OnnxOptions.of(options)
    if name == UNIVERSAL:
        from flowbed.embedding.local.universal import find_universal

        return Onnx(find_universal(cache=cache), cache=cache, choices=choices)
    checkpoint = find_checkpoint(name, cache=cache, download=choices.download)
    if not checkpoint.is_graph:
        # Refuse an unsupported model now, not at the first call, which may come much later.
        Architecture.of(checkpoint.config, pooling=checkpoint.pooling, subject=checkpoint.folder)
    return Onnx(checkpoint, cache=cache, choices=choices)


class Onnx:
    """An embedder in this process; concurrent calls share one session, batch by batch."""

    items = ITEMS
    tokens = TOKENS
    price = 0.0

    def __init__(self, checkpoint: Checkpoint, *, cache: Path, choices: OnnxOptions) -> None:
        """Load nothing yet: the first counted text loads the tokenizer, the first embedded one the graph."""
        self._checkpoint = checkpoint
        self._cache = cache
        self._choices = choices
        self._prompts = {**checkpoint.prompts, **choices.prompts}
        # One batch per core, rather than each batch on all cores: cores then wait for each other at no operator, and
        # share with other programs. Measured on two cores: a sixth less processor time. Two document calls at a time:
        # one is tokenised while the other runs. With more, all would end at once, and until then none of their vectors
        # could be kept.
        self._turns = asyncio.Semaphore(2)
        self._threads = ThreadPoolExecutor(max_workers=choices.threads, thread_name_prefix="flowbed-onnx")
        # Background work has threads of its own, of low priority: a running batch cannot be interrupted.
        self._background_threads = ThreadPoolExecutor(
            max_workers=choices.threads,
            thread_name_prefix="flowbed-onnx-spare",
            initializer=lower_thread_priority,
        )
        self._loading = threading.Lock()
        self.space = Space(
            model=checkpoint.model,
            dimensions=checkpoint.dimensions,
            revision=checkpoint.sha256[:12],
            # Averaged windows are other vectors than truncated ones; if no text is too long, all three agree.
            pooling=checkpoint.pooling + ("+split" if choices.overflow == "split" else ""),
            prompts=tuple(sorted((purpose, prompt) for purpose, prompt in self._prompts.items() if prompt)),
        )

    @cached_property
    def _tokenizer(self) -> Any:  # tokenizers has no type hints
        # Takes a tenth of a second to load, and a search by a vector does not need it.
        if self._checkpoint.model == UNIVERSAL:
            from flowbed.embedding.local.universal import load_tokenizer

            return load_tokenizer(self._checkpoint, self._cache)
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._checkpoint.folder / "tokenizer.json"))
        # As published, it truncates and pads every text to 128 tokens.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _special(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        return _special_tokens(self._tokenizer)

    @property
    def window(self) -> int:
        """Tokens that a text may have, without special ones, before `overflow` applies."""
        return self._checkpoint.window - sum(map(len, self._special))

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed texts of any length; tokens are counted without special ones.

        Raises:
            Rejected: a text is not valid Unicode, or is longer than the window and `overflow` is `reject`.
            Transient: memory was exhausted.
            Misconfigured: the graph cannot be built or loaded.
        """
        require_unicode(texts)
        if BACKGROUND.get():
            # On one core: background work leaves the others free, even where threads have no priority. Loading the
            # graph is not background work, since everybody waits for it.
            pool = self._background_threads if "_session" in vars(self) else self._threads
            return await self._embed(texts, purpose=purpose, pool=pool, cores=1)
        if purpose == "query":
            return await self._embed(texts, purpose=purpose, pool=self._threads, cores=self._choices.threads)
        async with self._turns:
            return await self._embed(texts, purpose=purpose, pool=self._threads, cores=self._choices.threads)

    async def _embed(self, texts: Sequence[str], *, purpose: Purpose, pool: Executor, cores: int) -> Embedded:
        import numpy as np

        if not texts:
            return Embedded(vectors=np.empty((0, self.space.dimensions), dtype=np.float32))
        prompt = self._prompts.get(purpose, "")
        # Tokenised while a batch of another call runs.
        windows, truncated = await asyncio.to_thread(self._windows, [prompt + text for text in texts])
        vectors = np.empty((len(windows), self.space.dimensions), dtype=np.float32)
        padding = int(self._checkpoint.config.get("pad_token_id") or 0)
        prefix, suffix = self._special
        batches = batches_of(windows, prefix=prefix, suffix=suffix, padding=padding, cores=cores)
        loop = asyncio.get_running_loop()

        async def work() -> None:
            # One batch at a time: a query need not wait for all of a long call, and a cancelled call ends.
            for batch in batches:
                vectors[batch.windows] = await loop.run_in_executor(pool, self._run, batch)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._choices.threads):
                    group.create_task(work())
        except ExceptionGroup as several:
            raise several.exceptions[0] from several
        counts = [0] * len(texts)
        for window in windows:
            counts[window.text] += len(window.ids)
        return Embedded(
            vectors=join_windows(vectors, windows, len(texts)),
            tokens=sum(counts),
            truncated=truncated,
            counts=tuple(counts),
        )

    def count(self, text: str) -> int:
        """Count the tokens of `text` without special tokens.

        Raises:
            Rejected: the text is not valid Unicode.
        """
        require_unicode([text])
        # The batch form skips the offsets, which take longer than the tokens.
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])

    @cached_property
    def _reader(self) -> Reader:
        from flowbed.embedding.reading import Reader  # which a search by a vector does without

        return Reader(self._tokenizer)

    def read(self, text: str) -> Reading:
        """Break the words of `text` that would be lost as a whole, and count what is lost all the same.

        Raises:
            Rejected: the text is not valid Unicode.
        """
        require_unicode([text])
        return self._reader.read(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens without special ones.

        Raises:
            Rejected: a token is unknown, or the text encodes to other tokens.
        """
        return text_of(self._tokenizer, tokens)

    def bill(self, text: str, tokens: int) -> int:
        """Return the tokens of embedding a document: with its prompt, without what is truncated or rejected."""
        if prompt := self._prompts.get("document", ""):
            tokens = self.count(prompt + text)
        if tokens > self.window and self._choices.overflow != "split":
            return self.window if self._choices.overflow == "truncate" else 0
        return tokens

    def _windows(self, texts: Sequence[str]) -> tuple[list[Window], tuple[int, ...]]:
        """Tokenise texts into windows; also return the positions of truncated texts."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        over = tuple(position for position, encoding in enumerate(encodings) if len(encoding) > self.window)
        if over and self._choices.overflow == "reject":
            longest = max(len(encodings[position]) for position in over)
            raise Rejected(
                f"{count(len(over), 'text')} longer than the {self.window} tokens that {self.space.model} takes (the "
                f"longest has {longest}); chunk them smaller, or choose overflow=split or overflow=truncate",
                inputs=over,
            )
        if self._choices.overflow == "truncate":
            cut = [
                Window(text=position, ids=encoding.ids[: self.window])
                for position, encoding in enumerate(encodings)
            ]
            return cut, over
        windows = [
            window
            for position, encoding in enumerate(encodings)
            for window in windows_of(position, encoding.ids, self.window)
        ]
        return windows, ()

    def _run(self, batch: Batch) -> NDArray[np.float32]:
        """Run one batch, in one of this embedder's threads."""
        import numpy as np

        with self._loading:
            session = self._session
        inputs = {
            "input_ids": batch.ids,
            "attention_mask": batch.mask,
            "token_type_ids": np.zeros_like(batch.ids),
        }
        feed = {
            node.name: inputs[node.name].astype(INPUT_TYPES[node.type], copy=False)
            for node in session.get_inputs()
        }
        try:
            output = session.run([self._output], feed)[0]
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise Transient(
                f"model {self.space.model} failed on {batch.ids.shape} tokens ({error}); try again"
            ) from error
        return pool(output, batch.mask, self._checkpoint.pooling)

    @cached_property
    def _output(self) -> str:
        """The name of the output with vectors: the pooled one, if the graph has one."""
        names: list[str] = [output.name for output in self._session.get_outputs()]
        return "sentence_embedding" if "sentence_embedding" in names else names[0]

    @cached_property
    def _session(self) -> Any:  # onnxruntime has no type hints
        """Load the graph; if it does not load, build it once more."""
        if self._checkpoint.is_graph:
            return _load(self._checkpoint.file)
        path = _graph(self._checkpoint, self._cache)
        try:
            return _load(path)
        except Misconfigured as error:
            log.warning("cached graph %s is built again: %s", path, error)
            path.unlink(missing_ok=True)
            return _load(_graph(self._checkpoint, self._cache))


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:  # tokenizers has no type hints
    """Return the tokens that the tokenizer puts before a text and after it."""
    bare: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
    full: list[int] = tokenizer.encode("a").ids
    start = next(place for place in range(len(full)) if full[place : place + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]


def _graph(checkpoint: Checkpoint, cache: Path) -> Path:
    """Build the graph of these weights, unless `cache` has it undamaged."""
    stem = f"{checkpoint.sha256[:16]}-{checkpoint.pooling}-{REVISION}"
    path = cache / f"{stem}.onnx"
    written = cache / f"{stem}.sha256"
    if path.is_file() and written.is_file() and digest(path, cache=cache) == written.read_text().strip():
        return path
    if checkpoint.model == UNIVERSAL:
        from flowbed.embedding.local.universal import universal_graph

        content = universal_graph(checkpoint.file)
    else:
        architecture = Architecture.of(
            checkpoint.config, pooling=checkpoint.pooling, subject=checkpoint.folder
        )
        content = graph_bytes(checkpoint.file, architecture)
    write_whole(path, content)
    write_whole(written, hashlib.sha256(content).hexdigest().encode())
    log.info("wrote the graph of %s to %s", checkpoint.model, path)
    return path


def _load(path: Path) -> Any:  # onnxruntime has no type hints
    """Open a session in which every run stays on the calling thread."""
    import onnxruntime  # slow; finding and submitting work never need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common class
        raise Misconfigured(f"graph {path} cannot be loaded ({error}); fetch the model again") from error
    known = ("input_ids", "attention_mask", "token_type_ids")
    unknown = [node.name for node in session.get_inputs() if node.name not in known]
    if unknown:
        raise Misconfigured(
            f"graph {path} has unsupported inputs ({', '.join(unknown)}); choose another model"
        )
    return session
