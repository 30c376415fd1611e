"""One backend's memory: what is in it, what it has room for, and the one change under way."""

from math import inf

from msgspec import Struct

from hermes.policy.station import Station, Stay
from hermes.policy.ticket import BackendFacts, Ticket
from hermes.policy.timeshare import Timeshare

BACK_OFF_S = 15.0
MAX_BACK_OFF_S = 600.0
MAX_DOUBLINGS = 10


class Plan(Struct, eq=False):
    """A model is to be loaded. `loading_since` is None while the victims end what they run.

    `payer`: the one that it is done for, whatever the index says.
    """

    station: Station
    victims: tuple[Stay, ...]
    decided_at: float
    loading_since: float | None = None
    tries: int = 0
    payer: Ticket | None = None

    @property
    def is_draining(self) -> bool:
        return self.loading_since is None and bool(self.victims)

    def changes(self, model: str) -> bool:
        """Whether the model comes or goes by it."""
        return model == self.station.name or any(stay.station.name == model for stay in self.victims)

    def ready_in_s(self, now: float) -> float:
        """How long until the model is there, probably."""
        load_s = self.station.load_s.value
        if self.loading_since is not None:
            return max(load_s + self.loading_since - now, 0.1 * load_s)
        return load_s + max((stay.idle_in_s(now) for stay in self.victims), default=0.0)


class Rest(Struct):
    """A model could not be loaded somewhere, and is not tried there again before `until`."""

    failures: int = 0
    until: float = -inf

    def fail(self, now: float) -> None:
        self.until = now + min(MAX_BACK_OFF_S, BACK_OFF_S * 2.0 ** min(self.failures, MAX_DOUBLINGS))
        self.failures += 1


class Swaps(Struct):
    """So often a model took the place of others, and so long that took: ending what they ran included."""

    count: int = 0
    took_s: float = 0.0


class Site:
    __slots__ = (
        "changed_at",
        "chosen_at",
        "facts",
        "learned_bytes",
        "most_bytes",
        "plan",
        "rests",
        "retired",
        "stays",
        "timeshare",
    )

    def __init__(self, facts: BackendFacts) -> None:
        self.facts = facts
        self.stays: dict[str, Stay] = {}  # by model
        self.rests: dict[str, Rest] = {}  # by model
        self.plan: Plan | None = None
        self.learned_bytes: int | None = None
        self.most_bytes = 0  # ever seen loaded at once
        self.changed_at = -inf  # when a load last ended; an older look tells nothing of what came or went
        self.chosen_at = -inf
        self.timeshare = Timeshare()
        self.retired = False  # it is no longer among the backends; kept until what runs there has ended

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def is_ours(self) -> bool:
        """Whether we decide what is in its memory."""
        return self.facts.loaded is not None

    def rests_until(self, station: Station) -> float:
        rest = self.rests.get(station.name)
        return rest.until if rest is not None else -inf

    # --- who is there -----------------------------------------------------------------------------------------------

    def move_in(self, station: Station, now: float) -> Stay:
        stay = self.stays.get(station.name)
        if stay is None:
            stay = Stay(station, self.facts, now, self.size_of(station))
            self.stays[station.name] = station.stays[self.name] = stay
            station.count_slots()
        return stay

    def move_out(self, stay: Stay) -> None:
        del self.stays[stay.station.name]
        del stay.station.stays[self.name]
        stay.station.count_slots()

    def has(self, stay: Stay) -> bool:
        return self.stays.get(stay.station.name) is stay

    # --- room -------------------------------------------------------------------------------------------------------

    @property
    def memory_bytes(self) -> int | None:
        told, learned = self.facts.memory_bytes, self.learned_bytes
        if told is None or learned is None:
            return told if learned is None else learned
        return min(told, learned)

    def size_of(self, station: Station) -> int:
        return station.size_bytes or self.facts.sizes.get(station.name, 0)

    def can_hold(self, station: Station) -> bool:
        """Whether the model would fit if nothing that may go were there."""
        memory_bytes, max_loaded = self.facts.memory_bytes, self.facts.max_loaded
        if not self.is_ours:
            return True
        kept = [stay.size_bytes for stay in self.stays.values() if stay.station.pinned and stay.station != station]
        if max_loaded is not None and len(kept) >= max_loaded:
            return False
        return memory_bytes is None or sum(kept) + self._needs(station, bool(kept)) <= memory_bytes

    def _needs(self, station: Station, beside_others: bool) -> int:
        size_bytes = self.size_of(station)
        return int(size_bytes / self.facts.of_free) if beside_others else size_bytes

    def missing_bytes(self, station: Station, going: tuple[Stay, ...] = ()) -> int:
        """How much room the model lacks, when those that go are gone."""
        memory_bytes = self.memory_bytes
        if memory_bytes is None:
            return 0
        kept = [stay for stay in self.stays.values() if stay not in going]
        taken = sum([stay.size_bytes for stay in kept])
        missing = max(0, self.size_of(station) + taken - memory_bytes)
        told = self.facts.memory_bytes
        if told is not None and self.facts.of_free < 1 and kept:
            # Alone it needs no more than it takes.
            missing = max(missing, min(self._needs(station, True) + taken - told, taken))
        if missing and (told is None or self.facts.may_be_less):
            # There may be more than there was need of: alone, every model is tried.
            missing = min(missing, sum(stay.size_bytes for stay in kept if not stay.station.pinned))
        return missing

    def lacks(self, station: Station) -> tuple[int, int]:
        """How many bytes and models have to go for it. Under pressure it takes no more than what goes gives."""
        missing, surplus = self.missing_bytes(station), self.surplus()
        if self.facts.pressed and (missing or surplus):
            missing = max(missing, self.size_of(station))
        return missing, surplus

    def surplus(self, going: tuple[Stay, ...] = ()) -> int:
        """How many models are too many for another one, when those that go are gone."""
        if self.facts.max_loaded is None:
            return 0
        return max(0, sum(stay not in going for stay in self.stays.values()) + 1 - self.facts.max_loaded)
