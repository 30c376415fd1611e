"""What is written in docs/ is made here of the code, as far as it repeats it: `python -m docs.make`."""

from pathlib import Path

import msgspec

from docs.make import configuration, openapi

DOCS = Path(__file__).parents[1]


def pages() -> dict[Path, str]:
    """Each file that is made, wholly or in part, and what should be in it."""
    page = DOCS / "configuration.md"
    api = openapi.document((DOCS / "api.md").read_text())
    return {
        page: configuration.page(page.read_text()),
        DOCS / "openapi.json": msgspec.json.format(msgspec.json.encode(api), indent=1).decode() + "\n",
    }
