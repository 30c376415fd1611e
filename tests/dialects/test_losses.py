"""The document says what the dialects do: its tables are those that trying it makes."""

from pathlib import Path

import pytest

from tests.dialects.losses import tables
from tests.dialects.losses_asked import IGNORED, REFUSALS, Fields, parsed, refused

DOCUMENT = (Path(__file__).parents[2] / "docs" / "translation.md").read_text()


@pytest.mark.parametrize(("heading", "table"), tables().items(), ids=tables())
def test_the_document_has_this_table(heading: str, table: str) -> None:
    section = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert table in section, "print it with `python -m tests.dialects.losses`"


@pytest.mark.parametrize(("name", "said", "code"), REFUSALS, ids=str)
def test_what_cannot_be_had_is_refused(name: str, said: Fields, code: str) -> None:
    assert refused(name, said) == code


@pytest.mark.parametrize(("name", "said"), IGNORED, ids=str)
def test_what_nobody_reads_changes_nothing(name: str, said: Fields) -> None:
    assert parsed(name, said) == parsed(name, {})
