"""Publications and pulls killed at each named point."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import pytest
from tests.support.publishing import COLLECTION, PublishedProject, read_plainly
from tests.support.servers.s3 import variables

from flowbed import telemetry
from flowbed.publish.chroma.pull import latest
from flowbed.testing.s3proxy import CUT, INTERNAL_ERROR, S3Fault, S3Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers.s3 import S3Server

# Answers that are lost, above all those to conditional writes, and requests that are not answered at all.
FAULTS = (
    S3Fault(probability=0.01, before=INTERNAL_ERROR),
    S3Fault(method="PUT", probability=0.03, after=CUT),
    S3Fault(method="PUT", key="*latest-pointer.txt", calls=range(1, 100, 2), after=INTERNAL_ERROR),
)
# Each in turn, without a whole publication in between. The first ones leave nothing in the store.
POINTS = (
    telemetry.SNAPSHOT_CLAIMED,
    f"{telemetry.SNAPSHOT_FILE_UPLOADED}:2",
    telemetry.SNAPSHOT_LISTED,
    telemetry.POINTER_MOVED,
    telemetry.PUBLICATION_RECORDED,
)
LOCAL = (telemetry.SNAPSHOT_BASE, telemetry.SNAPSHOT_BUILT, telemetry.SNAPSHOT_VERIFIED)


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.long)])
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PublishedProject]:
    """Yield a project that was indexed and published once, in a folder or over a faulty S3."""
    with contextlib.ExitStack() as opened:
        if request.param == "s3":
            server: S3Server = request.getfixturevalue("s3_server")
            proxy = opened.enter_context(S3Proxy(server.url, FAULTS, seed=1))
            project = PublishedProject(
                tmp_path / "project",
                variables(proxy.url),
                store_url=f"s3://bucket/{tmp_path.name}",
                s3=server.url,
            )
            with pytest.MonkeyPatch.context() as patch:
                for name, value in variables(server.url).items():
                    patch.setenv(name, value)
                opened.enter_context(contextlib.nullcontext())
                _publish(project)
                yield project
        else:
            project = PublishedProject(tmp_path / "project", {})
            _publish(project)
            yield project


def _publish(project: PublishedProject) -> None:
    for command in (("run", "--yes"), ("publish",)):
        done = project.start(*command).wait()
        assert done.returncode == 0, done.stdout + done.stderr


async def _killed(project: PublishedProject, points: tuple[str, ...], folder: Path) -> None:
    for point in points:
        project.edit()
        done = await project.start("run", "--yes", "--allow-deletes").ended()
        assert done.returncode == 0, done.stdout + done.stderr
        killed = await project.start("publish", at=point).ended()
        assert killed.returncode == -signal.SIGKILL, (point, killed.stdout, killed.stderr)
        await project.look(folder)
    again = await project.start("publish").ended()
    assert again.returncode == 0, again.stdout + again.stderr
    assert await project.compare(folder) == len(project.texts)


async def test_publication_killed_at_each_point_leaves_the_last_good_snapshot(
    published: PublishedProject, tmp_path: Path
) -> None:
    """Readers find it whole after every kill, and the next publication needs no help."""
    await _killed(published, POINTS, tmp_path / "reader")


async def test_publication_killed_before_it_wrote_to_the_store_changes_nothing_there(
    published: PublishedProject, tmp_path: Path
) -> None:
    before = sorted([each.key async for each in published.store.list(f"{COLLECTION}/snapshot")])
    published.edit()
    assert (await published.start("run", "--yes").ended()).returncode == 0
    for point in LOCAL:
        killed = await published.start("publish", at=point).ended()
        assert killed.returncode == -signal.SIGKILL, (point, killed.stdout, killed.stderr)
    assert sorted([each.key async for each in published.store.list(f"{COLLECTION}/snapshot")]) == before
    await _killed(published, (), tmp_path / "reader")


async def test_pull_killed_at_each_point_is_continued(published: PublishedProject, tmp_path: Path) -> None:
    target = tmp_path / "pulled"
    for point in (telemetry.PULL_LEASED, f"{telemetry.PULL_FILE_READY}:2", telemetry.PULL_PLACED):
        killed = await published.start("pull", COLLECTION, str(target), at=point).ended()
        assert killed.returncode == -signal.SIGKILL, (point, killed.stdout, killed.stderr)
    done = await published.start("pull", COLLECTION, str(target)).ended()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.report["downloaded"] == 0
    assert read_plainly(latest(target))["count"] == len(published.texts)
