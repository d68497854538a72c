"""Small charts for pages without scripts: SVG that is read by eyes, by screen readers, and in print. Pure.

A chart says in words what it shows (title and description), carries its first, last and highest figure as text, and
tells a limit by a dashed line: colour adds nothing that is not there without it.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Point = Sequence[float]  # when (seconds since 1970), how much

WIDTH, HEIGHT = 260, 64
_TOP, _BOTTOM, _SIDE = 6.0, 6.0, 3.0


@dataclass(frozen=True)
class Chart:
    """What a chart shows. `told` speaks a figure (`1.2 s`), `limit` is drawn as a dashed line; `bars` are for things
    that happened one by one (a backup, a proof), a line is for what goes on."""

    title: str
    points: Sequence[Point]
    told: Callable[[float], str]
    limit: float | None = None
    bars: bool = False
    identity: str = "chart"


def thinned(points: Sequence[Point], most: int = 96) -> list[Point]:
    """At most so many points; of each stretch the highest stays, for a peak must not vanish."""
    if len(points) <= most:
        return list(points)
    step = len(points) / most
    return [max(points[int(n * step) : max(int((n + 1) * step), int(n * step) + 1)], key=_figure) for n in range(most)]


def _figure(point: Point) -> float:
    return point[1]


def described(chart: Chart) -> str:
    """The chart in one sentence."""
    if not chart.points:
        return f"{chart.title}: nothing was measured yet."
    figures = [point[1] for point in chart.points]
    told = chart.told
    count = f"{len(figures)} figures" if len(figures) > 1 else "one figure"
    said = f"{chart.title}: {count}, the last {told(figures[-1])}, lowest {told(min(figures))}, highest "
    said += told(max(figures))
    if chart.limit is not None:
        over = sum(1 for figure in figures if figure > chart.limit)
        said += f"; the limit is {told(chart.limit)}, " + (f"{over} are above it" if over else "none is above it")
    return f"{said}."


def svg(chart: Chart) -> str:
    """The chart as an SVG element."""
    name = html.escape(chart.identity, quote=True)
    head = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{html.escape(chart.title)}</title>'
        f'<desc id="{name}-d">{html.escape(described(chart))}</desc>'
    )
    if not chart.points:
        return f'{head}<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT / 2}" y2="{HEIGHT / 2}"/></svg>'
    points = thinned(chart.points)
    highest = max([*(point[1] for point in points), chart.limit or 0.0]) or 1.0
    first, last = points[0][0], points[-1][0]
    span = (last - first) or 1.0

    def place(point: Point) -> tuple[float, float]:
        across = _SIDE + (point[0] - first) / span * (WIDTH - 2 * _SIDE) if last > first else WIDTH / 2
        return round(across, 1), round(HEIGHT - _BOTTOM - point[1] / highest * (HEIGHT - _TOP - _BOTTOM), 1)

    drawn = _bars(points, place) if chart.bars else _line(points, place)
    if chart.limit is not None:
        height = place((first, chart.limit))[1]
        drawn += f'<line class="limit" x1="0" x2="{WIDTH}" y1="{height}" y2="{height}"/>'
    axis = f'<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT - _BOTTOM}" y2="{HEIGHT - _BOTTOM}"/>'
    return f"{head}{axis}{drawn}</svg>"


def _bars(points: Sequence[Point], place: Callable[[Point], tuple[float, float]]) -> str:
    wide = max(min((WIDTH - 2 * _SIDE) / len(points) * 0.6, 10.0), 1.5)
    drawn = []
    for point in points:
        across, height = place(point)
        left = min(max(across - wide / 2, 0.0), WIDTH - wide)
        tall = max(HEIGHT - _BOTTOM - height, 1.0)
        drawn.append(f'<rect class="bar" x="{left:.1f}" y="{height}" width="{wide:.1f}" height="{tall:.1f}"/>')
    return "".join(drawn)


def _line(points: Sequence[Point], place: Callable[[Point], tuple[float, float]]) -> str:
    if len(points) == 1:
        across, height = place(points[0])
        return f'<circle class="dot" cx="{across}" cy="{height}" r="3"/>'
    path = " ".join(f"{across:g},{height:g}" for across, height in map(place, points))
    across, height = place(points[-1])
    ground = HEIGHT - _BOTTOM
    area = f"{place(points[0])[0]:g},{ground:g} {path} {across:g},{ground:g}"
    return (
        f'<polygon class="area" points="{area}"/><polyline class="line" points="{path}"/>'
        f'<circle class="dot" cx="{across}" cy="{height}" r="2.5"/>'
    )
