"""Whole scenarios on a virtual clock: no real time, no sockets, and every order of events that a seed can draw."""

import os

# The suite tries a few; a nightly run sets HERMES_SEEDS=10000.
SEEDS = range(int(os.environ.get("HERMES_SEEDS", "200")))
# Where every step of a scene is tried with those after it: each, or each third, which is a second one of an earlier.
STRIDE = 1 if len(SEEDS) > 200 else 3
