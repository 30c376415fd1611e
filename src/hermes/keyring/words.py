"""What is said of keys: as it is asked, and as it is told; and what a key looks like."""

import secrets
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import fields

from hermes.config.schema import describe
from hermes.dialects.strict import convert
from hermes.errors import BadRequest
from hermes.storage.keys import Fields, Key

# What begins so is a key of ours: for those who look for leaked ones.
PREFIX = "sk-hermes-"
DAY_S = 86400

S = TypeVar("S", bound=Struct)
Told = dict[str, Any]


class Rotation(Struct):
    grace_s: Annotated[int, Meta(ge=0, le=90 * DAY_S, description="a number of seconds, at most 90 days")] = DAY_S


# Every key that a body may hold.
ASKED = frozenset((*Fields.__struct_fields__, *Rotation.__struct_fields__))


def tell(key: Key) -> Told:
    """As it is answered: never a secret, nor what is known of one."""
    told = msgspec.to_builtins(key)
    return {"object": "key", "id": told.pop("id"), **told.pop("fields"), **told}


def read_as(kind: type[S], asked: Told, before: Told | None = None) -> S:
    """What `asked` comes to, over what was `before`; null is what is so where nothing is said.

    Raises BadRequest, which names the field.
    """
    known = {field.name: field.type for field in fields(kind)}
    for name in asked:
        if name not in known:
            words = f"`{name[:200]}` is not known; there are: {', '.join(known)}"
            raise BadRequest(words, code="unknown_parameter", param=name[:200])
    usual = {field.name: field.default for field in fields(kind) if field.default is not NODEFAULT}
    said = {name: usual.get(name) if value is None else value for name, value in asked.items()}
    try:
        return convert({**(before or {}), **said}, kind)
    except BadRequest as error:
        if error.code != BadRequest.code or error.param is None:
            raise
        wanted = describe(known[error.param.partition("[")[0]])
        raise BadRequest(f"`{error.param}` must be {wanted}", param=error.param) from None


def new_secret() -> str:
    """256 random bits."""
    number, letters = int.from_bytes(secrets.token_bytes(32), "big"), ""
    while len(letters) < _LENGTH:
        number, digit = divmod(number, len(_ALPHABET))
        letters += _ALPHABET[digit]
    return PREFIX + letters


_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH = 43  # 62^43 > 2^256
