"""Figures of runs that were asked the same held-out questions, and 95 % intervals over both seeds and images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np

from hart_lite.eval.prediction import Prediction
from hart_lite.eval.results import read_evaluation
from hart_lite.runs.layout import EVALUATION
from hart_lite.utils.markdown import percent

DRAWS = 2000


class Asked:
    """The evaluations called `name` of the runs of several seeds; all were asked the same questions."""

    def __init__(self, runs: Sequence[Path], name: str) -> None:
        parts = [read_evaluation(run / EVALUATION / name).parts() for run in runs]
        self.modes = [modes for [modes] in (found.values() for found in parts)]
        orders = [[row.id for row in modes["crops"]] for modes in self.modes]
        if any(order != orders[0] for order in orders):
            raise ValueError(f"the runs {', '.join(map(str, runs))} were asked different questions in {name}")
        self.images = [row.cluster for row in self.modes[0]["crops"]]

    def values(self, mode: str, figure: Callable[[Prediction], float]) -> np.ndarray:
        """(seeds, questions)."""
        return np.array([[figure(row) for row in modes[mode]] for modes in self.modes], dtype=float)


def wrong(row: Prediction) -> float:
    return not row.grounding.grounded


def right(row: Prediction) -> float:
    return row.strict


def interval(
    statistic: Callable[..., float], images: Sequence[Hashable], *values_S_Q: np.ndarray, draws: int = DRAWS
) -> tuple[float, float]:
    """95 % of `statistic` of the tables by the percentile bootstrap. A draw takes as many seeds and as many images,
    with replacement, in all tables alike: so a difference of two tables is paired by seed and question. With one seed
    the interval is over the images alone, and says nothing of how far another seed would lie."""
    rng = np.random.default_rng(0)
    numbers: dict[Hashable, list[int]] = {}
    for column, image in enumerate(images):
        numbers.setdefault(image, []).append(column)
    columns, seeds = list(numbers.values()), len(values_S_Q[0])
    found = []
    for _ in range(draws):
        rows = rng.integers(seeds, size=seeds)
        drawn = np.concatenate([columns[i] for i in rng.integers(len(columns), size=len(columns))]).astype(int)
        found.append(statistic(*(table[np.ix_(rows, drawn)] for table in values_S_Q)))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float((a - b).mean())


def share(statistic: Callable[..., float], images: Sequence[Hashable], *values_S_Q: np.ndarray) -> str:
    """The statistic with its interval, in percent."""
    low, high = interval(statistic, images, *values_S_Q)
    return percent({"value": statistic(*values_S_Q), "low": low, "high": high})


def difference(images: Sequence[Hashable], a: np.ndarray, b: np.ndarray) -> str:
    """Mean of a - b with its interval, in percent points."""
    low, high = interval(mean_difference, images, a, b)
    return f"{100 * mean_difference(a, b):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
