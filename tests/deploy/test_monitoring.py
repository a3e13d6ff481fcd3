"""The dashboard and the alerts name metrics that the server has, in expressions that Prometheus can read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent.parent
MONITORING = ROOT / "deploy" / "monitoring"
# Metrics that Prometheus itself makes.
PROMETHEUS = {"up"}
SUFFIXES = re.compile(r"_(bucket|sum|count)$")


def documented() -> set[str]:
    """Return the metrics that the documentation names."""
    tables = []
    for name, heading in (("server.md", "## Metrics"), ("workers.md", "## Scaling by load")):
        page = (ROOT / "docs" / name).read_text("utf-8")
        tables.append(page[page.index(heading) :].partition("\n## ")[0])
    return set(re.findall(r"`(flowbed_\w+)`", "".join(tables)))


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_dashboard_expressions_are_promql_over_metrics_of_the_server(check: Callable[..., Any]) -> None:
    expressions = [
        target["expr"].replace("$__rate_interval", "5m") for panel in panels() for target in panel["targets"]
    ]
    named = {
        SUFFIXES.sub("", name) for names in check("expressions", json.dumps(expressions)) for name in names
    }
    assert named - documented() == set()


def test_alerts_expressions_are_promql_over_metrics_of_the_server(check: Callable[..., Any]) -> None:
    named = check("expressions", json.dumps([rule["expr"] for rule in alerts()]))
    assert all(named)
    assert {SUFFIXES.sub("", name) for names in named for name in names} - documented() - PROMETHEUS == set()


def test_dashboard_shows_every_metric_of_the_server(check: Callable[..., Any]) -> None:
    """What the server counts and nobody sees on the dashboard is named here, with the reason."""
    text = (MONITORING / "dashboard.json").read_text("utf-8")
    unseen = {name for name in documented() if name not in text}
    assert unseen == {
        "flowbed_embedding_tokens_total",  # tokens of the inputs answered; the billed ones are shown
        "flowbed_provider_requests_total",  # calls; their tokens and cost are shown
        "flowbed_cache_vectors",  # the bytes are shown
        "flowbed_breaker_opened_total",  # the state is shown
    }


def test_dashboard_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells, panel["title"]
        cells |= own


def test_alerts_each_say_what_happened_and_what_to_do() -> None:
    for rule in alerts():
        assert set(rule["annotations"]) == {"summary", "fix"}, rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
