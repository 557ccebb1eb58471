"""What is checked: a base and its settings, in the recipe's own schema, with one clear error for what is no base."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from hart_lite.config.environment import check_machine
from hart_lite.config.recipe import load_recipe, recipe_from
from hart_lite.config.schema import Recipe
from hart_lite.errors import ConfigError
from hart_lite.models.adapter_files import ADAPTER_CONFIG, read_adapter_config
from hart_lite.runs.layout import is_run, read_recipe
from hart_lite.utils.text import shown

FULL_PIXELS = 640 * 784  # of a picture, where no override says; less than a recipe's own budget, to answer sooner
KEYS = ("quant", "dtype", "device", "attention", "revision", "box_format", "lora")  # of `model`
ALLOWED = (*(f"model.{key}" for key in KEYS), "pixels.full", "pixels.min")
NAME = "check-base"  # of the recipe
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def settings(base: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe that holds the checked values of `model` and `pixels`; nothing else of it is used.

    Raises `ConfigError` for what is no base and for overrides that are wrong or without effect here, and `HartError`
    for settings that this machine does not have.
    """
    _refuse_other_than_a_base(base)
    full = load_recipe("tiny_cpu").pixels if base == "toy" else {"full": FULL_PIXELS}
    raw = {"name": NAME, "model": {"base": base}, "pixels": dict(full), "stages": [{"kind": "rl"}]}
    recipe = recipe_from(raw, overrides, NAME)
    for override in overrides:
        key = override.partition("=")[0]
        if not any(key == allowed or key.startswith(f"{allowed}.") for allowed in ALLOWED):
            raise ConfigError(f"{NAME} makes no use of {key}; it takes {', '.join(ALLOWED)}")
    check_machine(recipe)
    return recipe


def _refuse_other_than_a_base(base: str) -> None:
    folder = Path(base)
    if base == "toy" or os.path.isfile(folder / "config.json"):  # os.path: takes any text for a path
        return
    if not os.path.isdir(folder):
        if os.path.exists(folder) or not _HUB_ID.fullmatch(base):
            raise ConfigError(
                f"there is no base {shown(base)}; give a Hub id (owner/name), a folder with config.json, or `toy`"
            )
        return
    if is_run(folder):
        raise ConfigError(f"{base} is a run, not a base; give its base, {shown(read_recipe(folder).model.base)}")
    if (folder / ADAPTER_CONFIG).is_file():
        trained_on = read_adapter_config(folder).get("base_model_name_or_path")
        raise ConfigError(f"{base} holds an adapter, not a base; give the base it was trained on, {shown(trained_on)}")
    raise ConfigError(
        f"{shown(base)} holds no base: there is no config.json in it; give a folder with one, a Hub id (owner/name), "
        "or `toy`"
    )
