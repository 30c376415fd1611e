"""Which models may be asked for: patterns of their public names, `*` for any characters and `?` for one."""

import re
from collections.abc import Callable
from functools import lru_cache

_TAG = ":latest"


def may_use(patterns: tuple[str, ...], name: str) -> bool:
    """Whether one of the patterns is of this name; without any, all names may be used.

    The tag `latest` may be said or left out, here and in a pattern: to Ollama's clients that is the same name.
    """
    if not patterns:
        return True
    matches = _matcher(patterns)
    return bool(matches(name) or matches(name.removesuffix(_TAG) if name.endswith(_TAG) else name + _TAG))


@lru_cache(maxsize=1024)
def _matcher(patterns: tuple[str, ...]) -> Callable[[str], re.Match[str] | None]:
    return re.compile("|".join(map(_expression, patterns)), re.DOTALL).fullmatch


def _expression(pattern: str) -> str:
    """Each `*` takes as little as lets the next piece follow, and never gives that back: no name takes long."""
    first, *others = (re.escape(piece).replace(r"\?", ".") for piece in re.split(r"\*+", pattern))
    if not others:
        return first
    *inner, last = others
    return first + "".join(f"(?>.*?{piece})" for piece in inner) + ".*" + last
