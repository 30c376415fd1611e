"""From claims to a principal: roles, rights of the token's own, and the examples of the page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hermes.config import Config, Issuer
from hermes.config.build import build
from hermes.config.rules import check
from hermes.errors import Forbidden, InvalidToken
from hermes.oidc.rights import claim, principal
from hermes.oidc.token import Token
from hermes.principal import Allowance, Class, Principal
from tests.fakes import issuer
from tests.fakes.issuer import claims, header, sign

PAGE = (Path(__file__).parents[2] / "docs" / "jwt.md").read_text()


def configured(text: str) -> Issuer:
    tree = {"backends": [{"name": "a", "url": "http://a"}], **yaml.safe_load(text)}
    config: Config = build(tree)
    check(config)
    return config.jwt[0]


def who(said: dict[str, Any], **section: Any) -> Principal:
    section = issuer.config(jwks_file="/k", **section)
    written = sign(header(), claims(**said))
    return principal(Token(written.encode()), configured(json.dumps({"jwt": [section]})), "normal", 7.0)


def test_a_token_without_a_word_of_rights_is_an_ordinary_user() -> None:
    asked = who({"sub": "alice"})
    assert asked == Principal("jwt:team:2bd806c97f0e", "team:alice", admin=False, expires_at=7.0)


ROLES: dict[str, Any] = {
    "ops": {"admin": True, "weight": 5},
    "people": {"models": ["qwen*"], "rpm": 60, "tpm": 1000, "concurrency": 2, "max_class": "normal"},
}


@pytest.mark.parametrize(
    ("groups", "rights"),
    [
        (["ops"], {"admin": True, "weight": 5.0}),
        (["people", "ops"], {"admin": True, "weight": 5.0}),
        ("staff ops", {"admin": True, "weight": 5.0}),
        (
            ["x", "people"],
            {"models": ("qwen*",), "ceiling": Class.NORMAL, "allowance": Allowance(rpm=60, tpm=1000, concurrency=2)},
        ),
    ],
)
def test_the_first_listed_role_that_a_token_has_counts(groups: Any, rights: dict[str, Any]) -> None:
    asked = who({"groups": groups}, claims={"roles": "groups"}, roles=ROLES)
    assert {name: getattr(asked, name) for name in rights} == rights
    assert asked.admin == rights.get("admin", False)


@pytest.mark.parametrize("groups", [None, [], "", "opsx", ["OPS"], [["ops"]], {"ops": True}, 5, ["*"]])
def test_where_roles_are_listed_a_token_needs_one(groups: Any) -> None:
    with pytest.raises(Forbidden):
        who({"groups": groups}, claims={"roles": "groups"}, roles=ROLES)


def test_everybody_has_the_last_role() -> None:
    roles = {**ROLES, "*": {"usual_class": "batch"}}
    assert who({}, claims={"roles": "groups"}, roles=roles).usual is Class.BATCH
    assert who({}, roles={"*": {"rpm": 5}}).allowance.rpm == 5


def test_what_a_token_says_itself_goes_before_its_role() -> None:
    asked = who(
        {"groups": "people", "own": {"rpm": 5, "models": "a b", "class": "batch", "admin": True}},
        claims={
            "roles": "groups",
            "rpm": "own.rpm",
            "models": "own.models",
            "max_class": "own.class",
            "admin": "own.admin",
        },
        roles=ROLES,
    )
    assert (asked.models, asked.ceiling, asked.usual, asked.admin) == (("a", "b"), Class.BATCH, Class.BATCH, True)
    assert asked.allowance == Allowance(rpm=5, tpm=1000, concurrency=2)


@pytest.mark.parametrize(
    ("right", "value"),
    [
        ("admin", "true"), ("admin", 1), ("admin", "false"), ("models", []), ("models", ""), ("models", {"a": 1}),
        ("models", ["../x y"]), ("max_class", "urgent"), ("max_class", 0), ("weight", 0), ("weight", "5"), ("rpm", 0),
        ("rpm", -1), ("rpm", "60"), ("rpm", 1.5), ("rpm", True), ("tpm", 10**30), ("concurrency", [1]),
    ],
)  # fmt: skip
def test_a_right_that_is_no_good_value_lets_nobody_in(right: str, value: Any) -> None:
    """Never more than was meant: neither the role's instead, nor all."""
    with pytest.raises(InvalidToken):
        who({"own": value}, claims={right: "own"})


@pytest.mark.parametrize("tenant", [None, "", 5, ["alice"], "a\nb", "a\u2028b", "x" * 256])
def test_a_token_that_names_nobody_lets_nobody_in(tenant: Any) -> None:
    with pytest.raises(InvalidToken):
        who({"email": tenant}, claims={"tenant": "email"})


def test_claims_are_found_by_their_name_and_inside_of_others() -> None:
    told = {"a.b": 1, "a": {"b": 2, "c": {"d": 3}, "https://x.test/roles": 4}, "https://x.test/roles": 5}
    paths = {"a.b": 1, "a.c.d": 3, "a.https://x.test/roles": 4, "https://x.test/roles": 5}
    assert {path: claim(told, path) for path in paths} == paths
    assert [claim(told, path) for path in ("b", "a.b.c", "a.c.e", "a.", ".a", ".", "a..c", None)] == [None] * 8


EXAMPLES = re.findall(r"```yaml\n([^`]*)```\n\n```json\n([^`]*)```", PAGE)
COME_TO = {
    "keycloak": {"tenant": "keycloak:alice", "models": ("qwen3:*", "gemma3:*"), "allowance": Allowance(60, None, 2)},
    "authentik": {
        "tenant": "authentik:bob", "models": ("gemma3:4b",), "usual": Class.BATCH,
        "allowance": Allowance(daily_tokens=200_000),
    },
    "entra": {
        "tenant": "entra:00000000-0000-0000-66f3-3332eca7ea81", "ceiling": Class.NORMAL,
        "allowance": Allowance(tpm=40_000),
    },
}  # fmt: skip


def test_the_examples_of_the_page_come_to_what_it_says() -> None:
    assert len(EXAMPLES) == len(COME_TO)
    for text, said in EXAMPLES:
        section = configured(text)
        token = Token(sign(header(), said.encode()).encode())
        assert token.issuer == section.issuer
        assert token.valid_until(frozenset(section.audience), 30, now=token.claims["iat"] + 1.0) > 0
        asked = principal(token, section, "normal", 7.0)
        expected = COME_TO[section.name]
        assert {name: getattr(asked, name) for name in expected} == expected and not asked.admin
