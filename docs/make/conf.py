"""The site of docs/, built by `make docs` with Sphinx: nothing in it comes from another host."""

import re
from pathlib import Path
from typing import Any

project = "Hermes"
extensions = ["myst_parser"]
root_doc = "index"
exclude_patterns = ["make"]
myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]  # answers with dots in them
html_theme = "furo"
html_title = "Hermes"
html_show_sphinx = html_show_copyright = html_copy_source = False

# A page has the first place that names it; what nobody names stands at the end, a name without a page nowhere.
PLACES = {
    "Begin": ["concepts", "troubleshooting"],
    "Clients": ["clients", "compatibility", "translation", "coming-from"],
    "Servers": ["backends", "custom-backends", "simulator", "health"],
    "Deciding": ["scheduling", "limits", "cache"],
    "Running it": ["deployment", "operations", "dashboard", "metrics", "tracing", "security", "keys", "jwt"],
    "Reference": ["configuration", "api", "cli", "benchmarks", "load-testing", "development"],
}

# A link to what is beside these pages in the repository, and not in the site: of it the words stay.
_BESIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")
# What a browser fetches by itself.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon)[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|(?:@import|\burl\()\s*["']?(?:https?:)?//[^"')\s]+"""
)


# The site's search heeds a number in no text, but in the index: of the statuses those that mean nothing else.
_STATUS = re.compile(r"\b(?:40[1349]|422|429|499|50[234])\b")


def contents(pages: set[str]) -> str:
    named = {page for some in PLACES.values() for page in some}
    places = {**PLACES, "More": sorted(pages - named - {root_doc})}
    trees = []
    for caption, some in places.items():
        if there := [page for page in some if page in pages]:
            trees.append("\n".join(["```{toctree}", f":caption: {caption}", ":hidden:", "", *there, "```"]))
    return "\n\n".join(trees)


def _fill(app: Any, name: str, text: list[str]) -> None:
    text[0] = _BESIDE.sub(r"\1", text[0])
    if name == root_doc:
        text[0] += "\n" + contents(set(app.env.found_docs))
    if told := sorted(set(_STATUS.findall(text[0]))):
        text[0] = f"```{{index}} {', '.join(told)}\n```\n\n{text[0]}"


def _look(app: Any, failure: Exception | None) -> None:
    """Raises where the site would ask another host for anything."""
    pages = [path for path in Path(app.outdir).rglob("*") if path.suffix in (".html", ".css")]
    found = [f"{path.name}: {match[0]}" for path in pages for match in _FETCHED.finditer(path.read_text())]
    if found and failure is None:
        raise SystemExit("\n".join(["the site asks other hosts:", *found]))


def setup(app: Any) -> None:
    app.connect("source-read", _fill)
    app.connect("build-finished", _look)
