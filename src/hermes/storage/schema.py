"""The tables, as the steps that led to them. A step that was released never changes; what is new is a new step."""

NAME = "hermes.db"

# Days as in 2026-11-22, months as in 2026-11 (UTC).
LEDGER = """
CREATE TABLE usage (
  day TEXT NOT NULL CHECK (day GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]'),
  key TEXT NOT NULL,
  model TEXT NOT NULL,
  requests INTEGER NOT NULL CHECK (requests >= 0),
  prompt_tokens INTEGER NOT NULL CHECK (prompt_tokens >= 0),
  completion_tokens INTEGER NOT NULL CHECK (completion_tokens >= 0),
  refused INTEGER NOT NULL CHECK (refused >= 0),
  PRIMARY KEY (day, key, model)
) STRICT, WITHOUT ROWID;

-- What counts as used of each budget, somewhat ahead of what is.
CREATE TABLE budgets (
  account TEXT NOT NULL,
  period TEXT NOT NULL,
  tokens INTEGER NOT NULL CHECK (tokens >= 0),
  PRIMARY KEY (account, period)
) STRICT, WITHOUT ROWID;

-- The last batch that was added, so that none is twice.
CREATE TABLE usage_batch (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL) STRICT;
"""

MIGRATIONS: tuple[str, ...] = (LEDGER,)
