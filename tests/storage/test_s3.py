"""Objects in S3: the contract, what each fault on the way does to a write, and which stores are refused."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import boto3
import pytest
from tests.support.s3 import REGION, S3Server, variables

from flowbed.errors import Conflict, Error, Misconfigured, NotFound, Transient
from flowbed.index.active_space import begin_space
from flowbed.index.datasets import Datasets
from flowbed.records import Space
from flowbed.storage import Store, open_store
from flowbed.testing.s3proxy import (
    ACCESS_DENIED,
    CONFLICT,
    CUT,
    INTERNAL_ERROR,
    PRECONDITION_FAILED,
    SLOW_DOWN,
    Answer,
    S3Fault,
    S3Proxy,
)
from flowbed.testing.storage import StoreContract, halves, keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

FAULTS = [
    S3Fault(probability=0.02, before=INTERNAL_ERROR),
    S3Fault(probability=0.02, before=SLOW_DOWN),
    S3Fault(probability=0.02, before=CUT),
    S3Fault(method="PUT", conditional=True, probability=0.1, before=CONFLICT),
    S3Fault(method="PUT", probability=0.1, after=INTERNAL_ERROR),
    S3Fault(method="PUT", probability=0.1, after=CUT),
    S3Fault(method="GET", probability=0.05, truncate=True),
    S3Fault(probability=0.05, delay=0.02, jitter=True),
    S3Fault(probability=0.01, reorder=True),
]


@pytest.fixture(autouse=True)
def keys_to_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables("").items():
        if name != "AWS_ENDPOINT_URL":
            monkeypatch.setenv(name, value)


def open_s3(endpoint: str, folder: Path, *, bucket: str = "bucket") -> Store:
    """Open a store below a prefix of the test's own."""
    options = {"endpoint": endpoint, "region": REGION}
    return open_store(f"s3://{bucket}/{folder.name}/deep er", folder=folder, options=options)


class TestS3(StoreContract):
    """A store in a bucket does what every store must."""

    @pytest.fixture(autouse=True)
    def _server(self, s3_server: S3Server) -> None:
        self.endpoint = s3_server.url

    def open_store(self, folder: Path) -> Store:
        return open_s3(self.endpoint, folder)


class TestFaultyS3(TestS3):
    """It does so too where requests are late, overtaken, refused for a moment, cut, or carried out and denied."""

    @pytest.fixture(autouse=True)
    def _server(self, s3_server: S3Server) -> Iterator[None]:
        with S3Proxy(s3_server.url, FAULTS, seed=1) as proxy:
            self.endpoint = proxy.url
            yield


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[S3Proxy]:
    """A way to the server that has no faults yet."""
    with S3Proxy(s3_server.url) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: S3Proxy, tmp_path: Path) -> Store:
    return open_s3(proxy.url, tmp_path)


@pytest.fixture
async def tried(store: Store, proxy: S3Proxy) -> Store:
    """A store that was written to already, and an account that begins after that."""
    await store.create("first", b"x")
    proxy.forget()
    return store


APPLIED = [
    pytest.param(INTERNAL_ERROR, id="error"),
    pytest.param(SLOW_DOWN, id="slow-down"),
    pytest.param(CUT, id="cut"),
]
NOT_APPLIED = [*APPLIED, pytest.param(CONFLICT, id="conflict")]


@pytest.mark.parametrize("after", APPLIED)
async def test_a_write_that_was_applied_succeeds(tried: Store, proxy: S3Proxy, after: Answer) -> None:
    """A create or a replacement that was carried out though an error was answered gives the etag that is there."""
    proxy.order(S3Fault(method="PUT", key="*/k", after=after))
    created = await tried.create("k", b"first")
    assert created == (await tried.get("k")).etag
    replaced = await tried.replace("k", b"second", etag=created)
    stored = await tried.get("k")
    assert (stored.body, stored.etag) == (b"second", replaced)
    assert proxy.struck == 2


@pytest.mark.parametrize("before", NOT_APPLIED)
async def test_a_write_that_was_not_applied_is_sent_again(
    tried: Store, proxy: S3Proxy, before: Answer
) -> None:
    """A create or a replacement that was answered with an error, or 409, and not carried out is carried out later."""
    proxy.order(S3Fault(method="PUT", key="*/k", calls=[1, 2, 4, 5], before=before))
    etag = await tried.create("k", b"first")
    assert await tried.replace("k", b"second", etag=etag) == (await tried.get("k")).etag
    assert (await tried.get("k")).body == b"second"
    assert proxy.struck == 4


