"""Pictures of `hermes top`, drawn of what a test says."""

from typing import Any

from hermes.cli.top.frame import frame
from hermes.cli.top.sight import Memory, Model, Request, Sight
from hermes.cli.top.view import View

GIB = 1 << 30
RATES = {"requests": 3.25, "failed": 0.1, "tokens_in": 820.0, "tokens_out": 143.2}


def sight(**more: Any) -> Sight:
    told: dict[str, Any] = {
        "version": "0.1.0",
        "status": "ok",
        "uptime_s": 11_520.0,
        "at": 0.0,
        "running": 6,
        "waiting": 14,
        "rates": RATES,
        "memory": (Memory("gpu0", "up", True, 20 * GIB, (("gemma", 8 * GIB), ("phi", 2 * GIB)), ("loading qwen",)),),
        "models": (Model("gemma", "loaded", ("gpu0",), 8 * GIB, 2, 2, (1, 0, 12), 1200, 184_000), Model("phi", "-")),
        "requests": (Request("r0", "gemma", "normal", "editor", False, "runs on gpu0 for 1.0 s"),),
        "tenants": (("editor", 12_400), ("batch", 810)),
    }
    return Sight(**(told | more))


def drawn(seen: Sight, view: View | None = None, width: int = 80, height: int | None = 24, lost: str = "") -> list[str]:
    return [line.plain for line in frame(seen, view or View(), width, height, "gpu.lan:4000", lost)]
