"""From a recipe's data section to the questions of each stage. Everything is checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hart_lite.data import check_disjoint, load_examples, load_mme_realworld, split_by_image
from hart_lite.recipe_schema import DataSection, Recipe
from hart_lite.types import Example
from hart_lite.world.scenes import World, examples

HELD_OUT = 1_000_000_000  # scenes from this index on are never trained on


@dataclass(frozen=True)
class Splits:
    """Questions for RL, for SFT and for evaluation; the first two share no image."""

    rl: list[Example]
    sft: list[Example]
    eval: list[Example]


def load_splits(recipe: Recipe) -> Splits:
    data, kinds = recipe.data, {stage.kind for stage in recipe.stages}
    pool = _world(data, 0, data.world.scenes) if data.train == "world" else _load(data, data.train)
    if data.sft is not None:
        rl, sft = split_by_image(pool, data.rl_size, recipe.seed)[0], _load(data, data.sft)
    elif kinds == {"rl"}:
        rl, sft = split_by_image(pool, data.rl_size, recipe.seed)[0], []
    elif kinds == {"sft"}:
        rl, sft = [], pool
    else:
        rl, sft = split_by_image(pool, data.rl_size, recipe.seed, share_if_small=True)
    check_disjoint(rl, sft)
    held_out: list[Example] = []
    if data.eval is not None:
        held_out = _load(data, data.eval)
    elif data.train == "world" and data.world.eval_scenes:
        held_out = _world(data, HELD_OUT, data.world.eval_scenes)
    return Splits(rl, sft, held_out[: data.eval_size])


def make_world(data: DataSection) -> World:
    spec = data.world
    chosen = {"colours": tuple(spec.colours) if spec.colours else None, "glyphs": spec.glyphs}
    return World(
        size=spec.size,
        objects=spec.objects,
        big_share=spec.big_share,
        seed=spec.seed,
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _world(data: DataSection, first: int, scenes: int) -> list[Example]:
    return examples(make_world(data), range(first, first + scenes), data.world.questions_per_scene)


def _load(data: DataSection, source: str) -> list[Example]:
    if data.format == "mme_realworld":
        return load_mme_realworld(source, data.lite, data.image_dir or Path(source).parent)
    return load_examples(
        source,
        format=data.format,
        columns=data.columns or None,
        split=data.split,
        image_dir=data.image_dir,
    )
