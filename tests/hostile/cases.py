"""What no honest client sends: bytes for a socket, and the answer that they must get. None of it reaches a backend.

Whatever is refused before it is a request at all (framing above all,
    by RFC 9112) stands in tests/http/test_requests, as
REFUSED; here is what a whole Hermes has to see through, and smuggling with something worth smuggling.
"""

import json
from base64 import b64encode
from typing import Any

from msgspec import Struct

KEY = b"authorization: Bearer sk-ann\r\n"
HOST = b"host: localhost\r\n"
SAY = {"model": "gemma", "messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/v1/chat/completions"
LENGTH = b"content-length: %d\r\n"


class Case(Struct, frozen=True):
    """`code`: of the error; "": it is none. `closes`: no more is read from its connection."""

    name: str
    sent: bytes
    status: int
    code: str = ""
    closes: bool = False


def post(body: bytes, path: str = CHAT, head: bytes = HOST + KEY) -> bytes:
    return b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (path.encode("latin-1"), head, len(body), body)


def get(path: str, head: bytes = HOST + KEY) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (path.encode("latin-1"), head)


def say(**changed: Any) -> bytes:
    return json.dumps(SAY | changed).encode()


WHOLE = post(say())
HIDDEN = b"0\r\n\r\n" + WHOLE


def smuggling(name: str, *lines: bytes, body: bytes = HIDDEN, code: str = "malformed_http") -> Case:
    """A request with a second one where only who reads these lines otherwise would find it."""
    head = b"".join(line + b"\r\n" for line in lines)
    return Case(name, b"POST %b HTTP/1.1\r\n%b%b\r\n%b" % (CHAT.encode(), HOST + KEY, head, body), 400, code, True)


CL, TE = b"Content-Length: %d" % len(HIDDEN), b"Transfer-Encoding: chunked"
CODING = "unsupported_transfer_encoding"
SMUGGLED = [
    smuggling("a length, then chunks", CL, TE),
    smuggling("chunks, then a length", TE, CL),
    smuggling("a length of 0, then chunks", b"Content-Length: 0", TE),
    smuggling("chunks after a tab, and a length", CL, b"Transfer-Encoding:\tchunked"),
    smuggling("chunks in capitals, and a length", CL, b"TRANSFER-ENCODING: CHUNKED"),
    smuggling("chunks after a vertical tab", b"Transfer-Encoding: \x0bchunked"),
    smuggling("chunks after a form feed", b"Transfer-Encoding: \x0cchunked"),
    smuggling("chunks before a NUL", b"Transfer-Encoding: chunked\0"),
    smuggling("chunks in quotes", b'Transfer-Encoding: "chunked"', code=CODING),
    smuggling("chunks with a parameter", b"Transfer-Encoding: chunked;q=1", code=CODING),
    smuggling("chunks, misspelled", b"Transfer-Encoding: chunke", code=CODING),
    smuggling("chunks before a comma", b"Transfer-Encoding: chunked,"),
    smuggling("chunks after a comma", b"Transfer-Encoding: ,chunked", code=CODING),
    smuggling("no coding", b"Transfer-Encoding:"),
    smuggling("a coding behind a folded line", b"Transfer-Encoding:", b" chunked"),
    smuggling("a coding behind a blank in its name", b"Transfer-Encoding : chunked"),
    smuggling("a coding behind a bare CR", b"X: a\rTransfer-Encoding: chunked"),
    smuggling("a coding behind a bare LF", b"X: a\nTransfer-Encoding: chunked"),
    smuggling("a coding behind a NUL", b"X: a\0\r\nTransfer-Encoding: chunked"),
    smuggling("a length in digits of another script", b"Content-Length: \xd9\xa3"),
    smuggling("a length with an underscore", b"Content-Length: 1_0"),
    smuggling("a length with an exponent", b"Content-Length: 1e1"),
    smuggling("a length with a point", b"Content-Length: 5.0"),
    smuggling("a length with blanks inside", b"Content-Length: 5 5"),
    smuggling("a length with a comma", b"Content-Length: 5,"),
    smuggling("a length with a semicolon", b"Content-Length: 5;"),
    smuggling("two lengths on two lines in two cases", CL, b"content-LENGTH: 0"),
    smuggling("a length behind a folded line", b"Content-Length:", b" 5"),
    smuggling("a chunk's size behind a NUL", TE, body=b"\x000\r\n\r\n" + WHOLE),
    smuggling("a chunk's size with a comma", TE, body=b"0,0\r\n\r\n" + WHOLE),
    smuggling("a chunk's size with an underscore", TE, body=b"0_0\r\n\r\n" + WHOLE),
    smuggling("a chunk's end that is missing", TE, body=b"3\r\nabc0\r\n\r\n" + WHOLE),
    smuggling("a last chunk that ends in bare LFs", TE, body=b"0\n\n" + WHOLE),
    smuggling("a chunk extension with a bare CR", TE, body=b"0;a\rb\r\n\r\n" + WHOLE),
    Case("a target that is another host's", get("http://evil.example/v1/models"), 400, "malformed_target", True),
    Case("a body of a GET, with a request in it", get("/v1/models", HOST + KEY + LENGTH % len(WHOLE)) + WHOLE, 200),
    Case("a request in a trailer", b"POST %b HTTP/1.1\r\n" % CHAT.encode() + HOST + KEY + TE
         + b"\r\n\r\n0\r\nPOST /v1/llm/gemma HTTP/1.1\r\n\r\n", 400, "malformed_http", True),
    Case("a credential in a trailer", b"POST %b HTTP/1.1\r\n" % CHAT.encode() + HOST + TE
         + b"\r\n\r\n%x\r\n%b\r\n0\r\n%b\r\n" % (len(say()), say(), KEY), 401, "invalid_api_key"),
]  # fmt: skip


def basic(text: str) -> bytes:
    return b"authorization: Basic %b\r\n" % b64encode(text.encode())


def of_header(name: str, *lines: bytes, status: int = 400, code: str, closes: bool = False, host: bytes = HOST) -> Case:
    return Case(name, post(say(), head=host + b"".join(lines)), status, code, closes)


HEADERS = [
    of_header("the same key twice", KEY, KEY, code="duplicate_header", closes=True),
    of_header("x-api-key twice", *[b"x-api-key: sk-ann\r\n"] * 2, code="duplicate_header", closes=True),
    of_header("api-key twice, in two cases", b"api-key: sk-ann\r\n", b"Api-KEY: sk-ann\r\n", code="duplicate_header",
              closes=True),
    of_header("two keys in two headers", KEY, b"x-api-key: sk-bob\r\n", code="ambiguous_credentials"),
    of_header("a key beside an unknown scheme", b"authorization: Digest x\r\n", b"api-key: sk-ann\r\n",
              code="ambiguous_credentials"),
    of_header("two keys in one header", b"authorization: Bearer sk-ann Bearer sk-ops\r\n",
        code="malformed_credentials"),
    of_header("Basic that is no base64", b"authorization: Basic sk-ann\r\n", code="malformed_credentials"),
    of_header("Basic without a colon", b"authorization: Basic c2stYW5u\r\n", code="malformed_credentials"),
    of_header("Basic with a NUL before the key", basic("a:\0sk-ann"), status=401, code="invalid_api_key"),
    of_header("a key with more behind it", b"authorization: Bearer sk-ann,\r\n", status=401, code="invalid_api_key"),
    of_header("a key in capitals", b"authorization: Bearer SK-ANN\r\n", status=401, code="invalid_api_key"),
    of_header("a key in a header with an underscore", b"x_api_key: sk-ann\r\n", status=401, code="invalid_api_key"),
    of_header("a key in a cookie", b"cookie: authorization=Bearer sk-ann\r\n", status=401, code="invalid_api_key"),
    of_header("a key for a proxy", b"proxy-authorization: Bearer sk-ann\r\n", status=401, code="invalid_api_key"),
    of_header("a user that a proxy is said to know", b"x-forwarded-user: ops\r\nx-remote-user: ops\r\n", status=401,
              code="invalid_api_key"),
    Case("a key in the query", post(say(), CHAT + "?api_key=sk-ann&key=sk-ann", HOST), 401, "invalid_api_key"),
    Case("a key in the target's authority", get("/v1/models", b"host: sk-ann@localhost\r\n"), 403, "host_not_allowed"),
    of_header("more headers than 100", KEY, *[b"x-%d: 1\r\n" % number for number in range(100)], status=431,
              code="headers_too_large", closes=True),
    of_header("one header again and again", KEY, *[b"x: 1\r\n"] * 101, status=431, code="headers_too_large",
        closes=True),
    of_header("a header of 33 KiB", KEY, b"x: %b\r\n" % (b"a" * 33 * 1024), status=431, code="headers_too_large",
              closes=True),
    Case("a target of 9 KiB", get("/" + "a" * 9 * 1024), 414, "uri_too_long", True),
    of_header("a body in gzip", KEY, b"content-encoding: gzip\r\n", status=415, code="unsupported_content_encoding"),
    of_header("a body in nothing and gzip", KEY, b"content-encoding: identity, gzip\r\n", status=415,
              code="unsupported_content_encoding"),
    of_header("two codings of a body", KEY, *[b"content-encoding: identity\r\n"] * 2, code="duplicate_header",
        closes=True),
    of_header("two models in headers", KEY, *[b"x-model: gemma\r\n"] * 2, code="duplicate_header", closes=True),
    of_header("two ids", KEY, *[b"x-request-id: a\r\n"] * 2, code="duplicate_header", closes=True),
    of_header("hops that end the line", KEY, b"x-hermes-hop: a\x85b\r\n", code="malformed_hops"),
    Case("a method by another header", post(say(), "/v1/models", HOST + KEY + b"x-http-method-override: GET\r\n"), 405,
         "method_not_allowed"),
    Case("a path by another header", post(say(), "/v1/nowhere", HOST + KEY + b"x-original-url: /v1/llm\r\n"), 404,
         "not_found"),
    of_header("an operator by another header", KEY, b"x-admin: true\r\n", b"origin: null\r\n", status=403,
              code="origin_not_allowed"),
    of_header("a page of somebody else's", KEY, b"origin: https://evil.example\r\n", status=403,
        code="origin_not_allowed"),
    of_header("a page on this machine", KEY, b"origin: http://localhost:8080\r\n", status=403,
        code="origin_not_allowed"),
    of_header("two origins", KEY, *[b"origin: https://a\r\n"] * 2, code="duplicate_header", closes=True),
]  # fmt: skip

REBOUND = [
    of_header(f"the Host {host!r}", KEY, host=b"host: %b\r\n" % host, status=403, code="host_not_allowed")
    for host in (
        b"evil.example", b"localhost.evil.example", b"127.0.0.1.evil.example", b"evil.example:4000", b"",
            b"localhost..",
        b"localhost@evil.example", b"evil.example#localhost", b"localhost/evil.example", b"localhost, evil.example",
        b"%6cocalhost", b"0x7f000001", b"2130706433", b"127.1", b"0177.0.0.1", b"::1", b"[evil.example]", b"_localhost",
        b"local\xadhost", b"l\xc3\xb6calhost", b".localhost", b"localhost evil", b"*", b"null",
    )
]  # fmt: skip


def of_path(path: str, status: int = 400, code: str = "invalid_value", method: str = "GET") -> Case:
    sent = get(path) if method == "GET" else post(b'{"prompt": "Hi"}', path)
    return Case(f"{method} {path[:60]}", sent, status, code)


PATHS = [
    *(of_path(path, 404, "not_found") for path in (
        "/v1/../metrics", "/v1/./models", "//v1/models", "/v1//models", "/V1/models", "/v1/models%20", "/%761/models",
        "/v1%2fmodels", "/v1/chat/completions/", "/metrics/", "/%6detrics", "/metrics%00", "/metrics;a", "/metrics..",
        "/admin", "/debug/pprof/", "/.env", "/api/blobs/sha256:0", "/v1\\models",
    )),
    *(of_path(f"/v1/models/{name}") for name in (
        "..%2f..%2fetc%2fpasswd", "%2e%2e", "..", "../gemma", "a/../gemma", "%252e%252e", "a%252fb", "a%00b",
        "a%0d%0ax:1",
        "a%0Ab", "%ff", "%c0%ae%c0%ae", "a\\b", "%5c", "%", "%zz", "a;b", "a&b", "a*", "%20gemma", "gemma%20", "/gemma",
        ".gemma", "-gemma", "gemma/", "a" * 201, "%e2%80%ae", "%7b%7d", "$(id)", "'--", "%3cscript%3e",
    )),
    of_path("/v1/llm//pull", method="POST"),
    of_path("/v1/llm/a/..", method="POST"),
    of_path("/v1/llm/..%2fgemma", method="POST"),
    of_path("/v1/llm/gemma%2f", method="POST"),
    of_path("/v1/llm/gemma?model=phi", method="POST"),
    of_path("/v1/llm?model=gemma&model=phi", method="POST"),
    of_path("/v1/llm/gemma/pull", 403, "admin_only", "POST"),
    of_path("/v1/llm/gemma%2fpull", 404, "model_not_found", "POST"),
    of_path("/metrics", 403, "admin_only"),
    of_path("/v1/queue/..%2f..%2fmetrics", 404, "request_not_found"),
    of_path("/v1/requests/%00", 404, "request_not_found"),
]  # fmt: skip


def of_body(name: str, body: bytes | str, code: str = "invalid_json", path: str = CHAT, status: int = 400) -> Case:
    return Case(name, post(body.encode() if isinstance(body, str) else body, path), status, code)


REST = '"messages":[{"role":"user","content":"Hi"}]}'
GEMMA = '{"model":"gemma",'
BODIES = [
    of_body("no body", b""),
    of_body("blanks", b"  \r\n\t "),
    of_body("a list", "[" + say().decode() + "]"),
    of_body("a text", '"gemma"'),
    of_body("null", "null"),
    of_body("cut off", say()[:-1]),
    of_body("two bodies", say() + say()),
    of_body("something behind it", say() + b"\0"),
    of_body("a byte order mark", b"\xef\xbb\xbf" + say()),
    of_body("UTF-16", say().decode().encode("utf-16")),
    of_body("UTF-32", say().decode().encode("utf-32-le")),
    of_body("a comment", GEMMA + "/* x */" + REST),
    of_body("a comma too many", '{"model":"gemma",' + REST[:-1] + ",}"),
    of_body("single quotes", "{'model':'gemma'}"),
    of_body("a name without quotes", "{model:1}"),
    of_body("a raw line break in a text", GEMMA + '"user":"a\nb",' + REST),
    of_body("a raw NUL in a text", GEMMA + '"user":"a\0b",' + REST),
    of_body("an unknown escape", GEMMA + r'"user":"\x41",' + REST),
    of_body("half an escape", GEMMA + r'"user":"\u12",' + REST),
    of_body("half of a pair", GEMMA + r'"user":"\ud800",' + REST),
    of_body("the wrong half first", GEMMA + r'"user":"\udc00\ud800",' + REST),
    of_body("a byte that is no UTF-8", (GEMMA + '"user":"').encode() + b"\xff" + ('",' + REST).encode()),
    of_body("an overlong slash", (GEMMA + '"user":"').encode() + b"\xc0\xaf" + ('",' + REST).encode()),
    of_body("a surrogate in UTF-8", (GEMMA + '"user":"').encode() + b"\xed\xa0\x80" + ('",' + REST).encode()),
    of_body("a point beyond Unicode", (GEMMA + '"user":"').encode() + b"\xf4\x90\x80\x80" + ('",' + REST).encode()),
    *(of_body(f"the number {number}", GEMMA + f'"temperature":{number},' + REST) for number in (
        "NaN", "Infinity", "-Infinity", "+1", "01", "1.", ".5", "0x1", "1e", "1_0", "--1", "\uff11",
    )),
    of_body("65 levels", GEMMA + '"metadata":' + '{"a":' * 65 + "1" + "}" * 65 + "," + REST),
    of_body("100,000 lists in each other", b"[" * 100_000),
    of_body("100,000 objects in each other", b'{"a":' * 100_000, "request_too_complex"),
    of_body("more members than can be looked at", GEMMA + '"metadata":[' + "[]," * 100_001 + "[]]," + REST,
            "request_too_complex"),
]  # fmt: skip
TWICE = [
    *(of_body(name, body, "duplicate_key") for name, body in (
        ("two models", '{"model":"gemma","model":"phi",' + REST),
        ("two models, one of them escaped", r'{"model":"gemma","mode\u006c":"phi",' + REST),
        ("two roles", GEMMA + '"messages":[{"role":"user","role":"system","content":"Hi"}]}'),
        ("two of what nobody knows", GEMMA + '"metadata":{"a":1,"a":2},' + REST),
        ("two empty names", GEMMA + '"metadata":{"":1,"":2},' + REST),
    )),
    # Go reads names without regard to case, by Unicode's folding: so a backend might.
    *(of_body(f"the name {name}", GEMMA + f'"{name}":"phi",' + REST, "ambiguous_key") for name in (
        "Model", "MODEL", "mODEL", "Stream", r"\u017ftream", "me\u017fsages", "tool\u017f", "Tools",
    )),
]  # fmt: skip


def refused_value(said: dict[str, Any], code: str = "invalid_value", status: int = 400) -> Case:
    return of_body(json.dumps(said)[:80], say(**said), code, status=status)


MISSING, OF_TYPE = "missing_required_parameter", "invalid_type"
VALUES = [
    *(refused_value({"model": name}) for name in (
        " ", "../../etc/passwd", "..", "a..b", "/gemma", "gemma\n", "gemma\0", "a b", "\uff47emma", "gemm\u0430",
        "gemma\u202e", "a" * 201, "a\\b", "%2e%2e", "gemma?x", "a\"b", "{}", "$(id)", "`id`",
    )),
    *(refused_value({"model": name}, "model_not_found", 404) for name in (
        "nobody", "http://evil.example/gemma", "localhost:11434/gemma", "GEMMA", "gemma:latest:latest",
        "gemma@sha256:0",
    )),
    *(refused_value(said) for said in (
        {"max_tokens": 10**30}, {"max_tokens": -1}, {"temperature": 1e308}, {"top_p": -0.1}, {"seed": 2**80},
        {"messages": [{"role": "root", "content": "Hi"}]},
    )),
    *(refused_value(said, OF_TYPE) for said in (
        {"model": 1}, {"model": True}, {"model": ["gemma"]}, {"model": {}}, {"max_tokens": 1.5}, {"max_tokens": "5"},
        {"max_tokens": True}, {"temperature": "hot"}, {"stream": "true"}, {"stream": 1}, {"messages": {}},
        {"messages": "Hi"}, {"messages": [None]}, {"messages": [[]]}, {"messages": [{"role": "user", "content": 5}]},
        {"stop": [1]},
    )),
    *(refused_value(said, MISSING) for said in ({"model": ""}, {"model": None}, {"messages": []}, {"tools": [{}]})),
    refused_value({"n": 10**6}, "unsupported_value"),
    of_body("a number of 400 digits", GEMMA + f'"max_tokens":{"9" * 400},' + REST, "invalid_value"),
    of_body("a number beyond floats", GEMMA + '"temperature":1e999,' + REST),
]  # fmt: skip


def image(url: str, code: str = "invalid_image_url") -> Case:
    part = {"type": "image_url", "image_url": {"url": url}}
    return of_body(f"an image at {url[:50]}", say(messages=[{"role": "user", "content": [part]}]), code)


FETCHED = [
    image(url)
    for url in (
        "http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "gopher://localhost:11434/", "//localhost/x",
        "http://[::1]:11434/api/tags", "data:text/html,<script>", "", "data:",
    )
] + [image("data:image/png;base64,???", "invalid_base64")]  # fmt: skip
TOO_LONG = [
    Case("a body longer than may be", b"POST %b HTTP/1.1\r\n" % CHAT.encode() + HOST + KEY
         + b"content-length: 10485761\r\n\r\n", 413, "request_too_large", True),
]  # fmt: skip

CASES = [*SMUGGLED, *HEADERS, *REBOUND, *PATHS, *BODIES, *TWICE, *VALUES, *FETCHED, *TOO_LONG]
