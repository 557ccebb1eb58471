"""From a recipe's data section to the questions of each stage. Everything is checked before a model is loaded."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hart_lite.config.schema import Recipe, same_source
from hart_lite.config.sections import DataSection, ToySection
from hart_lite.data.contents import contents
from hart_lite.data.dataset import check_disjoint, load_examples, load_mme_realworld, split_by_image
from hart_lite.data.rows import is_mme_realworld, is_text_file
from hart_lite.errors import DataError
from hart_lite.toy.scenes import HELD_OUT, examples, toy_scenes
from hart_lite.types import Example

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """Questions for RL, for SFT and for evaluation; no two of them share a picture, unless data.eval is the training
    data. A question of weight 2 stands there twice."""

    rl: list[Example]
    sft: list[Example]
    eval: list[Example]


def load_splits(recipe: Recipe) -> Splits:
    data, kinds = recipe.data, {stage.kind for stage in recipe.stages}
    pool, weights = _training_pool(data)
    held_out = held_out_examples(recipe)
    pool = _apart(pool, held_out, recipe)
    if data.sft is not None:
        sft = _apart(_load_apart(data, data.sft), held_out, recipe)
        rl = split_by_image(pool, data.rl_size, recipe.seed)[0]
    elif kinds == {"rl"}:
        rl, sft = split_by_image(pool, data.rl_size, recipe.seed)[0], []
    elif "rl" not in kinds:
        rl, sft = [], pool
    else:
        rl, sft = split_by_image(pool, data.rl_size, recipe.seed, share_if_small=True)
    check_disjoint(rl, sft)
    _warn_of_overlap([*rl, *sft], held_out)
    return Splits(_repeated(rl, weights, recipe.seed), _repeated(sft, weights, recipe.seed), held_out)


def held_out_examples(recipe: Recipe) -> list[Example]:
    """The questions to evaluate on: those of data.eval, or held-out scenes, or none."""
    data, found = recipe.data, []
    if data.eval is not None:
        found = _load_apart(data, data.eval)
    elif data.eval_toy or data.train == "toy":
        world = data.eval_toy or data.toy
        found = _world(world, HELD_OUT, world.eval_scenes)
    return found[: data.eval_size]


def _training_pool(data: DataSection) -> tuple[list[Example], dict[str, float]]:
    """The questions of all training files, and the weight of each by its id. Ids of several files bear their file's
    name, since lines are counted from 1 in each."""
    if data.train == "toy":
        return _world(data.toy, 0, data.toy.scenes), {}
    pool: list[Example] = []
    weights: dict[str, float] = {}
    names = [Path(file.path).stem for file in data.files]
    for number, (file, name) in enumerate(zip(data.files, names, strict=True), start=1):
        found = _load(data, file.path)
        if len(data.files) > 1:
            prefix = name if names.count(name) == 1 else f"{number}-{name}"
            found = [replace(example, id=f"{prefix}/{example.id}") for example in found]
        weights |= {example.id: file.weight for example in found}
        pool += found
    return pool, weights


def _repeated(examples: list[Example], weights: Mapping[str, float], seed: int) -> list[Example]:
    """Each question as often as its weight says: of 2.5 twice, and half of them a third time."""
    out = []
    for example in examples:
        weight = weights.get(example.id, 1.0)
        more = random.Random(f"{seed}/weight/{example.id}").random() < weight % 1
        out += [example] * (int(weight) + more)
    return out


def _apart(training: list[Example], held_out: list[Example], recipe: Recipe) -> list[Example]:
    """The training questions on no picture of the evaluation, however its files are called. Where the evaluation is the
    training data itself, measuring on it is meant: all stay, and it is said.

    Raises `DataError` where none is left.
    """
    data = recipe.data
    if data.eval is None or any(
        same_source(data.eval, path) for path in (*(f.path for f in data.files), data.sft or "")
    ):
        return training
    content = contents([*training, *held_out])
    measured = {content[image.key] for example in held_out for image in example.images}
    kept = [e for e in training if not any(content[image.key] in measured for image in e.images)]
    if training and not kept:
        raise DataError(
            f"all {len(training)} training questions are on pictures of data.eval = {data.eval!r}; give held-out "
            "questions on other pictures"
        )
    if left_out := len(training) - len(kept):
        log.warning(
            "%d of %d training questions are on pictures of data.eval and are left out of training",
            *(left_out, len(training)),
        )
    return kept


def _warn_of_overlap(training: list[Example], held_out: list[Example]) -> None:
    """Measuring on training images is sometimes meant, and never held-out: it is said, not refused."""
    content = contents([*training, *held_out])
    seen = {content[image.key] for example in training for image in example.images}
    shared = sum(any(content[image.key] in seen for image in example.images) for example in held_out)
    if shared:
        log.warning("%d of %d evaluation questions are on images of the training data", shared, len(held_out))


def _world(spec: ToySection, first: int, scenes: int) -> list[Example]:
    return examples(toy_scenes(spec), range(first, first + scenes), spec.questions_per_scene)


def _load(data: DataSection, source: str) -> list[Example]:
    if data.format == "mme_realworld":
        return load_mme_realworld(source, data.lite, data.image_dir or Path(source).parent)
    if is_mme_realworld(Path(source)):
        raise DataError(
            f"{source} is MME-RealWorld: set data.format=mme_realworld and data.lite, which must not be trained on"
        )
    return load_examples(source, format=data.format, image_dir=data.image_dir, **_table_options(data, source))


def _load_apart(data: DataSection, source: str) -> list[Example]:
    """A source beside the training data: its layout is told by its name, so that JSONL may go with parquet. MME rows in
    a .json are read whole: leaving Lite out is for training."""
    if is_mme_realworld(Path(source)):
        return load_examples(source, format="mme_realworld", image_dir=data.image_dir)
    return load_examples(source, image_dir=data.image_dir, **_table_options(data, source))


def _table_options(data: DataSection, source: str) -> dict[str, Any]:
    """`columns` and `split` of a source. Rows of a file have our names, unless the training data is such a file and has
    others."""
    table = not is_text_file(source)
    columns = data.columns if table or all(is_text_file(file.path) for file in data.files) else None
    return {"columns": columns or None, "split": data.split if table else None}
