"""What goes on of a trace, and what it is called."""

import pytest

from hermes.policy.trace import lines, trace_id

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
    assert trace_id(b"x-hermes-hop: abc\r\n" + found) == (ID if passed else "")
