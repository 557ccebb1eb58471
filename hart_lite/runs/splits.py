"""From a recipe's data section to the questions of each stage. Everything is checked before a model is loaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import DataSection, ToySection
from hart_lite.data.dataset import check_disjoint, load_examples, load_mme_realworld, split_by_image
from hart_lite.toy.scenes import HELD_OUT, examples, toy_scenes
from hart_lite.types import Example

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """Questions for RL, for SFT and for evaluation; the first two share no image."""

    rl: list[Example]
    sft: list[Example]
    eval: list[Example]


def load_splits(recipe: Recipe) -> Splits:
    data, kinds = recipe.data, {stage.kind for stage in recipe.stages}
    pool = _world(data.toy, 0, data.toy.scenes) if data.train == "toy" else _load(data, data.train)
    if data.sft is not None:
        rl, sft = split_by_image(pool, data.rl_size, recipe.seed)[0], _load_apart(data, data.sft)
    elif kinds == {"rl"}:
        rl, sft = split_by_image(pool, data.rl_size, recipe.seed)[0], []
    elif kinds == {"sft"}:
        rl, sft = [], pool
    else:
        rl, sft = split_by_image(pool, data.rl_size, recipe.seed, share_if_small=True)
    check_disjoint(rl, sft)
    held_out = held_out_examples(recipe)
    _warn_of_overlap([*rl, *sft], held_out)
    return Splits(rl, sft, held_out)


def held_out_examples(recipe: Recipe) -> list[Example]:
    """The questions to evaluate on: those of data.eval, or held-out scenes, or none."""
    data, found = recipe.data, []
    if data.eval is not None:
        found = _load_apart(data, data.eval)
    elif data.eval_toy or data.train == "toy":
        world = data.eval_toy or data.toy
        found = _world(world, HELD_OUT, world.eval_scenes)
    return found[: data.eval_size]


def _warn_of_overlap(training: list[Example], held_out: list[Example]) -> None:
    """Measuring on training images is sometimes meant, and never held-out: it is said, not refused."""
    seen = {image.key for example in training for image in example.images}
    shared = sum(any(image.key in seen for image in example.images) for example in held_out)
    if shared:
        log.warning("%d of %d evaluation questions are on images of the training data", shared, len(held_out))


def _world(spec: ToySection, first: int, scenes: int) -> list[Example]:
    return examples(toy_scenes(spec), range(first, first + scenes), spec.questions_per_scene)


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


def _load_apart(data: DataSection, source: str) -> list[Example]:
    """A source beside the training data: its layout is told by its name, so that JSONL may go with parquet. MME rows in
    a .json are read whole: leaving Lite out is for training."""
    if Path(source).suffix == ".json":
        return load_examples(source, format="mme_realworld", image_dir=data.image_dir)
    table = Path(source).suffix != ".jsonl"
    return load_examples(
        source,
        columns=(data.columns or None) if table else None,
        split=data.split if table else None,
        image_dir=data.image_dir,
    )
