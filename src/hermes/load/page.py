"""Figures as one HTML file: readable offline, light and dark, nothing in it runs and nothing is fetched."""

from collections.abc import Callable, Sequence
from html import escape
from math import log10

from hermes.load.figures import Figures, Moment, Spread
from hermes.load.svg import Points, plot
from hermes.load.table import NAMES, amount, groups, seconds, sentence, summary, times

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #fff; --faint: #d5d9de;
  --c0: #0b62c4; --c1: #c2410c; --c2: #15803d; --c3: #7e22ce }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --back: #14171a; --faint: #3a4047;
  --c0: #6cb0ff; --c1: #ff9a62; --c2: #5fd38a; --c3: #cf9bff } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 2em auto;
  max-width: 960px; padding: 0 1em }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
td, th { padding: .15em .7em; text-align: right; border-bottom: 1px solid var(--faint); white-space: nowrap }
td:first-child, th:first-child { text-align: left }
svg { width: 100%; height: auto } svg text { font-size: 11px; fill: var(--text) }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round }
.grid { stroke: var(--faint); stroke-width: 1 } .warning { color: var(--c1); font-weight: 600 }
.legend span { margin-right: 1.5em } .legend span::before { content: "\\2014\\2002"; font-weight: bold }
""" + "".join(
    f"polyline.c{n} {{ stroke: var(--c{n}) }} .legend .c{n}::before {{ color: var(--c{n}) }}\n" for n in range(4)
)

# Of these that many percent took no longer; as far apart as nines are.
_PERCENTS = (50, 90, 99, 99.9, 99.99, 99.999)


def page(found: Figures) -> str:
    title = f"hermes bench: {found.setting.get('url', '')}"
    parts = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(line)}</p>" for line in summary(found))]
    parts += [f'<p class="warning">{escape(sentence(warning))}</p>' for warning in found.warnings]
    parts += [_section("Times", _table(times(found.all)))]
    for kind, by in found.by.items():
        (heading, *columns), *rows = groups(kind, by, bool(found.slo))
        parts.append(_section(heading.capitalize(), _table([["", *columns], *rows])))
    if found.all.errors:
        rows = [["what", "requests"], *([kind, f"{count:,}"] for kind, count in found.all.errors.items())]
        parts.append(_section("What failed", _table(rows)))
    parts += [_section(heading, picture) for heading, picture in _pictures(found) if picture]
    parts.append(_section("What was asked for", _table(_setting(found))))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n"
    )


def _pictures(found: Figures) -> list[tuple[str, str]]:
    spreads = [(NAMES[name], found.all.times[name]) for name in ("e2e", "ttft", "wait") if name in found.all.times]
    if found.all.corrected:
        spreads.append((NAMES["corrected"], found.all.corrected))
    moments, per_s = found.moments, 1 / found.moment_s

    def over_time(name: str, value: Callable[[Moment], float | None]) -> tuple[str, Points]:
        return name, [(each.at_s, told) for each in moments if (told := value(each)) is not None]

    ranks = [(_depth(percent), f"{percent:g} %") for percent in _PERCENTS]
    by_second = [
        over_time("end to end, p99", lambda each: each.e2e_p99),
        over_time("end to end, p50", lambda each: each.e2e_p50),
        over_time("first token, p99", lambda each: each.ttft_p99),
        over_time("first token, p50", lambda each: each.ttft_p50),
    ]
    rates = [
        over_time("due/s", lambda each: each.due * per_s),
        over_time("failed/s", lambda each: each.errors * per_s),
        over_time("answered/s", lambda each: each.answered * per_s),
    ]
    pieces = [over_time("pieces/s", lambda each: each.pieces * per_s)]
    begins = "second in which it was due"
    return [
        (
            "How long, by share of requests",
            plot([(n, _curve(s)) for n, s in spreads], "share of requests", seconds, ranks),
        ),
        ("How long, over time", plot(by_second, begins, seconds)),
        ("Requests, over time", plot(rates, "second", amount)),
        ("Under way at once", plot([over_time("requests", lambda each: each.in_flight)], "second", amount)),
        ("Pieces of text, over time", plot(pieces, "second", amount) if "itl" in found.all.times else ""),
    ]


def _curve(times: Spread) -> Points:
    return [(_depth(100 * share, times.count), time_s) for time_s, share in times.curve]


def _depth(percent: float, count: int = 10**9) -> float:
    """0 for 0 %, 1 for 90, 2 for 99: tails are what is looked at. The last of so many is as deep as they go."""
    return -log10(max(1 - percent / 100, 0.5 / count))


def _setting(found: Figures) -> list[list[str]]:
    told = {name: value for name, value in found.setting.items() if value not in (None, [], {}, False)}
    return [["option", ""], *([name, str(value)] for name, value in told.items())]


def _section(heading: str, content: str) -> str:
    return f"<h2>{escape(heading)}</h2>\n{content}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ["<tr>" + "".join(f"<td>{escape(cell.strip())}</td>" for cell in row) + "</tr>" for row in body]
    return f'<div class="wide"><table><tr>{cells}</tr>{"".join(lines)}</table></div>'
