"""The dashboard in a real browser. Slow, with requirements of its own: `make browser` (docs/development.md)."""
