"""Stores in S3: the contract, the effect of each network fault on a write, and refused stores."""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from tests.support.servers.s3 import REGION, S3Server, variables

from flowbed import telemetry
from flowbed.errors import Conflict, Error, Misconfigured, NotFound, Transient
from flowbed.index.active_space import begin_space
from flowbed.index.datasets import Datasets
from flowbed.records import Space
from flowbed.storage import Store, open_store, s3
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
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
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
    """Open a store below a prefix for this test."""
    options = {"endpoint": endpoint, "region": REGION}
    return open_store(f"s3://{bucket}/{folder.name}/deep er", folder=folder, options=options)


class TestS3(StoreContract):
    """A store in a bucket fulfils the contract, here with smaller pages."""

    more_than_a_page = 50

    @pytest.fixture(autouse=True)
    def _server(self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(s3, "PAGE", 20)
        self.endpoint = s3_server.url

    def open_store(self, folder: Path) -> Store:
        return open_s3(self.endpoint, folder)


class TestFaultyS3(TestS3):
    """So it does if requests are late, reordered, refused, cut off, or applied but answered with an error."""

    @pytest.fixture(autouse=True)
    def _server(self, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(s3, "PAGE", 20)
        proxy.seed(3)
        proxy.order(*FAULTS)
        self.endpoint = proxy.url


@pytest.mark.long
async def test_list_more_objects_than_a_page_of_s3_is_complete(s3_server: S3Server, tmp_path: Path) -> None:
    """The server itself cuts the first page short."""
    store = open_s3(s3_server.url, tmp_path)
    names = [f"folder/{number:05d}" for number in range(s3.PAGE + 100)]
    for start in range(0, len(names), 100):
        await asyncio.gather(*(store.put(name, b"") for name in names[start : start + 100]))
    assert await keys(store, "folder") == names


@pytest.fixture(scope="module")
def running_proxy(s3_server: S3Server) -> Iterator[S3Proxy]:
    """A proxy to the server."""
    with S3Proxy(s3_server.url) as proxy:
        yield proxy


@pytest.fixture
def proxy(running_proxy: S3Proxy) -> S3Proxy:
    """A proxy to the server, without faults yet."""
    running_proxy.reset()
    return running_proxy


@pytest.fixture
def store(proxy: S3Proxy, tmp_path: Path) -> Store:
    return open_s3(proxy.url, tmp_path)


@pytest.fixture
async def tried(store: Store, proxy: S3Proxy) -> Store:
    """A store whose conditions were tested already, with an empty record of requests."""
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
async def test_write_applied_despite_an_error_succeeds(tried: Store, proxy: S3Proxy, after: Answer) -> None:
    """A create or replace that was applied but answered with an error returns the new etag."""
    proxy.order(S3Fault(method="PUT", key="*/k", after=after))
    created = await tried.create("k", b"first")
    assert created == (await tried.get("k")).etag
    replaced = await tried.replace("k", b"second", etag=created)
    stored = await tried.get("k")
    assert (stored.body, stored.etag) == (b"second", replaced)
    assert proxy.struck == 2


@pytest.mark.parametrize("before", NOT_APPLIED)
async def test_write_not_applied_is_retried(tried: Store, proxy: S3Proxy, before: Answer) -> None:
    """A create or replace that was answered with an error or 409, and not applied, is sent again."""
    proxy.order(S3Fault(method="PUT", key="*/k", calls=[1, 2, 4, 5], before=before))
    etag = await tried.create("k", b"first")
    assert await tried.replace("k", b"second", etag=etag) == (await tried.get("k")).etag
    assert (await tried.get("k")).body == b"second"
    assert proxy.struck == 4


@pytest.mark.parametrize("before", NOT_APPLIED)
async def test_create_existing_key_after_errors_is_conflict(
    tried: Store, proxy: S3Proxy, before: Answer
) -> None:
    """If another writer's object exists, a create is a Conflict whatever the first answer was."""
    await tried.create("k", b"other")
    proxy.order(S3Fault(method="PUT", key="*/k", calls=[1], before=before))
    with pytest.raises(Conflict, match="exists"):
        await tried.create("k", b"mine")
    assert (await tried.get("k")).body == b"other"


async def test_replace_precondition_failed_is_conflict(tried: Store, proxy: S3Proxy) -> None:
    """412 is a Conflict at once: the replacement is not retried, and the object is not read."""
    etag = await tried.create("k", b"first")
    proxy.forget()
    proxy.order(S3Fault(method="PUT", before=PRECONDITION_FAILED))
    with pytest.raises(Conflict, match="changed"):
        await tried.replace("k", b"second", etag=etag)
    assert [exchange.method for exchange in proxy.exchanges] == ["PUT"]


@pytest.mark.parametrize("after", APPLIED)
async def test_replace_unknown_outcome_is_transient(
    tried: Store, proxy: S3Proxy, s3_server: S3Server, tmp_path: Path, after: Answer
) -> None:
    """If a replacement may have been applied before another one, it is Transient: the outcome is unknown."""
    other = open_s3(s3_server.url, tmp_path)
    etag = await tried.create("k", b"first")
    overwritten = threading.Event()
    proxy.order(
        S3Fault(method="PUT", key="*/k", after=after),
        S3Fault(method="GET", key="*/k", calls=[1], until=overwritten),
    )
    replacing = asyncio.create_task(tried.replace("k", b"mine", etag=etag))
    while (present := await other.get("k")).body != b"mine":
        pass
    await other.replace("k", b"other", etag=present.etag)
    overwritten.set()
    with pytest.raises(Transient, match="unknown whether"):
        await replacing
    assert (await tried.get("k")).body == b"other"


@pytest.mark.parametrize("step", [1, 2, 3], ids=["begun", "part", "whole"])
async def test_put_stream_lost_answers_is_whole_or_transient(tried: Store, proxy: S3Proxy, step: int) -> None:
    """A put of a stream succeeds and is whole, or is Transient and succeeds when repeated."""
    pieces = [b"a" * 6_000_000, b"b" * 6_000_000]
    proxy.order(S3Fault(method="P*", key="*/k", calls=[step], after=INTERNAL_ERROR))
    try:
        await tried.put("k", halves(*pieces))
    except Transient:
        await tried.put("k", halves(*pieces))
    assert proxy.struck
    body = (await tried.get("k")).body
    assert hashlib.sha256(body).digest() == hashlib.sha256(b"".join(pieces)).digest()


async def test_put_failed_stream_leaves_no_parts(tried: Store, s3_server: S3Server, tmp_path: Path) -> None:
    """After a stream fails or its put is cancelled, no parts are left in the bucket to pay for."""
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


async def test_call_is_one_request(tried: Store, proxy: S3Proxy) -> None:
    """Reading, creating, replacing, listing and deleting take one request each."""
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


async def test_store_ignoring_conditions_is_refused(
    store: Store, proxy: S3Proxy, s3_server: S3Server, tmp_path: Path
) -> None:
    """Such a store is refused at the first write of any kind, which is not sent."""
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


async def test_reading_does_not_test_conditions(store: Store, proxy: S3Proxy) -> None:
    """A store is tested once, before the first write, and never by readers."""
    with pytest.raises(NotFound):
        await store.get("k")
    assert await keys(store, "") == []
    assert [exchange.method for exchange in proxy.exchanges] == ["GET", "GET"]
    proxy.forget()
    await asyncio.gather(*(store.create(f"{number}", b"x") for number in range(8)))
    tries = [exchange for exchange in proxy.exchanges if exchange.key.endswith("/.store/conditions")]
    assert len(tries) == 5  # and of one with the right etag, which is read first
    raced = [exchange for exchange in proxy.exchanges if "/.store/race-" in exchange.key]
    assert [each.method for each in raced] == ["PUT"] * 8
    assert [each.query for each in proxy.exchanges if each.method == "POST"] == ["delete"]
    assert len(await keys(store, "")) == 8


async def test_conditions_of_a_store_that_was_tried_are_tested_with_three_requests(
    store: Store, proxy: S3Proxy, tmp_path: Path
) -> None:
    """The race, and the replacement, are tried once for each store, not in each process."""
    await store.create("k", b"x")
    proxy.forget()
    await open_s3(proxy.url, tmp_path).create("other", b"x")
    methods = [each.method for each in proxy.exchanges if "/.store/" in each.key]
    assert sorted(methods) == ["GET", "PUT", "PUT"]


async def test_store_taking_etags_without_quotes_is_used(
    store: Store, proxy: S3Proxy, tmp_path: Path
) -> None:
    """Where a right etag in quotes is refused, etags are sent without, by later processes too."""
    proxy.order(S3Fault(method="PUT", bare_etags=True))
    for place in (store, open_s3(proxy.url, tmp_path)):
        await place.put("k", b"one")
        etag = (await place.get("k")).etag
        assert etag.startswith('"')
        await place.replace("k", b"two", etag=etag)
        with pytest.raises(Conflict):
            await place.replace("k", b"three", etag=etag)
        assert (await place.get("k")).body == b"two"


async def test_store_refusing_the_right_etag_is_refused(store: Store, proxy: S3Proxy) -> None:
    """Such a store would never replace anything."""
    tries = range(4, 99)  # after two creations and a replacement that must be refused
    proxy.order(S3Fault(method="PUT", key="*/.store/conditions", before=PRECONDITION_FAILED, calls=tries))
    with pytest.raises(Misconfigured, match="refuses If-Match with the etag that it has answered with"):
        await store.create("k", b"x")


async def test_store_letting_several_creators_win_is_refused(
    store: Store, proxy: S3Proxy, s3_server: S3Server, tmp_path: Path
) -> None:
    """A server that checks before it writes refuses a second creator, and lets those win that come at once."""
    proxy.order(S3Fault(method="PUT", key="*/.store/race-*", unconditional=True))
    with pytest.raises(Misconfigured, match="lets 8 of 8 concurrent creators of one object win"):
        await store.create("k", b"x")
    assert await keys(open_s3(s3_server.url, tmp_path), "") == []


async def test_conditions_tested_concurrently_are_supported(proxy: S3Proxy, tmp_path: Path) -> None:
    """Clients that test one store at once over a bad network do not mistake each other for a fault."""
    proxy.order(
        S3Fault(method="PUT", probability=0.2, after=INTERNAL_ERROR),
        S3Fault(method="PUT", probability=0.2, before=CONFLICT),
        S3Fault(probability=0.5, delay=0.02, jitter=True),
    )
    await asyncio.gather(*(open_s3(proxy.url, tmp_path).create(f"{number}", b"x") for number in range(12)))
    assert len(await keys(open_s3(proxy.url, tmp_path), "")) == 12


async def test_no_permission_is_misconfigured(tried: Store, proxy: S3Proxy) -> None:
    """403, which S3 also answers for missing objects without s3:ListBucket, says what to allow."""
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


async def test_missing_bucket_is_misconfigured(s3_server: S3Server, tmp_path: Path) -> None:
    """A missing bucket is never treated as an empty one."""
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
async def test_permanent_errors_are_misconfigured(
    store: Store, proxy: S3Proxy, answer: Answer, match: str
) -> None:
    """A wrong region, or a store without conditional writes, says what to set."""
    proxy.order(S3Fault(method="PUT", before=answer))
    with pytest.raises(Misconfigured, match=match):
        await store.create("k", b"x")


async def test_profile_provides_the_credentials(
    proxy: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the option `profile`, credentials come from the AWS command line's files; without any it is refused."""
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
def test_invalid_url_or_option_is_refused(
    tmp_path: Path, url: str, options: dict[str, str], match: str
) -> None:
    """An invalid URL or option is refused before any request, and the message says what is valid."""
    with pytest.raises(Error, match=match):
        open_store(url, folder=tmp_path, options=options)


async def test_endpoint_option_overrides_the_environment(
    proxy: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment's endpoint affects neither this store nor Lance's access to it."""
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    store = open_s3(proxy.url, tmp_path)
    await store.create("k", b"x")
    live = await begin_space(store, "docs", Space(model="test", dimensions=8), now=1)
    await Datasets(store).writable(live)
    assert any("/_versions/" in exchange.key for exchange in proxy.exchanges)


OPERATIONS: dict[str, Callable[[Store], Awaitable[Any]]] = {
    "get": lambda store: store.get("a"),
    "put": lambda store: store.put("a", b"x"),
    "create": lambda store: store.create("a", b"x"),
    "replace": lambda store: store.replace("a", b"x", etag='"e"'),
    "list": lambda store: anext(aiter(store.list(""))),
    "folders": lambda store: store.folders(""),
    "delete": lambda store: store.delete(["a"]),
    "stream": lambda store: anext(aiter(store.stream("a"))),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
async def test_store_no_server_at_its_endpoint_is_reported_once_and_without_retries(
    tmp_path: Path, operation: Callable[[Store], Awaitable[Any]]
) -> None:
    retried: list[str] = []
    stop = telemetry.listen(lambda point, _: retried.append(point) if point == telemetry.RETRIED else None)
    try:
        with pytest.raises(
            Misconfigured, match=r"no server was reached at http://127\.0\.0\.1:9 \(nothing listens"
        ):
            await operation(open_s3("http://127.0.0.1:9", tmp_path))
    finally:
        stop()
    assert retried == []


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://no.such.host.invalid:9000", "its name is unknown"),
        ("https://127.0.0.1:9", "nothing listens there"),
    ],
)
async def test_store_endpoint_mistyped_is_named_with_the_reason(
    tmp_path: Path, endpoint: str, why: str
) -> None:
    with pytest.raises(Misconfigured, match=re.escape(f"{endpoint} ({why})")):
        await open_s3(endpoint, tmp_path).get("a")


async def test_store_https_endpoint_of_an_http_server_is_named(tmp_path: Path, s3_server: S3Server) -> None:
    endpoint = s3_server.url.replace("http://", "https://")
    with pytest.raises(Misconfigured, match="no server was reached at https://"):
        await open_s3(endpoint, tmp_path).get("a")


async def test_store_server_that_went_away_is_retried(tmp_path: Path, s3_server: S3Server) -> None:
    """It answered before, so its address is right."""
    with S3Proxy(s3_server.url, [], seed=1) as proxy:
        store = open_s3(proxy.url, tmp_path)
        await store.put("a", b"x")
    retried: list[str] = []
    thrice = asyncio.Event()

    def heard(point: str, facts: Mapping[str, Any]) -> None:
        if point == telemetry.RETRIED:
            retried.append(facts["reason"])
            if len(retried) == 3:
                thrice.set()

    stop = telemetry.listen(heard)
    reading = asyncio.create_task(store.get("a"))
    try:
        async with asyncio.timeout(30):
            await thrice.wait()
    finally:
        stop()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert len(set(retried)) == 1  # one message, however long each try took
