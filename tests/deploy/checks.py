"""Checks of deploy/ that run in the environment of its tools, and print JSON.

python checks.py chart FOLDER VALUES      the chart's lint messages, schema error and rendered templates
python checks.py expressions EXPRESSIONS  for each PromQL expression, the metrics that it names
"""

from __future__ import annotations

import json
import sys
from typing import Any


def chart(folder: str, values: str) -> dict[str, Any]:
    """Lint a chart, and render it with values given as JSON."""
    import helm_python

    given = json.loads(values)
    messages = helm_python.lint(folder, values=given)["messages"]
    with helm_python.Chart.load(folder) as loaded:
        try:
            rendered = loaded.render(values=given, name="demo", namespace="search")
        except helm_python.HelmError as error:
            return {"messages": messages, "error": str(error), "rendered": {}}
    return {"messages": messages, "error": "", "rendered": rendered}


def expressions(given: str) -> list[list[str]]:
    """Parse expressions given as a JSON list; a wrong one raises an error that names it."""
    import promql_parser

    return [_metrics(promql_parser.parse(each)) for each in json.loads(given)]


def _metrics(parsed: Any) -> list[str]:
    """Return the names of all metrics below a parsed expression."""
    import promql_parser

    found: list[str] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector) and node.name:
            found.append(node.name)

    promql_parser.walk(parsed, visit)
    return found


if __name__ == "__main__":
    asked: dict[str, Any] = {"chart": chart, "expressions": expressions}
    sys.stdout.write(json.dumps(asked[sys.argv[1]](*sys.argv[2:])))
