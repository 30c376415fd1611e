"""What goes on of a trace, and what it is called."""

import pytest

from hermes.policy.trace import Context, context, is_in_share, lines, trace_id, without

ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{ID}-{PARENT}-01"


@pytest.mark.parametrize(
    ("headers", "passed"),
    [
        ({}, ""),
        ({"traceparent": GOOD}, f"traceparent: {GOOD}\r\n"),
        ({"traceparent": GOOD, "tracestate": "a=1,b=2"}, f"traceparent: {GOOD}\r\ntracestate: a=1,b=2\r\n"),
        ({"traceparent": GOOD, "tracestate": ""}, f"traceparent: {GOOD}\r\n"),
        ({"traceparent": GOOD, "tracestate": "a=" + "1" * 511}, f"traceparent: {GOOD}\r\n"),
        ({"tracestate": "a=1"}, ""),
        ({"traceparent": f"01-{ID}-{PARENT}-00-more"}, f"traceparent: 01-{ID}-{PARENT}-00-more\r\n"),
        ({"traceparent": f"{GOOD}-more"}, ""),
        ({"traceparent": f"ff-{ID}-{PARENT}-01"}, ""),
        ({"traceparent": f"00-{'0' * 32}-{PARENT}-01"}, ""),
        ({"traceparent": f"00-{ID}-{'0' * 16}-01"}, ""),
        ({"traceparent": GOOD.upper()}, ""),
        ({"traceparent": GOOD[:-1]}, ""),
        ({"traceparent": f"{GOOD}, {GOOD}"}, ""),
    ],
)
def test_a_trace_goes_on_as_it_came_and_what_is_none_does_not(headers: dict[str, str], passed: str) -> None:
    found = lines({name.encode(): value.encode() for name, value in headers.items()})
    assert found == passed.encode()
    assert trace_id(b"x-hermes-hop: traceparent, abc\r\n" + found) == (ID if passed else "")


@pytest.mark.parametrize(
    ("parent", "sampled"), [(GOOD, True), (f"00-{ID}-{PARENT}-00", False), (f"cc-{ID}-{PARENT}-03-what-may-come", True)]
)
@pytest.mark.parametrize("state", ["", "a=1,b=2"])
def test_a_child_knows_its_parent_and_names_it_by_the_version_that_we_know(
    parent: str, sampled: bool, state: str
) -> None:
    hops = b"x-hermes-hop: traceparent, abc\r\n"  # each names itself as it likes
    told = hops + lines({b"traceparent": parent.encode(), b"tracestate": state.encode()})
    found = context(told)
    assert found == Context(ID, PARENT, sampled, state.encode())
    again = f"traceparent: 00-{ID}-{PARENT}-0{int(sampled)}\r\n" + (f"tracestate: {state}\r\n" if state else "")
    assert found.lines == again.encode() and context(found.lines) == found
    assert without(told) == hops == without(hops)


def test_without_a_trace_there_is_no_parent() -> None:
    assert context(b"") is None and context(b"x-hermes-hop: traceparent, abc\r\n") is None


@pytest.mark.parametrize("hop", ["traceparent", "traceparent-", "a, traceparent", "tracestate"])
def test_a_hop_may_have_the_name_of_a_header(hop: str) -> None:
    hops = f"x-hermes-hop: {hop}, abc\r\n".encode()
    assert (context(hops), trace_id(hops), without(hops)) == (None, "", hops)
    told = hops + lines({b"traceparent": GOOD.encode()})
    assert (context(told), trace_id(told), without(told)) == (Context(ID, PARENT, True), ID, hops)


@pytest.mark.parametrize(
    ("last", "share", "told"),
    [
        ("0000000000000000", 0.0, False),
        ("0000000000000000", 1e-9, True),
        ("7fffffffffffffff", 0.5, True),
        ("8000000000000000", 0.5, False),
        ("ffffffffffffffff", 0.999999, False),
        ("ffffffffffffffff", 1.0, True),
    ],
)
def test_the_last_bytes_of_its_id_decide_whether_a_trace_is_told(last: str, share: float, told: bool) -> None:
    for first in ("0" * 16, "f" * 16):
        assert is_in_share(first + last, share) is told
