"""The door: what is refused before anybody asks who is there.

A web page can make its visitor's browser send requests to loopback; it cannot choose their Host (other than by a name
of its own that resolves here: DNS rebinding) nor leave out their Origin. So both are checked, on every path (I22): the
Host is one of ours, and the Origin is that Host or one that is let in. Only what it has fetched as an image, a frame or
the like has no Origin: that is refused where not everybody may ask, by what browsers say of it themselves.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address

from hermes.api.cors import Cors
from hermes.errors import BadRequest, Forbidden, LoopDetected, UnsupportedEncoding
from hermes.http.request import Head

HOP_HEADER = b"x-hermes-hop"
# A chain of sidecar, gateway and a second gateway is plausible; longer ones are a mistake.
MAX_HOPS = 4
# What passes is sent on to the backend (invariant I11): names as we make them, or as other gateways might.
_are_hops = re.compile(rb"[\w.-]{1,64}(?:[ \t]*,[ \t]*[\w.-]{1,64})*").fullmatch
# What can be told back to whoever sent it.
_is_plain_name = re.compile(r"[a-z0-9._-]{1,100}", re.ASCII).fullmatch

# https://www.w3.org/TR/fetch-metadata/: another port of the same name is the same site.
_OF_OTHERS = (b"cross-site", b"same-site")
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain")


class Door:
    """`hosts` are names besides loopback's, without a port."""

    def __init__(self, hosts: Iterable[str], cors: Cors, instance: str) -> None:
        self._instance = instance.encode("ascii")
        self._first_hop = b"%b: %b\r\n" % (HOP_HEADER, self._instance)
        self._known: set[bytes] = set()  # Host values that passed: nearly all requests bring the same few
        self.adopt(hosts, cors)

    def adopt(self, hosts: Iterable[str], cors: Cors) -> None:
        """These are let in from now on. Whoever has concluded something from a head forgets it: `Server.forget`."""
        self._hosts = frozenset(name.lower().strip("[]") for name in (*_LOOPBACK_NAMES, *hosts))
        self.cors = cors
        self._known.clear()

    def check(self, head: Head) -> None:
        """Raises Forbidden, UnsupportedEncoding, LoopDetected or BadRequest."""
        headers = head.headers
        host = headers.get(b"host", b"")
        if host not in self._known:
            self._check_host(host)
        if b"origin" in headers and not (_is_own(headers[b"origin"], host) or self.cors.admits(headers[b"origin"])):
            raise Forbidden(
                "requests from this web origin are not allowed; an operator can list it in server.cors.origins",
                code="origin_not_allowed",
            )
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedEncoding("request bodies must not be compressed")
        if HOP_HEADER in headers:
            self._check_hops(headers[HOP_HEADER])

    def check_site(self, head: Head) -> None:
        """Raises Forbidden for what another page has in itself. Whoever follows a link from there may come in."""
        headers = head.headers
        if (
            headers.get(b"sec-fetch-site") in _OF_OTHERS
            and headers.get(b"sec-fetch-dest") != b"document"
            and b"origin" not in headers  # one that was let in
        ):
            raise Forbidden("other web pages may not have this in them", code="origin_not_allowed")

    def hop_line(self, request_hops: bytes | None) -> bytes:
        """The header line that marks what we send to backends: the hops so far, and this one."""
        if request_hops is None:
            return self._first_hop
        return b"%b: %b, %b\r\n" % (HOP_HEADER, request_hops, self._instance)

    def _check_host(self, host: bytes) -> None:
        name = host_name(host.decode("latin-1"))
        # An address cannot be rebound: a page loaded from it is of that origin already.
        if name not in self._hosts and not _is_address(name):
            told = f"the Host {name}" if _is_plain_name(name) else "this Host"
            raise Forbidden(
                f"{told} is not allowed; an operator can list it in server.allowed_hosts", code="host_not_allowed"
            )
        if len(self._known) < 1000:
            self._known.add(host)

    def _check_hops(self, value: bytes) -> None:
        if not _are_hops(value):
            raise BadRequest("the hop header is malformed", code="malformed_hops")
        hops = [hop.strip() for hop in value.split(b",")]
        if self._instance in hops or len(hops) > MAX_HOPS:
            raise LoopDetected("this request has been here before: a backend's URL points back at Hermes")


def _is_own(origin: bytes, host: bytes) -> bool:
    """Whether a page is from where it asks, the dashboard that is: its Host, which is one of ours, is its origin too.

    Be it http or https: somebody else's TLS may be in front of us.
    """
    scheme, _, name = origin.lower().partition(b"://")
    return scheme in (b"http", b"https") and name == host.lower()


def host_name(host: str) -> str:
    """The name in a Host value, lower-case, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
