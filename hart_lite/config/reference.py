"""The recipe as a page of reference: every key, what it takes, its default and its meaning, from the typed recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator

from hart_lite.config.schema import Recipe
from hart_lite.utils.markdown import markdown_table

HEAD = """# Every key of a recipe

A recipe names what differs from the defaults; `RUN/recipe.yaml` of each run holds all of them. On the command line a
key is written with dots, a stage by its number: `hart-lite train tiny_cpu rollout.samples=4 stages.0.steps=20`. An
unknown key is an error that names the nearest known one. `hart-lite recipes --reference` writes this page.
"""
TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def reference() -> str:
    """Markdown: a table for the recipe's own keys and one for each section, the kinds of stages among them."""
    schema = Recipe.model_json_schema()
    parts, shown = [HEAD], {}
    for place, field, section in _sections("", schema, schema, schema["$defs"]):
        title, about = f"`{place}`" if place else "The recipe", field.get("description") if place else None
        first = shown.setdefault(section["title"], title)
        table = _table(section) if first is title else f"The keys of {first}."
        parts.append("\n\n".join(filter(None, [f"## {title}", about, table])) + "\n")
    return "\n".join(parts)


def _sections(place: str, field: dict, section: dict, named: dict) -> Iterator[tuple[str, dict, dict]]:
    """(where a section stands in a recipe, the key that holds it, itself) as JSON schema, each before those inside."""
    yield place, field, section
    for key, holder in section["properties"].items():
        for inner in map(named.get, _references(holder)):
            kind = f"` of kind `{inner['properties']['kind']['const']}" if "kind" in inner["properties"] else ""
            yield from _sections(f"{place}.{key}".lstrip(".") + kind, holder, inner, named)


def _references(field: dict) -> list[str]:
    """Names of the sections a field holds."""
    if "$ref" in field:
        return [field["$ref"].rpartition("/")[2]]
    return [name for inner in _choices(field.get("items", field)) for name in _references(inner)]


def _choices(field: dict) -> list[dict]:
    return field.get("anyOf", field.get("oneOf", []))


def _table(section: dict) -> str:
    rows = [
        (f"`{key}`", _takes(field), _default(field), " ".join(field.get("description", "").split()))
        for key, field in section["properties"].items()
        if not any("$ref" in inner for inner in (field, *_choices(field.get("items", field))))
    ]
    head = markdown_table(("key", "takes", "default", "meaning"), [], words=4)
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def _takes(field: dict) -> str:
    if choices := _choices(field):
        return " or ".join(map(_takes, choices))
    if "$ref" in field:
        return "`{key: value, ..}`"
    if values := field.get("enum", [field["const"]] if "const" in field else []):
        return ", ".join(f"`{value}`" for value in values)
    if field["type"] == "array":
        inner = field.get("items") or field["prefixItems"][0]
        return (f"{field['minItems']} of " if "prefixItems" in field else "list of ") + _takes(inner)
    if field["type"] == "object":
        return "text to text"
    return ", ".join(
        [TYPES[field["type"]], *(f"{words} {field[key]:g}" for key, words in BOUNDS.items() if key in field)]
    )


def _default(field: dict) -> str:
    return f"`{json.dumps(field['default'])}`" if "default" in field else "required"
