"""Schemathesis against docs/openapi.json: a Hermes in front of the simulated Ollama, both of its listeners.

It draws requests from the document, good and bad ones, and looks whether what comes back is what the document says: no
5xx, no status, content type or body but those. `python -m tests.contract SCHEMATHESIS [SECONDS]`.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKS = [
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "unsupported_method", "allow_header_conformance"),
]
PORT, ADMIN_PORT, SIM_PORT = 4870, 4869, 4868
# Of the configuration: one that could be revoked would be.
KEY = "sk-contract"
# The other listener's; Ollama's management, which the simulated one has not; a stream that does not end.
NOT_HERE = "^/admin|^/api/(create|copy|push|delete|blobs)|^/v1/events"
CONFIG = f"""
server: {{port: {PORT}, state_dir: ./state}}
admin: {{port: {ADMIN_PORT}, metrics: true}}
backends:
  - {{name: simulated, url: "http://127.0.0.1:{SIM_PORT}", slots: 8}}
  - {{name: spare, url: "http://127.0.0.1:{SIM_PORT}", slots: 8}}
keys: [{{user: contract, admin: true, sha256: {hashlib.sha256(KEY.encode()).hexdigest()}}}]
logging: {{access_log: off, level: error}}
"""


def main(schemathesis: str, seconds: str = "300") -> int:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "hermes.yaml").write_text(CONFIG)
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        hermes = [sys.executable, "-m", "hermes"]
        started = [
            subprocess.Popen([*hermes, "sim", "--port", str(SIM_PORT), "--speed", "1000"], cwd=folder, env=environment),
            subprocess.Popen([*hermes, "serve"], cwd=folder, env=environment),
        ]
        try:
            _ready(f"http://127.0.0.1:{PORT}/readyz")
            users = _run(schemathesis, seconds, PORT, "--exclude-path-regex", NOT_HERE)
            admins = _run(schemathesis, seconds, ADMIN_PORT, "--include-path-regex", "^/admin/(keys|reload)")
            return users or admins
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(30)


def _run(schemathesis: str, seconds: str, port: int, *more: str) -> int:
    command = [schemathesis, "run", str(ROOT / "docs" / "openapi.json"), "--url", f"http://127.0.0.1:{port}", *more]
    command += ["-c", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color"]
    command += ["-H", f"x-api-key: {KEY}", "--max-time", seconds, "--warnings", "off"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(command, env=environment, cwd=tempfile.gettempdir()).returncode


def _ready(url: str) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
