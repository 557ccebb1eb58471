"""Questions that stand several times in a pass, since their file has a weight, apart from each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hart_lite.errors import HartError


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
