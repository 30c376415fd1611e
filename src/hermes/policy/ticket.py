"""What the scheduler is told, and what it decides: tickets, bounds, decisions."""

from enum import Enum

from msgspec import Struct
from msgspec.structs import replace


class Phase(Enum):
    NEW = "new"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


class Ticket(Struct, eq=False, gc=False):
    """A request as the scheduler sees it. `phase`, `backend` and `started_at` are the scheduler's to write.

    `model` names the queue; `resident` the model as backends know it, whose slots are shared by all that use it.
    `candidates` are backends that have it; `avoid` has just failed and is taken only if no other has room.
    Times are monotonic seconds; `size_bytes` is what the waiting request holds in memory.
    """

    model: str
    resident: str
    tenant: str
    candidates: tuple[str, ...]
    size_bytes: int
    arrived_at: float
    deadline: float
    avoid: str = ""
    phase: Phase = Phase.NEW
    backend: str = ""
    started_at: float = 0.0

    def again(self) -> "Ticket":
        """A new ticket for the next attempt, which avoids the backend that failed."""
        return replace(self, avoid=self.backend, phase=Phase.NEW, backend="", started_at=0.0)


class Admit(Struct, frozen=True, gc=False):
    ticket: Ticket
    backend: str


class Reject(Struct, frozen=True):
    """`reason`: `queue_full`, `no_backend` or `draining`; `retry_after_s` estimates when a new try may be worth it."""

    ticket: Ticket
    reason: str
    retry_after_s: float


class Expire(Struct, frozen=True):
    ticket: Ticket


Decision = Admit | Reject | Expire


class Bounds(Struct, frozen=True):
    """What the whole process and one tenant may hold. None: no cap of its own."""

    max_concurrent: int | None = None
    queue_tickets: int = 4096
    queue_bytes: int = 256 * 1024 * 1024
    tenant_tickets: int = 4096
    tenant_bytes: int = 256 * 1024 * 1024


class ModelBounds(Struct, frozen=True):
    max_concurrency: int | None = None
    queue_limit: int = 256


class BackendFacts(Struct, frozen=True):
    """What the fleet sees of a backend. `slots`: parallel requests per loaded model; None where it cannot be asked."""

    name: str
    up: bool
    slots: int | None = None


class Load(Struct, frozen=True):
    """A model's present load, for status and metrics."""

    running: int
    waiting: int
