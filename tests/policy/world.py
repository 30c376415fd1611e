"""The world as the rules' books have it: backends with memory, what is in it, and what was told of it."""

from math import inf

from msgspec import Struct, field

from hermes.policy.ticket import EVERY, BackendFacts

SIZES = {"A": 4, "B": 5, "C": 6, "D": 3, "Huge": 20}
MEMORY = 12


class Look(Struct, frozen=True):
    """What was in a backend's memory at some time."""

    began_at: float
    loaded: dict[str, int]


class World(Struct):
    """One backend. `holds` is what is in its memory; `known` what the scheduler was told of that, and since when.

    `is_ours`: we decide what it holds. While a model loads, those that went for it may be seen still: `leaving`.
    `is_managed`: each model is a process of ours, and what it takes is only known of those that ran: one at a time
    where the memory is not known either. `drained`: an operator wants nothing new there. `limits` and `resting` are
    what breakers say.
    """

    name: str
    slots: int | None
    is_ours: bool
    memory: int | None = MEMORY
    up: bool = True
    holds: set[str] = field(default_factory=set)
    known: dict[str, float] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    loading: str = ""
    tries: int = 0
    changed_at: float = -1.0
    settles: bool = False
    is_managed: bool = False
    weight: float = 1.0
    drained: bool = False
    limits: dict[str, int] = field(default_factory=dict)
    resting: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=lambda: dict(SIZES))

    def look(self, now: float) -> Look:
        return Look(now, {model: SIZES[model] for model in sorted(self.holds | self.leaving)} if self.up else {})

    def facts(self, look: Look) -> BackendFacts:
        if self.is_managed:
            self.sizes = {**dict.fromkeys(SIZES, self.memory or 0), "Huge": SIZES["Huge"], **self.sizes}
            self.sizes |= look.loaded
        return BackendFacts(
            self.name,
            self.takes_work,
            self.slots,
            look.loaded if self.is_ours else None,
            dict(self.sizes),
            self.memory,
            look.began_at,
            max_loaded=self.max_loaded,
            settles=self.settles,
            weight=self.weight,
            limits=dict(self.limits),
            resting=dict(self.resting),
            makes_room=not self.is_managed,
        )

    @property
    def takes_work(self) -> bool:
        return self.up and not self.drained

    @property
    def max_loaded(self) -> int | None:
        return 1 if self.is_managed and self.memory is None else None

    def runs(self, model: str) -> bool:
        """Whether it may be given requests for the model, if it has that."""
        return self.takes_work and model not in self.resting

    def limit(self, model: str, slots: int) -> int:
        return max(1, min(slots, self.limits.get(model) or self.limits.get(EVERY) or slots))

    def is_in_trouble(self, model: str, limit: int, until: float) -> None:
        """Nothing there before `until`, or no more than `limit`; neither: all is well."""
        self.resting.pop(model, None)
        self.limits.pop(model, None)
        if until > -inf:
            self.resting[model], self.limits[model] = until, 0
        elif limit:
            self.limits[model] = limit

    def wakes(self, now: float) -> bool:
        """Pauses are over: one may try."""
        over = [model for model, until in self.resting.items() if until <= now]
        for model in over:
            self.is_in_trouble(model, 1, -inf)
        return bool(over)

    def is_told(self, look: Look, busy: set[str]) -> None:
        """What is gone is gone, unless it is busy; what is new is new, unless the look is too old to tell."""
        for model in list(self.known):
            if model not in look.loaded and model not in busy and self.known[model] < look.began_at:
                del self.known[model]
        if look.began_at >= self.changed_at:
            for model in look.loaded.keys() - self.known.keys() - self.leaving - {self.loading}:
                self.known[model] = look.began_at

    @property
    def taken(self) -> int:
        return sum(SIZES[model] for model in self.holds) + SIZES.get(self.loading, 0)

    def begins_to_load(self, model: str) -> None:
        self.loading = model

    def drops(self, model: str) -> None:
        """It is on its way out."""
        self.holds.discard(model)
        self.known.pop(model, None)
        self.leaving.add(model)

    def has_loaded(self, now: float) -> str:
        model = self.loading
        self.holds.add(model)
        self.known[model] = now
        self.has_stopped(now)
        return model

    def has_stopped(self, now: float) -> None:
        """Loading, well or not."""
        self.loading, self.tries, self.changed_at = "", 0, now
        self.leaving.clear()
