"""Who asks: what a credential stands for, once it is known to be good."""

from msgspec import Struct


class Principal(Struct, frozen=True):
    """`key_id` names the credential and may be logged; `tenant` is who shares limits and a place in the queue."""

    key_id: str
    tenant: str
    admin: bool


# Where no keys are configured, every caller is the operator.
ANONYMOUS = Principal(key_id="anonymous", tenant="anonymous", admin=True)
