"""Whether two samples come from one distribution."""

from __future__ import annotations

from collections import Counter

RARE = 10  # kinds that both samples together hold less often are counted as one


def chi_square(one: Counter, other: Counter) -> float:
    """Pearson's statistic of two samples over its 99.9 % point (by Wilson and Hilferty): over 1, they differ."""
    kinds = {kind: kind if one[kind] + other[kind] >= RARE else "rare" for kind in one | other}
    a, b = Counter(), Counter()
    for kind, name in kinds.items():
        a[name] += one[kind]
        b[name] += other[kind]
    ratio = (b.total() / a.total()) ** 0.5
    value = sum((a[k] * ratio - b[k] / ratio) ** 2 / (a[k] + b[k]) for k in a)
    freedom = len(a) - 1
    return value / (freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3)
