"""Charts as SVG that stand in a page: colours and sizes are the page's, no file and no script beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#1a1a1a", "#8a5a44")
WIDTH, HEIGHT = 380, 270  # of the drawing; on a telephone a unit is a pixel
LEFT, RIGHT, TOP, BOTTOM = 46, 26, 12, 44
APART = 3  # of the intervals of two series at the same x
LINE = 12  # height of a mark


@dataclass(frozen=True)
class Series:
    """Points of one model, joined by a line: `(x, y, low, high)`, where low and high may be None."""

    label: str
    mark: str
    colour: str
    points: Sequence[tuple[float, float, float | None, float | None]]


def chart(series: Sequence[Series], x_label: str, y_label: str, percent: bool) -> str:
    """Points with intervals over a logarithmic axis, each series marked by a text at its last point.

    Parameters
    ----------
    series : sequence of Series
        At least one, with x above 0.
    x_label, y_label : str
    percent : bool
        Whether y is a share, to be written in per cent.
    """
    xs = [math.log10(p[0]) for s in series for p in s.points]
    ys = [v for s in series for p in s.points for v in p[1:] if v is not None]
    x_low, x_high = _padded(min(xs), max(xs), 0.06, 0.1)
    y_low, y_high = _padded(min(ys), max(ys), 0.05, 0.02)

    def x_of(value: float) -> float:
        return LEFT + (math.log10(value) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks(y_low, y_high):
        parts.append(f'<path class="grid" d="M{LEFT} {y_of(tick):.1f}H{WIDTH - RIGHT}"/>')
        text = f"{100 * tick:g}" if percent else f"{tick:g}"
        parts.append(f'<text x="{LEFT - 5}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in log_ticks(x_low, x_high):
        parts.append(f'<path class="grid" d="M{x_of(tick):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x_of(tick):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:,g}</text>')
    lasts = [(y_of(s.points[-1][1]), x_of(s.points[-1][0])) for s in series]
    apart = APART if any(len(s.points) > 1 for s in series) else 0  # series of one point each differ in x
    aside = apart * (len(series) - 1) / 2
    for k, (s, height) in enumerate(zip(series, _spread(lasts))):
        parts += _draw(s, x_of, y_of, apart * k - aside, aside + 8, height)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    height = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(12 {height}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
    label = escape(f"{y_label} against {x_label}; the numbers are in the tables", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _draw(series: Series, x_of, y_of, shift: float, aside: float, height: float) -> Iterator[str]:
    """Line, intervals and points, moved by `shift`; the mark at `height`, `aside` of the last point."""
    colour = series.colour
    yield f'<g stroke="{colour}" fill="{colour}"><title>{escape(series.label)}</title>'
    if len(series.points) > 1:
        line = "L".join(f"{x_of(p[0]) + shift:.1f} {y_of(p[1]):.1f}" for p in series.points)
        yield f'<path fill="none" stroke-width="1.5" d="M{line}"/>'
    for x, y, low, high in series.points:
        across = x_of(x) + shift
        if low is not None and high is not None:
            yield f'<path stroke-width="1" opacity=".6" d="M{across:.1f} {y_of(low):.1f}V{y_of(high):.1f}"/>'
        yield f'<circle cx="{across:.1f}" cy="{y_of(y):.1f}" r="3.5"/>'
    last = x_of(series.points[-1][0]) + aside
    yield f'<text stroke="none" x="{last:.1f}" y="{height + 4:.1f}">{escape(series.mark)}</text></g>'


def _spread(places: Sequence[tuple[float, float]]) -> list[float]:
    """Heights of marks beside points `(y, x)`, moved down where two would lie on each other.

    >>> _spread([(50.0, 9.0), (53.0, 9.0), (54.0, 200.0)])
    [50.0, 62.0, 54.0]
    """
    heights: dict[int, float] = {}
    for k in sorted(range(len(places)), key=lambda k: places[k]):
        y, x = places[k]
        near = [heights[j] for j in heights if abs(places[j][1] - x) < LINE]
        heights[k] = max([y, *(h + LINE for h in near)])
    return [heights[k] for k in range(len(places))]


def _padded(low: float, high: float, share: float, least: float) -> tuple[float, float]:
    pad = max(share * (high - low), least)
    return low - pad, high + pad


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from low to high, at most `most` of them.

    >>> ticks(0.78, 0.87)
    [0.78, 0.8, 0.82, 0.84, 0.86]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * f for f in (1, 2, 5, 10, 20) if (high - low) / (power * f) < most - 0.5)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from 10 ** low to 10 ** high.

    >>> log_ticks(1.9, 3.1)
    [100, 200, 500, 1000]
    """
    found = [f * 10**k for k in range(math.floor(low) - 1, math.ceil(high) + 1) for f in (1, 2, 5)]
    found = [v for v in found if low <= math.log10(v) <= high]
    if len(found) > 6:
        found = [v for v in found if math.log10(v) % 1 == 0]
    if len(found) < 2:
        found = [10 ** (low + share * (high - low)) for share in (0.2, 0.8)]
        found = [float(f"{v:.2g}") for v in found]
    return found
