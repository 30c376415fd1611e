"""A server of OpenAI's API as a program of its own, which starts in no time: run by `python -I -S`, not imported.

    llm_server.py --port 8000 --model qwen [--notes FILE] [--dies WORDS] [--deaf] [--stubborn] [--child] [--holds BYTES]

It streams its model's name as the answer. In FILE it notes `begins PID`, `overlaps` where the one before it is still
there, and `child PID`. What is asked with "die" in it makes it end; with "wait", it ends its answer a moment later.
With "linger" it says nothing, or with "speak" one word, until its client leaves: it notes `lingers PID` and `left PID`.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path


def option(name: str, default: str = "") -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def note(words: str) -> None:
    if notes := option("--notes"):
        with Path(notes).open("a") as file:
            file.write(words + "\n")


def is_there(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except OSError:
        return False
    return True


def begin() -> None:
    notes = Path(option("--notes", "/dev/null"))
    before = [line.split()[1] for line in notes.read_text().splitlines() if line.startswith("begins")]
    note(f"begins {os.getpid()}")
    if any(map(is_there, before)):
        note("overlaps")
    if "--stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "--child" in sys.argv:
        note(f"child {subprocess.Popen(['sleep', '100']).pid}")


def answer(said: bytes) -> bytes:
    path = said.split(b" ", 2)[1]
    if path == b"/v1/models":
        return b'{"object": "list", "data": [{"id": "/as/the/server/calls/it"}]}'
    if path != b"/v1/chat/completions":
        return b""
    if b"die" in said:
        os._exit(3)
    if b"wait" in said:
        time.sleep(0.3)
    assert b"/as/the/server/calls/it" in said
    chunk = b'data: {"choices": [{"index": 0, "delta": {"content": "%b"}, "finish_reason": "stop"}]}\n\n'
    return chunk % option("--model").encode() + b"data: [DONE]\n\n"


def linger(peer: socket.socket, speaks: bool) -> None:
    if speaks:
        chunk = b'data: {"choices": [{"index": 0, "delta": {"content": "Hel"}}]}\n\n'
        peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + chunk)
    note(f"lingers {os.getpid()}")
    peer.settimeout(10.0)
    with suppress(ConnectionError):
        peer.recv(1)
    note(f"left {os.getpid()}")
    peer.close()


def serve(port: int) -> None:
    door = socket.create_server(("127.0.0.1", port))
    while True:
        peer, _ = door.accept()
        if "--deaf" in sys.argv:
            continue
        said = peer.recv(65536)
        head, _, body = said.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        while len(body) < length:
            body += peer.recv(65536)
        if b"linger" in body:
            linger(peer, b"speak" in body)
            continue
        told = answer(head + body)
        status = b"200 OK" if told else b"404 Not Found"
        kind = b"text/event-stream" if told.startswith(b"data") else b"application/json"
        peer.sendall(b"HTTP/1.1 %b\r\ncontent-type: %b\r\nconnection: close\r\n" % (status, kind))
        peer.sendall(b"content-length: %d\r\n\r\n%b" % (len(told), told))
        peer.close()


if __name__ == "__main__":
    begin()
    held = b"x" * int(option("--holds", "0"))
    if words := option("--dies"):
        sys.exit(words)
    serve(int(option("--port")))
