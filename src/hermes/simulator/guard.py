"""Who may ask, as Ollama has it on loopback: no foreign names in Host, no web pages from elsewhere."""

import ipaddress
import re
import socket

from hermes.http.request import Request

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
# envconfig.AllowedOrigins: pages served by this machine, and applications with a scheme of their own.
_LOCAL_ORIGIN = re.compile(
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:\d+)?|(app|file|tauri|vscode-webview|vscode-file)://.*"
)


def may_ask(request: Request, on_loopback: bool) -> bool:
    """A server that listens to other machines cannot know what they call it: there any Host will do."""
    return (not on_loopback or _host_is_local(request.header(b"host"))) and _origin_is_local(request)


def is_local(host: str) -> bool:
    """Only this machine reaches an address like that."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_is_local(host: str) -> bool:
    """server/routes.go, allowedHostsMiddleware: addresses of private networks, and names that only mean this one."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](:\d+)?", host)
    name = bracketed[1] if bracketed else host.partition(":")[0]
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        lowered = name.lower()
        return lowered in ("", "localhost", socket.gethostname().lower()) or lowered.endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified


def _origin_is_local(request: Request) -> bool:
    origin = request.header(b"origin")
    same = origin in (f"{scheme}://{request.header(b'host')}" for scheme in ("http", "https"))
    return not origin or same or _LOCAL_ORIGIN.fullmatch(origin) is not None
