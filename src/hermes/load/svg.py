"""Line plots as SVG, drawn by hand so that a report needs nothing from anywhere. Colours are the page's, by class."""

from collections.abc import Callable, Sequence
from html import escape
from math import floor, log10

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 40


def plot(
    series: Sequence[tuple[str, Points]],
    x_label: str,
    y_name: Callable[[float], str],
    x_ticks: Sequence[tuple[float, str]] | None = None,
) -> str:
    """Named lines over one x axis. `y_name` writes a tick's value. Without points there is nothing to see: ""."""
    all_points = [point for _, points in series for point in points]
    if not all_points:
        return ""
    x_most = max(x for x, _ in all_points) or 1.0
    y_ticks = ticks(max(y for _, y in all_points))
    y_most = y_ticks[-1] or 1.0

    def at(x: float, y: float) -> str:
        across = _LEFT + x / x_most * (_WIDTH - _LEFT - _RIGHT)
        return f"{across:.1f},{_HEIGHT - _BOTTOM - y / y_most * (_HEIGHT - _TOP - _BOTTOM):.1f}"

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(x_label)}">']
    named = x_ticks if x_ticks is not None else [(value, f"{value:g}") for value in ticks(x_most)]
    parts += [_grid(at(0, y), at(x_most, y)) + _text(at(0, y), y_name(y), "end", -6, 4) for y in y_ticks]
    parts += [_text(at(x, 0), name, "middle", 0, 16) for x, name in named if x <= 0.98 * x_most]
    parts.append(_text(at(x_most / 2, 0), x_label, "middle", 0, 34))
    for number, (_, points) in enumerate(series):
        drawn = " ".join(at(x, y) for x, y in points)
        if len(points) == 1:
            drawn += f" {drawn}"  # a round line cap makes a dot of it
        parts.append(f'<polyline class="line c{number}" points="{drawn}"/>')
    return "".join([*parts, "</svg>", _legend([name for name, points in series if points])])


def ticks(most: float, about: int = 5) -> list[float]:
    """Round numbers from 0 to the first that is not below `most`."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / about
    scale = 10.0 ** floor(log10(rough))
    step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= rough * 0.999)
    count = 0
    while count * step < most * 0.999:
        count += 1
    return [round(number * step, 12) for number in range(count + 1)]


def _grid(start: str, end: str) -> str:
    return f'<polyline class="grid" points="{start} {end}"/>'


def _text(place: str, text: str, anchor: str, right: float, down: float) -> str:
    x, y = map(float, place.split(","))
    return f'<text x="{x + right:.1f}" y="{y + down:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _legend(names: Sequence[str]) -> str:
    return (
        "<p class=legend>"
        + "".join(f'<span class="c{n}">{escape(name)}</span>' for n, name in enumerate(names))
        + "</p>"
    )