@pytest.mark.parametrize("before", NOT_APPLIED)
async def test_another_writer_is_told_of(tried: Store, proxy: S3Proxy, before: Answer) -> None:
    """Where someone else's object is there, a create is a Conflict whatever was answered at first."""
    await tried.create("k", b"other")
    proxy.order(S3Fault(method="PUT", key="*/k", calls=[1], before=before))
    with pytest.raises(Conflict, match="exists"):
        await tried.create("k", b"mine")
    assert (await tried.get("k")).body == b"other"


async def test_a_refusal_is_a_conflict(tried: Store, proxy: S3Proxy) -> None:
    """412 is a Conflict at once: the replacement is neither sent again nor looked after."""
    etag = await tried.create("k", b"first")
    proxy.forget()
    proxy.order(S3Fault(method="PUT", before=PRECONDITION_FAILED))
    with pytest.raises(Conflict, match="changed"):
        await tried.replace("k", b"second", etag=etag)
    assert [exchange.method for exchange in proxy.exchanges] == ["PUT"]


@pytest.mark.parametrize("after", APPLIED)
async def test_what_cannot_be_known_is_no_conflict(
    tried: Store, proxy: S3Proxy, s3_server: S3Server, tmp_path: Path, after: Answer
) -> None:
    """Where a replacement may have been carried out before someone else's, it is Transient: nobody can tell."""
    other = open_s3(s3_server.url, tmp_path)
    etag = await tried.create("k", b"first")
    proxy.order(
        S3Fault(method="PUT", key="*/k", after=after), S3Fault(method="GET", key="*/k", calls=[1], delay=1.0)
    )
    replacing = asyncio.create_task(tried.replace("k", b"mine", etag=etag))
    while (present := await other.get("k")).body != b"mine":
        pass
    await other.replace("k", b"other", etag=present.etag)
    with pytest.raises(Transient, match="unknown whether"):
        await replacing
    assert (await tried.get("k")).body == b"other"


@pytest.mark.parametrize("step", [1, 2, 3], ids=["begun", "part", "whole"])
async def test_a_stream_whose_answers_are_lost_is_whole_or_to_be_sent_again(
    tried: Store, proxy: S3Proxy, step: int
) -> None:
    """A put of a stream either succeeds and is whole, or is Transient; then putting it again makes it so."""
    pieces = [b"a" * 6_000_000, b"b" * 6_000_000]
    proxy.order(S3Fault(method="P*", key="*/k", calls=[step], after=INTERNAL_ERROR))
    try:
        await tried.put("k", halves(*pieces))
    except Transient:
        await tried.put("k", halves(*pieces))
    assert proxy.struck
    body = (await tried.get("k")).body
    assert hashlib.sha256(body).digest() == hashlib.sha256(b"".join(pieces)).digest()


