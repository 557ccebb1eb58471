"""In which order a run asks its questions, so that no step asks one twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from hart_lite.errors import HartError


class QuestionOrder:
    """Item i is the index of the i-th question a run asks: a new permutation, drawn from the seed, on every pass.

    A pass is of whole steps: what is left of a permutation waits for another pass, since a step that began in one pass
    and ended in the next could ask a question twice, whose groups would count as two questions. Raises `HartError`
    where there are fewer questions than a step asks. `ids` of the examples, where some stand there several times.
    """

    def __init__(self, examples: int, per_step: int, seed: int | str, ids: Sequence[str] = ()) -> None:
        if examples < per_step:
            raise HartError(
                f"questions_per_step = {per_step}, and there are {examples} questions: a step asks none twice; lower "
                f"questions_per_step to {examples} or give more questions"
            )
        self.examples, self.whole, self.seed = examples, examples - examples % per_step, seed
        self._per_step, self._ids = per_step, ids if len(set(ids)) < len(ids) else ()
        if self._ids:
            check_repeats(self._ids, per_step)
        self._epoch, self._order = -1, []

    def __getitem__(self, i: int) -> int:
        epoch, place = divmod(i, self.whole)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self.examples))
            random.Random(f"{self.seed}/{epoch}").shuffle(self._order)
            if self._ids:
                spread(self._order, self._ids, self._per_step)
        return self._order[place]


def check_repeats(ids: Sequence[str], per_step: int) -> None:
    """Raises `HartError` where no order keeps steps of so many questions from asking one twice."""
    (id, times), *_ = Counter(ids).most_common(1)
    steps = len(ids) // per_step
    if len(set(ids)) < per_step or times > steps + bool(len(ids) % per_step):
        raise HartError(
            f"questions_per_step = {per_step}: {id} stands {times} times in a pass of {steps} steps with "
            f"{len(set(ids))} different questions, and a step asks none twice; lower questions_per_step or the weights "
            "of data.train"
        )


def spread(order: list[int], ids: Sequence[str], per_step: int) -> None:
    """Exchanges places until no step of `per_step` questions has one twice; `ids` names the question of each index.
    What is behind the last whole step is asked by none, so that anything may stand there."""
    whole = len(order) - len(order) % per_step

    def step_of(place: int) -> list[str]:
        first = place - place % per_step
        return [ids[order[p]] for p in range(first, first + per_step) if p != place] if place < whole else []

    for place in range(whole):
        mine = step_of(place)
        if ids[order[place]] in mine:
            others = (p for p in range(len(order)) if p // per_step != place // per_step)
            fits = (p for p in others if ids[order[p]] not in mine and ids[order[place]] not in step_of(p))
            other = next(fits, None)
            if other is None:
                raise HartError(
                    f"{ids[order[place]]} cannot be kept apart from itself in steps of {per_step} questions; lower "
                    "questions_per_step or the weights of data.train"
                )
            order[place], order[other] = order[other], order[place]
