"""What the scheduler is told, and what it decides: tickets, bounds, facts, decisions."""

from collections.abc import Mapping
from math import inf
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from hermes.policy.estimates import Outlook
from hermes.policy.places import Place
from hermes.principal import Class


class Phase:
    """Where a ticket is. No Enum: naming a member of one costs 45 ns on CPython 3.11, ten times in each request."""

    NEW: Final = "new"
    WAITING: Final = "waiting"
    RUNNING: Final = "running"
    DONE: Final = "done"


class Ticket(Struct, eq=False, gc=False):
    """A request as the scheduler sees it. What stands below `phase` is the scheduler's to write.

    `model` names the queue; `resident` the model as backends know it, whose slots are shared by all that use it.
    `candidates` are backends that have it; `avoid` has just failed and is taken only if no other has room.
    Times are monotonic seconds; `size_bytes` is what the waiting request holds in memory. `deadline` is when it must
    have ended if `whole`, else when its first byte must have come. `caps` are names, and how many runs that bear them
    there may be at once; who bears a name is of one tenant. Of a tenant's tickets those of the lowest `priority` go
    first. `weight` is the tenant's share beside others. `prefix` tells the ticket's conversation from others; 0: there
    is none, or no choice of backends. `place` is the one that an earlier try has left; when this one leaves, its own.
    `waited_s` and `waited`, the last time from when until when, are for who waits to write, by a finer clock.
    """

    model: str
    resident: str
    tenant: str
    candidates: tuple[str, ...]
    size_bytes: int
    arrived_at: float
    deadline: float
    urgency: Class = Class.NORMAL
    priority: float = 0
    weight: float = 1.0
    caps: tuple[tuple[str, int], ...] = ()
    prompt_tokens: int = 0
    whole: bool = False
    avoid: str = ""
    prefix: int = 0
    place: Place | None = None
    waited_s: float = 0.0
    waited: tuple[float, float] | None = None
    phase: str = Phase.NEW
    backend: str = ""
    started_at: float = 0.0
    start_by: float = inf  # it starts by then, or never
    turn_by: float = inf  # the same, of the try whose place it has
    begun_at: float | None = None  # the first byte of its answer has come: when
    charged_tokens: float = 0.0
    settled: bool = False  # its true tokens are known, `prompt_tokens` too
    output_tokens: int = 0
    sequence: int = 0
    found: str = "hit"  # its model was loaded (`hit`), had to be loaded, or took another's place (`swap`)
    load_s: float = 0.0  # how much of its wait was loading
    loaded_at: float = 0.0  # until when
    told: Outlook | None = None  # when it began to wait: how long for
    why: "Why | None" = None
    kind: str = ""  # of what was thought then
    thought_s: float = 0.0
    passed: int = 0  # so often another went first, whose conversation is at home where there was room

    def again(self) -> "Ticket":
        """A new ticket for the next attempt: it avoids the backend that failed, and goes first of its tenant's."""
        return replace(
            self,
            priority=-inf,
            avoid=self.backend,
            place=None,
            turn_by=inf,
            waited=None,
            phase=Phase.NEW,
            backend="",
            started_at=0.0,
            begun_at=None,
            charged_tokens=0.0,
            settled=False,
            found="hit",
            load_s=0.0,
            loaded_at=0.0,
        )


class Admit(Struct, frozen=True, gc=False):
    ticket: Ticket
    backend: str


class Reject(Struct, frozen=True):
    """`reason` is a code; `retry_after_s` estimates when a new try may be worth it, inf: never."""

    ticket: Ticket
    reason: str
    retry_after_s: float
    why: str = ""


class Expire(Struct, frozen=True):
    """It has waited until its bound."""

    ticket: Ticket


class Load(Struct, frozen=True):
    """Have `backend` load a model; `loaded` or `failed` tells how it went, `late` where it had not begun in time."""

    backend: str
    model: str
    begun_within_s: float = inf


class Unload(Struct, frozen=True):
    """Have `backend` drop a model, which nothing runs on."""

    backend: str
    model: str


Decision = Admit | Reject | Expire | Load | Unload


class Bounds(Struct, frozen=True):
    """What the whole process and one tenant may hold. None: no cap of its own."""

    max_concurrent: int | None = None
    queue_tickets: int = 4096
    queue_bytes: int = 256 * 1024 * 1024
    tenant_tickets: int = 4096
    tenant_bytes: int = 256 * 1024 * 1024


class ModelBounds(Struct, frozen=True):
    """What is known of a model before anything was seen of it: None where nothing is.

    `load_s` and `service_s` are first estimates, of a load and of a run; `size_bytes` is what it takes when loaded.
    `backend_model`: what backends know it by, if not by the same name.
    `adaptive`: how many of them each backend does well at once is found out, up to the cap.
    """

    max_concurrency: int | None = None
    queue_limit: int = 256
    pinned: bool = False
    load_s: float | None = None
    service_s: float | None = None
    size_bytes: int | None = None
    backend_model: str = ""
    adaptive: bool = False


class ClassRules(Struct, frozen=True):
    """`max_wait_s`: within it a request starts or is refused. `weight`: the class's share beside the others."""

    weight: float
    max_wait_s: float = inf


