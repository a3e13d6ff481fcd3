"""Parquet files keep the contract of publications, and other tools read them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from flowbed.errors import Misconfigured
from flowbed.publish import open_publication
from flowbed.publish.parquet import current_file, current_key
from flowbed.testing.faults import Fault, FaultyStore, unavailable
from flowbed.testing.publication import PublicationContract, PublishedRow, metadata_of, numbered

if TYPE_CHECKING:
    from flowbed.publish import Publication
    from flowbed.testing.publication import PublishBench


async def table_of(bench: PublishBench) -> pa.Table:
    found = await current_file(bench.store, "docs")
    assert found is not None
    return parquet.read_table(io.BytesIO((await bench.store.get(found[0].key)).body))


class TestParquetFiles(PublicationContract):
    """Files named by `current.json`, read by pyarrow."""

    WHOLE = True

    def open(self, bench: PublishBench) -> Publication:
        return open_publication("parquet", bench.context(), {})

    async def read(self, bench: PublishBench) -> dict[str, PublishedRow]:
        return {
            row["id"]: PublishedRow(
                document=row["document"],
                metadata=metadata_of(row["metadata"]),
                vector=np.asarray(row["vector"], np.float32),
            )
            for row in (await table_of(bench)).to_pylist()
        }

    async def spoil(self, bench: PublishBench) -> None:
        found = await current_file(bench.store, "docs")
        assert found is not None
        await bench.store.put(found[0].key, b"PAR1")


async def test_parquet_file_has_plain_columns(publish_bench: PublishBench) -> None:
    """Types that DuckDB, pandas and Polars read without an extension."""
    await publish_bench.commit(numbered(3, color="red"))
    await publish_bench.publish(open_publication("parquet", publish_bench.context(), {}))
    schema = (await table_of(publish_bench)).schema
    assert [(field.name, str(field.type)) for field in schema] == [
        ("id", "string"),
        ("document", "string"),
        ("metadata", "string"),
        ("vector", "list<element: float>"),
    ]


async def test_parquet_file_whose_naming_answer_is_lost_is_found_to_be_current(
    publish_bench: PublishBench,
) -> None:
    await publish_bench.commit(numbered(3))
    store = FaultyStore(
        publish_bench.store, [Fault(operation="create", key="*current.json", after=unavailable)]
    )
    done = await publish_bench.publish(open_publication("parquet", publish_bench.context(store=store), {}))
    found = await current_file(publish_bench.store, "docs")
    assert found is not None
    assert (done.place, done.already) == (found[0].key, False)


async def test_parquet_files_replaced_long_ago_are_removed(publish_bench: PublishBench) -> None:
    publication = open_publication("parquet", publish_bench.context(clock=lambda: 2**60), {})
    for number in range(4):
        await publish_bench.commit(numbered(number + 1))
        await publish_bench.publish(publication)
    kept = [
        each.key async for each in publish_bench.store.list("docs/parquet") if each.key.endswith(".parquet")
    ]
    assert len(kept) == 2


async def test_parquet_with_a_damaged_name_says_what_to_do(publish_bench: PublishBench) -> None:
    await publish_bench.commit(numbered(1))
    await publish_bench.store.put(current_key("docs"), b"{}")
    with pytest.raises(Misconfigured, match="flowbed publish docs"):
        await publish_bench.publish(open_publication("parquet", publish_bench.context(), {}))


async def test_parquet_file_of_a_killed_process_leaves_no_folder(publish_bench: PublishBench) -> None:
    """The next publication removes what a killed one left on this machine, and nothing of one that runs."""
    scratch = publish_bench.context().scratch / "docs"
    for name, owner in (("building-killed", "host/2/1.00/cd"), ("building-running", "host/1/1.00/ab")):
        (scratch / name).mkdir(parents=True)
        (scratch / name / "rows.parquet").write_bytes(b"PAR1")
        (scratch / name / "owner").write_text(owner, "utf-8")
    await publish_bench.commit(numbered(3))
    await publish_bench.publish(open_publication("parquet", publish_bench.context(), {}))
    assert [each.name for each in scratch.iterdir()] == ["building-running"]
