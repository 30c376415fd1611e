"""What there is to see of a server, from what it tells of itself: values in the order in which they are shown."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from hermes.cli.options import seconds
from hermes.cli.status import changes
from hermes.fleet.inventory import full_name
from hermes.principal import CLASS_NAMES

# Whose tokens are counted: of requests that have ended within this time.
LATELY_S = 600


class Memory(Struct, frozen=True):
    """A backend: the models in its memory with their bytes, and what is to be said of it. `capacity` None: unknown."""

    name: str
    state: str
    well: bool
    capacity: int | None
    parts: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]


class Model(Struct, frozen=True):
    """A model by its public name. `waiting` by class; `next_ms` and `last_ms`: when those that wait will start."""

    name: str
    state: str
    where: tuple[str, ...] = ()
    size_bytes: int = 0
    running: int = 0
    slots: int = 0
    waiting: tuple[int, ...] = (0,) * len(CLASS_NAMES)
    next_ms: int | None = None
    last_ms: int | None = None

    @property
    def key(self) -> str:
        return self.name

    @property
    def is_of_interest(self) -> bool:
        return bool(self.where or self.running or any(self.waiting)) or self.state not in ("", "-")


class Request(Struct, frozen=True):
    name: str
    model: str
    urgency: str
    user: str
    waits: bool
    words: str
    handle: str = ""  # it alone has: clients choose the names

    @property
    def key(self) -> str:
        return self.handle or self.name


class Sight(Struct, frozen=True):
    """`rates` is told to operators: `requests`, `failed`, `tokens_in`, `tokens_out` per second."""

    version: str
    status: str
    uptime_s: float
    at: float
    running: int
    waiting: int
    rates: Mapping[str, float] | None
    memory: tuple[Memory, ...]
    models: tuple[Model, ...]
    requests: tuple[Request, ...]
    tenants: tuple[tuple[str, int], ...] = ()


def see(told: Mapping[str, Any], names: Iterable[str] = (), tenants: Iterable[tuple[str, int]] = ()) -> Sight:
    """`told`: a `state` event. `names`: models that may be asked, beside those that are told of."""
    return Sight(
        told["version"],
        told["status"],
        told["uptime_s"],
        told["at"],
        told["requests"]["active"],
        told["requests"]["queued"],
        told.get("rates"),
        tuple(map(_memory, told["backends"])),
        tuple(_models(told, names)),
        tuple(map(_request, told["queue"]["requests"])),
        tuple(tenants),
    )


# --- backends ---------------------------------------------------------------------------------------------------------


def _memory(backend: Mapping[str, Any]) -> Memory:
    state = "draining" if backend.get("draining") and backend["state"] == "up" else backend["state"]
    parts = tuple((model["name"], model["size_bytes"]) for model in backend["loaded"])
    notes = tuple(_notes(backend))
    return Memory(backend["name"], state, state == "up", backend["memory"]["bytes"], parts, notes)


def _notes(backend: Mapping[str, Any]) -> Iterator[str]:
    if backend.get("error"):
        yield backend["error"]
    yield from (f"every model is {_words(each)}" for each in _unwell(backend) if each["model"] == "*")
    yield from changes(backend)
    yield from (f"pulling {pull['model']}: {pull['percent']} %" for pull in backend.get("pulling", ()))
    if backend.get("pressed"):
        yield backend["pressed"]


def _unwell(backend: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (each for each in backend.get("health", ()) if each["state"] != "closed")


def _words(each: Mapping[str, Any]) -> str:
    why = f": {each['why']}" if each.get("why") else ""
    return f"{each['state'].replace('_', ' ')}{why}"


# --- models -----------------------------------------------------------------------------------------------------------


def _models(told: Mapping[str, Any], names: Iterable[str]) -> Iterator[Model]:
    """Those that are loaded or asked for first; each part by name, so that rows stay where they are."""
    public = {name: full_name(model.get("backend_model", name)) for name, model in told["models"].items()}
    loaded = [model["name"] for backend in told["backends"] for model in backend["loaded"]]
    for name in (*loaded, *names):
        if full_name(name) not in public.values() and name not in public:
            public[name] = full_name(name)
    found = [_model(name, resident, told) for name, resident in public.items()]
    yield from sorted(found, key=lambda model: (not model.is_of_interest, model.name))


def _model(name: str, resident: str, told: Mapping[str, Any]) -> Model:
    where, states, size_bytes, slots = [], [], 0, 0
    for backend in told["backends"]:
        for each in backend["loaded"]:
            if full_name(each["name"]) == resident:
                where.append(backend["name"])
                size_bytes += each["size_bytes"]
                slots += each.get("slots") or 0
        states += [_words(each).partition(":")[0] for each in _unwell(backend) if full_name(each["model"]) == resident]
        states += [
            "loading" if change["loading"] else "to load"
            for change in backend.get("changes", ())
            if full_name(change["model"]) == resident
        ]
        states += [
            f"pulling {pull['percent']}%" for pull in backend.get("pulling", ()) if full_name(pull["model"]) == resident
        ]
    load, lines = told["models"].get(name, {}), [line for line in told["queue"]["lines"] if line["model"] == name]
    nexts = [line["next_eta_ms"] for line in lines if "next_eta_ms" in line]
    lasts = [line["eta_ms"] for line in lines if "eta_ms" in line]
    return Model(
        name,
        states[0] if states else "loaded" if where else "-",
        tuple(where),
        size_bytes,
        load.get("active", 0),
        slots,
        tuple(sum(line["waiting"] for line in lines if line["class"] == urgency) for urgency in CLASS_NAMES),
        min(nexts, default=None),
        max(lasts, default=None),
    )


# --- requests ---------------------------------------------------------------------------------------------------------


def _request(told: Mapping[str, Any]) -> Request:
    match told:
        case {"state": "waiting", "position": position, "eta_ms": eta_ms}:
            pulled = f", pulling {told['pulled_percent']} %" if "pulled_percent" in told else ""
            words = f"waits as {position}, {seconds(eta_ms)} to go{pulled}"
        case {"state": "running", "backend": backend, "running_ms": running_ms}:
            words = f"runs on {backend} for {seconds(running_ms)}"
        case _:
            words = str(told["state"])
    waits = told["state"] == "waiting"
    return Request(told["request_id"], told["model"], told["class"], told["user"], waits, words, told["handle"])


class Tenants:
    """Who has used how many tokens lately, the most first. Times are the server's, in Unix seconds."""

    def __init__(self) -> None:
        self._ended: dict[tuple[float, str], tuple[float, str, int]] = {}

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Of requests; one that is known already counts once."""
        for record in records:
            if tokens := record.get("tokens_in", 0) + record.get("tokens_out", 0):
                ended_at = record["created_at"] + record["duration_ms"] / 1000
                self._ended[record["created_at"], record["request_id"]] = ended_at, record.get("user", ""), tokens

    def lately(self, now: float) -> list[tuple[str, int]]:
        self._ended = {which: each for which, each in self._ended.items() if each[0] >= now - LATELY_S}
        sums: dict[str, int] = {}
        for _, user, tokens in self._ended.values():
            sums[user] = sums.get(user, 0) + tokens
        return sorted(sums.items(), key=lambda each: (-each[1], each[0]))
