"""What goes on at a server, as it tells it, over lost connections too."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from hermes.cli.options import Failed
from hermes.cli.remote import NoHermes, Refused, events

# A look at everything comes once a second.
SILENCE_S = 10.0
AGAIN_S = 0.5
LOST = "lost"


def follow(url: str, shapes: Mapping[str, type]) -> Iterator[tuple[str, Any]]:
    """Events of `GET /v1/events`, name and what is told, for ever; LOST with the reason where they have ended, before
    it is tried again. `shapes`: of those that are looked into.

    Exits with a message where there are none at first, and where the server says no for good.
    """
    begun = False
    while True:
        try:
            for event in events(url, "/v1/events", SILENCE_S, shapes):
                begun = True
                yield event
            why = f"{url} has ended the stream"
        except Failed as error:
            if not begun or isinstance(error, NoHermes) or (isinstance(error, Refused) and error.status < 500):
                raise
            why = error.message
        yield LOST, why
        time.sleep(AGAIN_S)
