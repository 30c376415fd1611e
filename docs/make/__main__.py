"""Writes what has changed."""

from docs.make import pages

for path, text in pages().items():
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        print(path)
