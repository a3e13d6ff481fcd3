"""A report about a project as one HTML file: quality, freshness, cost and growth."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from flowbed.ledger.rows import day_of
from flowbed.records.values import count
from flowbed.server.page.markup import Markup, document, element, exported, joined, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.ledger import Spent
    from flowbed.maintenance.report import CollectionReport, ProjectReport

WIDE, HIGH, LEFT, BOTTOM, TOP = 940, 190, 64, 22, 10
LABELS = 8  # of days below a chart
VERSIONS = 12  # of a collection that are listed
DAY = 86_400


def html_of(report: ProjectReport) -> str:
    """Write a report as one HTML file."""
    body = joined(
        [
            element("h1", f"Report on {report.name}"),
            element("p", f"{_time(report.at)} UTC", class_="note"),
            _figures(report),
            element("h2", "Quality"),
            _quality(report),
            element("h2", "Freshness"),
            _freshness(report),
            element("h2", "Cost"),
            _cost(report),
            element("h2", "Growth"),
            _growth(report),
        ]
    )
    return document(f"Report on {report.name}", element("main", body), style=exported("report.css"))


def _figures(report: ProjectReport) -> Markup:
    rows = sum(each.state.rows for each in report.collections if each.state)
    errors = sum(each.severity == "error" for each in report.diagnosis.findings)
    pairs = [
        ("Rows", f"{rows:,}"),
        ("Collections", f"{len(report.collections):,}"),
        ("Documents", f"{sum(each.documents for each in report.sources):,}"),
        ("Errors found", f"{errors:,}"),
        ("Dead letters", f"{sum(report.letters.values()):,}"),
        ("Paid so far", _money(sum(each.cost_usd for each in report.by_lane))),
    ]
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", value)) for name, value in pairs),
        class_="figures",
    )


def _quality(report: ProjectReport) -> Markup:
    findings = [
        (
            element("span", each.severity, class_=each.severity),
            each.subject,
            each.what,
            element("code", each.fix),
        )
        for each in report.diagnosis.findings
    ]
    whole = sum(report.chunks.values()) or 1
    chunks = [
        (name, f"{number:,}", f"{number / whole:.1%}") for name, number in sorted(report.chunks.items())
    ]
    letters = [
        (kind, owner, reason, f"{number:,}")
        for (kind, owner, reason), number in sorted(report.letters.items(), key=lambda item: -item[1])
    ]
    nothing = f"{count(report.diagnosis.checks, 'check')} of the doctor found nothing wrong."
    return joined(
        [
            element(
                "section",
                element("h3", "What the doctor finds"),
                table(("Severity", "Subject", "Finding", "Command"), findings, empty=nothing),
            ),
            element(
                "section",
                element("h3", "Chunks by status"),
                table(("Status", "Chunks", "Share"), chunks, numbers=2),
            ),
            element(
                "section",
                element("h3", "Dead letters by cause"),
                table(
                    ("Kind", "Of", "Reason", "Number"),
                    letters,
                    numbers=1,
                    empty="Nothing has failed for good.",
                ),
            ),
        ]
    )


def _freshness(report: ProjectReport) -> Markup:
    collections = [
        (
            each.name,
            each.problem or each.model,
            _time(each.versions[0].created) if each.versions else "",
            _age(report.at - each.versions[0].created) if each.versions else "",
            _unindexed(each),
        )
        for each in report.collections
    ]
    sources = []
    for each in report.sources:
        fetched, due = report.schedule.get(each.name, (0, 0))
        last = _time(fetched) if fetched else "by hand" if each.fetched else "never"
        following = _time(due) if due else ""
        sources.append((each.name, last, following, f"{each.documents:,}"))
    return joined(
        [
            element(
                "section",
                element("h3", "Collections"),
                table(
                    ("Collection", "Model", "Written (UTC)", "Ago", "Rows outside the vector index"),
                    collections,
                    numbers=2,
                ),
            ),
            element(
                "section",
                element("h3", "Sources"),
                table(("Source", "Fetched by the watch (UTC)", "Due (UTC)", "Documents"), sources, numbers=1),
            ),
        ]
    )


def _unindexed(each: CollectionReport) -> str:
    """Say how many rows are outside the vector index; a small collection needs none."""
    if each.state is None:
        return ""
    return "not needed" if each.state.unindexed_rows == each.state.rows else f"{each.state.unindexed_rows:,}"


def _cost(report: ProjectReport) -> Markup:
    names = ("Texts", "Tokens planned", "Tokens billed", "Cost")
    nothing = "Nothing was billed: a model on this machine costs nothing."
    parts = [
        element(
            "section", element("h3", heading), table((first, *names), _spent(rows), numbers=4, empty=nothing)
        )
        for heading, first, rows in (
            ("By source", "Source", report.by_source),
            ("By lane", "Lane", report.by_lane),
        )
    ]
    if report.days:
        days = _days(date.fromisoformat(report.days[0].name), date.fromisoformat(report.days[-1].name))
        known = {each.name: each for each in report.days}
        bars = [
            (day, known[day].planned if day in known else 0, known[day].billed if day in known else 0)
            for day in days
        ]
        title = "Tokens by day: planned (grey) and billed"
        parts.insert(0, element("section", element("h3", title), _bars(title, bars)))
    return joined(parts)


def _spent(rows: Sequence[Spent]) -> list[tuple[object, ...]]:
    return [
        (
            each.name or "none",
            f"{each.texts:,}",
            f"{each.planned:,}",
            f"{each.billed:,}",
            _money(each.cost_usd),
        )
        for each in rows
    ]


def _growth(report: ProjectReport) -> Markup:
    written: dict[str, int] = {}
    for run in report.runs:
        if run.state == "committed":
            day = day_of(run.created)
            written[day] = written.get(day, 0) + run.rows
    parts = []
    if written:
        days = _days(date.fromisoformat(min(written)), date.fromisoformat(max(written)))[-60:]
        title = "Rows written or deleted by day"
        parts.append(
            element(
                "section",
                element("h3", title),
                _bars(title, [(day, 0, written.get(day, 0)) for day in days]),
            )
        )
    parts += [_history(each) for each in report.collections if each.versions]
    return (
        joined(parts) if parts else element("section", element("p", "Nothing is indexed yet.", class_="note"))
    )


def _history(each: CollectionReport) -> Markup:
    rows = [
        (
            version.version,
            _time(version.created),
            ", ".join(version.tags),
            f"{version.rows:,}",
            f"{version.bytes / 1e6:,.1f} MB",
        )
        for version in each.versions[:VERSIONS]
    ]
    return element(
        "section",
        element("h3", f"Versions of {each.name}"),
        table(("Version", "Written (UTC)", "Tags", "Rows", "Size"), rows, numbers=2),
    )


def _bars(title: str, rows: Sequence[tuple[str, int, int]]) -> Markup:
    """Draw two bars for each (day, first, second)."""
    most = max(1, *(max(first, second) for _, first, second in rows))
    step = (WIDE - LEFT) / len(rows)
    width = min(20.0, step * 0.38)
    base = HIGH - BOTTOM

    def y(value: float) -> float:
        return round(TOP + (base - TOP) * (1 - value / most), 1)

    drawn: list[Markup] = []
    for share in (0.0, 0.5, 1.0):
        at = y(most * share)
        drawn.append(element("line", x1=LEFT, x2=WIDE, y1=at, y2=at))
        drawn.append(element("text", f"{most * share:,.0f}", x=LEFT - 8, y=at + 4, text_anchor="end"))
    every = -(-len(rows) // LABELS)
    for place, (day, *values) in enumerate(rows):
        middle = LEFT + step * (place + 0.5)
        for which, value in enumerate(values):
            name = "b" if which else "a"
            box = {
                "x": round(middle - width + which * width, 1),
                "width": round(width - 1, 1),
                "class_": name,
            }
            tip = element("title", f"{day}: {value:,}")
            drawn.append(element("rect", tip, y=y(value), height=round(base - y(value), 1), **box))
        if place % every == 0:
            drawn.append(element("text", day[5:], x=round(middle, 1), y=HIGH - 6, text_anchor="middle"))
    return element("svg", *drawn, viewBox=f"0 0 {WIDE} {HIGH}", role="img", aria_label=title)


def _days(first: date, last: date) -> list[str]:
    return [(first + timedelta(days=place)).isoformat() for place in range((last - first).days + 1)]


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).strftime("%Y-%m-%d %H:%M")


def _age(microseconds: int) -> str:
    seconds = max(0, microseconds // 1_000_000)
    for unit, size in (("day", DAY), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            return count(seconds // size, unit)
    return "now"


def _money(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 0.01 or not amount else f"${amount:.6f}"  # noqa: PLR2004 - a cent


def summary(report: ProjectReport) -> Mapping[str, object]:
    """Return the figures of a report for programs."""
    return {
        "rows": sum(each.state.rows for each in report.collections if each.state),
        "collections": len(report.collections),
        "findings": len(report.diagnosis.findings),
        "dead_letters": sum(report.letters.values()),
        "cost_usd": sum(each.cost_usd for each in report.by_lane),
    }
