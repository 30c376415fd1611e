"""What was probably meant where a file is no YAML or no TOML: the place, and in plain words what to write instead.

Parsers quote what they could not read, and a secret may stand there. So the line is shown with the names of our own
settings, and nothing else in it (I26).
"""

import re
from functools import cache

from yaml import MarkedYAMLError, YAMLError
from yaml.reader import ReaderError

from hermes.config.jsonschema import meanings
from hermes.config.kinds import MASK

Place = tuple[int, int]
"""Line and column, both from 0."""

_PAIR = "each key is written `key: value`, with a colon and a space behind it"
_LEVEL = "keys that belong together begin in the same column"
_QUOTE = "put it in single quotes"

# By what PyYAML says (its scanner, parser, composer and constructor); the first that fits.
_YAML = (
    (r"character '\\t'", "a tab stands here; YAML is indented by spaces"),
    (r"character .* that cannot start", f"no value begins with this character; {_QUOTE}"),
    (r"undefined alias|expected alphabetic|for the tag", f"a value that begins with *, & or ! has a meaning; {_QUOTE}"),
    (r"escape", r"in double quotes \ has a meaning; write \\, or use single quotes"),
    (r"unexpected end of stream|unexpected document sep", "the quote that begins here is never closed"),
    (r"expected ',' or", "the bracket that begins here is not closed, or a comma is missing in it"),
    (r"<block end>, but found '(<block seq|-)", f"an item of a list where keys stand; {_LEVEL}"),
    (r"<block end>, but found '(<block mapping|\?)", f"a key that does not line up with those above; {_LEVEL}"),
    (r"<block end>", "a value is over before this; a quote or a bracket is missing, or one too many"),
    (r"<document start>.*<block", f"this begins further left than the first line; {_LEVEL}"),
    (r"<document start>", "what stands above is whole already; [section] is TOML, for a file that ends in .toml"),
    (r"unhashable", f"no key can be a list or a mapping; if a text such as {{{{ this }}}} is meant, {_QUOTE}"),
    (r"another document", "a second document begins here; a configuration is one, without ---"),
    (r"node content", f"a value is missing here, or begins with a character that has a meaning; {_QUOTE}"),
    (r"comment or a line break|chomping", f"behind | and > nothing stands in the same line; if it is a text, {_QUOTE}"),
)  # fmt: skip
# By what tomllib says.
_TOML = (
    ("Expected '=' after a key", "each key is written `key = value`; a key such as \"a:b\" needs quotes"),
    ("Invalid value", 'this is no value; texts stand in quotes, as in "text", and it is true and false'),
    ("Expected newline or end", 'one value is over before this; texts stand in quotes, as in "text" or "10s"'),
    (r"end of a table", "the bracket of a [section] is closed in its line"),
    (r"Illegal character '\\n'|Unterminated|Expected ['\"]", "the quote is not closed in its line"),
    (r"Unclosed", "a bracket is not closed, or a comma is missing in it"),
    ("twice|overwrite|immutable|mutate", "this stands here for the second time"),
    ("escape|hex", r"in double quotes \ has a meaning; write \\, or use single quotes"),
)  # fmt: skip


def in_yaml(text: str, error: YAMLError | RecursionError) -> str:
    """As `line 3, column 7: what is wrong`, and the line."""
    if isinstance(error, ReaderError) and isinstance(error.position, int):
        return _told(text, _counted(text, error.position), "a character that no text has")
    if not isinstance(error, MarkedYAMLError):
        return "not YAML"
    problem, mark = error.problem or "", error.problem_mark or error.context_mark
    if mark is None:
        return "not YAML"
    opened = re.search(r"quoted scalar|flow (sequence|mapping)", error.context or "")
    if error.context_mark and (("could not find" in problem) or (opened and "escape" not in problem)):
        mark = error.context_mark
    place, words = (mark.line, mark.column), ""
    if problem.startswith(("mapping values", "could not find")) or "<block mapping start>" in problem:
        place, words = _pair(_lines(text), place)
    return _told(text, place, words or _words(_YAML, problem))


def _pair(lines: list[str], place: Place) -> tuple[Place, str]:
    """Where a colon is not what it was meant to be: in this line, or because of the one before."""
    at, column = place
    if re.search(r":\s", lines[at][:column]):
        return place, f"a value with ': ' in it; {_QUOTE}"
    if not re.match(r"\s*(- +)*[^#]*?:(\s|$)", lines[at]):
        return place, _PAIR
    before = next((nth for nth in range(at - 1, -1, -1) if lines[nth].strip()[:1] not in ("", "#")), at)
    if not re.search(r":(\s|$)", lines[before]):
        return (before, _indent(lines[before])), _PAIR
    if _indent(lines[at]) > _indent(lines[before]):
        return (at, _indent(lines[at])), f"indented deeper than the line above; {_LEVEL}"
    return place, ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def in_toml(text: str, error: ValueError | RecursionError) -> str:
    said, _, at = str(error).partition(" (at ")
    found = re.match(r"line (\d+), column (\d+)", at)
    place = (int(found[1]) - 1, int(found[2]) - 1) if found else _counted(text, len(text.rstrip()))
    return _told(text, place, _words(_TOML, said) if isinstance(error, ValueError) else "not TOML")


def _words(table: tuple[tuple[str, str], ...], problem: str) -> str:
    # what is none of these is said in the parser's words, without what it quotes: single characters excepted
    unquoted = re.sub(r"(['\"])(?!\\?.\1).*\1", "'...'", problem, flags=re.DOTALL)
    return next((words for pattern, words in table if re.search(pattern, problem)), unquoted)


# --- the place --------------------------------------------------------------------------------------------------------


def _counted(text: str, position: int) -> Place:
    before = text[:position]
    return before.count("\n"), position - before.rfind("\n") - 1


def _lines(text: str) -> list[str]:
    return re.split("\r\n|[\r\n\x85\u2028\u2029]", text)  # what breaks a line to PyYAML


def _told(text: str, place: Place, words: str) -> str:
    at, column = place
    line = (_lines(text)[at:] or [""])[0]
    before, after = _shown(line[:column])[-_WIDTH:], _shown(line[column:])[:_WIDTH]
    where = f"line {at + 1}, column {column + 1}: {words}"
    return f"{where}\n    {before}{after}\n    {' ' * len(before)}^" if (before + after).strip() else where


_WIDTH = 60


def _shown(part: str) -> str:
    """A piece of a line without what may be secret. A tab is told from spaces."""
    known = _names()
    return re.sub(
        r"[^\s:,=\[\]{}'\"#-]+(-+[^\s:,=\[\]{}'\"#-]+)*", lambda word: word[0] if word[0] in known else MASK, part
    ).replace("\t", r"\t")


@cache
def _names() -> frozenset[str]:
    return frozenset(name for names in meanings().values() for name in names)