class Rules(Struct, frozen=True):
    """How the scheduler decides. The defaults are those of docs/scheduling.md.

    `floor`: no model's share of requests in time falls below this part of the overall share, if loads can help it, and
    no tenant's share of a backend's time below this part of a fair one.
    `give_up`: a newcomer is refused when its predicted wait is this many times what it has. `load_waits`: a class's
    longest wait is at least this many times what the model takes to load, or it could never be loaded. `waste`: how
    much of the time may go into whole answers that miss their deadlines, for all we know. `service_error` is for
    studies: what is learned of how long runs take is wrong by this factor.
    """

    classes: tuple[ClassRules, ClassRules, ClassRules] = (
        ClassRules(16.0, 30.0),
        ClassRules(4.0, 120.0),
        ClassRules(1.0),
    )
    floor: float = 0.0
    give_up: float = 3.0
    load_waits: float = 0.0
    waste: float = 0.03
    service_error: float = 1.0


STANDARD = Rules()


class Settings(Struct, frozen=True):
    """What operators say: `unlisted` bounds every model that is not among `models`."""

    bounds: Bounds
    unlisted: ModelBounds
    rules: Rules = STANDARD
    models: dict[str, ModelBounds] = {}


class Fallen(Struct, frozen=True):
    """A model is no longer loaded though nobody has unloaded it. It may be loaded again from `until` on."""

    until: float
    why: str


class BackendFacts(Struct, frozen=True):
    """What the fleet sees of a backend. `slots`: parallel requests per loaded model; None where it cannot be asked.

    `loaded` has the models in its memory with their bytes; None: it sees to that itself, whatever it has can be asked
    for. `names` has the full names of the models that it can be told to load, by all their names; `sizes` what they may
    take, as far as is known. `memory_bytes`: room for models, None: unknown; `may_be_less`: that is an upper bound;
    `of_free`: of what others leave of it a model gets no more than this part. `max_loaded`: so many models at once,
    None: as many as fit. `seen_at` is when the look began. `pressed`: why nothing more should be loaded now, unless
    something else goes for it. `pulling`: models on their way to its disk, which cannot be loaded yet, and when they
    will probably be there. `settles`: it may read a prompt to its end though the client has left. `weight`: its share
    of what several can do. `limits`: models of which it is given no more than so many at once for now, whatever its
    slots are (EVERY: of each other one); `resting`: those of which it is given none, and until when, inf: nobody knows
    (`breaker`).

    `makes_room`: it would let others go by itself rather than fail to load one. `slots_of` are the slots of models that
    have their own. `idle_ttls_s`: models that go when they were not used for so long. `fallen`: models that went down,
    and should be up again where there is room.
    """

    name: str
    up: bool
    slots: int | None = None
    loaded: Mapping[str, int] | None = None
    sizes: Mapping[str, int] = {}
    memory_bytes: int | None = None
    seen_at: float = 0.0
    max_loaded: int | None = None
    may_be_less: bool = False
    pressed: str = ""
    settles: bool = False
    of_free: float = 1.0
    pulling: Mapping[str, float] = {}
    names: Mapping[str, str] = {}
    weight: float = 1.0
    limits: Mapping[str, int] = {}
    resting: Mapping[str, float] = {}
    makes_room: bool = True
    slots_of: Mapping[str, int] = {}
    idle_ttls_s: Mapping[str, float] = {}
    fallen: Mapping[str, Fallen] = {}

    def slots_for(self, model: str) -> int | None:
        return self.slots_of.get(model, self.slots)


class Changed(Struct, frozen=True):
    """What is new besides: backends that are `gone`, also where another has the name now; all that there are now; names
    of `models` that others serve now, or nobody; and what is `stale`: loaded on a backend, but not as it is to be.
    """

    gone: tuple[str, ...] = ()
    backends: tuple[BackendFacts, ...] = ()
    models: frozenset[str] = frozenset()
    stale: tuple[tuple[str, str], ...] = ()


# No model's name.
EVERY: Final = "*"


class Occupancy(Struct, frozen=True):
    """A model's present load, for status and metrics."""

    running: int
    waiting: int


class Change(Struct, frozen=True, array_like=True):
    """A model is being loaded, or will be as soon as its `victims` are idle (`loading_since` is None until then)."""

    backend: str
    model: str
    victims: tuple[str, ...]
    decided_at: float
    loading_since: float | None


class InMemory(Struct, frozen=True, array_like=True):
    """A model in a backend's memory, and how much there was to do for it.

    `settling`: slots where the backend may still read for a client that has left.
    """

    backend: str
    model: str
    running: int
    settling: int
    slots: int
    waiting: int


class Why(Struct, frozen=True, array_like=True):
    """What a request found when it began to wait: who waited in its line, by class; what was loaded; what was coming.

    `found` is how its own model was: `hit` (loaded), `coming`, `absent`, or `pulling`. `pressed`: backends where loads
    had to wait for memory, and why.
    """

    told: Outlook
    found: str
    waiting: dict[str, int]
    loaded: tuple[InMemory, ...]
    changes: tuple[Change, ...]
    pressed: dict[str, str] = {}
