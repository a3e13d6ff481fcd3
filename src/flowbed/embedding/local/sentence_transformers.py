"""Models of the package sentence-transformers, run in this process by torch."""

from __future__ import annotations

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.embedding.local.weights import DOCUMENT_PROMPTS, SAFETENSORS, digest
from flowbed.embedding.options import ModelOptions
from flowbed.embedding.providers.parsing import normalised
from flowbed.embedding.unicode import require_unicode
from flowbed.embedding.vendors import Vendor
from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.records import Embedded, Space
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.embedding.reranking import Reranker
    from flowbed.records import Purpose

OPTIONS = ("batch", "device", "document_prompt", "download", "overflow", "query_prompt", "revision")

# Texts and tokens in one call, as for local models without torch.
ITEMS, TOKENS = 2_048, 16_384
# Texts per batch; the package's own default.
BATCH = 32


def open_sentence_transformers(name: str, *, cache: Path, options: Mapping[str, str]) -> SentenceTransformers:
    """Open a model of the hub or in a folder; loading it takes seconds.

    Options: `overflow` (reject or truncate texts longer than the window), `download` (true permits a download from the
    hub), `device` (cpu, cuda, ...), `batch` (texts), `revision`, `document_prompt`, `query_prompt`.

    Raises:
        Misconfigured: the package is not installed, an option is wrong, or the model cannot be loaded.
    """
    read = ModelOptions("sentence_transformers", options, OPTIONS)
    truncates = read.choice("overflow", ("reject", "truncate")) == "truncate"
    download = read.flag("download")
    try:
        from sentence_transformers import SentenceTransformer  # an extra, slow to import
    except ImportError as error:
        raise Misconfigured(
            f"model sentence_transformers:{name} needs a package: pip install 'flowbed[sentence-transformers]'"
        ) from error
    try:
        model = SentenceTransformer(
            name,
            device=read.text("device") or None,
            revision=read.text("revision") or None,
            local_files_only=not download,
        )
    except Exception as error:  # several packages raise errors of their own
        hint = "" if download else "; let Flowbed download it with the model option download = true"
        raise Misconfigured(f"model sentence_transformers:{name} cannot be loaded ({error}){hint}") from error
    return SentenceTransformers(
        model,
        name=name,
        revision=_revision(model, name, cache=cache),
        prompts={**_prompts(model), **read.prompts()},
        batch=read.number("batch") or BATCH,
        truncates=truncates,
    )


class SentenceTransformers:
    """An embedder in one thread of this process, which torch spreads over the cores or a device."""

    items = ITEMS
    tokens = TOKENS
    price = 0.0

    def __init__(
        self,
        model: Any,  # an extra, whose types may be missing
        *,
        name: str,
        revision: str,
        prompts: Mapping[str, str],
        batch: int,
        truncates: bool,
    ) -> None:
        """Take a loaded model."""
        self._model = model
        # The model reconfigures truncation and padding of its tokenizer before each batch: counting at the same time
        # would interfere.
        self._counter = copy.deepcopy(model.tokenizer)
        self._batch = batch
        self._truncates = truncates
        self._prompts = prompts
        self._special = model.tokenizer.num_special_tokens_to_add()
        # Tokens that a text may have, without special ones.
        self.window = (model.max_seq_length or model.tokenizer.model_max_length) - self._special
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flowbed-torch")
        self.space = Space(
            model=name,
            dimensions=int(model.get_embedding_dimension()),
            revision=revision,
            # The package pools as the model's description says, which the revision identifies.
            pooling="sentence-transformers",
            prompts=tuple(sorted((purpose, prompt) for purpose, prompt in prompts.items() if prompt)),
        )

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none; tokens are counted without special ones.

        Raises:
            Rejected: a text is not valid Unicode, or longer than the window and `overflow` is `reject`.
            Transient: memory was exhausted, or the device failed.
        """
        require_unicode(texts)
        if not texts:
            return Embedded(vectors=np.empty((0, self.space.dimensions), dtype=np.float32))
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._embed, texts, purpose)

    def count(self, text: str) -> int:
        """Count the tokens of `text` without special tokens.

        Raises:
            Rejected: the text is not valid Unicode.
        """
        require_unicode([text])
        return self._counts([text])[0]

    def bill(self, text: str, tokens: int) -> int:
        """Return the tokens of embedding a document: with its prompt, without what is truncated or rejected."""
        if prompt := self._prompts.get("document", ""):
            tokens = self.count(prompt + text)
        if tokens > self.window:
            return self.window if self._truncates else 0
        return tokens

    async def aclose(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)

    def _embed(self, texts: Sequence[str], purpose: Purpose) -> Embedded:
        prompt = self._prompts.get(purpose, "")
        counts = self._counts([prompt + text for text in texts])
        over = tuple(place for place, count in enumerate(counts) if count > self.window)
        if over and not self._truncates:
            raise Rejected(
                f"{count(len(over), 'text')} longer than the {self.window} tokens that {self.space.model} takes (the "
                f"longest has {max(counts)}); chunk them smaller, or choose overflow=truncate",
                inputs=over,
            )
        encode = self._model.encode_query if purpose == "query" else self._model.encode_document
        try:
            vectors = encode(
                list(texts),
                prompt=prompt,
                batch_size=self._batch,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        except (
            RuntimeError,
            MemoryError,
        ) as error:  # raised by torch when a device fails or memory is exhausted
            raise Transient(
                f"model {self.space.model} failed on {count(len(texts), 'text')} ({error}); try again"
            ) from error
        return Embedded(
            vectors=normalised(np.asarray(vectors, dtype=np.float32)),
            tokens=sum(min(count, self.window) for count in counts),
            truncated=over,
        )

    def _counts(self, texts: Sequence[str]) -> list[int]:
        ids = self._counter(
            list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False
        )["input_ids"]
        return [len(each) for each in ids]


def _prompts(model: Any) -> dict[str, str]:  # an extra, whose types may be missing
    """Return the model's prompts, by purpose, as the package itself chooses them."""
    known: Mapping[str, str | None] = model.prompts
    document = next((known[name] for name in DOCUMENT_PROMPTS if name in known), None)
    return {"document": document or "", "query": known.get("query") or ""}


def _revision(model: Any, name: str, *, cache: Path) -> str:  # an extra, whose types may be missing
    """Identify the weights: by the sha256 of a folder's, or by the hub's commit."""
    weights = Path(name) / SAFETENSORS
    if weights.is_file():
        return digest(weights, cache=cache)[:12]
    commit: str | None = getattr(getattr(model.transformers_model, "config", None), "_commit_hash", None)
    return (commit or "")[:12]


def _open_cross_encoder(name: str, *, cache: Path, options: Mapping[str, str]) -> Reranker:
    from flowbed.embedding.local.cross_encoder import open_cross_encoder  # which few projects use

    return open_cross_encoder(name, cache=cache, options=options)


VENDOR = Vendor(open=open_sentence_transformers, open_reranker=_open_cross_encoder, over_http=False)
