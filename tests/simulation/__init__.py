"""Whole scenarios on a virtual clock: no real time, no sockets, and every order of events that a seed can draw."""

import os

# The suite tries a few; a nightly run sets HERMES_SEEDS=10000.
SEEDS = range(int(os.environ.get("HERMES_SEEDS", "200")))
