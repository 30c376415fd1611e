"""The event loop of the verbs that serve: uvloop, imported here and nowhere else."""

import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


# Python looks for cycles whenever there are 700 objects more than before. Thirty requests at once are as many, none of
# them garbage: looking took 8 % of all time.
NEW_OBJECTS = 10_000


def run(main: Coroutine[Any, Any, T]) -> T:
    gc.set_threshold(NEW_OBJECTS)
    return uvloop.run(main)