async def test_a_stream_that_ends_early_leaves_no_parts(
    tried: Store, s3_server: S3Server, tmp_path: Path
) -> None:
    """When a stream fails, or its put is cancelled, nothing of it is left in the bucket to be paid for."""
    with pytest.raises(ZeroDivisionError):
        await tried.put("failed", halves(b"x" * 17_000_000, b"y", error=ZeroDivisionError()))
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 17_000_000
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(tried.put("cancelled", endless()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    client = boto3.client("s3", endpoint_url=s3_server.url)
    assert not client.list_multipart_uploads(Bucket="bucket", Prefix=tmp_path.name).get("Uploads")
    assert await keys(tried, "") == ["first"]


async def test_a_call_is_one_request(tried: Store, proxy: S3Proxy) -> None:
    """Reading, creating and replacing a small object, listing and deleting take one request each, and open no more."""
    etag = await tried.create("k", b"first")
    await tried.replace("k", b"second", etag=etag)
    await tried.get("k")
    await tried.put("other", b"x" * 1000)
    await keys(tried, "")
    await tried.folders("")
    await tried.delete(["k", "other"])
    assert [exchange.method for exchange in proxy.exchanges] == [
        "PUT",
        "PUT",
        "GET",
        "PUT",
        "GET",
        "GET",
        "POST",
    ]


async def test_a_store_that_ignores_conditions_is_refused(
    store: Store, proxy: S3Proxy, s3_server: S3Server, tmp_path: Path
) -> None:
    """Such a store is refused at the first write of any kind, which is not carried out."""
    proxy.order(S3Fault(method="PUT", unconditional=True))
    direct = open_s3(s3_server.url, tmp_path)
    for write in (
        lambda: store.create("k", b"x"),
        lambda: store.replace("k", b"x", etag='"x"'),
        lambda: store.put("k", b"x"),
        lambda: store.put("k", halves(b"x")),
    ):
        with pytest.raises(Misconfigured, match="ignores If-None-Match and If-Match"):
            await write()
        assert await keys(direct, "") == []


async def test_reading_asks_for_no_conditions(store: Store, proxy: S3Proxy) -> None:
    """A store is tried once, before the first write, and not at all by those who only read."""
    with pytest.raises(NotFound):
        await store.get("k")
    assert await keys(store, "") == []
    assert [exchange.method for exchange in proxy.exchanges] == ["GET", "GET"]
    proxy.forget()
    await asyncio.gather(*(store.create(f"{number}", b"x") for number in range(8)))
    tries = [exchange for exchange in proxy.exchanges if exchange.key.endswith("/.store/conditions")]
    assert len(tries) == 3
    assert len(await keys(store, "")) == 8


async def test_many_may_try_a_store_at_once(proxy: S3Proxy, tmp_path: Path) -> None:
    """Those who open one store at the same time, over a bad network, do not take each other for one that ignores."""
    proxy.order(
        S3Fault(method="PUT", probability=0.2, after=INTERNAL_ERROR),
        S3Fault(method="PUT", probability=0.2, before=CONFLICT),
        S3Fault(probability=0.5, delay=0.02, jitter=True),
    )
    await asyncio.gather(*(open_s3(proxy.url, tmp_path).create(f"{number}", b"x") for number in range(12)))
    assert len(await keys(open_s3(proxy.url, tmp_path), "")) == 12


async def test_no_permission_is_not_taken_for_nothing_there(tried: Store, proxy: S3Proxy) -> None:
    """403, which S3 answers for missing objects too where listing is not allowed, says what to allow."""
    proxy.order(S3Fault(before=ACCESS_DENIED))
    for call in (
        lambda: tried.get("k"),
        lambda: tried.create("k", b"x"),
        lambda: tried.replace("k", b"x", etag='"x"'),
        lambda: keys(tried, ""),
        lambda: tried.delete(["k"]),
    ):
        with pytest.raises(Misconfigured, match="s3:ListBucket"):
            await call()


async def test_a_missing_bucket_is_misconfigured(s3_server: S3Server, tmp_path: Path) -> None:
    """A bucket that is not there is never taken for an empty one."""
    store = open_s3(s3_server.url, tmp_path, bucket="nowhere")
    for call in (
        lambda: store.get("k"),
        lambda: store.create("k", b"x"),
        lambda: store.put("k", b"x"),
        lambda: store.folders(""),
        lambda: keys(store, ""),
        lambda: store.delete(["k"]),
    ):
        with pytest.raises(Misconfigured, match=r"bucket of store .* does not exist"):
            await call()


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (Answer(status=400, code="AuthorizationHeaderMalformed"), "AWS_REGION"),
        (Answer(status=501, code="NotImplemented"), "no conditional writes"),
    ],
    ids=["region", "no-conditions"],
)
async def test_answers_that_need_another_setting_are_misconfigured(
    store: Store, proxy: S3Proxy, answer: Answer, match: str
) -> None:
    """A wrong region, or a store without conditional writes, is told as what to set."""
    proxy.order(S3Fault(method="PUT", before=answer))
    with pytest.raises(Misconfigured, match=match):
        await store.create("k", b"x")


async def test_a_profile_gives_the_keys(
    proxy: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the option `profile`, keys come from the files of the AWS command line; one without keys is refused."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        "[mine]\naws_access_key_id = mine\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    options = {"endpoint": proxy.url, "region": REGION, "profile": "mine"}
    store = open_store(f"s3://bucket/{tmp_path.name}", folder=tmp_path, options=options)
    await store.create("k", b"x")
    assert {exchange.access_key for exchange in proxy.exchanges} == {"mine"}
    with pytest.raises(Misconfigured, match="'other' has no credentials"):
        open_store("s3://bucket", folder=tmp_path, options={**options, "profile": "other"})


@pytest.mark.parametrize(
    ("url", "options", "match"),
    [
        ("s3://", {}, "write s3://bucket"),
        ("s3:///prefix", {}, "write s3://bucket"),
        ("s3://bucket/a?b", {}, "write s3://bucket"),
        ("s3://bucket", {"colour": "red"}, "has no option colour"),
        ("store", {"region": "here"}, "remove region"),
    ],
)
def test_an_address_or_an_option_that_is_none_is_refused(
    tmp_path: Path, url: str, options: dict[str, str], match: str
) -> None:
    """What cannot be meant is refused before a server is asked, and the message says what can."""
    with pytest.raises(Error, match=match):
        open_store(url, folder=tmp_path, options=options)


async def test_the_endpoint_that_was_set_wins(
    proxy: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the environment says of other servers leads neither this store nor what is kept beside it elsewhere."""
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    store = open_s3(proxy.url, tmp_path)
    await store.create("k", b"x")
    live = await begin_space(store, "docs", Space(model="test", dimensions=8), now=1)
    await Datasets(store).writable(live)
    assert any("/_versions/" in exchange.key for exchange in proxy.exchanges)
