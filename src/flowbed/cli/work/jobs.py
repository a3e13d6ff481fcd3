"""The commands about jobs that write documents into collections in the background."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowbed.cli.options import Common
from flowbed.cli.printing.output import say
from flowbed.cli.project import DONE, FAILURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.bed import Flowbed
    from flowbed.services.jobs.project_jobs import Job

Id = Annotated[str, typer.Argument(metavar="ID", help="An id of `flowbed jobs list`.")]
Priority = Annotated[int, typer.Option(min=0, max=100, help="Higher is sooner.")]
Collection = Annotated[str | None, typer.Option("-c", "--collection", help="Only jobs of this collection.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait at most.")]
PRIORITY = 50


def create(
    common: Common,
    collection: Annotated[str, typer.Argument(help="The collection to write to, created if absent.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Files to read: text, Markdown, PDF, Office, code."),
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text to write; may be repeated.")] = None,
    reembed: Annotated[
        bool, typer.Option("--reembed", help="Write every row of the collection again from its stored text.")
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            metavar="VENDOR:MODEL", help="With --reembed: embed with this model, one that the server offers."
        ),
    ] = "",
    into: Annotated[
        str, typer.Option(metavar="COLLECTION", help="The new collection for the vectors of that model.")
    ] = "",
    capacity: Annotated[int | None, typer.Option(help="Most tokens of a chunk.")] = None,
    priority: Priority = PRIORITY,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended.")] = False,
) -> int:
    """Create a job: write texts or files into a collection, in the background."""

    async def ask(bed: Flowbed) -> Job:
        job = await bed.jobs.create(
            collection,
            texts=text or (),
            files=files or (),
            reembed=reembed,
            model=model,
            into=into,
            capacity=capacity,
            priority=priority,
        )
        return await bed.jobs.wait(job.id) if wait else job

    return _shown(common, common.with_bed(ask))


def list_(
    common: Common,
    status: Annotated[
        list[str] | None, typer.Option(help="Only jobs of this status; may be repeated.")
    ] = None,
    collection: Collection = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="At most this many.")] = 20,
) -> None:
    """List jobs, newest first."""
    rows = common.with_bed(
        lambda bed: bed.jobs.list(status=status or (), collection=collection or "", limit=limit)
    )

    def view(_: object) -> None:
        for each in rows or ():
            say(_line(each))
        if not rows:
            say("there are no jobs")

    common.show({"jobs": rows}, view)


def show(common: Common, id: Id) -> int:  # noqa: A002 - the word users know
    """Show how far a job is, and what went wrong."""
    return _shown(common, common.with_bed(lambda bed: bed.jobs.get(id)))


def wait(common: Common, id: Id, timeout: Timeout = None) -> int:  # noqa: A002
    """Wait until a job has ended; what no server or worker takes is executed here."""
    return _shown(common, common.with_bed(lambda bed: bed.jobs.wait(id, timeout=timeout)))


def cancel(
    common: Common,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of `flowbed jobs list`.")],
    rollback: Annotated[bool, typer.Option("--rollback", help="Also take back what is finished.")] = False,
) -> None:
    """Cancel jobs: documents that are finished are kept, and others are as they were before."""

    async def ask(bed: Flowbed) -> list[Job]:
        return [await bed.jobs.cancel(each, rollback=rollback) for each in ids]

    _show_all(common, common.with_bed(ask))


def retry(
    common: Common,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of `flowbed jobs list`.")],
) -> None:
    """Start jobs that failed or were cancelled again; what is stored is not embedded again."""

    async def ask(bed: Flowbed) -> list[Job]:
        return [await bed.jobs.retry(each) for each in ids]

    _show_all(common, common.with_bed(ask))


def _show_all(common: Common, jobs: Sequence[Job]) -> None:
    def view(_: object) -> None:
        for each in jobs:
            say(_line(each))

    common.show({"jobs": jobs}, view)


def _shown(common: Common, job: Job) -> int:
    def view(_: object) -> None:
        say(_line(job))
        for name, number in job.counts.items():
            if number:
                say(f"  {number:,} {name}")
        if job.reason:
            say(f"  waits: {job.reason}")
        for each in job.errors:
            say(f"  {each['document']}: {each['message']}")
        if job.error:
            say(f"  {job.error}")

    common.show(job, view)
    return FAILURES if job.status == "failed" or job.errors else DONE


def _line(job: Job) -> str:
    """Describe a job in one line."""
    stage = f" ({job.stage}, {job.progress:.0%})" if job.stage else ""
    return f"{job.id}  {job.status}{stage}  {job.collection}"
