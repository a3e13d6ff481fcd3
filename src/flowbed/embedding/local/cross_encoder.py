"""Cross-encoders of the package sentence-transformers: rerankers that torch runs in this process."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from flowbed.embedding.options import ModelOptions
from flowbed.embedding.reranking import Reranked
from flowbed.embedding.unicode import require_unicode
from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# As for embedders of the package, whose table of options both share.
OPTIONS = ("batch", "device", "document_prompt", "download", "overflow", "query_prompt", "revision")
MOST = 1_000  # texts in a call: more take a minute on a few cores
BATCH = 32


def open_cross_encoder(name: str, *, cache: Path, options: Mapping[str, str]) -> CrossEncoders:  # noqa: ARG001 - keeps no files
    """Open a cross-encoder of the hub or in a folder; loading it takes seconds.

    Options: `download` (true permits a download from the hub), `device`, `batch` (texts), `revision`.

    Raises:
        Misconfigured: the package is not installed, an option is wrong, or the model cannot be loaded.
    """
    read = ModelOptions("sentence_transformers", options, OPTIONS)
    download = read.flag("download")
    try:
        from sentence_transformers import CrossEncoder  # an extra, slow to import
    except ImportError as error:
        raise Misconfigured(
            f"reranker sentence_transformers:{name} needs a package: pip install 'flowbed[sentence-transformers]'"
        ) from error
    try:
        model = CrossEncoder(
            name,
            num_labels=1,
            device=read.text("device") or None,
            revision=read.text("revision") or None,
            local_files_only=not download,
        )
    except Exception as error:  # several packages raise errors of their own
        hint = "" if download else "; let Flowbed download it with the option download = true"
        raise Misconfigured(
            f"reranker sentence_transformers:{name} cannot be loaded ({error}){hint}"
        ) from error
    return CrossEncoders(model, name=name, batch=read.number("batch") or BATCH)


class CrossEncoders:
    """A reranker in one thread of this process; texts longer than the model's window are read in part."""

    most = MOST

    def __init__(self, model: Any, *, name: str, batch: int) -> None:  # an extra, whose types may be missing
        """Take a loaded model."""
        self.model = name
        self._model, self._batch = model, batch
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flowbed-rerank")

    async def rerank(self, query: str, texts: Sequence[str]) -> Reranked:
        """Score every text or none; the tokens are not counted, as nothing is billed.

        Raises:
            Rejected: a text is not valid Unicode, or there are too many.
            Transient: memory was exhausted, or the device failed.
        """
        require_unicode([query, *texts])
        if not texts:
            return Reranked(scores=())
        if len(texts) > self.most:
            raise Rejected(f"{count(len(texts), 'text')} to rerank; {self.model} takes {self.most:,} at once")
        scores = await asyncio.get_running_loop().run_in_executor(self._thread, self._scores, query, texts)
        return Reranked(scores=scores)

    async def aclose(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)

    def _scores(self, query: str, texts: Sequence[str]) -> tuple[float, ...]:
        pairs = [(query, text) for text in texts]
        try:
            found = self._model.predict(pairs, batch_size=self._batch, show_progress_bar=False)
        except (RuntimeError, MemoryError) as error:  # of torch
            raise Transient(
                f"reranker {self.model} failed on {count(len(texts), 'text')} ({error}); try again"
            ) from error
        return tuple(float(score) for score in found)
