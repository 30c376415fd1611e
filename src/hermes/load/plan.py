"""What is to be asked: each request drawn once, before anything is known of how the server does.

Every property has a random stream of its own, so that more tenants, say, do not change which prompts are sent.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle, repeat
from random import Random

from msgspec import Struct

from hermes.load.lengths import Lengths


class Asked(Struct, frozen=True, gc=False):
    """One request. `at_s`: when to send it, from the beginning; None: as soon as a connection is free.

    `leaves`: its client leaves after this share of the time that answers take; None: never. `tenant`: which key.
    """

    number: int
    at_s: float | None
    model: str
    tokens_in: int
    tokens_out: int
    tenant: int = 0
    urgency: str = ""
    streamed: bool = True
    leaves: float | None = None


class Recorded(Struct, frozen=True, gc=False):
    """What a trace tells of a request; "" where it does not."""

    tokens_in: int
    tokens_out: int
    model: str = ""
    tenant: str = ""
    urgency: str = ""


Shares = dict[str, float]


class Mix(Struct, frozen=True):
    """Who asks for what. Lengths None: those of the trace."""

    models: Shares
    classes: Shares
    tokens_in: Lengths | None
    tokens_out: Lengths | None
    tenants: int = 1
    streamed: float = 1.0
    leaving: float = 0.0


def plan(
    mix: Mix, arrivals: Iterator[float] | None = None, trace: Sequence[Recorded] = (), seed: int = 1
) -> Iterator[Asked]:
    """With `arrivals` as many as there are of them, else without end; a trace that is too short begins anew."""
    draws = {name: Random(f"{name} {seed}") for name in ("model", "in", "out", "tenant", "class", "stream", "leave")}
    models, classes = _drawn(mix.models, draws["model"]), _drawn(mix.classes, draws["class"])
    tenants = {name: place for place, name in enumerate(dict.fromkeys(one.tenant for one in trace))}
    lines = cycle(trace) if trace else repeat(Recorded(0, 0))
    times: Iterator[float | None] = iter(arrivals) if arrivals is not None else repeat(None)
    for number, (at_s, line) in enumerate(zip(times, lines, strict=False)):
        tenant = draws["tenant"].randrange(mix.tenants)
        drawn, drawn_class = next(models), next(classes)
        yield Asked(
            number,
            at_s,
            line.model or drawn,
            mix.tokens_in(draws["in"]) if mix.tokens_in else line.tokens_in,
            mix.tokens_out(draws["out"]) if mix.tokens_out else max(1, line.tokens_out),
            tenants[line.tenant] % mix.tenants if line.tenant else tenant,
            line.urgency or drawn_class,
            draws["stream"].random() < mix.streamed,
            _leaving(mix.leaving, draws["leave"]),
        )


def _drawn(shares: Shares, random: Random) -> Iterator[str]:
    names, weights = list(shares), list(shares.values())
    if len(names) == 1:
        yield from repeat(names[0])
    while True:
        yield from random.choices(names, weights, k=100)


def _leaving(share: float, random: Random) -> float | None:
    """In any phase: somewhere between its first moment and the one in which answers are usually complete."""
    return random.random() if random.random() < share else None
