"""Who asks: what a credential stands for, once it is known to be good."""

from enum import IntEnum

from msgspec import Struct


class Class(IntEnum):
    """How urgent a request is; the lower number goes before."""

    INTERACTIVE = 0
    NORMAL = 1
    BATCH = 2


# An Enum makes its members and their names anew each time.
CLASSES = tuple(Class)
CLASS_NAMES = tuple(each.name.lower() for each in Class)


class Allowance(Struct, frozen=True):
    """What may be used at most; None: as much as there is.

    `rpm`: requests, in any 60 s. `tpm`: tokens, in any t seconds at most tpm (1 + t/60). `concurrency`: requests that
    run at once. `daily_tokens`, `monthly_tokens`: per day and month of the calendar (UTC).
    """

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    daily_tokens: int | None = None
    monthly_tokens: int | None = None


UNBOUNDED = Allowance()


class Quota(Struct, frozen=True, gc=False):
    """What is told of a limit: what is left, and in how many seconds all of it will be there again."""

    most: int
    remaining: int
    reset_s: float


class Principal(Struct, frozen=True):
    """`key_id` names the credential and may be logged; `tenant` is who shares a place in the queue.

    A request is of the class `usual` unless it says otherwise, and never above `ceiling`. `weight` is the tenant's
    share beside others. `models`: patterns of the names (`*`, `?`) that may be asked for; none: all. `allowance`: what
    the key itself may use; `per_model`: what it may use of each single model whose name fits the pattern, the first
    that does. `metrics`: it may read them, as operators may. `expires_at`: in Unix seconds; None: never. `counted`:
    what it uses is written down.
    """

    key_id: str
    tenant: str
    admin: bool
    ceiling: Class = Class.INTERACTIVE
    usual: Class = Class.NORMAL
    weight: float = 1.0
    models: tuple[str, ...] = ()
    allowance: Allowance = UNBOUNDED
    per_model: tuple[tuple[str, Allowance], ...] = ()
    metrics: bool = False
    expires_at: float | None = None
    counted: bool = True


# Where no keys are configured, every caller is the operator.
ANONYMOUS = Principal(key_id="anonymous", tenant="anonymous", admin=True, counted=False)
