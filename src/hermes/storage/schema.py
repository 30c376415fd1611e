"""The tables, as the steps that led to them. A step that was released never changes; what is new is a new step."""

MIGRATIONS: tuple[str, ...] = ()
