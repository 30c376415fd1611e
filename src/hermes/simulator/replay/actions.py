"""What a policy may do. The engine executes it, and does not let the impossible happen."""

from msgspec import Struct

from hermes.simulator.replay.workload import Request


class Start(Struct, frozen=True, gc=False):
    request: Request


class Refuse(Struct, frozen=True, gc=False):
    request: Request


class Load(Struct, frozen=True, gc=False):
    model: str


class Unload(Struct, frozen=True, gc=False):
    model: str


class Drain(Struct, frozen=True, gc=False):
    """The model is to be unloaded once it is idle. Changes nothing in the box: it is told for the picture."""

    model: str


class Promise(Struct, frozen=True, gc=False):
    """What the client is told at its arrival: how long it will wait, and a wait that nine of ten stay below."""

    request: Request
    wait_s: float
    upper_s: float


Action = Start | Refuse | Load | Unload | Drain | Promise
