"""A client's script as a process: tasks go in as lines of JSON, facts come out."""

import json
import os
import subprocess
import threading
from typing import Any

from tests.conformance.environments import Client

_PATIENCE_S = 60.0
# Some libraries would ask the network for what they have; all would ask a proxy.
_ENVIRON = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "AI_SDK_LOG_WARNINGS": "false",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


class Script:
    """Started for the first task, and again after it has died."""

    def __init__(self, client: Client) -> None:
        self._command = client.command()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def do(self, task: dict[str, Any]) -> dict[str, Any]:
        """The facts. Raises TimeoutError if there are none in time."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=_log(),
                text=True,
                env={**os.environ, **_ENVIRON},
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(_PATIENCE_S, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            self._end()
            raise TimeoutError("the client gave no answer")
        facts: dict[str, Any] = json.loads(line)
        return facts

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _log() -> Any:
    return None if os.environ.get("HERMES_CONFORMANCE_DEBUG") else subprocess.DEVNULL
