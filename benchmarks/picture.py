"""A picture of how the cost of publishing grows with what is stored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 30, 50
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.grid { stroke: #d0d7de; stroke-width: 1; }
.line { fill: none; stroke-width: 2.5; }
.a { stroke: #0969da; fill: #0969da; } .b { stroke: #bc4c00; fill: #bc4c00; }
text.a, text.b { stroke: none; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .grid { stroke: #3d444d; }
  .a { stroke: #4493f8; fill: #4493f8; } .b { stroke: #f0883e; fill: #f0883e; }
}
"""


def picture(curves: Mapping[str, Sequence[tuple[float, float]]], *, title: str, across: str, up: str) -> str:
    """Draw curves of (x, y), both on logarithmic scales, as an SVG that suits light and dark pages."""
    points = [point for curve in curves.values() for point in curve]
    xs, ys = _decades([x for x, _ in points]), _decades([y for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        across_by = (math.log10(x) - xs[0]) / max(xs[-1] - xs[0], 1e-9)
        up_by = (math.log10(y) - ys[0]) / max(ys[-1] - ys[0], 1e-9)
        return (
            LEFT + across_by * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up_by * (HEIGHT - TOP - BOTTOM),
        )

    drawn = []
    for decade in ys:
        x, y = at(10 ** xs[0], 10**decade)
        drawn.append(f'<line class="grid" x1="{x:.0f}" y1="{y:.0f}" x2="{WIDTH - RIGHT}" y2="{y:.0f}"/>')
        drawn.append(f'<text x="{x - 8:.0f}" y="{y + 4:.0f}" text-anchor="end">{10**decade:g}</text>')
    for decade in xs:
        x, y = at(10**decade, 10 ** ys[0])
        drawn.append(f'<line class="grid" x1="{x:.0f}" y1="{TOP}" x2="{x:.0f}" y2="{y:.0f}"/>')
        drawn.append(f'<text x="{x:.0f}" y="{y + 20:.0f}" text-anchor="middle">{10**decade:,}</text>')
    for mark, (name, curve) in zip("ab", curves.items(), strict=False):
        places = [at(x, y) for x, y in sorted(curve)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline class="line {mark}" points="{path}" style="fill:none"/>')
        drawn += [f'<circle class="{mark}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
        x, y = places[-1]
        drawn.append(f'<text class="{mark}" x="{x + 10:.0f}" y="{y + 4:.0f}">{name}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    drawn.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{across}</text>')
    drawn.append(f'<text x="{LEFT - 60}" y="{TOP - 12}">{up}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        f"<title>{title}</title><style>{STYLE}</style>{''.join(drawn)}</svg>\n"
    )


def _decades(values: Sequence[float]) -> list[int]:
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return list(range(first, max(last, first + 1) + 1))
