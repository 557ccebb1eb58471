"""YAML that others wrote, within bounds: ten lines of aliases of aliases stand for more values than fit in memory."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

MOST_CHARACTERS, MOST_VALUES, DEEPEST = 2**16, 10_000, 50  # the largest recipe that ships has 1,003, 74 and 4
# What PyYAML raises on `!!int ""`, `!!bool x`, `!!timestamp x`, a date before the first year, ..
_TAG_ERRORS = (LookupError, AttributeError, TypeError, OverflowError)


def parse_yaml(text: str) -> Any:
    """Plain values; no tag runs anything. Raises `ValueError` for what is no YAML, for what is out of bounds, for a key
    that is given twice (plain YAML silently keeps the last) and for text that no file can hold."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"over {MOST_CHARACTERS:,} characters long")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except _TAG_ERRORS as error:
        raise ValueError(f"a value that is not of its type: {error}") from error


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = 0
        self._sizes: dict[str, int] = {}  # values that an anchor stands for

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event, before = self.peek_event(), self._values
        self._values += 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._sizes:
                raise ComposerError(None, None, f"&{event.anchor} holds itself", event.start_mark)
            self._values += self._sizes.get(event.anchor, 0)
        self._depth += 1
        if self._values > MOST_VALUES or self._depth > DEEPEST:
            bounds = f"over {MOST_VALUES:,} values, those of aliases among them, or over {DEEPEST} levels"
            raise ComposerError(None, None, bounds, event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor and not isinstance(event, yaml.AliasEvent):
            self._sizes[event.anchor] = self._values - before
        return node

    def construct_scalar(self, node: yaml.Node) -> Any:
        value = super().construct_scalar(node)
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise ConstructorError(None, None, "text that no file can hold", node.start_mark)
        return value

    def construct_whole(self, node: yaml.Node) -> int:
        value = self.construct_yaml_int(node)
        if value.bit_length() > 64:  # 0xff.. and 1:1:1:.. may have more digits than Python writes out
            raise ConstructorError(None, None, "a number of over 64 bits", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key_node.value in seen:
                raise ConstructorError(None, None, f"key {key_node.value!r} is given twice", key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
