"""The machine that a replay plays, and the terms on which it serves."""

from msgspec import Struct


class Model(Struct, frozen=True):
    """`size` is in the unit of the box's memory; `share` is how often it is asked for, in relation to the others."""

    name: str
    load_s: float
    size: float = 1.0
    share: float = 1.0


class Box(Struct, frozen=True):
    """One machine with memory for some of its models. Busy models cannot be unloaded, one loads at a time.

    `slots` are those of each loaded model; `prefill` and `decode` tokens in a second. A request that has not started
    `max_wait_s` after its arrival is lost. `floor` and `service_error` are for policies that promise or estimate:
    the part of the overall share that each model is promised, and what their estimates of service are multiplied by.
    """

    models: tuple[Model, ...]
    memory: float = 2.0
    slots: int = 4
    prefill: float = 2000.0
    decode: float = 40.0
    max_wait_s: float = 30.0
    floor: float = 0.0
    service_error: float = 1.0

    def service_s(self, tokens_in: int, tokens_out: int) -> float:
        return tokens_in / self.prefill + tokens_out / self.decode

    def loaded_at_start(self) -> list[str]:
        """The first models, as far as memory goes."""
        names, free = [], self.memory
        for model in self.models:
            free -= model.size
            if free < 0:
                break
            names.append(model.name)
        return names
