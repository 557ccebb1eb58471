"""Questions to try on the demo's page, those first for which training made a difference."""

from __future__ import annotations

import logging
from pathlib import Path

from hart_lite.config.recipe import load_recipe
from hart_lite.demo.session import choice_words, read_request
from hart_lite.errors import HartError
from hart_lite.eval.prediction import Prediction
from hart_lite.eval.results import is_finished, read_evaluation
from hart_lite.inference.load import OpenModel
from hart_lite.runs.layout import ADAPTER, EVALUATION, is_run, read_recipe
from hart_lite.runs.splits import held_out_examples
from hart_lite.toy.scenes import HELD_OUT, examples, toy_scenes
from hart_lite.types import Example

log = logging.getLogger(__name__)
COUNT = 6
MODES = ("full+crops", "crops")  # how the demo asks, and the next best


def find_examples(model: OpenModel) -> list[Example]:
    """Of a run: held-out questions, first those that it answered wrong before training and right after. Of the toy base
    otherwise: scenes that need a close look. Of another model: none."""
    folder = Path(model.name)
    run = folder.parent if folder.name == ADAPTER else folder
    try:
        found = of_run(run) if is_run(run) else []
    except HartError as error:  # its data may be gone; the model can be asked all the same
        log.warning("no examples of the run: %s", error)
        found = []
    return found or (close_looks() if model.toy else [])


def of_run(run: Path) -> list[Example]:
    """Empty where nothing was measured."""
    recipe = read_recipe(run)
    folders = [run / EVALUATION / name for name in ("before", f"after-{len(recipe.stages)}-{recipe.stages[-1].kind}")]
    if not all(map(is_finished, folders)):
        return []
    before, after = (read_evaluation(folder).rows for folder in folders)
    mode = next((mode for mode in MODES if any(row.mode == mode for row in after)), None)
    first, last = ({row.id: row for row in rows if row.mode == mode} for rows in (before, after))
    by_id = {example.id: example for example in held_out_examples(recipe)}
    order = sorted(last, key=lambda id: _difference(first.get(id), last[id]), reverse=True)
    distinct: dict[str, Example] = {}
    for example in (by_id[id] for id in order if id in by_id and _askable(by_id[id])):
        distinct.setdefault(example.images[0].key, example)
    return list(distinct.values())[:COUNT]


def _askable(example: Example) -> bool:
    """Whether the page's fields hold it: one line, and no longer than they are."""
    try:
        words = choice_words(example.choices)
        return read_request(example.images[0], example.question, words, "", example).truth is example
    except HartError:
        return False


def _difference(before: Prediction | None, after: Prediction) -> int:
    """3: wrong before, right after, in a right box; less for less of it."""
    if before is None or not after.strict:
        return 0
    looked = bool(after.grounding and after.grounding.grounded and before.grounding and not before.grounding.grounded)
    return 1 + (not before.strict) + looked


def close_looks() -> list[Example]:
    """A question about each of the first held-out scenes that has one about a small thing."""
    world, found = toy_scenes(load_recipe("tiny_cpu").data.toy), {}
    index = HELD_OUT
    while len(found) < COUNT:
        found.update({e.images[0].key: e for e in examples(world, range(index, index + 1)) if e.category == "small"})
        index += 1
    return list(found.values())
