"""Settings of every test: a slow machine is no failure."""

from hypothesis import settings

settings.register_profile("hermes", deadline=None)
settings.load_profile("hermes")
