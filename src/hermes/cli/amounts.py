"""How amounts are written on the command line: counts, budgets, and when something ends."""

import re
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import click

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_PERIODS = {"day": "daily_tokens", "month": "monthly_tokens"}

_count = re.compile(r"(\d{1,15})(?:\.(\d{1,9}))?([kmg]?)", re.ASCII | re.IGNORECASE).fullmatch
_duration = re.compile(r"(\d{1,9})([smhdw])", re.ASCII).fullmatch
_span = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)?", re.ASCII).fullmatch

NONE = "none"


def count(text: str) -> int | None:
    """`250`, `20k`, `1.5M`; `none` is no bound. Raises ValueError."""
    if text == NONE:
        return None
    found = _count(text)
    if found is None:
        raise ValueError(text)
    fraction = found[2] or ""
    amount, scale = int(found[1] + fraction) * _UNITS[found[3].lower()], 10 ** len(fraction)
    if amount % scale or not amount:
        raise ValueError(text)
    return int(amount // scale)


def budget(text: str) -> dict[str, int | None]:
    """`1M/day`, `20M/month`, `none/day`; `none` is neither. Raises ValueError."""
    if text == NONE:
        return dict.fromkeys(_PERIODS.values())
    amount, _, period = text.partition("/")
    if period not in _PERIODS:
        raise ValueError(text)
    return {_PERIODS[period]: count(amount)}


def duration_s(text: str) -> int:
    """`90s`, `24h`, `30d`; `0`. Raises ValueError."""
    if text == "0":
        return 0
    if (found := _duration(text)) is None:
        raise ValueError(text)
    return int(found[1]) * _SECONDS[found[2]]


def weight(text: str) -> float | None:
    """`2`, `0.5`; `none` is as any other's. Raises ValueError."""
    return None if text == NONE else float(text)


def span_s(text: str) -> float:
    """`250ms`, `1.5s`, `2m`, `1h`, as something takes; a number alone is seconds. Raises ValueError."""
    if (found := _span(text)) is None:
        raise ValueError(text)
    return float(found[1]) * (0.001 if found[2] == "ms" else _SECONDS[found[2] or "s"])


def moment(text: str) -> int | None:
    """Unix seconds: `30d` from now, `2027-01-31` (as it begins, UTC), `2027-01-31T18:00`, `never`. Or ValueError."""
    if text in ("never", NONE):
        return None
    if _duration(text):
        return int(now_s()) + duration_s(text)
    found = datetime.fromisoformat(text)
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def is_over(moment: int | None) -> bool:
    return moment is not None and moment <= now_s()


def now_s() -> float:
    return datetime.now(UTC).timestamp()


def shown(moment: int | None) -> str:
    return "never" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


class Number(click.FloatRange):
    """A finite one: click's own takes inf, and nan for anything."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return number if isfinite(number) else self.fail(f"{value!r} is not a finite number.", param, ctx)


class Amount(click.ParamType):  # type: ignore[type-arg]
    """One of the above, as the type of an option."""

    def __init__(self, name: str, read: Any, expected: str) -> None:
        self.name = name
        self._read = read
        self._expected = expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return (self._read(value),)  # wrapped: None is an answer too
        except ValueError:
            self.fail(f"{value!r} is not {self._expected}", param, ctx)


COUNT = Amount("count", count, "a number such as 60, 20k or 1.5M, or none")
BUDGET = Amount("budget", budget, "a budget such as 1M/day, 20M/month or none")
WEIGHT = Amount("weight", weight, "a number such as 2 or 0.5, or none")
DURATION = Amount("time", duration_s, "a time such as 90s, 24h or 30d")
MOMENT = Amount("when", moment, "a time such as 30d, a date such as 2027-01-31, or never")
