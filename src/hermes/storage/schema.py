"""The tables, as the steps that led to them. A step that was released never changes; what is new is a new step."""

NAME = "hermes.db"

# Times are Unix seconds. What was revoked stays as a row without a secret: that there ever was a key closes the door.
KEYS = """
CREATE TABLE keys (
  id TEXT PRIMARY KEY CHECK (length(id) = 14 AND id GLOB 'k_*' AND substr(id, 3) NOT GLOB '*[^a-z2-7]*'),
  name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 64 AND name NOT GLOB 'k_*'),
  user TEXT NOT NULL CHECK (length(user) BETWEEN 1 AND 100),
  admin INTEGER NOT NULL CHECK (admin IN (0, 1)),
  metrics INTEGER NOT NULL CHECK (metrics IN (0, 1)),
  models TEXT NOT NULL CHECK (models GLOB '[[]*]'),
  rpm INTEGER CHECK (rpm > 0),
  tpm INTEGER CHECK (tpm > 0),
  concurrency INTEGER CHECK (concurrency > 0),
  daily_tokens INTEGER CHECK (daily_tokens > 0),
  monthly_tokens INTEGER CHECK (monthly_tokens > 0),
  max_class TEXT CHECK (max_class IN ('interactive', 'normal', 'batch')),
  usual_class TEXT CHECK (usual_class IN ('interactive', 'normal', 'batch')),
  weight REAL NOT NULL CHECK (weight > 0),
  expires_at INTEGER CHECK (expires_at > 0),
  created_at INTEGER NOT NULL CHECK (created_at > 0),
  revoked_at INTEGER CHECK (revoked_at > 0)
) STRICT;
CREATE UNIQUE INDEX key_names ON keys (name) WHERE revoked_at IS NULL;

-- Of each key the current one (`until` is NULL) and at most one that is still good until then.
CREATE TABLE secrets (
  digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
  key TEXT NOT NULL REFERENCES keys (id),
  until INTEGER CHECK (until > 0)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX secrets_of_a_key ON secrets (key, until IS NULL);

-- The digest of nothing under the pepper, to know it again.
CREATE TABLE peppered (one INTEGER PRIMARY KEY CHECK (one = 1), mark BLOB NOT NULL CHECK (length(mark) = 32)) STRICT;

CREATE TRIGGER keys_stay BEFORE DELETE ON keys BEGIN SELECT RAISE(ABORT, 'a key is revoked, never deleted'); END;
CREATE TRIGGER revoked_is_final BEFORE UPDATE ON keys WHEN OLD.revoked_at IS NOT NULL
  BEGIN SELECT RAISE(ABORT, 'a revoked key never changes'); END;
CREATE TRIGGER revoked_has_no_secret AFTER UPDATE OF revoked_at ON keys WHEN NEW.revoked_at IS NOT NULL
  BEGIN DELETE FROM secrets WHERE key = NEW.id; END;
CREATE TRIGGER no_secret_of_the_revoked BEFORE INSERT ON secrets
  WHEN (SELECT revoked_at FROM keys WHERE id = NEW.key) IS NOT NULL
  BEGIN SELECT RAISE(ABORT, 'a revoked key has no secret'); END;
CREATE TRIGGER one_pepper BEFORE UPDATE ON peppered BEGIN SELECT RAISE(ABORT, 'the pepper never changes'); END;
"""

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

# `idempotency_held` is what there is in all, kept by the triggers, so that a bound needs no counting.
IDEMPOTENCY = """
CREATE TABLE idempotency (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    key BLOB NOT NULL CHECK (length(key) = 32),
    asked BLOB NOT NULL,
    created_at REAL NOT NULL,
    answer BLOB,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    UNIQUE (owner, key)
) STRICT;
CREATE INDEX idempotency_by_age ON idempotency (created_at);
CREATE TABLE idempotency_held (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    records INTEGER NOT NULL CHECK (records >= 0),
    bytes INTEGER NOT NULL CHECK (bytes >= 0)
) STRICT;
INSERT INTO idempotency_held VALUES (1, 0, 0);
CREATE TRIGGER idempotency_comes AFTER INSERT ON idempotency BEGIN
    UPDATE idempotency_held SET records = records + 1, bytes = bytes + coalesce(length(NEW.answer), 0);
END;
CREATE TRIGGER idempotency_is_answered AFTER UPDATE OF answer ON idempotency BEGIN
    UPDATE idempotency_held SET bytes = bytes + coalesce(length(NEW.answer), 0) - coalesce(length(OLD.answer), 0);
END;
CREATE TRIGGER idempotency_goes AFTER DELETE ON idempotency BEGIN
    UPDATE idempotency_held SET records = records - 1, bytes = bytes - coalesce(length(OLD.answer), 0);
END
"""

# What is held is known by owner, so that room is made by whoever has most.
HELD_BY_OWNER = """
DROP TRIGGER idempotency_comes;
DROP TRIGGER idempotency_is_answered;
DROP TRIGGER idempotency_goes;
DROP TABLE idempotency_held;
CREATE TABLE idempotency_held (
    owner TEXT PRIMARY KEY,
    records INTEGER NOT NULL CHECK (records >= 0),
    bytes INTEGER NOT NULL CHECK (bytes >= 0)
) STRICT, WITHOUT ROWID;
INSERT INTO idempotency_held SELECT owner, count(*), sum(coalesce(length(answer), 0)) FROM idempotency GROUP BY owner;
CREATE INDEX idempotency_of_an_owner ON idempotency (owner, id);
CREATE TRIGGER idempotency_comes AFTER INSERT ON idempotency BEGIN
    INSERT INTO idempotency_held VALUES (NEW.owner, 1, coalesce(length(NEW.answer), 0))
      ON CONFLICT DO UPDATE SET records = records + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER idempotency_is_answered AFTER UPDATE OF answer ON idempotency BEGIN
    UPDATE idempotency_held SET bytes = bytes + coalesce(length(NEW.answer), 0) - coalesce(length(OLD.answer), 0)
      WHERE owner = NEW.owner;
END;
CREATE TRIGGER idempotency_goes AFTER DELETE ON idempotency BEGIN
    UPDATE idempotency_held SET records = records - 1, bytes = bytes - coalesce(length(OLD.answer), 0)
      WHERE owner = OLD.owner;
    DELETE FROM idempotency_held WHERE owner = OLD.owner AND records = 0;
END
"""

# Of each key the current secret, and any number of those before that are still good.
OLD_SECRETS = """
DROP INDEX secrets_of_a_key;
CREATE UNIQUE INDEX current_secret_of_a_key ON secrets (key) WHERE until IS NULL;
CREATE INDEX secrets_of_a_key ON secrets (key)
"""

MIGRATIONS: tuple[str, ...] = (KEYS, LEDGER, IDEMPOTENCY, HELD_BY_OWNER, OLD_SECRETS)
