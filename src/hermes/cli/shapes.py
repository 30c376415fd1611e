"""What verbs read of a server's answers: an answer without that is not one of Hermes's, or not of this version's.

There may be more in them than is named here.
"""

from typing import Annotated, NotRequired, TypeAlias, TypedDict

from msgspec import Meta

# What arithmetic and dates can be made of.
Count: TypeAlias = Annotated[int, Meta(ge=0, lt=2**53)]
Ms: TypeAlias = Annotated[int, Meta(gt=-(2**53), lt=2**53)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, lt=2**53)]
# In Unix seconds, to the end of the last year that a date has.
Moment: TypeAlias = Annotated[float, Meta(ge=0, lt=253_402_300_800)]

# --- how it is --------------------------------------------------------------------------------------------------------


class Change(TypedDict):
    model: str
    victims: list[str]
    loading: bool
    for_ms: Ms


class Health(TypedDict):
    model: str
    state: str
    why: NotRequired[str]


class Process(TypedDict):
    model: str
    state: str
    pid: int | None
    port: int | None
    restarts: Count
    error: NotRequired[str]
    last_words: NotRequired[list[str]]


class Pull(TypedDict):
    model: str
    percent: float | None


class Loaded(TypedDict):
    name: str
    size_bytes: Count
    vram_bytes: Count
    expires_at: str | None
    running: NotRequired[Count]
    slots: NotRequired[Count | None]


class Room(TypedDict):
    bytes: Count | None


class Backend(TypedDict):
    name: str
    kind: str
    version: str
    state: str
    simulated: bool
    memory: Room
    loaded: list[Loaded]
    draining: NotRequired[bool]
    error: NotRequired[str]
    hint: NotRequired[str]
    pressed: NotRequired[str]
    health: NotRequired[list[Health]]
    processes: NotRequired[list[Process]]
    changes: NotRequired[list[Change]]
    pulling: NotRequired[list[Pull]]


class Model(TypedDict):
    active: Count
    queued: Count
    queue_limit: Count
    backend_model: NotRequired[str]


class Requests(TypedDict):
    active: Count
    queued: Count


class Reload(TypedDict):
    result: str
    error: NotRequired[str]


class Status(TypedDict):
    version: str
    status: str
    uptime_s: Seconds
    requests: Requests
    backends: list[Backend]
    models: dict[str, Model]
    reload: NotRequired[Reload]


# --- requests ---------------------------------------------------------------------------------------------------------

_OfClass = TypedDict("_OfClass", {"class": str})


class _Asked(_OfClass):
    request_id: str
    model: str
    state: str
    position: NotRequired[Count]
    eta_ms: NotRequired[Ms]
    running_ms: NotRequired[Ms]
    backend: NotRequired[str]
    pulled_percent: NotRequired[float | None]


class Open(_Asked):
    handle: str
    user: str
    age_ms: Ms


class Line(_OfClass):
    model: str
    running: Count
    waiting: Count
    next_eta_ms: NotRequired[Ms]
    eta_ms: NotRequired[Ms]


class Lines(TypedDict):
    lines: list[Line]
    requests: list[Open]


class Rates(TypedDict):
    requests: Seconds
    failed: Seconds
    tokens_in: Seconds
    tokens_out: Seconds


class State(Status):
    """What `GET /v1/events` tells each second."""

    at: Moment
    queue: Lines
    rates: NotRequired[Rates]


class Missed(TypedDict):
    requests: Count


class Queue(TypedDict):
    running: Count
    waiting: Count
    has_more: bool
    data: list[Open]


class Ended(TypedDict):
    """A Record, as far as it is read without being one."""

    request_id: str
    created_at: Moment
    duration_ms: Count
    status: Count
    user: NotRequired[str]
    tokens_in: NotRequired[Count]
    tokens_out: NotRequired[Count]


class Past(TypedDict):
    data: list[Ended]


class InMemory(TypedDict):
    backend: str
    model: str
    running: Count
    slots: Count | None
    waiting: Count
    settling: Count


class Changing(TypedDict):
    backend: str
    model: str
    victims: list[str]
    loading: bool


class Why(TypedDict):
    position: Count
    eta_ms: Ms
    eta_high_ms: Ms
    model_was: str
    waiting: dict[str, Count]
    in_memory: list[InMemory]
    changes: list[Changing]
    pressed: dict[str, str]


class One(_Asked):
    asked: NotRequired[str]
    outcome: NotRequired[str]
    code: NotRequired[str]
    duration_ms: NotRequired[Ms]
    queue_ms: NotRequired[Ms]
    why: NotRequired[Why]


# --- use --------------------------------------------------------------------------------------------------------------


class Use(TypedDict):
    requests: Count
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    refused: Count


class UseRow(Use):
    day: str
    key: str
    name: str | None
    model: str


class Usage(TypedDict):
    since: str
    total: Use
    has_more: bool
    data: list[UseRow]
    keys: list[object]


# --- models -----------------------------------------------------------------------------------------------------------


class Offered(TypedDict):
    id: str
    created: Moment | None
    capabilities: list[str]


class Listing(TypedDict):
    data: list[Offered]


class Piece(TypedDict):
    delta: NotRequired[str]


class Tokens(TypedDict):
    prompt_tokens: Count
    completion_tokens: Count


class Told(Piece):
    """The last piece of an answer."""

    reason: str
    usage: Tokens
    timings: dict[str, Seconds]


class Download(TypedDict):
    status: NotRequired[str]
    digest: NotRequired[str]
    total: NotRequired[Count]
    completed: NotRequired[Count]


# --- what was done ----------------------------------------------------------------------------------------------------


class HasLoaded(TypedDict):
    model: str
    loaded: list[str]


class HasUnloaded(TypedDict):
    model: str
    unloading: list[str]
    active: Count


class Restarted(TypedDict):
    pid: Count


class Cancelled(TypedDict):
    request_id: str
    user: str
    model: str


class Turned(TypedDict):
    backend: str
    draining: bool
    active: Count


class Reloaded(TypedDict):
    needs_restart: list[str]
