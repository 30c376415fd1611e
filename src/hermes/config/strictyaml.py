"""YAML as people mean it: safe types only, a key once, and `off` is a word, not a boolean (YAML 1.2)."""

from typing import Any

from yaml import MappingNode, MarkedYAMLError, Node, SafeLoader

_BOOL, _TIMESTAMP = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"
# PyYAML lets these out for a tag or an escape on the wrong text: `!!int ""`, `!!bool maybe`, "\Uffffffff"
_STRAY = (ValueError, LookupError, TypeError, AttributeError, OverflowError)


class _Loader(SafeLoader):
    # true and false start with t and f; yes, no, on, off, y and n are left as text, and so are dates
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag != _TIMESTAMP and (tag != _BOOL or first in "tTfF")]
        for first, known in SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key.value, str) else None
            if name in seen:
                raise MarkedYAMLError(problem="this key stands here for the second time", problem_mark=key.start_mark)
            if name is not None:
                seen.add(name)
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except _STRAY:
            raise MarkedYAMLError(problem="the value does not fit its tag", problem_mark=node.start_mark) from None


def parse(text: str) -> Any:
    """The document's value, None if it is empty. Raises yaml.YAMLError; RecursionError for a bottomless nesting."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except _STRAY:
        raise MarkedYAMLError(problem="not a value", problem_mark=loader.get_mark()) from None
    finally:
        loader.dispose()
