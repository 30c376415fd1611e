"""The world as the rules' books have it: backends with memory, what is in it, and what was told of it."""

from msgspec import Struct, field

from hermes.policy.ticket import BackendFacts

SIZES = {"A": 4, "B": 5, "C": 6, "D": 3, "Huge": 20}
MEMORY = 12


class Look(Struct, frozen=True):
    """What was in a backend's memory at some time."""

    began_at: float
    loaded: dict[str, int]


class World(Struct):
    """One backend. `holds` is what is in its memory; `known` what the scheduler was told of that, and since when.

    `is_ours`: we decide what it holds. While a model loads, those that went for it may be seen still: `leaving`.
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

    def look(self, now: float) -> Look:
        return Look(now, {model: SIZES[model] for model in sorted(self.holds | self.leaving)} if self.up else {})

    def facts(self, look: Look) -> BackendFacts:
        loaded = look.loaded if self.is_ours else None
        return BackendFacts(
            self.name, self.up, self.slots, loaded, SIZES, self.memory, look.began_at, settles=self.settles
        )

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
