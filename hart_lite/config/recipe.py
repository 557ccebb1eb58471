"""Recipes as files: find, load with overrides, check, save. What a recipe may hold is in `hart_lite.config.schema`."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from hart_lite.config.resources import shipped_recipes
from hart_lite.config.schema import Recipe
from hart_lite.config.sections import DistilStage, RLStage, SFTStage
from hart_lite.config.yaml import parse_yaml
from hart_lite.errors import ConfigError
from hart_lite.utils.files import write_whole
from hart_lite.utils.text import shown

STAGES: dict[str, type[BaseModel]] = {"rl": RLStage, "sft": SFTStage, "distil": DistilStage}


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, or a shipped one by its name, with `a.b.c=value` overrides (values are YAML).

    List items go by index: `stages.0.steps=20`. Raises one `ConfigError` that lists every problem found.
    """
    path = _find(path_or_name)
    return recipe_from({"name": path.stem} | _read(path), overrides, f"Recipe {path}")


def recipe_from(raw: dict[str, Any], overrides: Sequence[str] = (), title: str = "the recipe") -> Recipe:
    """The recipe of plain values, as YAML has them. Raises one `ConfigError`, beginning with `title`."""
    raw, problems = copy.deepcopy(raw), []
    for override in overrides:
        try:
            _apply(raw, override)
        except ConfigError as error:
            problems.append(str(error))
    recipe, invalid = _validate(raw)
    if recipe is None or problems:
        raise ConfigError(f"{title}:\n" + "\n".join(f"  - {problem}" for problem in problems + invalid))
    return recipe


def dump_recipe(recipe: Recipe, path: str | Path) -> None:
    """Save every value, defaults included. An existing file is replaced whole or not at all."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_whole(Path(path), text)


def _find(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if path.is_file():
        return path
    if (path / "recipe.yaml").is_file():  # a run directory
        return path / "recipe.yaml"
    shipped = {recipe.stem: recipe for recipe in shipped_recipes()}
    name = str(path_or_name).removesuffix(".yaml")
    if name not in shipped:
        near = difflib.get_close_matches(name, shipped, n=1)
        raise ConfigError(
            f"There is no recipe {str(path_or_name)!r}: neither a file nor one of {', '.join(shipped)}"
            + "".join(f"; did you mean {match!r}?" for match in near)
        )
    return shipped[name]


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:  # bad UTF-8 is a ValueError, too
        raise ConfigError(f"Recipe {path} cannot be read as YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"Recipe {path} should hold `key: value` lines, and holds {shown(raw)}")
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one `a.b.c=value` in the raw recipe; unknown keys are left for the validation to name."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {shown(override)} should look like section.key=value")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"override {shown(override)}: {shown(text)} is not a YAML value") from error
    node: Any = raw
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            node = node[_index(node, part, key)]
            continue
        if node.get(part) is None:  # not there, or a section that is off
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict | list):
            raise ConfigError(
                f"override {shown(override)}: {'.'.join(parents[: depth + 1])} is {shown(node)}, not a section"
            )
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    else:
        node[last] = value


def _index(items: list[Any], part: str, key: str) -> int:
    if part not in map(str, range(len(items))):
        raise ConfigError(f"override {shown(key)}: {shown(part)} should be the index of an item, 0 to {len(items) - 1}")
    return int(part)


def _validate(raw: dict[str, Any]) -> tuple[Recipe | None, list[str]]:
    """(the recipe, or None; every problem). Contradictions are looked for among the values that are fine."""
    try:
        return Recipe.model_validate(raw), []
    except ValidationError as error:
        problems = _problems(error)
        sound = copy.deepcopy(raw)
        for detail in error.errors():
            _remove(sound, _location(detail["loc"]))
    try:
        Recipe.model_validate(sound)
    except ValidationError as error:
        problems += [p for e in error.errors() if e["type"] == "value_error" for p in _message(e) if p not in problems]
    return None, problems


def _remove(raw: dict[str, Any], location: list[str]) -> None:
    """Take the innermost named value on the way to `location` out, so that its default stands in."""
    node: Any = raw
    owner, last = raw, None
    for part in location:
        if isinstance(node, dict) and part in node:
            owner, last, node = node, part, node[part]
        elif isinstance(node, list) and part in map(str, range(len(node))):  # a short list lacks the item
            node = node[int(part)]
        else:
            break
    owner.pop(last, None)


def _problems(error: ValidationError) -> list[str]:
    return list(dict.fromkeys(problem for detail in error.errors() for problem in _message(detail)))


def _message(detail: Any) -> list[str]:
    location = _location(detail["loc"])
    key = ".".join(location)
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"]).splitlines()
    if detail["type"] == "extra_forbidden":
        return [_unknown(location, detail["loc"])]
    if detail["type"] == "missing":
        return [f"{key} is missing"]
    if detail["type"].startswith("union_tag"):
        return [f"{key}.kind = {shown(detail['input'].get('kind'))}: should be 'rl', 'sft' or 'distil'"]
    if detail["type"] == "string_type" and isinstance(detail["input"], list) and detail["loc"][-1:] == ("str",):
        return []  # the list's own problems are told
    message = detail["msg"].removeprefix("Input ")
    return [f"{key} = {shown(detail['input'])}: {message}"]


def _location(loc: Iterable[str | int]) -> list[str]:
    """pydantic's location as the user writes it: without the stage kind that follows the index of a stage."""
    parts = [str(part) for part in loc if part != "str" and not str(part).startswith("list[")]  # what a value may be
    return parts[:2] + parts[3:] if parts[:1] == ["stages"] else parts


def _unknown(location: list[str], loc: Sequence[str | int]) -> str:
    *parents, key = location
    section: type[BaseModel] = Recipe
    if parents[:1] == ["stages"]:
        section = STAGES[loc[2]]
    else:
        for part in parents:
            section = section if part.isdigit() else _section(section, part)
    own = {f"{'.'.join(parents)}.{name}".lstrip("."): name for name in section.model_fields}
    known = own | {place: name for place, name in _known_keys(Recipe) if place not in own}
    elsewhere = [place for place, name in known.items() if name == key]
    if elsewhere:
        return f"unknown key {'.'.join(location)}; {key} lives at {' and '.join(elsewhere)}"
    # A key of the same section is a likelier slip than one from afar.
    likeness = {
        place: difflib.SequenceMatcher(None, key, name).ratio() - (0 if place in own else 0.1)
        for place, name in known.items()
    }
    near = max(likeness, key=likeness.__getitem__)
    if likeness[near] < 0.6:
        return f"unknown key {'.'.join(location)} (known here: {', '.join(section.model_fields)})"
    return f"unknown key {'.'.join(location)}; did you mean {near}?"


def _section(owner: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The section that a key holds, also one that may be null; None where it holds a value."""
    inner = [owner.model_fields[name].annotation]
    for annotation in inner:  # it grows: a list may hold sections, too
        inner += get_args(annotation)
    return next((kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _known_keys(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(where a key lives, its name) for every key of a recipe."""
    for name in section.model_fields:
        yield prefix + name, name
        if name == "stages":
            for kind, stage in STAGES.items():
                yield from _known_keys(stage, f"stages.N({kind}).")
        elif inner := _section(section, name):
            yield from _known_keys(inner, f"{prefix}{name}.")
