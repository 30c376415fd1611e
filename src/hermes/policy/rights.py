"""Whether one may do no more than another: what a key may give is what it has itself (invariant I20).

A weight is a share, not a right.
"""

from math import inf

from hermes.principal import Allowance, Principal


def beyond(given: Principal, own: Principal) -> str:
    """The first right that `given` has and `own` has not; "": none."""
    tests = {
        "admin": given.admin and not own.admin,
        "metrics": given.metrics and not (own.metrics or own.admin),
        "models": not _are_within(given.models, own.models),
        "max_class": given.ceiling < own.ceiling,
        "expires_at": _end(given) > _end(own),
        "per_model": bool(own.per_model) and given.per_model != own.per_model,
    }
    for name in Allowance.__struct_fields__:
        tests[name] = _bound(given.allowance, name) > _bound(own.allowance, name)
    return next((name for name, is_beyond in tests.items() if is_beyond), "")


def _end(principal: Principal) -> float:
    return inf if principal.expires_at is None else principal.expires_at


def _bound(allowance: Allowance, name: str) -> float:
    bound: int | None = getattr(allowance, name)
    return inf if bound is None else bound


def _are_within(given: tuple[str, ...], own: tuple[str, ...]) -> bool:
    """None: all models."""
    return not own or (bool(given) and all(any(_is_within(one, other) for other in own) for one in given))


def _is_within(given: str, own: str) -> bool:
    """Whether whatever the one pattern matches the other does. In doubt not."""
    return own == given or (own.endswith("*") and given.startswith(own[:-1]))
