"""What Schemathesis cannot know: names of what there is. Read by it, in an environment of its own."""

from typing import Any

import schemathesis

MODELS = {"embed": "nomic-embed-text"}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Most requests are for a model that there is, and one backend is never drained; nobody is in too great a hurry."""
    model = next((name for part, name in MODELS.items() if part in case.operation.path), "gemma")
    if isinstance(case.body, dict):
        case.body.update({key: model for key in ("model", "name") if isinstance(case.body.get(key), str)})
    for key, name in (("model", model), ("backend", "spare")):
        if key in (case.path_parameters or {}):
            case.path_parameters[key] = name
    # the client's own deadline: what cannot be in time is refused with 503 or 504, as documented
    if case.headers:
        case.headers.pop("x-hermes-deadline-ms", None)
