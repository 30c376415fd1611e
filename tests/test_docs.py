"""The pages lead where they say."""

import re
from http import HTTPStatus
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def _anchors(page: Path) -> set[str]:
    """Of its headings, as forges make them: lower case, no punctuation, hyphens for spaces."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith(("http://", "https://")):
            path, _, anchor = link.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), link
            assert not anchor or anchor in _anchors(there), link


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES if page.name != "README.md" and f"{page.name})" not in readme] == []


def test_whoever_is_refused_finds_the_words_of_the_status() -> None:
    """The site's search finds words, and numbers only where a heading is nothing else."""
    text = " ".join((ROOT / "docs" / "troubleshooting.md").read_text().lower().split())
    words = [HTTPStatus(status).phrase.lower() for status in (400, 401, 403, 404, 429, 502, 503, 504)]
    assert [phrase for phrase in words if phrase not in text] == []
    assert {"400", "401", "403", "404", "429"} <= _anchors(ROOT / "docs" / "troubleshooting.md")
