"""What a model is loaded with on one backend, and what of that a request may change.

Ollama loads a model anew for a request whose load-time options differ from those it runs with (server/sched.go,
needsReload), and everybody else waits. So who asks for nothing gets the model as it is: with what is configured, else
with the context that others gave it, else by saying nothing. Of what a request asks for,

1. `pin` heeds nothing.
2. `max` heeds a context longer than the present one, for good: after a few loads it is long enough for everybody. Its
   bounds are the model's own context and what is configured. Other options have no order in which more serves all.
3. `passthrough` heeds everything, a context up to what is configured. The model is loaded that way again when it has
   gone meanwhile, unless that has failed.

How long a model stays is ours to say, but under `passthrough`: there it is kept as long as the last request asked for.
What is unloaded for another model is so whatever was asked.
"""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import asdict

from hermes.chat import LoadOptions

# How long a model stays when nobody asks for it and nobody renews: we are gone. Ollama's own default is five minutes;
# a restart of ours should find the models where they were.
KEEP_ALIVE_S = 1800.0

# Values that mean the same as saying nothing.
_UNSAID = {"num_thread": 0, "draft_num_predict": 0}


class Pins(Struct, frozen=True):
    """What is configured. `keep_alive` None: the model stays until its memory is wanted."""

    options: dict[str, Any] = {}
    keep_alive: float | None = None
    policy: Literal["pin", "max", "passthrough"] = "pin"
    max_num_ctx: int | None = None

    @property
    def stays(self) -> bool:
        """Whether it is to stay loaded however long nobody asks."""
        return self.keep_alive is None or self.keep_alive < 0

    @property
    def keep_alive_s(self) -> float:
        return KEEP_ALIVE_S if self.keep_alive is None else self.keep_alive


class Terms:
    """One model of one backend.

    `options` and `keep_alive_s` are said by loads, and by requests that ask for nothing. `kept`: by us, since somebody
    asked for it and left it to us how long. `reloads_avoided`: requests that would have had it loaded anew.
    """

    __slots__ = (
        "_asked",
        "_context",
        "_may_rise",
        "_most",
        "_own_context",
        "_pins",
        "_seen",
        "keep_alive_s",
        "kept",
        "options",
        "reloads_avoided",
    )

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self.options: Mapping[str, Any] = pins.options
        self.keep_alive_s = pins.keep_alive_s
        self.kept = False
        self.reloads_avoided = 0
        self._seen = 0  # its context at the last look; 0: not loaded, or nobody tells
        self._context = 0  # the same, or what a request has since asked for
        self._own_context: int | None = None  # that it had when we had loaded it without a word; 0 until it is seen
        self._most = 0  # that the model can have
        self._asked: dict[str, Any] = {}  # and heeded
        self._may_rise = True

    def adopt(self, pins: Pins) -> None:
        """It is to be loaded on these from now on. What requests have asked for under others is forgotten."""
        if pins != self._pins:
            self._pins, self.keep_alive_s = pins, pins.keep_alive_s
            self._asked, self._may_rise = {}, True
            self._settle()

    @property
    def stays(self) -> bool:
        """Whether it is to be kept from expiring."""
        return self.kept and self._pins.stays

    def see(self, context: int, most: int) -> None:
        """It is loaded, with a context of that length, where `most` is what it can have. 0: it is not told."""
        if context != self._seen:  # else it is no news: the backend may be about to load what a request has asked for
            self._seen = self._context = context
        self._most = most
        if self._own_context == 0:
            self._own_context = context
        self._settle()

    def miss(self) -> None:
        """It is not loaded."""
        self._seen = self._context = 0
        self._own_context = None
        self._settle()

    def loaded(self) -> None:
        """By us, with `options`."""
        self.kept = True
        if "num_ctx" not in self.options and self._own_context is None:
            self._own_context = 0

    def failed(self) -> None:
        """It could not be loaded with `options`. If requests have asked for them, nobody else is to suffer from it."""
        self._may_rise = self._may_rise and not self._asked
        self._asked = {}
        self._settle()

    def agree(self, asked: LoadOptions) -> tuple[Mapping[str, Any], float]:
        """The options and the `keep_alive` for a request that asks for these."""
        wanted = {name: value for name, value in asdict(asked).items() if value is not None}
        keep_alive_s = wanted.pop("keep_alive_s", None)
        running = {**_UNSAID, "num_ctx": self._context, **self.options}
        reloads = self._differ(wanted, running)
        said = self._heed(wanted)
        if reloads and not self._differ(said, running):
            self.reloads_avoided += 1
        if context := said.get("num_ctx"):
            self._context = min(context, self._most or context)
        self._settle()
        if keep_alive_s is None or self._pins.policy != "passthrough":
            return said, self.keep_alive_s
        self.kept = False
        return said, keep_alive_s

    def _heed(self, wanted: dict[str, Any]) -> Mapping[str, Any]:
        if self._pins.policy == "pin":
            return self.options
        if context := wanted.get("num_ctx", 0):
            wanted["num_ctx"] = context = min(context, self._pins.max_num_ctx or context)
        if self._pins.policy == "passthrough":
            self._asked = {**self._asked, **wanted}
            return {**self.options, **wanted}
        context = min(context, self._most or context)
        if self._may_rise and context > max(self._context, self.options.get("num_ctx", 0)):
            self._asked = {"num_ctx": context}
            self._settle()
        return self.options

    def _settle(self) -> None:
        """What is said for those who ask for nothing."""
        configured = self._pins.options
        said = {**self._asked, **configured}
        theirs = 0 if self._context == self._own_context else self._context
        if self._pins.policy == "max":
            context = max(self._asked.get("num_ctx", 0), configured.get("num_ctx", 0), theirs)
        else:
            context = configured.get("num_ctx") or (theirs if self._context else said.get("num_ctx", 0))
        said.pop("num_ctx", None)
        self.options = {**said, "num_ctx": context} if context else said

    def _differ(self, options: Mapping[str, Any], running: Mapping[str, Any]) -> bool:
        """Whether the backend has to load it anew for these, as far as it is known what it runs with."""
        for name, value in options.items():
            if name == "num_ctx":
                context = running[name]
                if context and min(value, self._most or value) != min(context, self._most or context):
                    return True
            elif value != running.get(name) and not (name == "num_gpu" and value < 0):  # -1: as you see fit
                return True
        return False
