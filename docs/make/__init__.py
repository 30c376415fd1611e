"""What is written in docs/ is made here of the code, as far as it repeats it: `python -m docs.make`."""

from pathlib import Path

from docs.make import configuration

DOCS = Path(__file__).parents[1]


def pages() -> dict[Path, str]:
    """Each file that is made, wholly or in part, and what should be in it."""
    page = DOCS / "configuration.md"
    return {page: configuration.page(page.read_text())}
