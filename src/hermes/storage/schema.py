"""The tables, as the steps that led to them. A step that was released never changes; what is new is a new step."""

# `idempotency_held` is what there is in all, kept by the triggers, so that a bound needs no counting.
_IDEMPOTENCY = """
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

MIGRATIONS: tuple[str, ...] = (_IDEMPOTENCY,)
