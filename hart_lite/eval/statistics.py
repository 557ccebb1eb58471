"""How sure a figure is: intervals and paired tests in which the questions about one image stand or fall together.

`clusters` gives for every question what it shares with others: the key of its image. Everything is drawn from `seed`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from hart_lite.errors import HartError
from hart_lite.eval.grounding import joint_table, mutual_information

SAMPLES = 2000
LEVEL = 0.95


def bootstrap_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    samples: int = SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """(low, high) of the mean (with `groups`: of the mean of their means) by the percentile bootstrap over clusters.

    One cluster says nothing of the spread: (nan, nan). Where all clusters agree the interval has no width, which is a
    limit of the bootstrap and no certainty. Raises `HartError` where there are no values or their numbers differ.
    """
    values_N = np.asarray(values, dtype=float)
    cluster_N, n_clusters = _numbered(clusters, len(values_N))
    group_N, n_groups = _numbered([0] * len(values_N) if groups is None else groups, len(values_N))
    if n_clusters == 1:
        return math.nan, math.nan
    sums_C_K, counts_C_K = np.zeros((2, n_clusters, n_groups))
    np.add.at(sums_C_K, (cluster_N, group_N), values_N)
    np.add.at(counts_C_K, (cluster_N, group_N), 1)
    means_S = _resampled_means(sums_C_K, counts_C_K, samples, seed)
    low, high = np.quantile(means_S, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[Hashable],
    samples: int = SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, float]:
    """{"difference": mean of b - a, "low", "high", "p"} for two systems on the same questions, in the same order.

    The interval is `bootstrap_interval` of the differences. p is two-sided, from exchanging the systems in whole
    clusters at random: a bootstrap's own p would call three images that agree a proof. Without clusters larger than one
    it is McNemar's, up to the draw.
    """
    if len(a) != len(b):
        raise HartError(f"{len(a)} values against {len(b)}: a paired comparison needs one of both for every question")
    differences_N = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    cluster_N, n_clusters = _numbered(clusters, len(differences_N))
    low, high = bootstrap_interval(differences_N, clusters, samples, seed, level)
    sums_C = np.bincount(cluster_N, differences_N, n_clusters)
    rng = np.random.default_rng(seed)
    as_far = 0
    for size in _parts(samples, n_clusters):
        signs_S_C = rng.integers(0, 2, (size, n_clusters), dtype=np.int8) * 2 - 1
        as_far += int((abs(signs_S_C @ sums_C) >= abs(sums_C.sum()) - 1e-9).sum())
    return {
        "difference": float(differences_N.mean()),
        "low": low,
        "high": high,
        "p": (1 + as_far) / (1 + samples),
    }


def mcnemar(a_right: Sequence[bool], b_right: Sequence[bool]) -> dict[str, float]:
    """{"only_a": right in a alone, "only_b": in b alone, "p"}: the exact two-sided binomial test.

    It takes questions for independent, so on clustered ones its p is too small; `paired_bootstrap` has one that is not.
    """
    pairs = [(bool(x), bool(y)) for x, y in zip(a_right, b_right, strict=True)]
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    n = only_a + only_b
    tail, term = 0, 1  # integers: 2**n overflows a float where n is a few thousand
    for i in range(min(only_a, only_b) + 1):
        tail += term
        term = term * (n - i) // (i + 1)
    return {"only_a": only_a, "only_b": only_b, "p": min(1.0, 2 * tail / 2**n)}


def permutation_test(
    right: Sequence[bool],
    grounded: Sequence[bool],
    samples: int = SAMPLES,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> float:
    """How often answers dealt out at random tell as much about the boxes, I(L;R), as these do: (1 + k) / (1 + samples).

    With `clusters` the answers about an image move together, to another image with as many questions; where no two
    images have as many, nothing can move and p is 1.
    """
    right_N, grounded_N = np.asarray(right, dtype=bool), np.asarray(grounded, dtype=bool)
    if len(right_N) != len(grounded_N):
        raise HartError(f"{len(right_N)} answers against {len(grounded_N)} groundings: one of each for every question")
    table = joint_table(right_N, grounded_N)
    rng = np.random.default_rng(seed)
    both_S = np.zeros(samples, dtype=int)  # right and grounded
    for members_M_Q in _equal_clusters(range(len(right_N)) if clusters is None else clusters, len(right_N)):
        right_M_Q, grounded_M_Q = right_N[members_M_Q], grounded_N[members_M_Q]
        done = 0
        for size in _parts(samples, members_M_Q.size):
            dealt_S_M = rng.permuted(np.tile(np.arange(len(members_M_Q)), (size, 1)), axis=1)
            both_S[done : done + size] += (right_M_Q[dealt_S_M] & grounded_M_Q).sum(axis=(1, 2))
            done += size
    tried, times = np.unique(both_S, return_counts=True)
    as_much = [_information(table, int(both)) >= mutual_information(table) - 1e-12 for both in tried]
    return (1 + int(times[as_much].sum())) / (1 + samples)


def _information(table: Sequence[Sequence[int]], both: int) -> float:
    """I(L;R) of the table with the same margins, which no permutation changes, and another number in its last cell."""
    shift = both - table[1][1]
    return mutual_information([[table[0][0] + shift, table[0][1] - shift], [table[1][0] - shift, both]])


def _equal_clusters(clusters: Sequence[Hashable], length: int) -> Iterator[np.ndarray]:
    """For every size of cluster the (clusters, size) indices of their members."""
    cluster_N, n_clusters = _numbered(clusters, length)
    sizes_C = np.bincount(cluster_N, minlength=n_clusters)
    members_C = np.split(np.argsort(cluster_N, kind="stable"), np.cumsum(sizes_C)[:-1])
    for size in np.unique(sizes_C):
        yield np.stack([members for members in members_C if len(members) == size])


def _resampled_means(sums_C_K: np.ndarray, counts_C_K: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """(samples,) means of the values in as many clusters drawn with replacement, over the groups that a draw holds."""
    rng = np.random.default_rng(seed)
    n_clusters, n_groups = sums_C_K.shape
    means = []
    for size in _parts(samples, n_clusters * n_groups):
        drawn_S_C = rng.integers(n_clusters, size=(size, n_clusters))
        sums_S_K, counts_S_K = sums_C_K[drawn_S_C].sum(axis=1), counts_C_K[drawn_S_C].sum(axis=1)
        held_S_K = counts_S_K > 0
        means.append((sums_S_K / np.where(held_S_K, counts_S_K, 1)).sum(axis=1) / held_S_K.sum(axis=1))
    return np.concatenate(means)


def _parts(samples: int, width: int) -> Iterator[int]:
    """Sizes that sum to `samples`, so that a part of it times `width` numbers fits in the cache of a core."""
    part = max(1, 2**18 // width)
    for start in range(0, samples, part):
        yield min(part, samples - start)


def _numbered(labels: Sequence[Hashable], length: int) -> tuple[np.ndarray, int]:
    """(labels as numbers from 0, how many different ones). Raises `HartError` if they are not one for each value."""
    if not length:
        raise HartError("There are no questions to measure anything on.")
    if len(labels) != length:
        raise HartError(f"{len(labels)} labels for {length} values: give one for each")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels]), len(numbers)
