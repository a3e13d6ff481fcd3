"""Servers that speak OpenAI's embeddings API: TEI, Infinity, vLLM, Ollama, another Flowbed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.embedding.batch_api import JobTerms
from flowbed.embedding.options import COMMON, ModelOptions
from flowbed.embedding.providers.client import (
    ProviderTerms,
    RemoteEmbedder,
    chosen_dimensions,
    open_client,
)
from flowbed.embedding.providers.openai import (
    JOB_BYTES,
    JOB_SECONDS,
    JOB_TEXTS,
    MODELS,
    OpenAIApi,
    OpenAIJobs,
    jobs_account,
)
from flowbed.embedding.tokens import Bpe, open_counter
from flowbed.embedding.vendors import Vendor, known_model, open_embedder
from flowbed.embedding.wrappers import Wrapper
from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Space
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.embedding.batch_api.job_client import HttpBatchApi
    from flowbed.embedding.tokens import Counter
    from flowbed.records import Embedded, Purpose

OPTIONS = (
    *COMMON,
    "batch",
    "batch_price",
    "batch_tokens",
    "document_prompt",
    "encoding",
    "matryoshka",
    "pooling",
    "query_prompt",
    "revision",
    "same_as",
    "send_dimensions",
    "send_input_type",
    "window",
)

# The defaults of the strictest of these servers, text-embeddings-inference.
ITEMS, TOKENS = 32, 65_536
# Least cosine of one text's vectors from two servers of the same model: other precisions and kernels stay above it,
# another model, pooling or prompt far below.
ALIKE = 0.999
PROBE, FILLER = "Old keys, 17.50 EUR. Grüße! ", "The cat sat by a warm sea and slept. "
PURPOSES: tuple[Purpose, ...] = ("document", "query")


def open_compatible(name: str, *, cache: Path, options: Mapping[str, str]) -> RemoteEmbedder | SameAs:
    """Open the model that a server knows as `name`; docs/providers.md lists the `options`.

    Raises:
        Misconfigured: an option is wrong or missing.
    """
    read = ModelOptions("compatible", options, OPTIONS)
    if "base_url" not in read:
        raise Misconfigured(
            f"model compatible:{name} needs the address of its server: set base_url in [providers.{read.table}]"
        )
    reference: Embedder | None = None
    if "same_as" in read:
        reference = open_embedder(read.text("same_as"), cache=cache, options={})
    remote = _remote(name, read, reference)
    if reference is None:
        return remote
    return SameAs(remote, reference=read.text("same_as"), cache=cache)


def _remote(name: str, read: ModelOptions, reference: Embedder | None) -> RemoteEmbedder:
    model = MODELS.get(name)
    key = read.text("api_key").strip()
    prompts = read.prompts()
    space = reference.space if reference else _space(name, read, prompts)
    # Another size of the model has to be requested explicitly.
    other_size = model is not None and space.dimensions != model.dimensions
    encoding = read.choice("encoding", ("base64", "float", "none"))
    return RemoteEmbedder(
        OpenAIApi(
            name,
            dimensions=space.dimensions if read.flag("send_dimensions") or other_size else None,
            encoding="" if encoding == "none" else encoding,
            input_types=read.flag("send_input_type"),
        ),
        open_client(read, read.text("base_url"), key=key),
        space=space,
        terms=ProviderTerms(
            items=read.number("items") or ITEMS,
            tokens=read.number("tokens") or TOKENS,
            window=read.number("window") or (model.window if model else 0),
            price=_price(name, read),
            rates=read.rates(),
            matryoshka=read.flag("matryoshka") or (model is not None and bool(model.sizes)),
            prompts=prompts,
            key=f"api_key in [providers.{read.table}]",
        ),
        counter=_counter(name, read, reference),
    )


def _space(name: str, read: ModelOptions, prompts: Mapping[str, str]) -> Space:
    typed = (
        [(purpose, f"input_type:{purpose}") for purpose in PURPOSES] if read.flag("send_input_type") else []
    )
    return Space(
        model=name,
        dimensions=chosen_dimensions(read, name, MODELS.get(name)),
        revision=read.text("revision"),
        pooling=read.text("pooling"),
        prompts=tuple(sorted([*prompts.items(), *typed])),
    )


def _price(name: str, read: ModelOptions) -> float:
    price = read.amount("price")
    if price is not None:
        return price
    # A vendor's model costs its price wherever it is reached; a model of another name runs on the user's own server.
    model = known_model(name)
    return (model.price if model is not None else None) or 0.0


def _counter(name: str, read: ModelOptions, reference: Embedder | None) -> Counter:
    if "tokenizer" in read:
        return open_counter(read.text("tokenizer"), factor=1)
    if reference is not None:
        return _AsReference(reference)
    return Bpe("cl100k_base") if name in MODELS else open_counter("", factor=1)


class _AsReference:
    """The tokenizer of the reference model."""

    exact = True

    def __init__(self, reference: Embedder) -> None:
        self.count = reference.count


class SameAs(Wrapper):
    """A server that claims to serve another model: trusted once both give texts the same vectors."""

    def __init__(self, remote: RemoteEmbedder, *, reference: str, cache: Path) -> None:
        """Wrap `remote`; `reference` names the other model, which is opened only for the comparison."""
        super().__init__(remote)
        self.rates = remote.rates
        self._reference = reference
        self._cache = cache
        self._verifying = asyncio.Lock()
        self._verified = False
        self._window = 0
        self._long_text = ""

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none; the first call also compares the vectors with the reference model's.

        Raises:
            Transient: as the server says.
            Rejected: as the server says; or a text is longer than the model's window, and the server treats such texts
                differently from the reference model.
            Misconfigured: the vectors are not the reference model's, or as the server says.
        """
        if texts:
            await self.verify()
        if self._window:
            self._refuse_long(texts)
        return await self._embedder.embed(texts, purpose=purpose)

    async def verify(self) -> None:
        """Compare the vectors with the reference model's, unless that has been done.

        Raises:
            Transient, Rejected: as the server says.
            Misconfigured: they differ, or as the server says.
        """
        if self._verified:
            return
        async with self._verifying:
            if not self._verified:
                await self._compare()
                self._verified = True

    async def verify_jobs(self) -> None:
        """Verify the model for a job, in which the lengths of texts are not checked before the server sees them.

        Raises:
            Transient, Rejected: as the server says.
            Misconfigured: as `verify`; or the server accepts texts that are longer than the model's window, and treats
                them differently.
        """
        await self.verify()
        if not self._window:
            return
        try:
            await self._embedder.embed([self._long_text], purpose="document")
        except Rejected:
            return  # as it will in a job
        raise Misconfigured(
            f"the server of {self.space.model} treats texts of more than {self._window} tokens differently from "
            f"{self._reference}, which would go unnoticed in a job: leave the option batch out"
        )

    def _refuse_long(self, texts: Sequence[str]) -> None:
        long = [place for place, text in enumerate(texts) if self.count(text) > self._window]
        if long:
            raise Rejected(
                f"{count(len(long), 'text')} longer than the {self._window} tokens of {self._reference}, and the "
                "server treats such texts differently; chunk them smaller",
                inputs=long,
            )

    async def _compare(self) -> None:
        # Opened again, not kept: its weights are needed only for these texts.
        reference = await asyncio.to_thread(open_embedder, self._reference, cache=self._cache, options={})
        for purpose in PURPOSES:
            alike = await self._similarity(reference, PROBE, purpose)
            if alike < ALIKE:
                raise Misconfigured(
                    f"model compatible:{self.space.model} is not the same as {self._reference}: a {purpose} has "
                    f"vectors of cosine {alike:.3f} from the two (the same model has at least {ALIKE}); change "
                    "same_as, the model or its prompts"
                )
        window: int = getattr(reference, "window", 0)
        if window:
            # One window of each text: if the end is cut off, the two vectors differ.
            times = window // reference.count(PROBE) + 1
            self._long_text = PROBE * times + FILLER * times
            try:
                alike = await self._similarity(reference, self._long_text, "document")
            except Rejected:
                alike = 0.0
            self._window = window if alike < ALIKE else 0

    async def _similarity(self, reference: Embedder, text: str, purpose: Purpose) -> float:
        """Return the cosine between the two vectors of a text."""
        import numpy as np

        expected = (await reference.embed([text], purpose=purpose)).vectors[0]
        found = (await self._embedder.embed([text], purpose=purpose)).vectors[0]
        return float(np.dot(expected, found) / (np.linalg.norm(expected) * np.linalg.norm(found)))


def open_compatible_jobs(name: str, embedder: Embedder, *, options: Mapping[str, str]) -> HttpBatchApi | None:  # noqa: ARG001
    """Open the Batch API of a server that speaks OpenAI's; None unless the option `batch` is set.

    Raises:
        Misconfigured: an option is wrong.
    """
    from flowbed.embedding.batch_api.job_client import HttpBatchApi, remote_behind

    read = ModelOptions("compatible", options, OPTIONS)
    remote = remote_behind(embedder)
    if remote is None or not read.flag("batch"):
        return None
    share = read.amount("batch_price")
    terms = JobTerms(
        # The limits of such a server are unknown: OpenAI's are assumed, except for the queue.
        texts=JOB_TEXTS,
        bytes=JOB_BYTES,
        tokens=read.number("batch_tokens"),
        seconds=JOB_SECONDS,
        price=remote.price * (1.0 if share is None else share),
        account=jobs_account(read),
        table=read.table,
    )
    return HttpBatchApi(
        remote,
        OpenAIJobs(),
        terms=terms,
        verify=embedder.verify_jobs if isinstance(embedder, SameAs) else None,
    )


VENDOR = Vendor(open=open_compatible, open_jobs=open_compatible_jobs)
