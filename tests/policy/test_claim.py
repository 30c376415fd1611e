"""What a request's head says of its urgency, and of its session."""

from math import inf

import pytest

from hermes.errors import BadRequest
from hermes.policy.cache import Terms
from hermes.policy.claim import MAX_ONCE_BYTES, NO_CLAIM, Claim, Reuse, read
from hermes.principal import Class


@pytest.mark.parametrize(
    ("headers", "claim"),
    [
        ({}, NO_CLAIM),
        ({"x-hermes-class": "interactive"}, Claim(urgency=Class.INTERACTIVE)),
        ({"x-hermes-class": "Batch"}, Claim(urgency=Class.BATCH)),
        ({"x-app": "cli-bg"}, Claim(background=True)),
        ({"x-app": "cli"}, NO_CLAIM),
        ({"x-hermes-deadline-ms": "1500"}, Claim(within_s=1.5)),
        ({"x-request-timeout": "2.5"}, Claim(within_s=2.5)),
        ({"x-hermes-deadline-ms": "9000", "x-request-timeout": "4"}, Claim(within_s=4.0)),
        ({"x-stainless-read-timeout": "600"}, Claim(whole_within_s=600.0)),
        ({"x-session-id": "a", "x-conversation-id": "b"}, Claim(session=b"a")),
        ({"x-session-id": "a", "x-hermes-session": "b"}, Claim(session=b"b")),
        ({"x-session-id": ""}, NO_CLAIM),
        ({"x-stainless-timeout": "60", "x-stainless-read-timeout": "30"}, Claim(whole_within_s=30.0)),
        ({"cache-control": "max-age=0"}, Claim(reuse=Reuse(Terms(max_age_s=0.0)))),
        ({"cache-control": "max-stale"}, NO_CLAIM),
        ({"idempotency-key": "abc"}, Claim(reuse=Reuse(once=b"abc"))),
        ({"idempotency-key": ""}, NO_CLAIM),
        ({"x-stainless-retry-count": "0"}, NO_CLAIM),
        ({"x-stainless-retry-count": "not-given"}, NO_CLAIM),
        ({"x-stainless-retry-count": "2"}, Claim(reuse=Reuse(again=True))),
    ],
)
def test_a_head_says_how_urgent_its_request_is_and_of_which_session(headers: dict[str, str], claim: Claim) -> None:
    assert read({name.encode(): value.encode() for name, value in headers.items()}) == claim


@pytest.mark.parametrize("said", ["", "urgent", "0", "interactive,batch", "\xff"])
def test_a_class_that_there_is_not_is_refused(said: str) -> None:
    with pytest.raises(BadRequest, match="x-hermes-class must be interactive, normal or batch"):
        read({b"x-hermes-class": said.encode("latin-1")})


@pytest.mark.parametrize("said", ["", "0", "-1", "1.5", "1e3", "soon", "86400001", "9" * 100, "\xb2", "0" * 5000 + "1"])
def test_a_deadline_that_is_none_is_refused(said: str) -> None:
    with pytest.raises(BadRequest, match="x-hermes-deadline-ms must be a whole number"):
        read({b"x-hermes-deadline-ms": said.encode("latin-1")})


@pytest.mark.parametrize("said", ["", "not-given", "None", "-1", "0", "nan", "inf", "1e400", "\xff"])
@pytest.mark.parametrize("name", [b"x-request-timeout", b"x-stainless-read-timeout", b"x-stainless-timeout"])
def test_what_makes_no_sense_in_others_headers_is_as_if_not_said(name: bytes, said: str) -> None:
    claim = read({name: said.encode("latin-1")})
    assert (claim.within_s, claim.whole_within_s) == (inf, inf)


def test_an_idempotency_key_that_is_too_long_is_refused() -> None:
    assert read({b"idempotency-key": b"x" * MAX_ONCE_BYTES}).reuse == Reuse(once=b"x" * MAX_ONCE_BYTES)
    with pytest.raises(BadRequest, match="longer than 255"):
        read({b"idempotency-key": b"x" * (MAX_ONCE_BYTES + 1)})
