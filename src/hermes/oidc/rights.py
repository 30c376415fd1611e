"""What a proven token may do here: the claims and roles of the configuration, applied to what it says."""

from hashlib import sha256
from typing import Any

import msgspec
from msgspec.structs import asdict

from hermes.config import Issuer, Rights
from hermes.errors import Forbidden
from hermes.oidc.token import Token, refused
from hermes.principal import CLASS_NAMES, Allowance, Class, Principal

_RIGHTS = Rights.__struct_fields__
_LIMITS = Allowance.__struct_fields__


def principal(token: Token, issuer: Issuer, usual_class: str, until: float) -> Principal:
    """Who asks. `usual_class`: where neither token nor role say one. Raises InvalidToken and Forbidden."""
    tenant = claim(token.claims, issuer.claims.tenant)
    if not isinstance(tenant, str) or not tenant or len(tenant) > 255 or not tenant.isprintable():
        raise refused(f"names nobody in {issuer.claims.tenant}")
    rights = _own(token.claims, issuer, _role(token.claims, issuer))
    ceiling = Class(CLASS_NAMES.index(rights.max_class or "interactive"))
    usual = Class(CLASS_NAMES.index(rights.usual_class or usual_class))
    return Principal(
        key_id=f"jwt:{issuer.name}:{sha256(token.subject.encode()).hexdigest()[:12]}",
        # No name of an issuer has a colon: people of two issuers are never one tenant.
        tenant=f"{issuer.name}:{tenant}",
        admin=rights.admin,
        metrics=rights.metrics,
        ceiling=ceiling,
        usual=max(usual, ceiling),
        weight=rights.weight,
        models=rights.models,
        allowance=Allowance(**{name: getattr(rights, name) for name in _LIMITS}),
        expires_at=until,
    )


def _role(claims: dict[str, Any], issuer: Issuer) -> Rights:
    """What the first role of the configuration gives that the token has; where roles are listed, it needs one."""
    if not issuer.roles:
        return Rights()
    has = {"*", *_words(claim(claims, issuer.claims.roles))}
    for role, rights in issuer.roles.items():
        if role in has:
            return rights
    raise Forbidden("the token has none of the roles that may come in here", code="role_required")


def _own(claims: dict[str, Any], issuer: Issuer, role: Rights) -> Rights:
    """The role's, but for what the token says itself, in the claims that are configured for it."""
    said = {name: claim(claims, path) for name in _RIGHTS if (path := getattr(issuer.claims, name))}
    said = {name: _words(value) if name == "models" else value for name, value in said.items() if value is not None}
    if said.get("models") == []:
        raise refused("may use no model")  # in the configuration, an empty list is all of them
    try:
        return msgspec.convert(asdict(role) | said, Rights)
    except msgspec.ValidationError:
        raise refused("has a claim that is not what it is configured to be") from None


def claim(claims: Any, path: str | None) -> Any:
    """What stands at a path: the claim of that very name, or dot by dot inside of others. None: nothing."""
    if path is None or not isinstance(claims, dict):
        return None
    if path in claims:
        return claims[path]
    dots = (index for index, letter in enumerate(path) if letter == ".")
    inner = (claim(claims.get(path[:dot]), path[dot + 1 :]) for dot in dots)
    return next((value for value in inner if value is not None), None)


def _words(value: Any) -> list[str]:
    """Of a list of texts, or of one text with spaces between, as `scope` has it (RFC 8693 4.2)."""
    if isinstance(value, str):
        return value.split()
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
