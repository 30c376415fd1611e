"""How sizes, times and addresses are written. Each reader raises ValueError for what it cannot read."""

import re
import shlex
from datetime import UTC, datetime

MAX_MOMENT = 253_402_300_799  # the last second of the year 9999
MAX_SECONDS = 31_536_000  # a year: more is a slip of the pen, and timers take it

# In a command and its url: the free port that was found for it.
PORT = "${PORT}"

# The texts that the readers below take, as JSON Schema's patterns for editors (ECMA 262): no less than they do.
_SIZE = r"[0-9]+(\.[0-9]+)? ?(([kKmMgGtT][iI]?)?[bB])?"
SIZE = rf"^\s*{_SIZE}\s*$"
COST = rf"^(low|medium|high|\s*{_SIZE}\s*)$"
TIME = r"^\s*[0-9]+(\.[0-9]+)? ?([mM]?[sS]|[mMhH])?\s*$"
MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2}))?$"
URL = r"^(https?|(http\+)?unix)://[^\s?#@]+$"
HEX64 = "^[0-9A-Fa-f]{64}$"

# A bare "24G" means 10^9 to some and 2^30 to others: not accepted.
_SIZES = {"b": 1}
_SIZES |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}
_SIZES |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}
_TIMES_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_QUANTITY = re.compile(r"(\d{1,20})(?:\.(\d{1,9}))?[ ]?([A-Za-z]{0,3})", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
# RFC 3339 5.6: always with its offset
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_TCP_URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^\s/:@?#\[\]%]+)(?::(\d{1,5}))?(/[^\s?#]*)?", re.ASCII)
_UNIX_URL = re.compile(r"(?:http\+)?unix://(/|%2[Ff])([^\s?#]+)", re.ASCII)


def _quantity(text: str, units: dict[str, int]) -> tuple[int, int]:
    """The number as a fraction, with its unit multiplied in: exact, where a float would not be."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[3].lower() not in units:
        raise ValueError(text)
    fraction = match[2] or ""
    return int(match[1] + fraction) * units[match[3].lower()], 10 ** len(fraction)


def parse_size(text: str) -> int:
    """Bytes in `24GiB`, `512MB`, `1.5 GiB` or `1024`."""
    amount, scale = _quantity(text, _SIZES | {"": 1})
    if amount % scale:
        raise ValueError(f"{text} is not a whole number of bytes")
    return amount // scale


def format_size(size: int) -> str | int:
    """The shortest way to write a size that reads back as the same."""
    for unit, letters in ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{letters}"
    return size


def parse_seconds(text: str) -> float:
    """Seconds in `500ms`, `30s`, `5m`, `2h` or `30`."""
    amount, scale = _quantity(text, _TIMES_MS | {"": 1000})
    return amount / (scale * 1000)


def parse_moment(text: str) -> float:
    """Unix seconds of an RFC 3339 time, or of the first moment of a day (UTC)."""
    if _DAY.fullmatch(text):
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    if _MOMENT.fullmatch(text):
        return datetime.fromisoformat(text.upper()).timestamp()
    raise ValueError(text)


def format_moment(at: float) -> str:
    """As it reads back."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def parse_cost(text: str) -> str | int:
    return text if text in ("low", "medium", "high") else parse_size(text)


def parse_command(text: str) -> str:
    """As it stands, if it has a first word, and an end to every quotation. Raises ValueError."""
    if not shlex.split(text):
        raise ValueError(text)
    return text


def parse_url(text: str) -> str:
    """A backend's address in its one spelling: `http(s)://host[:port][/prefix]` or `unix:///path`."""
    if PORT in text:  # some port, for now
        return parse_url(text.replace(PORT, "1", 1)).replace(":1", f":{PORT}", 1)
    if (unix := _UNIX_URL.fullmatch(text)) is not None:
        return "unix:///" + re.sub("%2[Ff]", "/", unix[2])
    match = _TCP_URL.fullmatch(text)
    if match is None or not 0 < int(match[3] or 1) <= 65535:
        raise ValueError(text)
    port = f":{int(match[3])}" if match[3] else ""
    return f"{match[1]}://{match[2]}{port}{(match[4] or '').rstrip('/')}"


# --- OLLAMA_HOST ----------------------------------------------------------------------------------------------------


def ollama_url(text: str) -> str:
    """Where a client finds the Ollama that OLLAMA_HOST speaks of, by Ollama's own rules (its envconfig.Host).

    The scheme may be missing, and so may host and port: 127.0.0.1 and 11434, but 80 or 443 after a scheme. A port
    that is none is replaced by that default. 0.0.0.0, :: and an empty host are where it listens: loopback to a client.
    Raises ValueError, more often than Ollama: for other schemes, and where credentials are in it.
    """
    text = text.strip().strip("\"'").strip()
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = ("https", "ollama.com:443") if text == "ollama.com" else ("http", text)
    default_port = {"http": "80", "https": "443"}.get(scheme, "11434") if found else "11434"
    hostport, _, path = rest.partition("/")
    if "@" in hostport:
        raise ValueError("credentials")
    host, port = _split_host_port(hostport, default_port)
    return parse_url(f"{scheme}://{_connectable(host)}:{port}/{path}")


def _split_host_port(hostport: str, default_port: str) -> tuple[str, str]:
    """Go's net.SplitHostPort, then the whole as a host where that fails: a bare IPv6 address needs no brackets."""
    match = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([^:\[\]]*)", hostport)
    if match is None:
        return hostport.strip("[]"), default_port
    # port 0 lets a server choose: no client can know what it chose
    usable = re.fullmatch(r"\d{1,5}", match[3], re.ASCII) and 0 < int(match[3]) <= 65535
    return match[1] or match[2] or "", match[3] if usable else default_port


def _connectable(host: str) -> str:
    """The address for a client. Ollama listens on 0.0.0.0 where it is given no host."""
    import ipaddress

    try:
        address = ipaddress.ip_address(host or "0.0.0.0")  # noqa: S104
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"
