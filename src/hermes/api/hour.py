"""The route about the last hour: how much was asked and answered, how long was waited, what was loaded when."""

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from hermes.api.models import Models
from hermes.api.routes import Call
from hermes.fleet.fleet import Fleet
from hermes.history import COUNTS, SPAN_S, History
from hermes.principal import Principal
from hermes.router import Router

_json = msgspec.json.Encoder().encode

PERCENTILES = (0.5, 0.95)


class Hour:
    """`clock` is monotonic, `unix` the wall's: that of records."""

    def __init__(
        self,
        history: History,
        fleet: Fleet,
        models: Models,
        router: Router,
        clock: Callable[[], float],
        unix: Callable[[], float],
    ) -> None:
        self._history = history
        self._fleet = fleet
        self._models = models
        self._router = router
        self._clock = clock
        self._unix = unix

    async def get(self, call: Call) -> None:
        """To operators all; to others what came into memory and went, of the models that they may use."""
        now, principal, model = self._unix(), call.principal, call.query("model")
        told: dict[str, object] = {"at": round(now, 3), "span_s": SPAN_S, "from": self._history.first(now)}
        told["moves"] = list(self._moves(self._models.seen(principal)))
        if principal.admin:
            allows = self._router.catalog.allows
            series = self._history.series(now)
            told["models"] = {name: counts for name, counts in series.items() if allows(principal, name)}
            wanted: Callable[[str], bool] | None = None
            if model is not None:
                self._router.check_allowed(principal, model)
                wanted = model.__eq__
            elif principal.models:
                wanted = partial(allows, principal)
            times = self._history.percentiles(now, wanted, PERCENTILES)
            for name, of in times.items():
                told[f"{name}_ms"] = {f"p{part * 100:g}": each for part, each in zip(PERCENTILES, of, strict=True)}
        call.reply(_json(told))

    def rates(self, principal: Principal) -> dict[str, object]:
        """Per second, in the last half minute and what there is of the present one, of the models that he may use: of
        all, and by model.
        """
        now = self._unix()
        since = (now // SPAN_S - 1) * SPAN_S
        allows = self._router.catalog.allows
        models = {name: of for name, of in self._history.counted(since).items() if allows(principal, name)}

        def rates(counts: dict[str, int]) -> dict[str, float]:
            return {name: round(count / (now - since), 3) for name, count in counts.items()}

        every = {name: sum(counts[name] for counts in models.values()) for name in COUNTS}
        return {**rates(every), "models": {name: rates(counts) for name, counts in models.items()}}

    def _moves(self, seen: Callable[[str], bool]) -> Iterator[dict[str, object]]:
        began = self._unix() - self._clock()
        for backend in self._fleet.backends.values():
            for move in filter(lambda move: seen(move.model), backend.moves):
                yield {
                    "at": round(began + move.at, 3),
                    "backend": backend.name,
                    "model": move.model,
                    "what": move.what,
                    "took_ms": round(move.took_s * 1000),
                }
