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


class Principal(Struct, frozen=True):
    """`key_id` names the credential and may be logged; `tenant` is who shares limits and a place in the queue.

    A request is of the class `usual` unless it says otherwise, and never above `ceiling`. `weight` is the tenant's
    share beside others; `max_running` bounds how many of its requests run at once.
    """

    key_id: str
    tenant: str
    admin: bool
    ceiling: Class = Class.INTERACTIVE
    usual: Class = Class.NORMAL
    weight: float = 1.0
    max_running: int | None = None


# Where no keys are configured, every caller is the operator.
ANONYMOUS = Principal(key_id="anonymous", tenant="anonymous", admin=True)
