"""Every reranker passes the contract, those of providers against a simulator."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

import flowbed
from flowbed.embedding.reranking import open_reranker
from flowbed.errors import Misconfigured, Rejected
from flowbed.testing.reranking import KEY, ProviderRerankerContract, RerankerContract
from flowbed.testing.simulators import Cohere, Fault, Simulator, Voyage, running
from flowbed.testing.simulators.reranking import relevance

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flowbed.embedding.reranking import Reranker
    from flowbed.testing.simulators.wire import Api

INSTALLED = importlib.util.find_spec("sentence_transformers") is not None
# Skipped even with CI=true, as for the embedders of the package.
wants_package = pytest.mark.skipif(
    not INSTALLED, reason="pip install 'flowbed[sentence-transformers]' to test it"
)


class TestCohere(ProviderRerankerContract):
    """Cohere."""

    model = "cohere:rerank-v3.5"

    def api(self) -> Api:
        return Cohere(keys=[KEY])

    def options(self, url: str) -> Mapping[str, str]:
        return {"base_url": url}

    async def test_cost_is_that_of_search_units(self, reranker: Reranker) -> None:
        assert (await reranker.rerank("a", ["b"] * 100)).cost_usd == pytest.approx(0.002)
        assert (await reranker.rerank("a", ["b"] * 101)).cost_usd == pytest.approx(0.004)


class TestVoyage(ProviderRerankerContract):
    """Voyage."""

    model = "voyage:rerank-2.5-lite"

    def api(self) -> Api:
        return Voyage(keys=[KEY])

    def options(self, url: str) -> Mapping[str, str]:
        return {"base_url": f"{url}/v1"}

    async def test_cost_is_that_of_tokens(self, reranker: Reranker, tmp_path: Path) -> None:
        found = await reranker.rerank("a b", ["c d e", "f"])
        assert found.cost_usd == pytest.approx(found.tokens * 0.02 / 1e6)
        dear = self.open_reranker(tmp_path, price="5")
        assert (await dear.rerank("a b", ["c d e", "f"])).cost_usd == pytest.approx(found.tokens * 5 / 1e6)
        await dear.aclose()


@wants_package
@pytest.mark.filterwarnings("ignore")
class TestCrossEncoder(RerankerContract):
    """A cross-encoder with random weights, made here."""

    @pytest.fixture(autouse=True)
    def made(self, tmp_path: Path) -> None:
        """Write a tiny model into a folder."""
        from transformers import (  # type: ignore[import-not-found]  # comes with the package
            BertConfig,
            BertForSequenceClassification,
            BertTokenizer,
        )

        self.folder = tmp_path / "cross-encoder"
        self.folder.mkdir()
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
        words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + ["."]
        (self.folder / "vocab.txt").write_text("\n".join(words))
        BertTokenizer(str(self.folder / "vocab.txt")).save_pretrained(self.folder)
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            num_labels=1,
        )
        BertForSequenceClassification(config).save_pretrained(self.folder)

    def open_reranker(self, folder: Path) -> Reranker:
        return open_reranker(f"sentence_transformers:{self.folder}", cache=folder, options={})


@pytest.mark.skipif(INSTALLED, reason="the package is installed")
def test_cross_encoder_missing_package_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"flowbed\[sentence-transformers\]"):
        open_reranker("sentence_transformers:a", cache=tmp_path, options={})


def test_vendor_without_rerankers_names_those_with(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"openai has no rerankers; .* cohere, voyage"):
        open_reranker("openai:x", cache=tmp_path, options={})


async def test_project_with_a_reranker_orders_hits_and_records_the_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are the reranker's; pages show no hit twice; one that fails for now leaves the hits as they are."""
    monkeypatch.setenv("FLOWBED_MODEL", "seeded:16")
    (tmp_path / "docs").mkdir()
    for number in range(70):
        (tmp_path / "docs" / f"{number:02d}.txt").write_text(f"text {number}\n")
    (tmp_path / "docs" / "keys.txt").write_text("We rotate the keys.\n")
    simulator = Simulator(Cohere())
    async with running(simulator) as url:
        (tmp_path / "flowbed.toml").write_text(
            f'reranker = "cohere:rerank-v3.5"\n[providers.cohere]\nbase_url = "{url}"\napi_key = "x"\n'
        )
        async with flowbed.aopen(tmp_path) as bed:
            await bed.add("docs", kind="files", location="docs")
            await bed.run()
            query = "who may rotate keys"
            found = await bed.find(query, mode="hybrid", limit=3, rerank=True)
            assert found.hits[0].metadata["path"] == "keys.txt"
            assert (
                found.hits[0].score
                == found.hits[0].scores["rerank"]
                == relevance(query, "We rotate the keys.")
            )
            assert {"vector", "text", "rerank"} >= set(found.hits[0].scores)
            assert len(simulator.account.exchanges[-1].texts) == 50
            (spent,) = await bed.spending("lane")
            assert (spent.name, spent.texts) == ("rerank", 50)
            assert spent.cost_usd == pytest.approx(0.002)
            second = await bed.find(query, mode="hybrid", limit=3, rerank=True, cursor=found.next)
            ids = [hit.id for page in (found, second) for hit in page.hits]
            assert len(ids) == len(set(ids)) == 6
            simulator.order(Fault(kind="gateway", status=503))
            plain = await bed.find(query, mode="hybrid", limit=3)
            failed = await bed.find(query, mode="hybrid", limit=3, rerank=True)
            assert [hit.id for hit in failed.hits] == [hit.id for hit in plain.hits]
            assert "not reranked: " in failed.warnings[0]
            with pytest.raises(Rejected, match="compares the texts of hits with that of a query"):
                await bed.find([0.1] * 16, rerank=True)


async def test_search_reranked_without_a_reranker_says_how_to_set_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWBED_MODEL", "seeded:16")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a text\n")
    async with flowbed.aopen(tmp_path) as bed:
        await bed.add("docs", kind="files", location="docs")
        await bed.run()
        with pytest.raises(Misconfigured, match=r"reranker = .cohere:rerank-v3\.5"):
            await bed.find("a text", rerank=True)
