"""What the simple policies keep in mind of the box: what is loaded, how busy it is, and what must go for a model."""

from collections import deque
from collections.abc import Iterable

from hermes.simulator.replay.actions import Action, Load, Unload
from hermes.simulator.replay.box import Box


class Memory:
    """`running` is by loaded model, in the order of their loading; `used_at` when each last started something."""

    def __init__(self, box: Box) -> None:
        self._sizes = {model.name: model.size for model in box.models}
        self._capacity = box.memory
        self._slots = box.slots
        self.running = dict.fromkeys(box.loaded_at_start(), 0)
        self.used_at = dict.fromkeys(self._sizes, 0.0)
        self.loading = ""

    def has_slot(self, model: str) -> bool:
        running = self.running.get(model)
        return running is not None and running < self._slots

    def start(self, model: str, now: float) -> None:
        self.running[model] += 1
        self.used_at[model] = now

    def finish(self, model: str) -> None:
        self.running[model] -= 1

    def load(self, model: str) -> None:
        self.loading = model

    def loaded(self, model: str) -> None:
        self.loading = ""
        self.running[model] = 0

    def unload(self, model: str) -> None:
        del self.running[model]

    def fits(self, model: str, without: Iterable[str] = ()) -> bool:
        """Whether the model could be loaded now, if others were gone."""
        held = sum(self._sizes[name] for name in self.running) - sum(self._sizes[name] for name in without)
        return held + self._sizes[model] <= self._capacity

    def least_used(self) -> list[str]:
        """What is idle, the longest unused first."""
        return sorted((name for name, running in self.running.items() if not running), key=self.used_at.__getitem__)

    def swap(self, model: str) -> list[Action]:
        """Load it in place of the idle models that must go, the longest unused first; nothing if they are too few."""
        idle = deque(self.least_used())
        gone: list[str] = []
        while not self.fits(model, gone):
            if not idle:
                return []
            gone.append(idle.popleft())
        for name in gone:
            self.unload(name)
        self.load(model)
        return [*map(Unload, gone), Load(model)]
